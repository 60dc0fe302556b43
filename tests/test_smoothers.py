"""Smoothers: value, derivative and noise level of series whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest

from sciml_discover.errors import InputError
from sciml_discover.integrate import solve_reference
from sciml_discover.smoothers import (
    AbstractSmoother,
    GaussianProcess,
    LocalPolynomial,
    ReinschSpline,
    SavitzkyGolay,
    SmoothingSpline,
    TimeWarp,
    WarpedCurves,
    fit_smoother,
    fit_smoother_per_value,
)
from sciml_discover.smoothers.automatic import LARGEST_GAUSSIAN_PROCESS
from sciml_discover.smoothers.gaussian_process import LARGEST, GaussianProcessCurves
from sciml_discover.smoothers.natural_spline import NaturalSpline
from sciml_discover.systems import get_system

SMOOTHERS: tuple[AbstractSmoother, ...] = (
    GaussianProcess(),
    ReinschSpline(),
    SmoothingSpline(),
    LocalPolynomial(),
    LocalPolynomial(degree=3),
    SavitzkyGolay(),
    SavitzkyGolay(degree=2),
)
"""Every smoother; adding one here is how it gets tested."""

every_smoother = pytest.mark.parametrize(
    "smoother", SMOOTHERS, ids=lambda item: f"{item.kind}{getattr(item, 'degree', '')}"
)

LOG_TIMES = np.geomspace(1e-5, 1e5, 40)
"""Ten orders of magnitude, such as stiff chemistry is measured at."""


def series(count: int, sd: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    times = np.sort(np.random.default_rng(seed + 100).uniform(0.0, 8.0, count))
    return times, 3.0 + np.sin(times) + sd * np.random.default_rng(seed).standard_normal(count)


@every_smoother
def test_value_and_derivative_of_a_noisy_sine(smoother: AbstractSmoother) -> None:
    times, values = series(120, 0.05)
    curves = fit_smoother([times], [values], smoother)
    inside = np.linspace(1.0, 7.0, 50)
    # A window of so many rows, all with the same weight, is the roughest of all.
    slack = 1.0 + isinstance(smoother, SavitzkyGolay)
    assert np.abs(curves.value(0, inside) - 3.0 - np.sin(inside)).max() < 0.05 * slack
    assert np.abs(curves.derivative(0, inside) - np.cos(inside)).max() < 0.15 * slack


@every_smoother
def test_derivative_is_that_of_the_value(smoother: AbstractSmoother) -> None:
    times, values = series(60, 0.1)
    curves = fit_smoother([times], [values], smoother)
    inside, step = np.linspace(0.5, 7.5, 40), 1e-5
    slope = (curves.value(0, inside + step) - curves.value(0, inside - step)) / (2.0 * step)
    np.testing.assert_allclose(curves.derivative(0, inside), slope, rtol=1e-5, atol=1e-6)


@every_smoother
@pytest.mark.parametrize("sd", [0.02, 0.2])
def test_noise_level_is_found_within_its_own_uncertainty(smoother: AbstractSmoother, sd: float) -> None:
    logs = []
    for seed in range(4):
        times, values = series(80, sd, seed)
        curves = fit_smoother([times], [values], smoother)
        assert 4.0 < curves.degrees_of_freedom <= 80.0
        logs.append(np.log(curves.noise_sd / sd))
        # The log of an sd with v degrees of freedom has the variance 1 / (2 v).
        assert abs(logs[-1]) < 4.0 / np.sqrt(2.0 * curves.degrees_of_freedom)
    assert abs(np.mean(logs)) < 0.2


@every_smoother
def test_units_do_not_matter(smoother: AbstractSmoother) -> None:
    times, values = series(40, 0.1)
    one = fit_smoother([times], [values], smoother)
    two = fit_smoother([1e3 * times], [1e-2 * values - 7.0], smoother)
    inside = np.linspace(1.0, 7.0, 20)
    np.testing.assert_allclose(two.value(0, 1e3 * inside), 1e-2 * one.value(0, inside) - 7.0, atol=1e-5)
    assert two.noise_sd == pytest.approx(1e-2 * one.noise_sd, rel=1e-3)


@every_smoother
def test_several_series_share_the_noise_and_keep_their_own_course(smoother: AbstractSmoother) -> None:
    generator = np.random.default_rng(0)
    times = [np.linspace(0.0, 6.0, 40), np.linspace(1.0, 4.0, 25)]
    values = [np.sin(times[0]), 10.0 + np.cos(times[1])]
    noisy = [item + 0.05 * generator.standard_normal(len(item)) for item in values]
    curves = fit_smoother(times, noisy, smoother)
    assert np.abs(curves.value(1, times[1]) - values[1]).max() < 0.12
    assert np.abs(curves.value(0, times[0]) - values[0]).max() < 0.12
    assert 0.03 < curves.noise_sd < 0.08


@every_smoother
def test_series_of_nothing_one_and_two_values_are_no_obstacle(smoother: AbstractSmoother) -> None:
    times = [np.linspace(0.0, 6.0, 30), np.zeros(0), np.array([2.0]), np.array([1.0, 3.0])]
    values = [np.sin(times[0]), np.zeros(0), np.array([0.5]), np.array([0.1, 0.4])]
    curves = fit_smoother(times, values, smoother)
    at = np.array([0.0, 1.5, 6.0])
    for number in range(4):
        assert np.isfinite(curves.value(number, at)).all(), number
        assert np.isfinite(curves.derivative(number, at)).all(), number
    assert curves.value(2, np.array([2.0]))[0] == pytest.approx(0.5, abs=0.3)


def test_series_of_one_value_each_say_nothing_of_smoothness() -> None:
    times = [np.array([float(number)]) for number in range(5)]
    curves = fit_smoother(times, [np.array([2.0 + number]) for number in range(5)], GaussianProcess())
    assert np.isfinite(curves.noise_sd)
    assert curves.value(3, np.array([3.0]))[0] == pytest.approx(5.0)


@every_smoother
def test_missing_values_are_left_out(smoother: AbstractSmoother) -> None:
    times, values = series(60, 0.05)
    keep = np.arange(60) % 7 != 3
    holes = np.where(keep, values, np.nan)
    one = fit_smoother([times], [holes], smoother)
    two = fit_smoother([times[keep]], [values[keep]], smoother)
    np.testing.assert_array_equal(one.value(0, times), two.value(0, times))


@every_smoother
def test_only_short_series_are_connected(smoother: AbstractSmoother) -> None:
    times = [np.array([0.0, 1.0, 3.0]), np.array([1.0, 2.0])]
    curves = fit_smoother(times, [np.array([1.0, 2.0, 4.0]), np.array([5.0, 7.0])], smoother)
    assert np.isfinite(curves.noise_sd)
    assert curves.value(0, np.array([2.0]))[0] == pytest.approx(3.0, abs=0.6)
    assert np.isfinite(curves.derivative(1, np.array([0.0, 1.5, 9.0]))).all()


@every_smoother
def test_values_of_different_accuracy_have_different_weights(smoother: AbstractSmoother) -> None:
    times = np.linspace(0.0, 8.0, 120)
    sizes = np.where(np.arange(120) % 2, 1.0, 20.0)
    errors = []
    for seed in range(3):
        noisy = np.sin(times) + 0.02 * sizes * np.random.default_rng(seed).standard_normal(120)
        weighed = fit_smoother([times], [noisy], smoother, [sizes])
        plain = fit_smoother([times], [noisy], smoother)
        assert weighed.noise_sd == pytest.approx(0.02, rel=0.4)
        errors.append(
            [np.sqrt(np.mean((item.value(0, times) - np.sin(times)) ** 2)) for item in (weighed, plain)]
        )
    known, unknown = np.mean(errors, axis=0)
    assert known < 0.4 * unknown


def test_noise_free_data_have_a_noise_near_nothing() -> None:
    times = np.linspace(0.0, 8.0, 40)
    assert fit_smoother([times], [np.sin(times)], GaussianProcess()).noise_sd < 2e-3
    # The weights of third differences cancel a parabola on any spacing.
    uneven = np.sort(np.random.default_rng(0).uniform(0.0, 8.0, 40))
    assert fit_smoother([uneven], [uneven**2], ReinschSpline()).noise_sd < 2e-5 * np.std(uneven**2)


def test_large_data_get_a_spline() -> None:
    times, values = series(LARGEST_GAUSSIAN_PROCESS + 1, 0.1)
    spline = fit_smoother([times], [values], ReinschSpline())
    np.testing.assert_array_equal(fit_smoother([times], [values]).value(0, times), spline.value(0, times))
    assert isinstance(fit_smoother([times[:20]], [values[:20]]), GaussianProcessCurves)
    many = np.arange(LARGEST + 1.0)
    with pytest.raises(InputError, match="a Gaussian process over 2001 values"):
        fit_smoother([many], [many], GaussianProcess())


def test_the_banded_spline_is_the_penalised_least_squares_spline() -> None:
    from scipy.interpolate import make_smoothing_spline

    times, values = series(30, 0.1)
    sizes = np.random.default_rng(5).uniform(0.5, 2.0, 30)
    spline = NaturalSpline(times, values, sizes)
    theirs = make_smoothing_spline(times, values, w=1.0 / sizes**2, lam=0.3)
    np.testing.assert_allclose(spline.smooth(0.3), theirs(times), rtol=1e-9)
    # The trace of the smoother matrix, one column at a time.
    traces = [NaturalSpline(times, unit, sizes).smooth(0.3)[k] for k, unit in enumerate(np.eye(30))]
    assert spline.freedom(0.3) == pytest.approx(30.0 - sum(traces), rel=1e-5)


def test_leaving_a_row_out_is_what_chooses_the_window() -> None:
    # At the rows of a full window the filter is the textbook one.
    from scipy.signal import savgol_filter

    times = np.linspace(0.0, 8.0, 101)
    values = np.sin(times) + 0.1 * np.random.default_rng(0).standard_normal(101)
    for window in (5, 11, 19):
        found = fit_smoother([times], [values], SavitzkyGolay(window=window))
        textbook = np.asarray(savgol_filter(values, window, 3, mode="interp"))
        np.testing.assert_allclose(found.value(0, times), textbook, atol=1e-8)
    chosen = fit_smoother([times], [values], SavitzkyGolay()).value(0, times)
    errors = [
        np.mean((item - np.sin(times)) ** 2)
        for item in (chosen, savgol_filter(values, 5, 3), savgol_filter(values, 101, 3))
    ]
    assert errors[0] < 0.3 * min(errors[1:])


@every_smoother
def test_time_grows_no_faster_than_it_has_to(smoother: AbstractSmoother) -> None:
    if isinstance(smoother, GaussianProcess):
        return  # cubic, and refused in time
    # A matrix of 100 000 by 100 000 would take 75 GiB.
    times, values = np.linspace(0.0, 300.0, 100_000), np.sin(np.linspace(0.0, 300.0, 100_000))
    noisy = values + 0.1 * np.random.default_rng(0).standard_normal(len(times))
    curves = fit_smoother([times], [noisy], smoother)
    assert np.sqrt(np.mean((curves.value(0, times) - values) ** 2)) < 0.02
    assert curves.noise_sd == pytest.approx(0.1, rel=0.1)


# --- warped time -----------------------------------------------------------------------------------------


@every_smoother
def test_log_spaced_times_are_smoothed_in_a_warped_time(smoother: AbstractSmoother) -> None:
    t = LOG_TIMES
    truth, slope = np.exp(-t) + 1.0 / (1.0 + t), -np.exp(-t) - 1.0 / (1.0 + t) ** 2
    for seed in range(3):
        noisy = truth + 0.01 * np.random.default_rng(seed).standard_normal(len(t))
        curves = fit_smoother([t], [noisy], smoother)
        assert isinstance(curves, WarpedCurves)
        assert np.sqrt(np.mean((curves.value(0, t) - truth) ** 2)) < 0.012
        assert 0.005 < curves.noise_sd < 0.02
        # Slopes in the warped time, in which they are of order one.
        assert np.sqrt(np.mean((t * (curves.derivative(0, t) - slope)) ** 2)) < 0.03


@every_smoother
def test_derivative_in_warped_time_is_that_of_the_value(smoother: AbstractSmoother) -> None:
    curves = fit_smoother([LOG_TIMES], [np.exp(-LOG_TIMES) + 1.0 / (1.0 + LOG_TIMES)], smoother)
    at = np.geomspace(2e-5, 9e4, 57)
    step = 1e-6 * at
    slope = (curves.value(0, at + step) - curves.value(0, at - step)) / (2.0 * step)
    np.testing.assert_allclose(at * curves.derivative(0, at), at * slope, atol=1e-6)


def test_values_of_a_stiff_system_are_smoothed_within_their_noise() -> None:
    known = get_system("robertson")
    clean = solve_reference(known.system, known.parameter_values, known.initial_values, LOG_TIMES, start=0.0)
    for seed in range(3):
        noisy = clean * (1.0 + 0.01 * np.random.default_rng(seed).standard_normal(clean.shape))
        for smoother in (None, LocalPolynomial(), SavitzkyGolay()):
            for column in range(3):
                sds = np.fmax(0.01 * np.abs(noisy[:, column]), 1e-5 * clean[:, column].std())
                curves = fit_smoother_per_value([LOG_TIMES], [noisy[:, column]], [sds], smoother)
                error = (curves.value(0, LOG_TIMES) - clean[:, column]) / sds
                assert np.sqrt(np.mean(error**2)) < 1.1, (seed, smoother, column)


def test_a_relaxation_oscillation_sampled_by_arc_length() -> None:
    known = get_system("van_der_pol")
    fine = np.linspace(0.0, 45.0, 60_001)
    states = solve_reference(known.system, np.array([20.0]), known.initial_values, fine)
    length = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(states, axis=0), axis=1))])
    times = np.unique(np.interp(np.linspace(0.0, length[-1], 400), length, fine))
    gaps = np.diff(times)
    assert gaps.max() / gaps.min() > 1000.0
    clean = np.interp(times, fine, states[:, 0])
    noisy = clean + 0.02 * np.random.default_rng(0).standard_normal(len(times))
    for smoother in (None, SmoothingSpline(), LocalPolynomial(), SavitzkyGolay()):
        curves = fit_smoother([times], [noisy], smoother)
        assert isinstance(curves, WarpedCurves)
        assert np.sqrt(np.mean((curves.value(0, times) - clean) ** 2)) < 0.02, smoother
        assert 0.01 < curves.noise_sd < 0.04, smoother


def test_rows_at_random_or_evenly_spaced_are_not_warped() -> None:
    for seed in range(20):
        generator = np.random.default_rng(seed)
        for count in (20, 80, 400):
            times = np.sort(generator.uniform(0.0, 8.0, count))
            assert TimeWarp.between([times]) is None, (seed, count)
    assert TimeWarp.between([np.linspace(0.0, 1.0, 50), np.linspace(0.0, 100.0, 7)]) is None
    assert TimeWarp.between([np.array([0.0, 1e-9, 1.0])]) is None


def test_the_warp_increases_and_goes_on_beyond_its_ends() -> None:
    # Seconds at first, then hours.
    times = np.concatenate([np.arange(60.0), 3600.0 * np.arange(1.0, 20.0)])
    warp = TimeWarp.between([times, times[::2]])
    assert warp is not None
    at = np.linspace(-10.0, 80_000.0, 5001)
    place, step = warp.place(at), 1e-4
    assert (np.diff(place) > 0).all()
    np.testing.assert_allclose(
        warp.slope(at), (warp.place(at + step) - warp.place(at - step)) / (2.0 * step), rtol=1e-3
    )
    steps = np.diff(warp.place(times))
    assert 0.3 < steps.min() < steps.max() < 20.0


# --- options ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("window", [4, 6, 3])
def test_a_window_is_odd_and_not_too_short(window: int) -> None:
    with pytest.raises(ValueError, match="window"):
        SavitzkyGolay(window=window)


@pytest.mark.parametrize(
    ("rough", "smooth"),
    [
        (SmoothingSpline(strength=1e-3), SmoothingSpline(strength=1e4)),
        (LocalPolynomial(bandwidth=2.0), LocalPolynomial(bandwidth=20.0)),
        (SavitzkyGolay(window=5), SavitzkyGolay(window=31)),
    ],
)
def test_what_is_given_is_not_chosen(rough: AbstractSmoother, smooth: AbstractSmoother) -> None:
    times, values = series(120, 0.2)
    one, two = (fit_smoother([times], [values], item).value(0, times) for item in (rough, smooth))
    assert np.std(np.diff(one, 2)) > 3.0 * np.std(np.diff(two, 2))
