"""The choice between laws: criterion, rivals, and what the data cannot tell apart."""

from __future__ import annotations

import contextlib
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pydantic

from sciml_discover.base import Count, Options, Watch, lazy_import, nobody_watches
from sciml_discover.checkpoint import Checkpoints, fingerprint, software
from sciml_discover.constraints import (
    LawOptions,
    build_constraints,
    build_libraries,
    excluded_terms,
)
from sciml_discover.criterion import Criterion
from sciml_discover.errors import SolveError
from sciml_discover.holes import ResidualNetworks
from sciml_discover.judge import Judge
from sciml_discover.laws import Estimate, Law, LawParameter, LawTerm
from sciml_discover.objectives.problem import FitState, Rows, make_rows
from sciml_discover.ranking import APPROXIMATE, Found, RankedLaws, rank
from sciml_discover.refit import Refitter
from sciml_discover.regressors import Supports
from sciml_discover.search import LawSearch, SearchOptions, View
from sciml_discover.seeds import proposed
from sciml_discover.simplify import redundant_terms
from sciml_discover.solve import choose_steps, solve_rows
from sciml_discover.threads import single_threaded
from sciml_discover.training import TrainingResult, trained_ude, well_seen
from sciml_discover.ude import UDE, ParameterMap

if TYPE_CHECKING:
    from pathlib import Path

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

LARGEST_MISFIT = 1000.0
"""Mean squared residual, in units of the noise, above which a trained trajectory is no place to start from."""

ROUNDS_TO_APPROXIMATE = 3
"""Most rounds of moves for an approximation: one is as good as another."""

SEARCH_ACCURACY = 0.2
"""Error of the solution over an interval, in units of the noise, that the search may have."""

MOST_REASONS = 3
"""Reasons that are given where all laws were rejected, the commonest ones."""

DIFFERENT, MOST_STARTS = 0.05, 5
"""Coordinates of free parameters this far apart are different starts of the refits, and most starts."""


class SelectOptions(Options):
    """How laws are searched, refitted and ranked."""

    candidates: int = pydantic.Field(default=200, ge=1, le=1_000_000)
    """Most combinations of the regressors' proposals that are refitted through the ODE."""
    exhaustive: int = pydantic.Field(default=20_000, ge=0, le=1_000_000)
    """All laws of one term for each hole, and longer ones, are compared too, as far as there are no more than this."""
    most_terms: Count = 5
    """Longest laws, in terms per hole; longer ones fit anything and explain nothing."""
    search: SearchOptions = SearchOptions()
    """How far the search goes from there."""
    rival_delta: pydantic.PositiveFloat = 6.0
    """Laws within this much of the best criterion are rivals."""
    rivals: int = pydantic.Field(default=12, ge=0, le=10_000)
    """Most rivals that are reported."""


@single_threaded
def select(
    system: System,
    data: PreparedData,
    trained: TrainingResult,
    supports: Supports,
    options: SelectOptions,
    *,
    laws: LawOptions,
    watch: Watch = nobody_watches,
    checkpoint: Path | None = None,
    checkpoint_seconds: float = 5.0,
) -> RankedLaws:
    """Refit candidate laws to the training rows through the ODE, and rank them.

    The laws that the regressors propose, all short ones and what is around the best of them are compared along the
    trained trajectory by what chi-square they could reach, to second order (`outlook`). The best are refitted as
    continuous trajectories, and the comparison goes on from there.

    Beside little noise, laws that the library only approximates are all infinitely bad, and nothing leads from one to
    the next. Where the best one is grossly wrong, the search is repeated for what meets the rows to a hundredth of
    their standard deviation. The judge still holds it against the noise.

    Args:
        system: the known physics with its holes.
        data: training rows; hold-out rows are not looked at.
        trained: where states and parameters start.
        supports: what the regressors propose for each hole.
        options: limits and the rivals' delta.
        laws: the candidate terms of every hole, and what is known of the laws.
        watch: called with the progress of every iteration.
        checkpoint: a folder for this work alone, in which it writes how far the search is; one that was killed goes on
            from there, to the same result. Whoever has stored the result removes it.
        checkpoint_seconds: least time between two checkpoints.

    Raises:
        SolveError: there are too few values for any law, or no candidate is left; with what speaks against them.
    """
    key = fingerprint(software(), system, data, trained, supports, options, laws)

    def files(folder: Path | None) -> Checkpoints:
        return Checkpoints(folder, key, checkpoint_seconds, "select", watch)

    exact: Found | SolveError
    try:
        factor = np.ones(len(data.noise.sd))
        exact = _search(system, data, trained, supports, options, laws, watch, factor, files(checkpoint))
        if not exact.is_gross:
            return rank(exact, options.rivals, watch)
    except SolveError as error:
        exact = error
    factor = _factor_to_approximate(data)
    if (factor > 1.0).any():
        loose = replace(data, noise=data.noise.times(factor))
        brief = {"widen": 1, "rounds": min(options.search.rounds, ROUNDS_TO_APPROXIMATE)}
        narrow = options.model_copy(update={"search": options.search.model_copy(update=brief)})
        folder = checkpoint and checkpoint / "approximation"
        with contextlib.suppress(SolveError):
            found = _search(system, loose, trained, supports, narrow, laws, watch, factor, files(folder))
            return rank(found, options.rivals, watch)
    if isinstance(exact, SolveError):
        raise exact
    return rank(exact, options.rivals, watch)


