"""The path of the lasso."""

from __future__ import annotations

import warnings
from typing import Literal

import numpy as np
import pydantic

from sciml_discover.base import Count
from sciml_discover.regressors.abstract import AbstractRegressor, Regression, distinct


class Lasso(AbstractRegressor):
    """scikit-learn's path of the lasso (Friedman, Hastie & Tibshirani 2010, doi:10.18637/jss.v033.i01)."""

    kind: Literal["lasso"] = "lasso"
    penalties: Count = 60
    """Number of penalties on the path, from the one that removes every term downwards."""
    smallest: float = pydantic.Field(default=1e-4, gt=0.0, lt=1.0)
    """Last penalty, relative to the first."""

    def supports(self, regression: Regression) -> list[np.ndarray]:
        """Return the supports along the path."""
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import lasso_path

        if not regression.target.any():
            return []
        largest = np.abs(regression.columns.T @ regression.target).max() / len(regression.target)
        alphas = largest * np.geomspace(1.0, self.smallest, self.penalties)
        with warnings.catch_warnings():
            # What is not settled yet is a proposal like any other.
            warnings.simplefilter("ignore", ConvergenceWarning)
            coefficients = lasso_path(regression.columns, regression.target, alphas=alphas)[1]
        return distinct(np.abs(coefficients.T) > 0)
