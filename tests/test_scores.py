"""Measures of a prediction, by hand, and the whiteness test by its own size."""

from __future__ import annotations

import numpy as np
import pytest

from sciml_discover.noise import Noise
from sciml_discover.scores import FEWEST_ROWS, best_constant, constant_metrics, measure, whiteness
from sciml_discover.trajectories import Dataset, Trajectory

NOISE = Noise(("x", "y"), (False, False), np.array([0.5, 2.0]), False, False, np.full(2, np.inf))
VALUES = np.array([[1.0, 10.0], [2.0, np.nan], [3.0, 30.0]])
FOUND = np.array([[1.5, 12.0], [2.0, 99.0], [2.0, 30.0]])
DATA = Dataset(("x", "y"), (Trajectory("a", np.arange(3.0), VALUES),))


def test_measures_by_hand() -> None:
    found = measure(DATA, [FOUND], None, NOISE)
    assert found is not None
    assert found.n_values == 5
    assert found.rms == {"x": pytest.approx(np.sqrt(1.25 / 3)), "y": pytest.approx(np.sqrt(2.0))}
    assert found.chi_square == pytest.approx(1.0 + 4.0 + 1.0)
    assert found.standardised == pytest.approx(np.sqrt(6 / 5))
    assert found.relative_l2 == pytest.approx(np.sqrt(5.25 / 1014))
    # Best constants: 2 for x and 20 for y.
    assert found.unexplained == pytest.approx(6.0 / (2 / 0.25 + 200 / 4))


def test_a_known_spread_of_the_prediction_is_allowed_for() -> None:
    own = np.array([[0.5, 2.0]] * 3) * np.sqrt(3.0)
    wide = measure(DATA, [FOUND], [own], NOISE)
    assert wide is not None
    assert wide.standardised == pytest.approx(np.sqrt(6 / 5) / 2)
    assert wide.chi_square == pytest.approx(6.0)


def test_no_prediction_no_measure() -> None:
    assert measure(DATA, None, None, NOISE) is None
    broken = FOUND.copy()
    broken[0, 0] = np.nan
    assert measure(DATA, [broken], None, NOISE) is None
    unseen = FOUND.copy()
    unseen[1, 1] = np.nan  # where nothing was measured
    assert measure(DATA, [unseen], None, NOISE) is not None
    nothing = Dataset(("x", "y"), (Trajectory("a", np.arange(3.0), np.full((3, 2), np.nan)),))
    assert measure(nothing, [FOUND], None, NOISE) is None


def test_multiplicative_noise_is_measured_on_the_logarithm() -> None:
    noise = Noise(("x", "y"), (False, True), np.array([0.5, 0.1]), False, False, np.full(2, np.inf))
    found = measure(DATA, [np.array([[1.0, 10.0 * np.e], [2.0, 1.0], [3.0, 30.0]])], None, noise)
    assert found is not None
    assert found.chi_square == pytest.approx(100.0)
    negative = FOUND.copy()
    negative[0, 1] = -1.0
    assert measure(DATA, [negative], None, noise) is None


def test_an_observable_without_a_value_has_no_error() -> None:
    values = VALUES.copy()
    values[:, 1] = np.nan
    found = measure(Dataset(("x", "y"), (Trajectory("a", np.arange(3.0), values),)), [FOUND], None, NOISE)
    assert found is not None
    assert set(found.rms) == {"x"}


def test_the_constant_is_the_mean_of_the_training_rows() -> None:
    found = constant_metrics(DATA, DATA, NOISE)
    assert found is not None
    assert found.unexplained == pytest.approx(1.0)
    shifted = Dataset(("x", "y"), (Trajectory("a", np.arange(3.0), VALUES + 4.0),))
    later = constant_metrics(DATA, shifted, NOISE)
    assert later is not None
    assert later.unexplained == pytest.approx(1.0)
    # A law that is right on flat rows far from the training mean has skill, whatever their own mean explains.
    flat = Dataset(("x", "y"), (Trajectory("a", np.arange(3.0), np.full((3, 2), 50.0) + 0.1 * VALUES),))
    constant = best_constant(DATA, NOISE)
    right = [np.full((3, 2), 50.0)]
    skilled, blamed = measure(flat, right, None, NOISE, constant), measure(flat, right, None, NOISE)
    assert skilled is not None
    assert blamed is not None
    assert skilled.unexplained < 0.1 < 1.0 < blamed.unexplained


def residuals(
    seed: int, correlation: float = 0.0, rows: int = 40, trajectories_of_it: int = 2
) -> tuple[Dataset, list[np.ndarray]]:
    rng = np.random.default_rng(seed)
    trajectories = []
    for name in map(str, range(trajectories_of_it)):
        noise = rng.standard_normal((rows, 2))
        for row in range(1, rows):
            noise[row] += correlation * noise[row - 1]
        trajectories.append(Trajectory(name, np.arange(float(rows)), noise))
    return Dataset(("x", "y"), tuple(trajectories)), [np.zeros((rows, 2))] * trajectories_of_it


