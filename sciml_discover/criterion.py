"""The criterion that laws are ranked by: misfit to the training rows, numbers fitted, terms chosen from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from sciml_discover.noise import Noise

ODDS = 100.0
"""How much less probable a law is, before the data are seen, than one with a term less."""

SMALLEST_MISFIT = 1e-6
"""Mean squared residual, in units of the noise, that the solver's own error makes."""


@dataclass(frozen=True)
class Criterion:
    """Extended Bayesian information criterion (Chen & Chen 2008, doi:10.1093/biomet/asn034); smaller is better.

    ``-2 log L + k log n + 2 log C(p, m) + 2 m log(100)``: ``n`` observed values, ``k`` free numbers, ``m`` of ``p``
    terms over all holes. The last part is a prior in which each further term is a hundred times less probable (a
    complexity prior: Castillo, Schmidt-Hieber & van der Vaart 2015, doi:10.1214/15-AOS1334): all terms of a library
    are tried, and without it the one that fits the noise best is kept in a few laws of a hundred.

    With a given noise sd, ``-2 log L`` is chi-square. With an estimated one, two things differ.

    - The sd is integrated out against what the law-free estimate knew of it, a scaled inverse chi-square with as many
      degrees of freedom ``v``: ``(n + v) log(1 + chi2 / v)`` per observable. Large ``v`` gives chi-square again, small
      ``v`` the profile likelihood ``n log chi2``.
    - Few values let long laws fit the noise and look precise. The penalties grow by ``N / (N - k - 2)``, with
      ``N = n + v`` (McQuarrie 1999, doi:10.1016/S0167-7152(98)00294-6).

    Attributes:
        counts: observed values per observable, shape ``(observables,)``.
        n_common: free numbers that every law has: physical parameters and unknown initial states.
        n_terms: library terms over all holes.
        noise: of the training rows, estimated without the law.
    """

    counts: np.ndarray
    n_common: int
    n_terms: int
    noise: Noise

    def __call__(self, misfit: np.ndarray, complexity: np.ndarray, inner: np.ndarray | int = 0) -> np.ndarray:
        """Return the criterion of laws, infinite where the misfit is.

        Args:
            misfit: squared residuals in units of the law-free noise, shape ``(laws, observables)``.
            complexity: number of terms over all holes, shape ``(laws,)``.
            inner: number of parameters inside these terms, shape ``(laws,)``.
        """
        from scipy.special import gammaln

        counts = self.counts.astype(float)
        floored = np.maximum(misfit, SMALLEST_MISFIT * counts)
        terms = np.asarray(complexity, dtype=float)
        n_values, numbers = counts.sum(), self.n_common + terms + inner
        # Beyond half of all terms the number of choices falls again, but nothing becomes more plausible.
        chosen = np.minimum(terms, self.n_terms / 2.0)
        choices = gammaln(self.n_terms + 1) - gammaln(chosen + 1) - gammaln(self.n_terms - chosen + 1)
        penalty = numbers * np.log(n_values) + 2.0 * choices + 2.0 * np.log(ODDS) * terms
        if not self.noise.estimated:
            return floored.sum(axis=1) + penalty
        freedom = self.noise.degrees_of_freedom
        if self.noise.pooled:
            floored, counts, freedom = (
                floored.sum(axis=1, keepdims=True),
                counts.sum(keepdims=True),
                freedom[:1],
            )
        total = n_values + freedom.sum()
        left = total - numbers - 2.0
        inflation = np.where(left > 0.5, total / np.maximum(left, 0.5), np.inf)
        return ((counts + freedom) * np.log1p(floored / freedom)).sum(axis=1) + penalty * inflation

    def noise_with_law(self, misfit: np.ndarray) -> np.ndarray:
        """Return the noise sd per observable after a law was seen, relative to the law-free one.

        The mode of the same posterior: the law-free estimate and the law's own residuals, each with its weight.

        Args:
            misfit: of the law, shape ``(observables,)``.
        """
        if not self.noise.estimated:
            return np.ones_like(misfit)
        counts, freedom = self.counts.astype(float), self.noise.degrees_of_freedom
        if self.noise.pooled:
            level = (freedom[0] + misfit.sum()) / (freedom[0] + counts.sum())
            return np.full_like(misfit, np.sqrt(level))
        return np.sqrt((freedom + misfit) / (freedom + counts))


def misfit_p_value(misfit: np.ndarray, counts: np.ndarray, freedom: int, noise: Noise) -> tuple[float, str]:
    """Return how probable so large a misfit is if the law holds, and the test that says so.

    Chi-square against a given noise. Where the noise is itself an estimate, F, with each observable against its own
    estimate: an observable with few values says little of the noise of another one. The smallest of their p-values
    counts, times how many there are (Bonferroni).

    Args:
        misfit: squared residuals in units of the law-free noise, shape ``(observables,)``.
        counts: observed values, same shape.
        freedom: all observed values minus numbers fitted, at least one.
        noise: of the training rows.
    """
    from scipy import stats

    if not noise.estimated:
        return float(stats.chi2.sf(misfit.sum(), freedom)), "chi-square test against the given noise"
    known = noise.degrees_of_freedom
    if noise.pooled:
        misfit, counts, known = misfit.sum(keepdims=True), counts.sum(keepdims=True), known[:1]
    # Which observable the fitted numbers took their freedom from is not known: each gives its share.
    own = counts * freedom / counts.sum()
    p_values = stats.f.sf(misfit / np.maximum(own, 1e-300), own, known)[counts > 0]
    together = ", ".join(f"{value:.3g}" for value in known[counts > 0])
    test = f"F test against noise estimated with {together} degrees of freedom"
    if len(p_values) > 1:
        test += ", each observable against its own"
    return float(min(1.0, len(p_values) * p_values.min())), test
