"""Smoothers: value, derivative and noise level of series whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest

from sciml_discover.smoothers import LARGEST_GAUSSIAN_PROCESS, fit_smoother
from sciml_discover.smoothers.gaussian_process import GaussianProcess, fit_gaussian_process
from sciml_discover.smoothers.spline import SmoothingSpline, fit_smoothing_spline

SMOOTHERS = (fit_gaussian_process, fit_smoothing_spline)


def series(count: int, sd: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    times = np.sort(np.random.default_rng(seed + 100).uniform(0.0, 8.0, count))
    return times, 3.0 + np.sin(times) + sd * np.random.default_rng(seed).standard_normal(count)


@pytest.mark.parametrize("fit", SMOOTHERS)
def test_value_and_derivative_of_a_noisy_sine(fit) -> None:
    times, values = series(120, 0.05)
    smoother = fit([times], [values])
    inside = np.linspace(1.0, 7.0, 50)
    assert np.abs(smoother.value(0, inside) - 3.0 - np.sin(inside)).max() < 0.05
    assert np.abs(smoother.derivative(0, inside) - np.cos(inside)).max() < 0.15


@pytest.mark.parametrize("fit", SMOOTHERS)
def test_derivative_is_that_of_the_value(fit) -> None:
    times, values = series(60, 0.1)
    smoother = fit([times], [values])
    inside, step = np.linspace(0.5, 7.5, 40), 1e-5
    slope = (smoother.value(0, inside + step) - smoother.value(0, inside - step)) / (2.0 * step)
    np.testing.assert_allclose(smoother.derivative(0, inside), slope, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("fit", SMOOTHERS)
@pytest.mark.parametrize("sd", [0.02, 0.2])
def test_noise_level_is_found_within_its_own_uncertainty(fit, sd: float) -> None:
    logs = []
    for seed in range(4):
        times, values = series(80, sd, seed)
        smoother = fit([times], [values])
        assert 4.0 < smoother.degrees_of_freedom <= 80.0
        logs.append(np.log(smoother.noise_sd / sd))
        # The log of an sd with v degrees of freedom has the variance 1 / (2 v).
        assert abs(logs[-1]) < 4.0 / np.sqrt(2.0 * smoother.degrees_of_freedom)
    assert abs(np.mean(logs)) < 0.2


@pytest.mark.parametrize("fit", SMOOTHERS)
def test_units_do_not_matter(fit) -> None:
    times, values = series(40, 0.1)
    one, two = fit([times], [values]), fit([1e3 * times], [1e-2 * values - 7.0])
    inside = np.linspace(1.0, 7.0, 20)
    np.testing.assert_allclose(two.value(0, 1e3 * inside), 1e-2 * one.value(0, inside) - 7.0, atol=1e-5)
    assert two.noise_sd == pytest.approx(1e-2 * one.noise_sd, rel=1e-3)


@pytest.mark.parametrize("fit", SMOOTHERS)
def test_several_series_share_the_noise_and_keep_their_own_course(fit) -> None:
    generator = np.random.default_rng(0)
    times = [np.linspace(0.0, 6.0, 40), np.linspace(1.0, 4.0, 25)]
    values = [np.sin(times[0]), 10.0 + np.cos(times[1])]
    noisy = [item + 0.05 * generator.standard_normal(len(item)) for item in values]
    smoother = fit(times, noisy)
    assert np.abs(smoother.value(1, times[1]) - values[1]).max() < 0.12
    assert np.abs(smoother.value(0, times[0]) - values[0]).max() < 0.12
    assert 0.03 < smoother.noise_sd < 0.08


@pytest.mark.parametrize("fit", SMOOTHERS)
def test_series_of_nothing_one_and_two_values_are_no_obstacle(fit) -> None:
    times = [np.linspace(0.0, 6.0, 30), np.zeros(0), np.array([2.0]), np.array([1.0, 3.0])]
    values = [np.sin(times[0]), np.zeros(0), np.array([0.5]), np.array([0.1, 0.4])]
    smoother = fit(times, values)
    at = np.array([0.0, 1.5, 6.0])
    for number in range(4):
        assert np.isfinite(smoother.value(number, at)).all(), number
        assert np.isfinite(smoother.derivative(number, at)).all(), number
    assert smoother.value(2, np.array([2.0]))[0] == pytest.approx(0.5, abs=0.3)


def test_series_of_one_value_each_say_nothing_of_smoothness() -> None:
    times = [np.array([float(number)]) for number in range(5)]
    smoother = fit_gaussian_process(times, [np.array([2.0 + number]) for number in range(5)])
    assert np.isfinite(smoother.noise_sd)
    assert smoother.value(3, np.array([3.0]))[0] == pytest.approx(5.0)


def test_noise_free_data_have_a_noise_near_nothing() -> None:
    times = np.linspace(0.0, 8.0, 40)
    assert fit_gaussian_process([times], [np.sin(times)]).noise_sd < 2e-3
    # The weights of third differences cancel a parabola on any spacing.
    uneven = np.sort(np.random.default_rng(0).uniform(0.0, 8.0, 40))
    assert fit_smoothing_spline([uneven], [uneven**2]).noise_sd < 2e-5 * np.std(uneven**2)


def test_large_data_get_a_spline() -> None:
    times, values = series(LARGEST_GAUSSIAN_PROCESS + 1, 0.1)
    assert isinstance(fit_smoother([times], [values]), SmoothingSpline)
    assert isinstance(fit_smoother([times[:20]], [values[:20]]), GaussianProcess)