def test_white_residuals_are_rejected_as_often_as_they_should() -> None:
    p_values = np.array([whiteness(*residuals(seed), NOISE)["x"] for seed in range(200)])
    assert 0.01 < np.mean(p_values < 0.05) < 0.11
    assert 0.4 < np.mean(p_values < 0.5) < 0.6


def test_many_short_trajectories_are_tested_as_one_long_one() -> None:
    def p_values(correlation: float, rows: int, trajectories: int) -> np.ndarray:
        every = (residuals(seed, correlation, rows, trajectories) for seed in range(150))
        return np.array([whiteness(*one, NOISE)["x"] for one in every])

    white = p_values(0.0, 4, 20)
    assert 0.01 < np.mean(white < 0.05) < 0.11
    assert 0.35 < np.mean(white < 0.5) < 0.6
    # Twenty of four rows have three quarters of the neighbours that one of eighty has.
    assert np.mean(p_values(0.7, 4, 20) < 1e-3) > 0.5


def test_trajectories_of_single_rows_have_no_neighbours() -> None:
    assert whiteness(*residuals(0, rows=1, trajectories_of_it=20), NOISE) == {}


def test_correlated_residuals_are_noticed() -> None:
    assert whiteness(*residuals(0, 0.7), NOISE)["x"] < 1e-6


def test_trajectories_are_not_correlated_with_each_other() -> None:
    # The last residual of one and the first of the next are no neighbours.
    data, found = residuals(0)
    swapped = Dataset(data.observables, data.trajectories[::-1])
    assert whiteness(data, found, NOISE) == pytest.approx(whiteness(swapped, found, NOISE))


def test_too_few_rows_are_not_tested() -> None:
    data, found = residuals(0, rows=FEWEST_ROWS // 2 - 1)
    assert whiteness(data, found, NOISE) == {}
    exact, found = residuals(0)
    assert whiteness(exact, [item.values for item in exact.trajectories], NOISE) == {}


def test_noise_per_value_weighs_every_row_by_its_own_size() -> None:
    noise = Noise(("x",), (False,), np.array([0.1]), False, False, np.array([np.inf]), np.array([0.5]))
    data = Dataset(("x",), (Trajectory("a", np.arange(4.0), np.array([[1.0], [10.0], [-100.0], [np.nan]])),))
    # One sd off at each row: 0.5 (the floor), 1 and 10.
    prediction = [np.array([[1.5], [11.0], [-90.0], [7.0]])]
    found = measure(data, prediction, None, noise)
    assert found is not None
    assert found.chi_square == pytest.approx(3.0)
    assert found.standardised == pytest.approx(1.0)
    weights = 1.0 / np.array([0.5, 1.0, 10.0]) ** 2
    center = np.sum(weights * [1.0, 10.0, -100.0]) / np.sum(weights)
    np.testing.assert_allclose(best_constant(data, noise), [center])
    assert found.unexplained == pytest.approx(
        3.0 / np.sum(weights * (np.array([1.0, 10.0, -100.0]) - center) ** 2)
    )


def test_whiteness_is_that_of_residuals_in_units_of_their_noise() -> None:
    # Two large rows that go together would hide sixty small ones that do.
    rng = np.random.default_rng(0)
    values = np.where(np.arange(60) < 2, 1e4, 1.0)[:, None]
    wave = np.sin(np.arange(60.0) / 4.0)[:, None]
    noise = Noise(("x",), (False,), np.array([0.1]), False, False, np.array([np.inf]), np.array([1e-3]))
    data = Dataset(("x",), (Trajectory("a", np.arange(60.0), values),))
    assert whiteness(data, [values * (1.0 + 0.1 * rng.standard_normal((60, 1)))], noise)["x"] > 0.01
    assert whiteness(data, [values * (1.0 + 0.1 * wave)], noise)["x"] < 1e-6


def test_what_solvers_leave_of_data_without_noise_is_not_tested() -> None:
    wave = np.sin(np.arange(60.0) / 4.0)[:, None]
    data = Dataset(("x",), (Trajectory("a", np.arange(60.0), 3.0 * wave),))

    def told(sd: float) -> Noise:
        return Noise(("x",), (False,), np.array([sd]), True, False, np.array([30.0]))

    # A millionth of the range, or little of what the noise is believed to be.
    assert whiteness(data, [3.0 * wave * (1.0 + 1e-7)], told(1e-9)) == {}
    assert whiteness(data, [3.0 * wave + 0.01 * wave], told(0.5)) == {}
    assert whiteness(data, [3.0 * wave * (1.0 + 1e-5)], told(1e-9))["x"] < 1e-6
    assert whiteness(data, [3.0 * wave + 0.1 * wave], told(0.5))["x"] < 1e-6
