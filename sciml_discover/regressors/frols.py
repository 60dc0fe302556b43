"""Forward regression by orthogonal least squares."""

from __future__ import annotations

import warnings
from typing import Any, Literal

import numpy as np

from sciml_discover.base import Count
from sciml_discover.regressors.abstract import AbstractRegressor, Regression, widened

DEPENDENT = 1e-10
"""Columns that are this close to being a combination of others are left out."""


class Frols(AbstractRegressor):
    """pysindy's FROLS: the term that explains most of what is left comes next (Billings 2013, ISBN 9781119943594)."""

    kind: Literal["frols"] = "frols"
    largest: Count = 8
    """Most terms of a support."""

    def supports(self, regression: Regression) -> list[np.ndarray]:
        """Return the supports along the way, from one term to ``largest``."""
        from pysindy import FROLS
        from scipy.linalg import LinAlgWarning, qr

        if not regression.target.any():
            return []
        # Orthogonalising a combination of other columns would leave rounding errors, or a division by zero.
        factors: Any = qr(regression.columns, mode="economic", pivoting=True)
        _, triangle, pivots = factors
        diagonal = np.abs(np.diag(triangle))
        usable = np.zeros(len(regression.usable), dtype=bool)
        usable[pivots[: len(diagonal)][diagonal > DEPENDENT]] = True
        if not usable.any():
            return []
        optimizer = FROLS(alpha=0.0, max_iter=self.largest, unbias=False)
        with warnings.catch_warnings():
            # Terms that are nearly alike are normal in a library; whoever fits with them refits through the equation.
            warnings.simplefilter("ignore", LinAlgWarning)
            optimizer.fit(regression.columns[:, usable], regression.target[:, None])
        steps = [np.abs(np.asarray(step)[0]) > 0 for step in optimizer.history_]
        if self.largest >= usable.sum():
            steps.append(np.ones(int(usable.sum()), dtype=bool))
        return widened(steps, usable)
