"""Stepwise sparse regression."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pydantic

from sciml_discover.regressors.abstract import AbstractRegressor, Regression, widened


class Ssr(AbstractRegressor):
    """pysindy's SSR: one term leaves after the other (Boninsegna, Nüske & Clementi 2018, doi:10.1063/1.5018409)."""

    kind: Literal["ssr"] = "ssr"
    criterion: Literal["coefficient_value", "model_residual"] = "coefficient_value"
    """Who leaves: the smallest coefficient, or the term whose absence costs least."""
    ridge: pydantic.NonNegativeFloat = 1e-6
    """Strength of the ridge penalty."""

    def supports(self, regression: Regression) -> list[np.ndarray]:
        """Return the supports along the way, from all terms to one."""
        from pysindy import SSR

        usable = regression.usable
        count = int(usable.sum())
        if count < 2 or not regression.target.any():
            return widened([np.ones(count, dtype=bool)], usable)
        optimizer = SSR(alpha=self.ridge, criteria=self.criterion, max_iter=count - 1, unbias=False)
        optimizer.fit(regression.columns[:, usable], regression.target[:, None])
        # Its first entry is overwritten by the steps that follow.
        steps = [np.abs(np.asarray(step)[0]) > 0 for step in optimizer.history_[1:]]
        return widened([np.ones(count, dtype=bool), *steps], usable)
