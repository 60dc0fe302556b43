"""Noise: as it is given, or as the data say it."""

from __future__ import annotations

import numpy as np
import pytest

from sciml_discover.errors import InputError
from sciml_discover.integrate import solve_reference
from sciml_discover.noise import Noise, NoiseOptions, measure_noise, smooth_observables
from sciml_discover.systems import get_system
from sciml_discover.trajectories import Dataset, Trajectory


def dataset(sd: tuple[float, float] = (0.05, 0.2), rows: int = 60, seed: int = 0) -> Dataset:
    generator = np.random.default_rng(seed)
    trajectories = []
    for name, offset in (("a", 3.0), ("b", 5.0)):
        times = np.linspace(0.0, 8.0, rows)
        clean = np.stack([offset + np.sin(times), offset + 2.0 * np.cos(times)], axis=1)
        trajectories.append(
            Trajectory(name, times, clean + np.array(sd) * generator.standard_normal(clean.shape))
        )
    return Dataset(("x", "y"), tuple(trajectories))


def test_given_levels_are_taken_as_they_are() -> None:
    data = dataset()
    noise = measure_noise(data, NoiseOptions(sd={"y": 0.3, "x": 0.1}))
    np.testing.assert_array_equal(noise.sd, [0.1, 0.3])
    assert not noise.estimated
    assert np.isinf(noise.degrees_of_freedom).all()
    assert noise.lognormal == (False, False)
    np.testing.assert_array_equal(measure_noise(data, NoiseOptions(lognormal=0.2)).sd, [0.2, 0.2])
    assert measure_noise(data, NoiseOptions(lognormal=0.2)).lognormal == (True, True)


def test_relative_level_multiplies_the_mean_size_of_what_was_seen() -> None:
    data = dataset()
    data.trajectories[0].values[3:9, 0] = np.nan
    seen = np.concatenate([item.values for item in data.trajectories])
    np.testing.assert_allclose(
        measure_noise(data, NoiseOptions(relative=0.1)).sd, 0.1 * np.nanmean(np.abs(seen), axis=0)
    )


def test_level_for_every_observable() -> None:
    with pytest.raises(InputError, match="no noise level for 'x'"):
        measure_noise(dataset(), NoiseOptions(relative={"y": 0.1}))


def test_two_levels_are_one_too_many() -> None:
    with pytest.raises(ValueError, match="sd and relative are both given"):
        NoiseOptions(sd=0.1, relative=0.1)


def test_estimate_for_each_observable() -> None:
    noise = measure_noise(dataset(), NoiseOptions())
    np.testing.assert_allclose(noise.sd, [0.05, 0.2], rtol=0.25)
    assert noise.estimated
    assert not noise.pooled
    assert np.isfinite(noise.degrees_of_freedom).all()


def test_pooled_estimate_is_the_mean_variance_of_all() -> None:
    data = dataset((0.1, 0.1))
    each, pooled = measure_noise(data, NoiseOptions()), measure_noise(data, NoiseOptions(estimate="pooled"))
    assert pooled.pooled
    assert pooled.sd[0] == pooled.sd[1]
    assert each.sd.min() <= pooled.sd[0] <= each.sd.max()
    np.testing.assert_allclose(pooled.degrees_of_freedom, each.degrees_of_freedom.sum())


def test_lognormal_estimate_is_of_the_logarithm() -> None:
    data = dataset((0.0, 0.0))
    generator = np.random.default_rng(1)
    noisy = Dataset(
        data.observables,
        tuple(
            Trajectory(
                item.name,
                item.times,
                item.values * np.exp(0.1 * generator.standard_normal(item.values.shape)),
            )
            for item in data.trajectories
        ),
    )
    noise = measure_noise(noisy, NoiseOptions(kind="lognormal"))
    assert noise.lognormal == (True, True)
    np.testing.assert_allclose(noise.sd, 0.1, rtol=0.3)


def test_missing_values_are_left_out() -> None:
    data, holes = dataset(), dataset()
    holes.trajectories[0].values[::7, 0] = np.nan
    one, two = measure_noise(data, NoiseOptions()).sd, measure_noise(holes, NoiseOptions()).sd
    assert one[0] != two[0]
    assert two[0] == pytest.approx(one[0], rel=0.2)
    assert one[1] == two[1]


def test_an_observable_that_one_trajectory_lacks() -> None:
    data = dataset()
    data.trajectories[1].values[:, 1] = np.nan
    assert measure_noise(data, NoiseOptions()).sd[1] == pytest.approx(0.2, rel=0.4)
    smooth = smooth_observables(data, (False, False))[1].value(1, data.trajectories[1].times)
    assert np.isfinite(smooth).all()


