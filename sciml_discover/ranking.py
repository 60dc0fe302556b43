"""The ranking of fitted laws: their last fit, rivals, and what the data cannot tell apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from sciml_discover.errors import SolveError
from sciml_discover.identifiability import cancellations, collinear_terms, correlations, exchangeable
from sciml_discover.judge import Rejection
from sciml_discover.laws import Law, LawBuilder
from sciml_discover.profiles import profile_intervals
from sciml_discover.refit import Refitter
from sciml_discover.same_laws import merge_same_laws
from sciml_discover.search import LawSearch

if TYPE_CHECKING:
    from sciml_discover.base import Watch
    from sciml_discover.library import Library
    from sciml_discover.objectives.problem import Rows
    from sciml_discover.readers import PreparedData
    from sciml_discover.refit import Fits
    from sciml_discover.system import System

POLISHED_DELTA, POLISHED = 10.0, 20
"""Laws this much further behind than a rival, and this many more than are shown, still get their last fit."""

LAST_ACCURACY = 1e-3
"""Error of the solution over an interval, in units of the noise, that the last fits may have."""

APPROXIMATE = 0.01
"""Of each observable's standard deviation: how exactly an approximation is asked to meet the rows."""


MOST_REJECTED = 20
"""Rejected candidates that are named."""

NEGLIGIBLE = 1e-3
"""Probability of a term below which it is not named."""


@dataclass(frozen=True)
class RejectedLaw:
    """A candidate that was fitted, and cannot be the law.

    Attributes:
        missing: terms per hole.
        source: who proposed it.
        reason: why it is none.
    """

    missing: dict[str, tuple[str, ...]]
    source: str
    reason: str


@dataclass(frozen=True)
class RankedLaws:
    """Laws by criterion, the choice first, then its rivals, then the rest of the Pareto front.

    Attributes:
        laws: the choice is ``laws[0]``.
        n_rivals: ``laws[1 : 1 + n_rivals]`` are rivals within the allowed delta.
        compared: how many laws were looked at from a trajectory, before or between fits.
        tried: how many candidate laws were fitted, the promising ones as continuous trajectories.
        failed: how many of them were rejected.
        rejected: the first of those, with the reason.
        inclusion: per hole, the probability of each of its terms, as far as it is not negligible: over the laws that
            were fitted to the end, those near the best and the best of every length, each weighing as much as its
            criterion says.
        identifiability: sentences that name degeneracies, collinear terms, merged terms.
        front_complexity: number of terms of the laws that were fitted to the end, shape ``(laws,)``.
        front_chi_square: chi-square of the same laws, same shape.
    """

    laws: tuple[Law, ...]
    n_rivals: int
    compared: int
    tried: int
    failed: int
    rejected: tuple[RejectedLaw, ...]
    inclusion: dict[str, dict[str, float]]
    identifiability: tuple[str, ...]
    front_complexity: np.ndarray
    front_chi_square: np.ndarray


@dataclass(frozen=True)
class Found:
    """What a search left.

    Attributes:
        system: the known physics with its holes.
        data: what laws were fitted to; its noise is larger by a factor than the one that chi-square refers to.
        factor: per observable, shape ``(observables,)``.
        rows: of the same data.
        refitter: of the search.
        steps: that it took between rows.
        search: that looked for laws.
        fits: of all laws that were refitted to the end.
        values: by which they are ranked, shape ``(laws,)``.
        notes: of terms that were merged or left out.
    """

    system: System
    data: PreparedData
    factor: np.ndarray
    rows: Rows
    refitter: Refitter
    steps: int
    search: LawSearch
    fits: Fits
    values: np.ndarray
    notes: tuple[str, ...]

    @property
    def best(self) -> Fits:
        """The fit of the best law."""
        return self.fits.take(np.array([np.argmin(self.values)]))

    @property
    def is_gross(self) -> bool:
        """Whether the best law is no more than an approximation."""
        return self.search.judge.is_gross(self.best)


