"""The choice between laws: criterion, rivals, and what the data cannot tell apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pydantic

from sciml_discover.base import Options, Watch, lazy_import, nobody_watches
from sciml_discover.criterion import Criterion
from sciml_discover.errors import SolveError
from sciml_discover.laws import Estimate, Law, LawBuilder, LawParameter, LawTerm
from sciml_discover.library import Library, LibraryOptions, build_library
from sciml_discover.objectives.problem import FitState, Rows, make_rows
from sciml_discover.regressors import Supports
from sciml_discover.search import Fits, Refitter, combine
from sciml_discover.simplify import redundant_terms
from sciml_discover.solve import choose_steps, solve_rows
from sciml_discover.threads import single_threaded
from sciml_discover.training import TrainingResult, trained_ude

if TYPE_CHECKING:
    import torch

    from sciml_discover.readers import PreparedData
    from sciml_discover.system import System
else:
    torch = lazy_import("torch")

__all__ = [
    "Criterion",
    "Estimate",
    "Law",
    "LawParameter",
    "LawTerm",
    "RankedLaws",
    "SelectOptions",
    "select",
]

FIRST_GROUP = 40
"""Candidates that are refitted at a time, best lower bound first."""

POLISHED_DELTA, POLISHED = 10.0, 20
"""Laws this much further behind than a rival, and this many more than are shown, still get their last fit."""

LARGEST_MISFIT = 1000.0
"""Mean squared residual, in units of the noise, above which a trained trajectory is no place to start from."""

COLLINEAR = 0.98
"""Correlation of two fitted numbers above which they are named as hardly separable."""


class SelectOptions(Options):
    """How laws are searched, refitted and ranked."""

    candidates: pydantic.PositiveInt = 200
    """Most candidate laws that are refitted through the ODE."""
    most_terms: pydantic.PositiveInt = 5
    """Longest proposals, in terms per hole; longer ones fit anything and explain nothing."""
    rival_delta: pydantic.PositiveFloat = 6.0
    """Laws within this much of the best criterion are rivals."""
    rivals: int = pydantic.Field(default=12, ge=0)
    """Most rivals that are reported."""


@dataclass(frozen=True)
class RankedLaws:
    """Laws by criterion, the choice first, then its rivals, then the rest of the Pareto front.

    Attributes:
        laws: the choice is ``laws[0]``.
        n_rivals: ``laws[1 : 1 + n_rivals]`` are rivals within the allowed delta.
        tried: how many candidate laws were fitted, the promising ones as continuous trajectories.
        failed: how many of them could not be solved or did not converge.
        identifiability: sentences that name degeneracies, collinear terms, merged terms.
        front_complexity: number of terms of every refitted law, shape ``(tried,)``.
        front_chi_square: chi-square of the same laws, shape ``(tried,)``.
    """

    laws: tuple[Law, ...]
    n_rivals: int
    tried: int
    failed: int
    identifiability: tuple[str, ...]
    front_complexity: np.ndarray
    front_chi_square: np.ndarray


@single_threaded
def select(
    system: System,
    data: PreparedData,
    trained: TrainingResult,
    supports: Supports,
    options: SelectOptions,
    *,
    library: LibraryOptions,
    watch: Watch = nobody_watches,
) -> RankedLaws:
    """Refit candidate laws to the training rows through the ODE, and rank them.

    Every candidate gets a cheap lower bound of its chi-square (continuity as a weak penalty); those that could
    still win are refitted as continuous trajectories, best bound first, until no bound is left that could.

    Args:
        system: the known physics with its holes.
        data: training rows; hold-out rows are not looked at.
        trained: where states and parameters start.
        supports: what the regressors propose for each hole.
        options: limits and the rivals' delta.
        library: the candidate terms of every hole.
        watch: called with the progress of every iteration.

    Raises:
        SolveError: no candidate could be fitted as a continuous trajectory.
    """
    rows = make_rows(system, data.train, data.noise)
    libraries = [build_library(hole.inputs, library) for hole in system.missing]
    redundant, merged = redundant_terms(system, [item.texts for item in libraries])
    candidates = combine(supports, redundant, options.most_terms, options.candidates)
    states, coordinates, steps = _start(system, rows, trained)
    start = Fits.begin(candidates, states, coordinates)
    n_terms = sum(len(item) for item in libraries) - sum(int(mask.sum()) for mask in redundant)
    counts = (rows.weights > 0).sum((0, 1)).cpu().numpy()
    n_common = len(system.free_parameters) + len(rows.lengths) * system.dimension
    criterion = Criterion(counts, n_common, n_terms, data.noise)

    fits = _refit_promising(Refitter(system, libraries, rows, steps), start, criterion, options, watch)
    values = criterion(fits.misfit, fits.candidates.complexity)
    best = fits.take(np.array([np.argmin(values)]))
    if not np.isfinite(best.chi_square[0]):
        raise SolveError(
            f"none of {len(candidates)} candidate laws could be fitted as a continuous trajectory; "
            "widen [regress.library], or look at the trained equation in the report"
        )
    # What can still be shown is fitted once more: with steps as short as the best law needs, and with weights of the
    # observables that know what it says of the noise.
    objective, unknowns = Refitter(system, libraries, rows, steps).problem(best)
    finer = max(choose_steps(objective.ude, rows, objective.finish_nodes(unknowns), accuracy=1e-3), steps)
    factor = criterion.noise_with_law(best.misfit[0])
    refitter = Refitter(system, libraries, rows, finer, factor)
    fits = refitter.polish(fits.take(_presentable(values, fits.candidates.complexity, options)), watch)
    notes = list(merged)
    if data.noise.estimated:
        sds = ", ".join(
            f"{name} {sd:.3g}{' of each value' if data.noise.floors is not None else ''}"
            for name, sd in zip(data.noise.observables, factor * data.noise.sd, strict=True)
        )
        notes.append(f"noise sd re-estimated once with the best law, for the weights of the fit: {sds}")
    return _rank(system, data, libraries, refitter, fits, criterion, options, notes, len(candidates))


def _presentable(values: np.ndarray, complexity: np.ndarray, options: SelectOptions) -> np.ndarray:
    """Return the fits that may be rivals once they are polished, and the best of every length."""
    near = np.flatnonzero(values - np.min(values) < options.rival_delta + POLISHED_DELTA)
    near = near[np.argsort(values[near], kind="stable")][: options.rivals + POLISHED]
    front = [int(np.argmin(np.where(complexity == size, values, np.inf))) for size in np.unique(complexity)]
    return np.unique([*near, *front])


def _start(system: System, rows: Rows, trained: TrainingResult) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Return where refits start: the trained trajectories, or smoothed data where they ran or stayed away."""
    ude, theta = trained_ude(system, trained)
    initial = torch.as_tensor(trained.initial_states)[None]
    state = FitState(rows.smooth_states[None], theta)
    steps = choose_steps(ude, rows, state)
    solved = solve_rows(ude, rows, initial, theta, steps)[0]
    usable = torch.isfinite(solved).all(-1).all(-1)
    if rows.sees_every_state:
        # Of a hidden state the smoothed data know nothing: there even a poor trajectory is better.
        misfit, seen = rows.residual(solved).square().sum((1, 2)), (rows.weights > 0).sum((1, 2))
        usable &= misfit <= LARGEST_MISFIT * seen
    states = torch.where(usable[:, None, None], solved, rows.smooth_states)
    return rows.keep_positive(states), theta[:, : ude.n_free], steps


