"""Cubic smoothing splines, as smooth as the noise allows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from scipy.interpolate import BSpline

SHORTEST = 5
"""Fewest values of a series that can be smoothed."""

LOG_SMOOTHING, BISECTIONS = (-6.0, 10.0), 24
"""Powers of ten between which the smoothing parameter lies, in units of the spacing; and how it is found."""


@dataclass(frozen=True)
class SmoothingSpline:
    """Smoothing splines of several series of one observable (Reinsch 1967, doi:10.1007/BF02162161).

    Attributes:
        noise_sd: standard deviation of the noise, in the unit of the observable.
        degrees_of_freedom: how many residuals the noise estimate rests on.
    """

    noise_sd: float
    degrees_of_freedom: float
    splines: tuple[BSpline, ...]

    def value(self, series: int, times: np.ndarray) -> np.ndarray:
        """Return the smoothed values of one series, shape ``(times,)``."""
        return self.splines[series](times)

    def derivative(self, series: int, times: np.ndarray) -> np.ndarray:
        """Return the time derivative of one smoothed series, shape ``(times,)``."""
        return self.splines[series].derivative()(times)


def fit_smoothing_spline(times: Sequence[np.ndarray], values: Sequence[np.ndarray]) -> SmoothingSpline:
    """Fit one spline per series; the noise comes from third differences, which need no smoother.

    A third difference of four neighbours cancels every locally quadratic signal; on unequal spacing the
    weights are those of the divided difference, normalised to unit variance. Each spline is the smoothest one
    whose residuals have that variance.
    """
    squares = [
        _normalised_differences(time, value) ** 2
        for time, value in zip(times, values, strict=True)
        if len(time) >= SHORTEST
    ]
    residuals = np.concatenate(squares) if squares else np.zeros(1)
    overall = np.concatenate(list(values))
    spread = float(np.std(overall)) or 1.0
    noise_sd = max(float(np.sqrt(np.mean(residuals))), 1e-5 * spread)
    return SmoothingSpline(
        noise_sd=noise_sd,
        degrees_of_freedom=max(0.5 * len(residuals), 1.0),
        splines=tuple(
            _smooth(time, value, noise_sd**2)
            if len(time) >= SHORTEST
            else _connect(time, value, overall.mean())
            for time, value in zip(times, values, strict=True)
        ),
    )


def _smooth(time: np.ndarray, value: np.ndarray, variance: float) -> BSpline:
    """Return the smoothest spline whose mean squared residual is the variance of the noise."""
    from scipy.interpolate import BSpline, make_smoothing_spline

    # The smoothing parameter has the unit of time cubed: in units of the spacing its range is known.
    spacing = float(np.median(np.diff(time)))
    scaled = (time - time[0]) / spacing
    low, high = LOG_SMOOTHING
    for _ in range(BISECTIONS):
        middle = 0.5 * (low + high)
        spline = make_smoothing_spline(scaled, value, lam=10.0**middle)
        if np.mean((spline(scaled) - value) ** 2) > variance:
            high = middle
        else:
            low = middle
    spline = make_smoothing_spline(scaled, value, lam=10.0**low)
    return BSpline(time[0] + spacing * spline.t, spline.c, spline.k)


def _connect(time: np.ndarray, value: np.ndarray, overall: float) -> BSpline:
    """Return a curve through a few points, which are too few to smooth; a constant if they are less than two."""
    from scipy.interpolate import BSpline, make_interp_spline

    if len(time) > 1:
        return make_interp_spline(time, value, k=min(3, len(time) - 1))
    level = value[0] if len(value) else overall
    return BSpline(np.array([0.0, 0.0, 1.0, 1.0]), np.array([level, level]), 1)


def _normalised_differences(time: np.ndarray, value: np.ndarray) -> np.ndarray:
    windows = np.lib.stride_tricks.sliding_window_view
    nodes, samples = windows(time, 4), windows(value, 4)
    gaps = nodes[:, :, None] - nodes[:, None, :] + np.eye(4)
    weights = 1.0 / np.prod(gaps, axis=2)
    weights /= np.linalg.norm(weights, axis=1, keepdims=True)
    return np.sum(weights * samples, axis=1)