def rank(found: Found, rivals: int, watch: Watch) -> RankedLaws:
    """Return the ranking of the laws that a search found.

    What can still be shown is fitted once more: with steps as short as the best law needs, and with weights of the
    observables that know what it says of the noise.

    Args:
        found: what a search left.
        rivals: most of them.
        watch: called with the progress of the last fits.

    Raises:
        SolveError: none of the laws can be solved more accurately.
    """
    system, judge, units = found.system, found.search.judge, found.factor**2
    refitter, fits = _last_fits(found, rivals, watch)
    complexity, values = fits.candidates.complexity, judge.rank(fits)
    solved = np.isfinite(values)
    if not solved.any():
        raise SolveError(
            "none of the best laws could be solved with shorter steps and the noise that they leave; "
            "widen [regress.library], or look at the trained equation in the report"
        )
    order = [int(i) for i in np.argsort(values, kind="stable") if solved[i]]
    signals = found.rows.signals(fits.states[order[0]])[found.rows.real].cpu().numpy()
    different, merged = merge_same_laws(system, judge.libraries, signals, fits, order)
    different.sort(key=lambda i: values[i])
    # A law that fits no better than a shorter one is no rival, whatever its criterion.
    order = [
        i
        for i in different
        if not any(
            complexity[k] < complexity[i] and fits.chi_square[k] <= fits.chi_square[i] for k in different
        )
    ]
    best = order[0]
    near = [i for i in order[1:] if values[i] - values[best] <= found.search.delta][:rivals]
    rest, sizes = [], {int(complexity[i]) for i in [best, *near]}
    for i in order[1:]:
        if int(complexity[i]) not in sizes:
            sizes.add(int(complexity[i]))
            rest.append(i)
    shown = np.array([best, *near, *rest])
    chosen = fits.take(shown)
    objective, unknowns = refitter.problem(chosen)
    covariance = objective.covariance(unknowns).cpu().numpy()
    builder = LawBuilder(
        system,
        judge.libraries,
        objective,
        found.data.noise.estimated,
        judge.criterion.n_common,
        refitter.noise_factor,
        units,
    )
    variance, width = builder.scale(chosen, 0)
    profiles = {0: profile_intervals(refitter, chosen, 0, width**2 * variance)}
    laws = tuple(
        builder.law(
            chosen, row, covariance[row], float(values[i]), float(values[i] - values[best]), profiles.get(row)
        )
        for row, i in enumerate(shown)
    )
    along = found.rows.signals(chosen.states[0])[found.rows.real]
    inclusion = _inclusion(system, judge.libraries, fits.take(np.array(different)), values[different])
    rejected = _rejected(found, fits)
    return RankedLaws(
        laws=tuple(_with_inclusion(law, inclusion) for law in laws),
        n_rivals=len(near),
        compared=found.search.compared,
        tried=found.search.tried,
        failed=len(rejected),
        rejected=tuple(rejected[:MOST_REJECTED]),
        inclusion={
            hole: {term: share for term, share in shares.items() if share > NEGLIGIBLE}
            for hole, shares in inclusion.items()
        },
        identifiability=(
            *found.notes,
            *_notes(found, refitter.noise_factor),
            *merged,
            *correlations(system, laws[0]),
            *cancellations(system, judge.libraries, along, chosen.candidates),
            *collinear_terms(system, judge.libraries, judge.constraints.allowed, along, chosen.candidates),
            *exchangeable(laws[: 1 + len(near)]),
        ),
        front_complexity=complexity[solved],
        front_chi_square=(fits.misfit * units).sum(axis=1)[solved],
    )


def _last_fits(found: Found, rivals: int, watch: Watch) -> tuple[Refitter, Fits]:
    """Return the fits of what may be shown, by a refitter that knows what the best law says of steps and noise."""
    best, judge = found.best, found.search.judge
    steps = max(found.refitter.steps_for(best, LAST_ACCURACY), found.steps)
    with_law = judge.criterion.noise_with_law(best.misfit[0])
    refitter = Refitter(found.system, list(judge.libraries), found.rows, steps, with_law)
    return refitter, refitter.polish(found.fits.take(_presentable(found, rivals)), watch)


def _notes(found: Found, with_law: np.ndarray) -> list[str]:
    """Return what there is to say of the noise that laws were fitted with."""
    noise, notes = found.data.noise, []
    if noise.estimated:
        sds = ", ".join(
            f"{name} {sd:.3g}{' of each value' if noise.floors is not None else ''}"
            for name, sd in zip(noise.observables, with_law * noise.sd, strict=True)
        )
        notes.append(f"noise sd re-estimated once with the best law, for the weights of the fit: {sds}")
    if (found.factor > 1.0).any():
        notes.append(
            "no law of this library explains the rows within the noise; the choice is what approximates them best, "
            f"to {100 * APPROXIMATE:g} % of the standard deviation of each observable"
        )
    return notes


def _presentable(found: Found, rivals: int) -> np.ndarray:
    """Return the fits that may be rivals once they are polished, and the best of every length."""
    values, complexity = found.values, found.fits.candidates.complexity
    near = np.flatnonzero(values - np.min(values) < found.search.delta + POLISHED_DELTA)
    near = near[np.argsort(values[near], kind="stable")][: rivals + POLISHED]
    there = np.unique(complexity[np.isfinite(values)])
    front = [int(np.argmin(np.where(complexity == size, values, np.inf))) for size in there]
    return np.unique([*near, *front])


def _inclusion(
    system: System, libraries: Sequence[Library], fits: Fits, values: np.ndarray
) -> dict[str, dict[str, float]]:
    """Return per hole the probability of each term, over all laws of a pool, the most probable first.

    Each law weighs ``exp(-criterion / 2)``, which approximates its posterior probability (Raftery 1995,
    doi:10.2307/271063).
    """
    weights = np.exp(-0.5 * (values - np.min(values)))
    shares = {}
    for hole, library, supports in zip(system.missing, libraries, fits.candidates.supports, strict=True):
        own = weights @ supports / weights.sum()
        order = np.argsort(-own, kind="stable")
        shares[hole.name] = {library.texts[term]: min(float(own[term]), 1.0) for term in order}
    return shares


def _with_inclusion(law: Law, inclusion: Mapping[str, Mapping[str, float]]) -> Law:
    """Return a law with the probability of each of its terms."""
    missing = {
        hole: tuple(replace(term, inclusion=inclusion[hole][term.term]) for term in terms)
        for hole, terms in law.missing.items()
    }
    return replace(law, missing=missing)


def _rejected(found: Found, polished: Fits) -> list[RejectedLaw]:
    """Return the candidates that cannot be the law: those of the search, and those that their last fit lost."""
    judge, candidates = found.search.judge, polished.candidates
    why = dict(found.search.rejected)
    for row, (key, source) in enumerate(zip(candidates.keys, candidates.sources, strict=True)):
        reason = judge.objection(polished, row)
        if reason is not None:
            why[key] = Rejection(source, reason)
    rejected = []
    for key, one in why.items():
        missing = {
            hole.name: tuple(library.texts[term] for term in np.flatnonzero(support))
            for hole, library, support in zip(
                found.system.missing, judge.libraries, candidates.supports_of(key), strict=True
            )
        }
        rejected.append(RejectedLaw(missing, one.source, one.reason))
    return rejected
