"""Smoothers: value, derivative and noise of a measured series, without any law."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sciml_discover.smoothers.gaussian_process import GaussianProcess, fit_gaussian_process
from sciml_discover.smoothers.spline import SmoothingSpline, fit_smoothing_spline

LARGEST_GAUSSIAN_PROCESS = 300
"""Observations above which a spline replaces the Gaussian process, whose cost grows with their cube."""

Smoother = GaussianProcess | SmoothingSpline


def fit_smoother(times: Sequence[np.ndarray], values: Sequence[np.ndarray]) -> Smoother:
    """Smooth several series of one observable that share noise and smoothness.

    Args:
        times: increasing times of each series.
        values: finite values of each series, same lengths.

    Returns:
        A smoother with ``value(series, times)``, ``derivative(series, times)``, ``noise_sd`` and
        ``degrees_of_freedom``.
    """
    if sum(len(series) for series in times) <= LARGEST_GAUSSIAN_PROCESS:
        return fit_gaussian_process(times, values)
    return fit_smoothing_spline(times, values)