def _refit_promising(
    refitter: Refitter, start: Fits, criterion: Criterion, options: SelectOptions, watch: Watch
) -> Fits:
    """Return all refits, made until no lower bound is left within the rivals' delta of the best."""
    first = refitter.bound(start, watch)
    complexity = start.candidates.complexity
    lowest = criterion(first.misfit, complexity)
    waiting = np.argsort(lowest, kind="stable")
    # The Pareto front wants the best of every size, promising or not.
    front = [int(i) for size in np.unique(complexity) for i in waiting[complexity[waiting] == size][:2]]
    group = list(dict.fromkeys([*waiting[:FIRST_GROUP].tolist(), *front]))
    done: list[Fits] = []
    seen: set[int] = set()
    best = np.inf
    while group:
        found = refitter.refit(first.take(np.array(group)), watch)
        done.append(found)
        seen.update(group)
        best = min(best, float(criterion(found.misfit, found.candidates.complexity).min()))
        hopeful = [i for i in waiting.tolist() if i not in seen and lowest[i] < best + options.rival_delta]
        group = hopeful[:FIRST_GROUP]
    return Fits.join(done)


def _rank(
    system: System,
    data: PreparedData,
    libraries: list[Library],
    refitter: Refitter,
    fits: Fits,
    criterion: Criterion,
    options: SelectOptions,
    notes: list[str],
    tried: int,
) -> RankedLaws:
    complexity = fits.candidates.complexity
    values = criterion(fits.misfit, complexity)
    solved = np.isfinite(fits.chi_square)
    order = [int(i) for i in np.argsort(values, kind="stable") if solved[i]]
    # A law that fits no better than a shorter one is no rival, whatever its criterion.
    order = [
        i
        for i in order
        if not any(complexity[k] < complexity[i] and fits.chi_square[k] <= fits.chi_square[i] for k in order)
    ]
    best = order[0]
    near = [i for i in order[1:] if values[i] - values[best] <= options.rival_delta][: options.rivals]
    rest, sizes = [], {int(complexity[i]) for i in [best, *near]}
    for i in order[1:]:
        if int(complexity[i]) not in sizes:
            sizes.add(int(complexity[i]))
            rest.append(i)
    shown = np.array([best, *near, *rest])
    chosen = fits.take(shown)
    objective, unknowns = refitter.problem(chosen)
    covariance = objective.covariance(unknowns).cpu().numpy()
    builder = LawBuilder(system, libraries, objective, data.noise.estimated, criterion.n_common)
    laws = tuple(
        builder.law(chosen, row, covariance[row], float(values[i]), float(values[i] - values[best]))
        for row, i in enumerate(shown)
    )
    return RankedLaws(
        laws=laws,
        n_rivals=len(near),
        tried=tried,
        failed=int((~solved).sum()),
        identifiability=(*notes, *_correlations(system, laws[0])),
        front_complexity=complexity[solved],
        front_chi_square=fits.chi_square[solved],
    )


def _correlations(system: System, law: Law) -> list[str]:
    """Name fitted numbers that the data hardly separate, or do not determine at all."""
    names = [parameter.name for parameter in system.free_parameters]
    names += [f"{term.term} in {hole}" for hole, terms in law.missing.items() for term in terms]
    size = len(names)
    variance = np.diag(law.covariance)[:size]
    sentences = [
        f"{name} is not determined by the data"
        for name, own in zip(names, variance, strict=True)
        if not np.isfinite(own)
    ]
    for i in range(size):
        for k in range(i):
            if not np.isfinite(variance[i] * variance[k]) or variance[i] * variance[k] <= 0:
                continue
            correlation = law.covariance[i, k] / np.sqrt(variance[i] * variance[k])
            if abs(correlation) > COLLINEAR:
                sentences.append(
                    f"{names[k]} and {names[i]} are hardly separable (correlation {correlation:.3f})"
                )
    return sentences