def test_transform_takes_logarithms_where_the_noise_is_multiplicative() -> None:
    noise = Noise(("x", "y"), (False, True), np.ones(2), False, False, np.full(2, np.inf))
    values = np.array([[2.0, np.e], [3.0, -1.0]])
    found = noise.transform(values)
    np.testing.assert_allclose(found[0], [2.0, 1.0])
    assert np.isnan(found[1, 1])
    assert values[0, 1] == np.e  # the argument is left alone


# --- noise per value -------------------------------------------------------------------------------------


def decays(level: float, seed: int = 0) -> Dataset:
    """Return values over three orders of magnitude, and one that changes its sign, with noise per value."""
    generator = np.random.default_rng(seed)
    trajectories = []
    for name, start in (("a", 1.0), ("b", 4.0)):
        times = np.linspace(0.0, 7.0, 50)
        clean = np.stack([start * np.exp(-times), start * np.cos(times)], axis=1)
        trajectories.append(
            Trajectory(name, times, clean * (1.0 + level * generator.standard_normal(clean.shape)))
        )
    return Dataset(("x", "y"), tuple(trajectories))


def test_noise_per_value_is_a_fraction_of_each_value_above_its_floor() -> None:
    data = decays(0.01)
    spread = np.std(np.concatenate([item.values for item in data.trajectories]), axis=0)
    noise = measure_noise(data, NoiseOptions(value={"x": 0.01, "y": 0.05}, floor={"x": 1e-4, "y": 1e-2}))
    np.testing.assert_array_equal(noise.sd, [0.01, 0.05])
    assert not noise.estimated
    assert noise.floors is not None
    values = np.array([[2.0, -3.0], [1e-6, np.nan], [0.0, 1e-9]])
    np.testing.assert_allclose(noise.floors, [1e-4 * spread[0], 1e-2 * spread[1]])
    np.testing.assert_allclose(
        noise.sd_of(values),
        [[0.02, 0.15], [1e-4 * spread[0], 1e-2 * spread[1]], [1e-4 * spread[0], 1e-2 * spread[1]]],
    )
    np.testing.assert_allclose(
        noise.typical_sd(np.array([[1.0, 2.0], [2.0, np.nan], [4.0, -2.0]])), [0.02, 0.1]
    )


def test_other_noise_has_one_sd_for_all_values() -> None:
    for options in (NoiseOptions(sd=0.3), NoiseOptions(relative=0.1), NoiseOptions(lognormal=0.2)):
        noise = measure_noise(dataset(), options)
        assert noise.floors is None
        np.testing.assert_array_equal(
            noise.sd_of(np.array([[1.0, np.nan], [-5.0, 0.0]])), [noise.sd, noise.sd]
        )
        np.testing.assert_array_equal(noise.typical_sd(np.ones((3, 2))), noise.sd)


@pytest.mark.parametrize("level", [0.005, 0.05])
def test_noise_per_value_is_estimated(level: float) -> None:
    logs = []
    for seed in range(3):
        noise = measure_noise(decays(level, seed), NoiseOptions(kind="value"))
        assert noise.estimated
        assert noise.floors is not None
        assert np.isfinite(noise.degrees_of_freedom).all()
        assert noise.lognormal == (False, False)
        logs.append(np.log(noise.sd / level))
    assert np.abs(np.mean(logs, axis=0)).max() < 0.25
    assert np.abs(logs).max() < np.log(2.0)


def test_a_pooled_level_per_value() -> None:
    noise = measure_noise(decays(0.02), NoiseOptions(kind="value", estimate="pooled"))
    assert noise.pooled
    assert noise.sd[0] == noise.sd[1]
    assert noise.sd[0] == pytest.approx(0.02, rel=0.3)


def test_the_level_of_a_stiff_system_is_found_within_a_factor_of_two() -> None:
    known = get_system("robertson")
    times = np.geomspace(1e-5, 1e5, 40)
    clean = solve_reference(known.system, known.parameter_values, known.initial_values, times, start=0.0)
    for seed in range(4):
        noisy = clean * (1.0 + 0.01 * np.random.default_rng(seed).standard_normal(clean.shape))
        data = Dataset(tuple(known.equations), (Trajectory("a", times, noisy),))
        sd = measure_noise(data, NoiseOptions(kind="value")).sd
        assert (sd > 0.005).all(), sd
        assert (sd < 0.02).all(), sd


