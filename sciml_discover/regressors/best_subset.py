"""Exhaustive search over small supports."""

from __future__ import annotations

from itertools import combinations
from math import comb
from typing import Literal

import numpy as np
import pydantic

from sciml_discover.base import Count
from sciml_discover.regressors.abstract import AbstractRegressor, Regression

MOST_SUBSETS = 20_000
"""Larger families of subsets are left to the other regressors."""


class BestSubset(AbstractRegressor):
    """All supports of up to ``largest`` terms, the best few of each size kept (Furnival & Wilson 1974).

    Solved together from the normal equations, which columns of unit norm keep well enough conditioned for a
    ranking; the few that are kept are refitted later.
    """

    kind: Literal["best_subset"] = "best_subset"
    largest: int = pydantic.Field(default=3, ge=1, le=4)
    """Most terms of a support."""
    keep: Count = 5
    """How many supports of each size are proposed."""

    def supports(self, regression: Regression) -> list[np.ndarray]:
        """Return the best supports of each size, each of shape ``(terms,)``."""
        terms = regression.columns.shape[1]
        usable = np.flatnonzero(regression.usable)
        gram = regression.columns.T @ regression.columns
        moment = regression.columns.T @ regression.target
        found = []
        for size in range(1, min(self.largest, len(usable)) + 1):
            if comb(len(usable), size) > MOST_SUBSETS:
                break
            subsets = np.array(list(combinations(usable, size)))
            matrices = gram[subsets[:, :, None], subsets[:, None, :]] + 1e-10 * np.eye(size)
            right = moment[subsets]
            explained = np.einsum("si,si->s", right, np.linalg.solve(matrices, right[..., None])[..., 0])
            for row in np.argsort(-explained, kind="stable")[: self.keep]:
                support = np.zeros(terms, dtype=bool)
                support[subsets[row]] = True
                found.append(support)
        return found
