"""Sequentially thresholded least squares."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pydantic

from sciml_discover.base import Options
from sciml_discover.regressors.abstract import Regression


class Stlsq(Options):
    """pysindy's STLSQ over a path of thresholds (Brunton, Proctor & Kutz 2016, doi:10.1073/pnas.1517384113)."""

    kind: Literal["stlsq"] = "stlsq"
    thresholds: pydantic.PositiveInt = 25
    """Number of thresholds on the path, from a thousandth of the largest coefficient to all of it."""
    ridges: tuple[pydantic.NonNegativeFloat, ...] = (1e-6, 1e-3)
    """Strengths of the ridge penalty: with strongly correlated terms the supports depend on it."""

    def supports(self, regression: Regression) -> list[np.ndarray]:
        """Return the distinct supports along the path, each of shape ``(terms,)`` and not empty."""
        import warnings

        from pysindy import STLSQ

        found: dict[bytes, np.ndarray] = {}
        for ridge in self.ridges:
            full = np.linalg.lstsq(
                np.vstack([regression.columns, np.sqrt(ridge) * np.eye(regression.columns.shape[1])]),
                np.append(regression.target, np.zeros(regression.columns.shape[1])),
                rcond=None,
            )[0]
            for threshold in np.max(np.abs(full)) * np.geomspace(1e-3, 1.0, self.thresholds):
                optimizer = STLSQ(threshold=threshold, alpha=ridge, max_iter=50, unbias=False)
                with warnings.catch_warnings():
                    # A threshold that removes everything is the end of the path, not an accident.
                    warnings.simplefilter("ignore")
                    optimizer.fit(regression.columns, regression.target[:, None])
                support = np.abs(np.asarray(optimizer.coef_)[0]) > 0
                if support.any():
                    found.setdefault(support.tobytes(), support)
        return list(found.values())
