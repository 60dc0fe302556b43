"""What every sparse regressor offers, and the scaling that all of them share."""

from __future__ import annotations

import abc
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from sciml_discover.base import Options
from sciml_discover.library import LibraryTerm
from sciml_discover.residual_samples import HoleSamples


@dataclass(frozen=True)
class Regression:
    """A weighted linear regression in units in which every column and the target have norm one.

    Attributes:
        columns: library terms at the samples, shape ``(samples, terms)``; those that are not finite are zero.
        target: learnt values, shape ``(samples,)``.
        sd: standard deviations of the target, as far as they are known, shape ``(samples,)``.
        column_norms: what the columns were divided by; zero columns keep a norm of infinity.
        target_norm: what the target was divided by.
        seed: of whatever a regressor draws.
    """

    columns: np.ndarray
    target: np.ndarray
    sd: np.ndarray
    column_norms: np.ndarray
    target_norm: float
    seed: int = 0

    @classmethod
    def scaled(
        cls,
        matrix: np.ndarray,
        values: np.ndarray,
        weights: np.ndarray,
        sd: np.ndarray | None = None,
        seed: int = 0,
    ) -> Regression:
        """Return the regression of ``values`` on the columns of ``matrix``, rows weighted.

        Args:
            matrix: shape ``(samples, terms)``.
            values: shape ``(samples,)``.
            weights: shape ``(samples,)``.
            sd: of the values; infinite where nothing is known of them, zero everywhere unless given.
            seed: of whatever a regressor draws.
        """
        root = np.sqrt(weights)
        rows, target = matrix * root[:, None], values * root
        usable = np.isfinite(rows).all(axis=0)
        norms = np.linalg.norm(np.where(np.isfinite(rows), rows, 0.0), axis=0)
        norms = np.where(usable & (norms > 0), norms, np.inf)
        size = float(np.linalg.norm(target)) or 1.0
        # What nothing determines may be anything of the size of the values.
        most = float(np.sqrt(np.mean(values**2)))
        spread = np.zeros_like(values) if sd is None else np.minimum(sd, most)
        return cls(
            np.where(usable, rows, 0.0) / norms, target / size, spread * root / size, norms, size, seed
        )

    @cached_property
    def usable(self) -> np.ndarray:
        """Which columns are finite and do not vanish, shape ``(terms,)``."""
        return np.isfinite(self.column_norms)

    def fit(self, support: np.ndarray) -> tuple[np.ndarray, float]:
        """Return coefficients in the original units, zero outside the support, and the relative residual."""
        coefficients = np.zeros(len(support))
        chosen = self.columns[:, support]
        solution, *_ = np.linalg.lstsq(chosen, self.target, rcond=None)
        residual = float(np.linalg.norm(self.target - chosen @ solution))
        coefficients[support] = solution * self.target_norm / self.column_norms[support]
        return coefficients, residual


class AbstractRegressor(Options, abc.ABC):
    """Base of all sparse regressors: what they can find in the samples of a learnt term."""

    @abc.abstractmethod
    def supports(self, regression: Regression) -> list[np.ndarray]:
        """Return distinct sets of library terms, none empty, each a mask of shape ``(terms,)``."""

    def parametric_terms(self, samples: HoleSamples) -> list[LibraryTerm]:  # noqa: ARG002
        """Return terms with parameters inside that could stand in the hole alone; none unless overridden."""
        return []


def distinct(masks: Iterable[np.ndarray]) -> list[np.ndarray]:
    """Return masks without doubles and without those that are empty, in the order in which they came."""
    found: dict[bytes, np.ndarray] = {}
    for mask in masks:
        if mask.any():
            found.setdefault(mask.tobytes(), np.array(mask, dtype=bool))
    return list(found.values())


def widened(masks: Iterable[np.ndarray], usable: np.ndarray) -> list[np.ndarray]:
    """Return distinct masks over all terms, from masks over the usable ones only."""
    wide = []
    for mask in masks:
        support = np.zeros(len(usable), dtype=bool)
        support[np.flatnonzero(usable)[mask]] = True
        wide.append(support)
    return distinct(wide)
