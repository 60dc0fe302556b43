"""What fits of candidate laws are worth: the criterion, and what speaks against one of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sciml_discover.constraints import Constraints
from sciml_discover.criterion import Criterion, misfit_p_value
from sciml_discover.library import Library
from sciml_discover.refit import Fits
from sciml_discover.scores import whiteness
from sciml_discover.system import System
from sciml_discover.trajectories import Dataset

PLAUSIBLE = 1e-3
"""Probability of such residuals, by their size or their pattern, below which the search widens."""

UNSTABLE = "no continuous trajectory of it could be fitted: it is unstable, or far from the data"
"""Why a law is rejected that could not be solved."""

GROSS = 1000.0
"""Mean squared residual, in units of the noise, of a law that is no more than an approximation."""


@dataclass(frozen=True)
class Judge:
    """Ranks fits of candidate laws.

    Attributes:
        system: the known physics with its holes.
        train: the rows that laws are fitted to.
        criterion: of misfit, numbers and terms.
        libraries: one per hole.
        constraints: what laws may contain.
    """

    system: System
    train: Dataset
    criterion: Criterion
    libraries: Sequence[Library]
    constraints: Constraints

    def bound(self, fits: Fits) -> np.ndarray:
        """Return the criterion of fits, of lower bounds or of predictions, shape ``(B,)``, whatever their signs.

        While segments may jump, a sign says nothing of the continuous fit.
        """
        candidates = fits.candidates
        values = self.criterion(fits.misfit, candidates.complexity, candidates.n_inner(self.libraries))
        return np.nan_to_num(values, nan=np.inf, posinf=np.inf)

    def rank(self, fits: Fits) -> np.ndarray:
        """Return the criterion of continuous fits, shape ``(B,)``; infinite for forbidden signs."""
        return np.where(self.constraints.kept(fits.candidates.coefficients), self.bound(fits), np.inf)

    def expected(self, chi_square: np.ndarray, terms: np.ndarray, inner: np.ndarray) -> np.ndarray:
        """Return the criterion of laws of which only the chi-square of all observables together is known, ``(B,)``."""
        share = self.criterion.counts / self.criterion.counts.sum()
        return self.criterion(chi_square[:, None] * share, terms, inner)

    def is_gross(self, fits: Fits) -> bool:
        """Return whether one fit is no more than an approximation."""
        return bool(fits.chi_square[0] > GROSS * self.criterion.counts.sum())

    def plausible(self, fits: Fits) -> bool:
        """Return whether the residuals of one fit are no larger than the noise explains, and leave no pattern."""
        numbers = fits.candidates.complexity[0] + fits.candidates.n_inner(self.libraries)[0]
        freedom = int(self.criterion.counts.sum() - self.criterion.n_common - numbers)
        if freedom <= 0:
            return True
        noise = self.criterion.noise
        if misfit_p_value(fits.misfit[0], self.criterion.counts, freedom, noise)[0] <= PLAUSIBLE:
            return False
        observation = self.system.observation(self.train.observables)
        predicted = [
            observation.values(
                trajectory.times, states[: len(trajectory.times)].cpu().numpy(), trajectory.controls
            )
            for trajectory, states in zip(self.train.trajectories, fits.states[0], strict=True)
        ]
        return min(whiteness(self.train, predicted, noise).values(), default=1.0) > PLAUSIBLE

    def objection(self, fits: Fits, row: int) -> str | None:
        """Return why a fit, or the lower bound of one, cannot be the law; None if nothing speaks against it."""
        if not np.isfinite(fits.misfit[row]).all():
            return UNSTABLE
        for support, values, signs, library in zip(
            fits.candidates.supports,
            fits.candidates.coefficients,
            self.constraints.signs,
            self.libraries,
            strict=True,
        ):
            for term in np.flatnonzero(support[row] & (values[row] * signs < 0.0)):
                sign = "positive" if signs[term] > 0 else "negative"
                return (
                    f"fits best where the coefficient of {library.texts[term]} is not {sign}, as it has to be"
                )
        return None


@dataclass(frozen=True)
class Rejection:
    """Why a law that was fitted is none.

    Attributes:
        source: who proposed it.
        reason: in words.
    """

    source: str
    reason: str
