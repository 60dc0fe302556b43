"""Sequentially thresholded least squares."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pydantic

from sciml_discover.base import Count
from sciml_discover.regressors.abstract import AbstractRegressor, Regression, distinct
from sciml_discover.regressors.thresholding import Problems, threshold, threshold_path


class Stlsq(AbstractRegressor):
    """STLSQ over a path of thresholds (Brunton, Proctor & Kutz 2016, doi:10.1073/pnas.1517384113), as one batch."""

    kind: Literal["stlsq"] = "stlsq"
    thresholds: Count = 25
    """Number of thresholds on the path, from a thousandth of the largest coefficient to all of it."""
    ridges: tuple[pydantic.NonNegativeFloat, ...] = pydantic.Field(default=(1e-6, 1e-3), min_length=1)
    """Strengths of the ridge penalty: with strongly correlated terms the supports depend on it."""

    def supports(self, regression: Regression) -> list[np.ndarray]:
        """Return the supports along the path."""
        problems = Problems(regression.columns, regression.target[None])
        ridges = np.array(self.ridges)
        path = threshold_path(regression.columns, regression.target, ridges, self.thresholds)
        found = threshold(problems, ridges, path[:, None], iterations=50)
        return distinct(found.reshape(-1, found.shape[-1]))
