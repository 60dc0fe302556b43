"""One discovery in this process, stage by stage, and how it compares with the truth."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np

from flows.benchmarks.measurement import Figure
from flows.benchmarks.problems import TrainingProblem
from sciml_discover.constraints import build_libraries
from sciml_discover.errors import SolveError
from sciml_discover.expressions import parse_expression
from sciml_discover.laws import Law
from sciml_discover.library import Library
from sciml_discover.readers import PreparedData
from sciml_discover.regressors import HoleSupports, RegressOptions, Supports, regress
from sciml_discover.residual_samples import HoleSamples, ResidualSamples, sample_residual
from sciml_discover.search import SearchOptions
from sciml_discover.selection import RankedLaws, SelectOptions, select
from sciml_discover.simplify import canonical_terms
from sciml_discover.system import System
from sciml_discover.training import TrainingResult, TrainOptions, train
from sciml_discover.validation import ValidateOptions, ValidationReport, validate

T = TypeVar("T")


@dataclass(frozen=True)
class Discovery:
    """What the stages left.

    Attributes:
        trained: the universal differential equation.
        supports: what the regressors proposed.
        ranked: the choice and its rivals.
        report: the verdict.
        seconds: of each stage, and of all together.
    """

    trained: TrainingResult
    supports: Supports
    ranked: RankedLaws
    report: ValidationReport
    seconds: dict[str, float]

    @property
    def choice(self) -> Law:
        """The best law."""
        return self.ranked.laws[0]


def discover(
    system: System,
    data: PreparedData,
    laws: RegressOptions,
    seed: int,
    *,
    options: SelectOptions | None = None,
    shuffled: bool = False,
) -> Discovery:
    """Run all stages from training to the verdict, with default options but for the library.

    Args:
        system: the known physics with its holes.
        data: training rows and noise.
        laws: the library.
        seed: of the training and of what the regressors draw.
        options: of the choice.
        shuffled: whether the regressors get the learnt values at the wrong points, so that the network says nothing.
    """
    seconds: dict[str, float] = {}

    def timed(stage: str, work: Callable[[], T]) -> T:
        begun = time.perf_counter()
        done = work()
        seconds[stage] = time.perf_counter() - begun
        return done

    chosen = options or SelectOptions()
    trained = timed("train", lambda: train(system, data, TrainOptions(), seed=seed))
    samples = timed("sample", lambda: sample_residual(system, data, trained))
    if shuffled:
        samples = shuffle(samples, seed)
    supports = timed("regress", lambda: regress(system, samples, laws, seed=seed))
    ranked = timed("select", lambda: select(system, data, trained, supports, chosen, laws=laws))
    report = timed("validate", lambda: validate(system, data, trained, ranked, ValidateOptions()))
    seconds["discovery"] = sum(seconds.values())
    return Discovery(trained, supports, ranked, report, seconds)


def shuffle(samples: ResidualSamples, seed: int) -> ResidualSamples:
    """Return the samples with the values of each hole, and their errors, in another order than their points."""
    rng = np.random.default_rng([seed, 1])

    def mixed(hole: HoleSamples) -> HoleSamples:
        order = rng.permutation(len(hole.values))
        return replace(hole, values=hole.values[order], sd=hole.sd[order], weights=hole.weights[order])

    return ResidualSamples(tuple(mixed(hole) for hole in samples.holes))


def structure(expressions: Mapping[str, str], system: System) -> dict[str, frozenset[Any]]:
    """Return the terms in every hole, without coefficients and without the numbers inside terms."""
    return {
        hole.name: frozenset(
            canonical_terms(parse_expression(expressions[hole.name], hole.inputs, where="law"))
        )
        for hole in system.missing
    }


def true_positions(
    system: System, truth: Mapping[str, str], libraries: list[Library]
) -> list[list[int]] | None:
    """Return where the true terms stand in each hole's library; None where one is not there."""
    positions = []
    for hole, library in zip(system.missing, libraries, strict=True):
        wanted = structure(truth, system)[hole.name]
        there = {}
        for number, term in enumerate(library.terms):
            keys = frozenset(canonical_terms(library.with_numbers(number, [1.37] * len(term.inner))))
            if len(keys) == 1:
                there.setdefault(next(iter(keys)), number)
        if not wanted <= set(there):
            return None
        positions.append(sorted(there[term] for term in wanted))
    return positions


def compared(
    problem: TrainingProblem, data: PreparedData, laws: RegressOptions, found: Discovery
) -> tuple[dict[str, Figure], dict[str, Any]]:
    """Return how a discovery compares with the truth: figures, and words for whoever looks for the reason.

    Where the truth was not chosen, it is fitted too: ``truth_behind`` is how much worse its criterion is than that of
    the choice. A negative number means that the search passed it over; a positive one that the data prefer the choice.
    """
    system = problem.system
    truth = structure(problem.laws, system)
    ranked = found.ranked
    exact = [structure(law.expressions_full, system) == truth for law in ranked.laws[: 1 + ranked.n_rivals]]
    failed = [reason.name for reason in found.report.reasons if not reason.passed]
    figures: dict[str, Figure] = {
        "exact": exact[0],
        "among": any(exact),
        "accepted": found.report.status == "accepted",
        "rivals": ranked.n_rivals,
        "tried": ranked.tried,
        "misfit": found.choice.chi_square / max(found.choice.n_observed - found.choice.n_parameters, 1),
    }
    words: dict[str, Any] = {"law": dict(found.choice.expressions), "failed": failed}
    if not exact[0]:
        proposed, behind = _truth_fitted(problem, data, laws, found)
        figures |= {"truth_proposed": proposed, "truth_behind": behind}
    return figures, words


def _truth_fitted(
    problem: TrainingProblem, data: PreparedData, laws: RegressOptions, found: Discovery
) -> tuple[bool | None, float | None]:
    """Return whether every hole's true support was proposed, and how far the truth is behind the choice."""
    system = problem.system
    libraries = [
        library.with_more(hole.parametric)
        for library, hole in zip(build_libraries(system, laws), found.supports.holes, strict=True)
    ]
    positions = true_positions(system, problem.laws, libraries)
    if positions is None:
        return None, None
    proposed, only = True, []
    for own, hole in zip(positions, found.supports.holes, strict=True):
        support = np.zeros(hole.supports.shape[1])
        support[own] = 1.0
        there = (hole.supports == support).all(axis=1)
        proposed = proposed and bool(there.any())
        only.append(_one_proposal(hole, support, there))
    try:
        alone = select(
            system,
            data,
            found.trained,
            Supports(tuple(only)),
            SelectOptions(exhaustive=0, search=SearchOptions(width=0, rounds=0)),
            laws=laws,
        )
    except SolveError:
        return proposed, None
    return proposed, float(alone.laws[0].criterion - found.choice.criterion)


def _one_proposal(hole: HoleSupports, support: np.ndarray, there: np.ndarray) -> HoleSupports:
    """Return the proposals of a hole cut down to one support, from its fitted numbers where there are any."""
    row = int(np.argmax(there))
    return replace(
        hole,
        supports=support[None],
        coefficients=(hole.coefficients[row] if there.any() else np.zeros_like(support))[None],
        inner=hole.inner[row][None],
        residuals=np.zeros(1),
        sources=("truth",),
    )
