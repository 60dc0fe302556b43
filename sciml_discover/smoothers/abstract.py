"""What every smoother offers: options that fit curves, and the curves."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from sciml_discover.base import Options

SHORTEST = 5
"""Fewest values of a series that tell its noise from its course; fewer are connected, not smoothed."""

SMALLEST_NOISE = 1e-5
"""Noise, relative to the spread of all values, below which nothing is called noise."""


class AbstractCurves(ABC):
    """Smooth curves through several series of one observable.

    Attributes:
        noise_sd: standard deviation of the noise of a value of size one; the sizes are all one unless the fit was
            told otherwise, and then this is in the unit of the observable.
        degrees_of_freedom: how many residuals the noise estimate rests on.
    """

    noise_sd: float
    degrees_of_freedom: float

    @abstractmethod
    def value(self, series: int, times: np.ndarray) -> np.ndarray:
        """Return the smoothed values of one series, shape ``(times,)``."""

    @abstractmethod
    def derivative(self, series: int, times: np.ndarray) -> np.ndarray:
        """Return the time derivative of one smoothed series, shape ``(times,)``."""


class AbstractSmoother(Options):
    """A way to smooth series of one observable that share noise and smoothness."""

    @abstractmethod
    def fit(
        self, times: Sequence[np.ndarray], values: Sequence[np.ndarray], sizes: Sequence[np.ndarray]
    ) -> AbstractCurves:
        """Return smooth curves; the noise of a value is its size times one common, unknown level.

        Args:
            times: increasing times of each series, which may be empty.
            values: finite values of each series, same lengths.
            sizes: relative standard deviation of the noise of each value, positive, same lengths.
        """


class Curve(Protocol):
    """One curve: scipy's splines are such."""

    def __call__(self, x: np.ndarray, nu: int = 0) -> np.ndarray:
        """Return values (``nu = 0``) or first derivatives (``nu = 1``) at times."""
        ...


@dataclass(frozen=True)
class SeparateCurves(AbstractCurves):
    """One curve per series, with a common noise level."""

    noise_sd: float
    degrees_of_freedom: float
    curves: tuple[Curve, ...]

    def value(self, series: int, times: np.ndarray) -> np.ndarray:
        """Return the smoothed values of one series, shape ``(times,)``."""
        return self.curves[series](np.asarray(times, dtype=float))

    def derivative(self, series: int, times: np.ndarray) -> np.ndarray:
        """Return the time derivative of one smoothed series, shape ``(times,)``."""
        return self.curves[series](np.asarray(times, dtype=float), 1)


def connect(times: np.ndarray, values: np.ndarray, overall: float) -> Curve:
    """Return a curve through a few points, which are too few to smooth; a constant if they are less than two."""
    from scipy.interpolate import BSpline, make_interp_spline

    if len(times) > 1:
        return make_interp_spline(times, values, k=min(3, len(times) - 1))
    level = values[0] if len(values) else overall
    return BSpline(np.array([0.0, 0.0, 1.0, 1.0]), np.array([level, level]), 1)


def pooled(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Return all series as one array, empty if there are none."""
    return np.concatenate([np.zeros(0), *parts])


def smallest_noise(values: Sequence[np.ndarray], sizes: Sequence[np.ndarray]) -> float:
    """Return the level below which a noise estimate is rounding, for values of these sizes."""
    spread = float(np.std(pooled(values))) or 1.0
    return SMALLEST_NOISE * spread / float(np.sqrt(np.mean(pooled(sizes) ** 2)))


def typical_spacing(times: Sequence[np.ndarray]) -> float:
    """Return the median interval between neighbouring values of all series; one if there is none."""
    steps = pooled([np.diff(series) for series in times])
    return float(np.median(steps)) if len(steps) else 1.0
