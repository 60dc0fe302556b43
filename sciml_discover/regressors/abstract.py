"""What every sparse regressor offers, and the scaling that all of them share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Regression:
    """A weighted linear regression in units in which every column and the target have norm one.

    Attributes:
        columns: library terms at the samples, shape ``(samples, terms)``.
        target: learnt values, shape ``(samples,)``.
        column_norms: what the columns were divided by; zero columns keep a norm of infinity.
        target_norm: what the target was divided by.
    """

    columns: np.ndarray
    target: np.ndarray
    column_norms: np.ndarray
    target_norm: float

    @classmethod
    def scaled(cls, matrix: np.ndarray, values: np.ndarray, weights: np.ndarray) -> Regression:
        """Return the regression of ``values`` on the columns of ``matrix``, rows weighted."""
        root = np.sqrt(weights)
        rows, target = matrix * root[:, None], values * root
        usable = np.isfinite(rows).all(axis=0)
        norms = np.linalg.norm(np.where(np.isfinite(rows), rows, 0.0), axis=0)
        norms = np.where(usable & (norms > 0), norms, np.inf)
        size = float(np.linalg.norm(target)) or 1.0
        return cls(np.where(usable, rows, 0.0) / norms, target / size, norms, size)

    def fit(self, support: np.ndarray) -> tuple[np.ndarray, float]:
        """Return coefficients in the original units, zero outside the support, and the relative residual."""
        coefficients = np.zeros(len(support))
        chosen = self.columns[:, support]
        solution, *_ = np.linalg.lstsq(chosen, self.target, rcond=None)
        residual = float(np.linalg.norm(self.target - chosen @ solution))
        coefficients[support] = solution * self.target_norm / self.column_norms[support]
        return coefficients, residual
