"""Cubic smoothing splines, as smooth as the noise allows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from sciml_discover.smoothers.abstract import (
    SHORTEST,
    AbstractSmoother,
    Curve,
    SeparateCurves,
    connect,
    pooled,
    smallest_noise,
)
from sciml_discover.smoothers.natural_spline import LOG_STRENGTHS, NaturalSpline

BISECTIONS = 24
"""How the strength is found between its limits."""


class ReinschSpline(AbstractSmoother):
    """The smoothest spline whose residuals are as large as the noise (Reinsch 1967, doi:10.1007/BF02162161).

    The noise comes from third differences, which need no smoother: a third difference of four neighbours cancels every
    locally quadratic signal; on unequal spacing the weights are those of the divided difference, normalised to unit
    variance. Needs rows that are dense enough for that; then it is the fastest.
    """

    kind: Literal["reinsch_spline"] = "reinsch_spline"

    def fit(
        self, times: Sequence[np.ndarray], values: Sequence[np.ndarray], sizes: Sequence[np.ndarray]
    ) -> SeparateCurves:
        """Return one spline per series; see `AbstractSmoother.fit`."""
        squares = pooled(
            [
                third_differences(*item) ** 2
                for item in zip(times, values, sizes, strict=True)
                if len(item[0]) >= SHORTEST
            ]
        )
        variance = float(np.mean(squares)) if len(squares) else 0.0
        noise_sd = max(float(np.sqrt(variance)), smallest_noise(values, sizes))
        overall = float(np.mean(pooled(values)))
        return SeparateCurves(
            noise_sd=noise_sd,
            degrees_of_freedom=max(0.5 * len(squares), 1.0),
            curves=tuple(
                _smooth(time, value, size, noise_sd**2)
                if len(time) >= SHORTEST
                else connect(time, value, overall)
                for time, value, size in zip(times, values, sizes, strict=True)
            ),
        )


def _smooth(time: np.ndarray, value: np.ndarray, size: np.ndarray, variance: float) -> Curve:
    """Return the smoothest spline whose mean squared residual, in units of the sizes, is the variance."""
    # The strength has the unit of time cubed over size squared: in these units its range is known.
    spacing, unit = float(np.median(np.diff(time))), float(np.median(size))
    spline = NaturalSpline((time - time[0]) / spacing, value, size / unit)
    low, high = LOG_STRENGTHS
    for _ in range(BISECTIONS):
        middle = 0.5 * (low + high)
        if spline.misfit(10.0**middle) > variance * unit**2 * len(time):
            high = middle
        else:
            low = middle
    return spline.curve(10.0**low, spacing, float(time[0]))


def third_differences(time: np.ndarray, value: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Return third divided differences of neighbours, with the variance of the noise of a value of size one.

    Args:
        time: increasing, shape ``(rows,)``.
        value: same shape.
        size: relative standard deviation of the noise of each value, same shape.

    Returns:
        Shape ``(rows - 3,)``.
    """
    windows = np.lib.stride_tricks.sliding_window_view
    nodes, samples, deviations = windows(time, 4), windows(value, 4), windows(size, 4)
    gaps = nodes[:, :, None] - nodes[:, None, :] + np.eye(4)
    weights = 1.0 / np.prod(gaps, axis=2)
    weights /= np.linalg.norm(weights * deviations, axis=1, keepdims=True)
    return np.sum(weights * samples, axis=1)
