"""Curves whose logarithm was smoothed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sciml_discover.smoothers.abstract import AbstractCurves


@dataclass(frozen=True)
class ExponentialCurves(AbstractCurves):
    """Positive curves: the exponential of others."""

    curves: AbstractCurves

    @property
    def noise_sd(self) -> float:  # type: ignore[override]
        """Standard deviation of the noise of the logarithm of a value of size one."""
        return self.curves.noise_sd

    @property
    def degrees_of_freedom(self) -> float:  # type: ignore[override]
        """How many residuals the noise estimate rests on."""
        return self.curves.degrees_of_freedom

    def value(self, series: int, times: np.ndarray) -> np.ndarray:
        """Return the smoothed values of one series, shape ``(times,)``."""
        return np.exp(self.curves.value(series, times))

    def derivative(self, series: int, times: np.ndarray) -> np.ndarray:
        """Return the time derivative of one smoothed series, shape ``(times,)``."""
        return self.value(series, times) * self.curves.derivative(series, times)