def test_a_floor_belongs_to_noise_per_value() -> None:
    assert NoiseOptions(value=0.1, floor=0.01).is_per_value
    assert NoiseOptions(kind="value", floor=0.01).is_per_value
    with pytest.raises(ValueError, match="floor is given, but no noise per value"):
        NoiseOptions(sd=0.1, floor=0.01)
    with pytest.raises(ValueError, match="value and lognormal are both given"):
        NoiseOptions(value=0.1, lognormal=0.01)
    with pytest.raises(InputError, match="no noise level for 'y'"):
        measure_noise(decays(0.1), NoiseOptions(value=0.1, floor={"x": 0.1}))


# --- the kind of noise -----------------------------------------------------------------------------------


def swings(level: float, seed: int, *, proportional: bool, rows: int = 60) -> Dataset:
    """Return positive values from 0.1 to 10 with noise that is a fraction of each value, or of their mean."""
    times = np.linspace(0.0, 6.0, rows)
    clean = np.stack([np.exp(2.3 * np.sin(times)), np.exp(2.3 * np.cos(1.3 * times))], axis=1)
    noise = level * np.random.default_rng(seed).standard_normal(clean.shape)
    values = clean + noise * (clean if proportional else clean.mean(axis=0))
    return Dataset(("x", "y"), (Trajectory("a", times, values),))


def kind(noise: Noise) -> str:
    """Return what the noise was found to be."""
    if noise.lognormal[0]:
        return "lognormal"
    return "additive" if noise.floors is None else "value"


@pytest.mark.parametrize("level", [0.02, 0.05])
def test_the_rows_say_that_noise_is_in_proportion(level: float) -> None:
    found = [measure_noise(swings(level, seed, proportional=True), NoiseOptions()) for seed in range(5)]
    assert [kind(noise) for noise in found].count("value") >= 4
    levels = np.array([noise.sd for noise in found if kind(noise) == "value"])
    np.testing.assert_allclose(np.median(levels, axis=0), level, rtol=0.15)


@pytest.mark.parametrize("level", [0.02, 0.2])
def test_noise_of_one_size_is_not_taken_for_another_kind(level: float) -> None:
    found = [
        kind(measure_noise(swings(level, seed, proportional=False), NoiseOptions())) for seed in range(8)
    ]
    assert found == ["additive"] * 8


def test_large_noise_in_proportion_is_lognormal_where_all_values_have_a_logarithm() -> None:
    data = swings(0.2, 0, proportional=True)
    assert kind(measure_noise(data, NoiseOptions())) == "lognormal"
    held = Dataset(("x", "y"), (Trajectory("a", np.arange(7.0, 9.0), np.array([[1.0, 0.0], [1.0, 1.0]])),))
    assert kind(measure_noise(data, NoiseOptions(), held)) == "additive"


def test_noise_that_was_found_in_proportion_has_a_floor() -> None:
    data = swings(0.05, 0, proportional=True)
    found = measure_noise(data, NoiseOptions())
    # Nobody said that the instrument measures small values as well as large ones.
    assert found.floors is not None
    assert (found.floors > 0.05 * found.sd * np.std(data.trajectories[0].values, axis=0)).all()


def test_a_floor_that_is_given_is_kept_where_the_kind_is_found() -> None:
    data = swings(0.05, 0, proportional=True)
    found = measure_noise(data, NoiseOptions(floor=0.03))
    assert found.floors is not None
    np.testing.assert_allclose(found.floors, 0.03 * np.std(data.trajectories[0].values, axis=0))


def test_what_changes_its_sign_has_additive_noise() -> None:
    """Jumps of a relaxation oscillation look like large noise where it is small."""
    times = np.linspace(0.0, 20.0, 200)
    clean = np.tanh(8.0 * np.sin(times))[:, None] + 0.3 * np.sin(times)[:, None]
    values = clean * (1.0 + 0.05 * np.random.default_rng(0).standard_normal(clean.shape))
    assert (
        kind(measure_noise(Dataset(("x",), (Trajectory("a", times, values),)), NoiseOptions())) == "additive"
    )


def test_few_rows_and_a_given_kind_leave_noise_additive() -> None:
    assert kind(measure_noise(swings(0.05, 0, proportional=True, rows=11), NoiseOptions())) == "additive"
    assert (
        kind(measure_noise(swings(0.05, 0, proportional=True), NoiseOptions(kind="additive"))) == "additive"
    )
