"""Cubic smoothing splines whose smoothness is chosen by generalised cross-validation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class SmoothingSpline:
    """Smoothing splines of several series of one observable (Woltring 1986, doi:10.1016/0141-1195(86)90098-7).

    Attributes:
        noise_sd: standard deviation of the noise, in the unit of the observable.
        degrees_of_freedom: how many residuals the noise estimate rests on.
    """

    noise_sd: float
    degrees_of_freedom: float
    splines: tuple[Any, ...]

    def value(self, series: int, times: np.ndarray) -> np.ndarray:
        """Return the smoothed values of one series, shape ``(times,)``."""
        return self.splines[series](times)

    def derivative(self, series: int, times: np.ndarray) -> np.ndarray:
        """Return the time derivative of one smoothed series, shape ``(times,)``."""
        return self.splines[series].derivative()(times)


def fit_smoothing_spline(times: Sequence[np.ndarray], values: Sequence[np.ndarray]) -> SmoothingSpline:
    """Fit one spline per series; the noise comes from third differences, which need no smoother.

    A third difference of four neighbours cancels every locally quadratic signal; on unequal spacing the
    weights are those of the divided difference, normalised to unit variance.
    """
    from scipy.interpolate import make_interp_spline, make_smoothing_spline

    splines, squares = [], []
    for time, value in zip(times, values, strict=True):
        if len(time) < 5:
            # Too short to smooth: pass through the points.
            splines.append(make_interp_spline(time, value, k=min(3, len(time) - 1)))
            continue
        splines.append(make_smoothing_spline(time, value))
        squares.append(_normalised_differences(time, value) ** 2)
    residuals = np.concatenate(squares) if squares else np.zeros(1)
    spread = float(np.std(np.concatenate(list(values)))) or 1.0
    return SmoothingSpline(
        noise_sd=max(float(np.sqrt(np.mean(residuals))), 1e-5 * spread),
        degrees_of_freedom=max(0.5 * len(residuals), 1.0),
        splines=tuple(splines),
    )


def _normalised_differences(time: np.ndarray, value: np.ndarray) -> np.ndarray:
    windows = np.lib.stride_tricks.sliding_window_view
    nodes, samples = windows(time, 4), windows(value, 4)
    gaps = nodes[:, :, None] - nodes[:, None, :] + np.eye(4)
    weights = 1.0 / np.prod(gaps, axis=2)
    weights /= np.linalg.norm(weights, axis=1, keepdims=True)
    return np.sum(weights * samples, axis=1)
