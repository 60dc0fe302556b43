"""The ranking of fitted laws: their last fit, rivals, and what the data cannot tell apart."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from sciml_discover.errors import SolveError
from sciml_discover.identifiability import cancellations, correlations, exchangeable
from sciml_discover.laws import Law, LawBuilder
from sciml_discover.profiles import profile_intervals
from sciml_discover.refit import Refitter
from sciml_discover.search import LawSearch

if TYPE_CHECKING:
    from sciml_discover.base import Watch
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


@dataclass(frozen=True)
class RankedLaws:
    """Laws by criterion, the choice first, then its rivals, then the rest of the Pareto front.

    Attributes:
        laws: the choice is ``laws[0]``.
        n_rivals: ``laws[1 : 1 + n_rivals]`` are rivals within the allowed delta.
        compared: how many laws were looked at from a trajectory, before or between fits.
        tried: how many candidate laws were fitted, the promising ones as continuous trajectories.
        failed: how many of them could not be solved or did not converge.
        identifiability: sentences that name degeneracies, collinear terms, merged terms.
        front_complexity: number of terms of every refitted law, shape ``(tried,)``.
        front_chi_square: chi-square of the same laws, shape ``(tried,)``.
    """

    laws: tuple[Law, ...]
    n_rivals: int
    compared: int
    tried: int
    failed: int
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
    system, data, judge, units = found.system, found.data, found.search.judge, found.factor**2
    best_fit = found.best
    steps = max(found.refitter.steps_for(best_fit, LAST_ACCURACY), found.steps)
    with_law = judge.criterion.noise_with_law(best_fit.misfit[0])
    refitter = Refitter(system, list(judge.libraries), found.rows, steps, with_law)
    presentable = _presentable(found, rivals)
    fits = refitter.polish(found.fits.take(presentable), watch)
    notes = list(found.notes)
    if data.noise.estimated:
        sds = ", ".join(
            f"{name} {sd:.3g}{' of each value' if data.noise.floors is not None else ''}"
            for name, sd in zip(data.noise.observables, with_law * data.noise.sd, strict=True)
        )
        notes.append(f"noise sd re-estimated once with the best law, for the weights of the fit: {sds}")
    if (found.factor > 1.0).any():
        notes.append(
            "no law of this library explains the rows within the noise; the choice is what approximates them best, "
            f"to {100 * APPROXIMATE:g} % of the standard deviation of each observable"
        )
    complexity = fits.candidates.complexity
    values = judge.rank(fits)
    solved = np.isfinite(values)
    order = [int(i) for i in np.argsort(values, kind="stable") if solved[i]]
    # A law that fits no better than a shorter one is no rival, whatever its criterion.
    order = [
        i
        for i in order
        if not any(complexity[k] < complexity[i] and fits.chi_square[k] <= fits.chi_square[i] for k in order)
    ]
    if not order:
        raise SolveError(
            "none of the best laws could be solved with shorter steps and the noise that they leave; "
            "widen [regress.library], or look at the trained equation in the report"
        )
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
        data.noise.estimated,
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
    laws = (_with_inclusion(system, laws[0], fits, values, best), *laws[1:])
    return RankedLaws(
        laws=laws,
        n_rivals=len(near),
        compared=found.search.compared,
        tried=found.search.tried,
        failed=int((~solved).sum()),
        identifiability=(
            *notes,
            *correlations(system, laws[0]),
            *cancellations(
                system, judge.libraries, objective.rows.signals(chosen.states[0]), chosen.candidates
            ),
            *exchangeable(laws[: 1 + len(near)]),
        ),
        front_complexity=complexity[solved],
        front_chi_square=(fits.misfit * units).sum(axis=1)[solved],
    )


def _presentable(found: Found, rivals: int) -> np.ndarray:
    """Return the fits that may be rivals once they are polished, and the best of every length."""
    values, complexity = found.values, found.fits.candidates.complexity
    near = np.flatnonzero(values - np.min(values) < found.search.delta + POLISHED_DELTA)
    near = near[np.argsort(values[near], kind="stable")][: rivals + POLISHED]
    there = np.unique(complexity[np.isfinite(values)])
    front = [int(np.argmin(np.where(complexity == size, values, np.inf))) for size in there]
    return np.unique([*near, *front])


def _with_inclusion(system: System, law: Law, fits: Fits, values: np.ndarray, best: int) -> Law:
    """Return the choice with the probability of each of its terms, over all laws of a pool.

    Each law weighs ``exp(-criterion / 2)``, which approximates its posterior probability (Raftery 1995,
    doi:10.2307/271063).
    """
    weights = np.where(np.isfinite(values), np.exp(-0.5 * (values - np.min(values))), 0.0)
    missing = {}
    for hole, supports in zip(system.missing, fits.candidates.supports, strict=True):
        shares = (weights @ supports / weights.sum())[supports[best]]
        missing[hole.name] = tuple(
            replace(term, inclusion=float(share))
            for term, share in zip(law.missing[hole.name], shares, strict=True)
        )
    return replace(law, missing=missing)
