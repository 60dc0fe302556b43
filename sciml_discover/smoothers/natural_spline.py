"""The natural cubic smoothing spline of one series, for any strength, in time and memory linear in its length."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from scipy.interpolate import CubicSpline

LOG_STRENGTHS = (-6.0, 11.0)
"""Powers of ten between which strengths lie, in units of the cubed typical spacing; beyond, rounding takes over."""

DIFFERENCE = 1e-3
"""Step of log strength whose difference of log determinants is a trace, to a relative ``DIFFERENCE**2``."""


class NaturalSpline:
    """Minimises ``sum(((y - f) / size)**2) + strength * integral(f''**2)`` (Reinsch 1967, doi:10.1007/BF02162161).

    With second derivatives ``gamma`` at the inner knots as unknowns the equations are banded (Green & Silverman 1994,
    Nonparametric Regression and Generalized Linear Models, section 2.3): ``(R + strength Q' D Q) gamma = Q' y``.

    Args:
        times: increasing, in units in which the typical spacing is one, at least three.
        values: same length.
        sizes: relative standard deviation of the noise of each value.
    """

    def __init__(self, times: np.ndarray, values: np.ndarray, sizes: np.ndarray) -> None:
        self._times, self._values, self._variances = times, values, sizes**2
        step = np.diff(times)
        left, right = 1.0 / step[:-1], 1.0 / step[1:]
        self._weights = np.stack([left, -(left + right), right])  # of the three values in a second difference
        first, second, third = self._variances[:-2], self._variances[1:-1], self._variances[2:]
        middle = self._weights[1]
        size = len(times) - 2
        # Upper bands in the layout of scipy.linalg.cholesky_banded.
        self._roughness, self._misfit = np.zeros((3, size)), np.zeros((3, size))
        self._roughness[2] = (step[:-1] + step[1:]) / 3.0
        self._roughness[1, 1:] = step[1:-1] / 6.0
        self._misfit[2] = left**2 * first + middle**2 * second + right**2 * third
        self._misfit[1, 1:] = middle[:-1] * second[:-1] * left[1:] + right[:-1] * third[:-1] * middle[1:]
        self._misfit[0, 2:] = right[:-2] * third[:-2] * left[2:]
        self._target = left * values[:-2] + middle * values[1:-1] + right * values[2:]

    def smooth(self, strength: float) -> np.ndarray:
        """Return the smoothed values at the knots."""
        from scipy.linalg import cho_solve_banded, cholesky_banded

        factor = cholesky_banded(self._roughness + strength * self._misfit)
        gamma = cho_solve_banded((factor, False), self._target)
        correction = np.zeros_like(self._values)
        for shift, weight in enumerate(self._weights):
            correction[shift : shift + len(gamma)] += weight * gamma
        return self._values - strength * self._variances * correction

    def misfit(self, strength: float) -> float:
        """Return the squared residuals in units of the sizes."""
        return float(np.sum((self.smooth(strength) - self._values) ** 2 / self._variances))

    def freedom(self, strength: float) -> float:
        """Return the residual degrees of freedom: the trace of the identity minus the smoother matrix.

        It is the derivative of the log determinant of the banded matrix by the log of the strength.
        """
        up, down = (self._log_determinant(strength * np.exp(sign * DIFFERENCE)) for sign in (1.0, -1.0))
        return (up - down) / (2.0 * DIFFERENCE)

    def curve(self, strength: float, unit: float, start: float) -> CubicSpline:
        """Return the spline over times that are multiplied by ``unit`` and shifted by ``start``."""
        from scipy.interpolate import CubicSpline

        return CubicSpline(start + unit * self._times, self.smooth(strength), bc_type="natural")

    def _log_determinant(self, strength: float) -> float:
        from scipy.linalg import cholesky_banded

        factor = cholesky_banded(self._roughness + strength * self._misfit)
        return 2.0 * float(np.sum(np.log(factor[2])))
