"""Sparse relaxed regularized regression."""

from __future__ import annotations

import warnings
from typing import Literal

import numpy as np
import pydantic

from sciml_discover.base import Count, Iterations
from sciml_discover.regressors.abstract import AbstractRegressor, Regression, distinct
from sciml_discover.regressors.thresholding import threshold_path


class Sr3(AbstractRegressor):
    """pysindy's SR3 over a path of thresholds (Champion et al. 2020, doi:10.1109/ACCESS.2020.3023625)."""

    kind: Literal["sr3"] = "sr3"
    thresholds: Count = 15
    """Number of thresholds on the path, from a thousandth of the largest coefficient to all of it."""
    relaxation: pydantic.PositiveFloat = 1.0
    """How far the sparse coefficients may stray from those that fit (nu)."""
    regularizer: Literal["l0", "l1"] = "l0"
    """Norm of the sparse coefficients that is penalised."""
    iterations: Iterations = 100
    """Most iterations for a threshold."""

    def supports(self, regression: Regression) -> list[np.ndarray]:
        """Return the supports along the path."""
        from pysindy import SR3
        from sklearn.exceptions import ConvergenceWarning

        columns, target = regression.columns, regression.target[:, None]
        path = threshold_path(
            regression.columns, regression.target, np.array([1.0 / self.relaxation]), self.thresholds
        )
        # Least squares, where pysindy begins, is far away where terms are correlated.
        gram = columns.T @ columns + np.eye(columns.shape[1]) / self.relaxation
        begin = np.linalg.solve(gram, columns.T @ target).T
        found = []
        for level in path[0]:
            # The proximal operator of either norm removes what is below the level.
            weight = (
                level**2 / (2.0 * self.relaxation) if self.regularizer == "l0" else level / self.relaxation
            )
            optimizer = SR3(
                reg_weight_lam=weight,
                regularizer=self.regularizer,
                relax_coeff_nu=self.relaxation,
                max_iter=self.iterations,
                initial_guess=begin.copy(),
            )
            with warnings.catch_warnings():
                # What is not settled yet is a proposal like any other.
                warnings.simplefilter("ignore", ConvergenceWarning)
                optimizer.fit(columns, target)
            found.append(np.abs(np.asarray(optimizer.coef_)[0]) > 0)
        return distinct(found)