def _factor_to_approximate(data: PreparedData) -> np.ndarray:
    """Return how many times larger the noise is when an approximation is good enough, shape ``(observables,)``."""
    values = np.concatenate([trajectory.values for trajectory in data.train.trajectories])
    spread = np.nanstd(data.noise.transform(values), axis=0)
    return np.fmax(1.0, APPROXIMATE * spread / data.noise.typical_sd(values))


def _search(
    system: System,
    data: PreparedData,
    trained: TrainingResult,
    supports: Supports,
    options: SelectOptions,
    laws: LawOptions,
    watch: Watch,
    factor: np.ndarray,
    files: Checkpoints,
) -> Found:
    """Return what a search finds; the noise of the data is larger by a factor than the one that counts."""
    # An approximation is wrong on its way, not before it sets out.
    rows = make_rows(system, data.train, data.noise).sure_of_starts(factor)
    ude, theta = trained_ude(system, trained)
    states, coordinates, steps = _start(ude, theta, rows, trained)
    signals = rows.signals(states).cpu().numpy().reshape(*rows.times.shape, -1)
    series = [list(signals[..., list(inputs)]) for inputs in system.hole_inputs]
    libraries = [
        library.with_more(hole.parametric).for_data(along)
        for library, hole, along in zip(build_libraries(system, laws), supports.holes, series, strict=True)
    ]
    redundant, merged = redundant_terms(system, libraries)
    excluded, invalid = excluded_terms(libraries, series, redundant)
    constraints = build_constraints(system, libraries, laws, excluded, options.most_terms, redundant)
    counts = rows.counts.cpu().numpy()
    n_common = len(system.free_parameters) + len(rows.lengths) * (system.dimension - len(system.held))
    criterion = Criterion(counts, n_common, constraints.n_terms, data.noise)
    _check_values(criterion, constraints.fewest)
    judge = Judge(system, data.train, criterion, libraries, constraints)
    refitter = Refitter(system, libraries, rows, steps)
    search = LawSearch(refitter, judge, options.search, options.rival_delta, coordinates[1:], watch, files)
    network = ude.filling, theta[:, ude.n_free :]
    rough = not well_seen(system, data)
    views = [View(*network, states, coordinates[:1], rough=rough)]
    if rough:
        # Between few rows a trained trajectory may be anything; what a smoother makes of them is another guess.
        smooth = rows.keep_positive(rows.smooth_states)
        views.append(View(*network, smooth, ParameterMap(system, smooth.device).initial(1), rough=True))
    proposals = proposed(supports, constraints, options.most_terms, options.candidates)
    fits = search.run(views, proposals, options.exhaustive)
    values = judge.rank(fits)
    if not np.isfinite(values).any():
        raise SolveError(_why_none(search))
    return Found(system, data, factor, rows, refitter, steps, search, fits, values, (*merged, *invalid))


def _check_values(criterion: Criterion, shortest: int) -> None:
    """Refuse to search where not even a perfect fit of the shortest law, with so many terms, could be judged."""
    perfect = criterion(np.zeros((1, len(criterion.counts))), np.array([shortest]))
    if not np.isfinite(perfect).all():
        raise SolveError(
            f"{int(criterion.counts.sum())} values are too few to judge any law: the shortest has "
            f"{criterion.n_common + shortest} free numbers (coefficients: {shortest}, physical parameters and initial "
            f"states: {criterion.n_common}); measure more, state the noise in [data.noise], or fix parameters"
        )


def _why_none(search: LawSearch) -> str:
    """Return that no law is left, and what speaks against those that were fitted."""
    reasons = Counter(rejection.reason for rejection in search.rejected.values()).most_common(MOST_REASONS)
    told = "".join(f"; {number} of them: {reason}" for reason, number in reasons)
    return (
        f"none of {search.tried} candidate laws that were fitted is possible{told}. Widen [regress.library] or change "
        "[regress.holes], or look at the trained equation in the report"
    )


def _start(
    ude: UDE[ResidualNetworks], theta: torch.Tensor, rows: Rows, trained: TrainingResult
) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Return where refits start: the trained trajectories, or smoothed data where they ran or stayed away.

    Free parameters start where every start of the training ended, the best first, and where the system has them:
    beside a network they may not have been identifiable, beside a law they often are.
    """
    initial = torch.as_tensor(trained.initial_states)[None]
    state = FitState(rows.smooth_states[None], theta)
    steps = choose_steps(ude, rows, state, accuracy=SEARCH_ACCURACY)
    solved = solve_rows(ude, rows, initial, theta, steps)[0]
    usable = torch.isfinite(solved).all(-1).all(-1)
    if rows.sees_every_state:
        # Of a hidden state the smoothed data know nothing: there even a poor trajectory is better.
        misfit, seen = rows.residual(solved).square().sum((1, 2)), (rows.weights > 0).sum((1, 2))
        usable &= misfit <= LARGEST_MISFIT * seen
    states = torch.where(usable[:, None, None], solved, rows.smooth_states)
    if not ude.n_free:
        return rows.keep_positive(states), theta[:, :0], steps
    ends = torch.as_tensor(trained.survivors.theta[:, : ude.n_free])
    several = torch.cat([theta[:, : ude.n_free], ude.parameters.initial(1), ends])
    apart = [
        i
        for i in range(len(several))
        if all((several[i] - several[k]).abs().max() > DIFFERENT for k in range(i))
    ]
    return rows.keep_positive(states), several[apart[:MOST_STARTS]], steps
