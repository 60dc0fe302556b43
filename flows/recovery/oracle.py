"""What the data allow: all short laws refitted from the truth, and the smallest errors that are possible.

For systems whose physical parameters are known and whose every state is seen.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from flows.benchmarks.problems import TrainingProblem
from flows.recovery.discovery import true_positions
from sciml_discover.base import nobody_watches
from sciml_discover.blocks import Blocks
from sciml_discover.constraints import Constraints, build_constraints, build_libraries, excluded_terms
from sciml_discover.expressions import parse_expression
from sciml_discover.library import Library
from sciml_discover.noise import Noise, NoiseOptions, measure_noise
from sciml_discover.objectives.problem import Rows, make_rows
from sciml_discover.refit import Candidates, Fits, Refitter
from sciml_discover.regressors import RegressOptions
from sciml_discover.shortlist import short_laws as laws_up_to
from sciml_discover.simplify import canonical_terms, redundant_terms
from sciml_discover.threads import single_threaded
from sciml_discover.trajectories import Dataset

FIRST_STEPS = 2
"""Runge-Kutta steps per interval that the necessary number is measured with."""

NO_PARAMETERS = torch.zeros((1, 0), dtype=torch.float64)


@dataclass(frozen=True)
class Setting:
    """What refits of a problem's laws need.

    Attributes:
        rows: with their weights.
        libraries: one per hole, with ranges for the numbers inside terms.
        constraints: which terms may be in; one for each hole.
        states: true states at the rows, shape ``(trajectories, rows, states)``.
        refitter: with as many steps as the true law needs.
    """

    rows: Rows
    libraries: list[Library]
    constraints: Constraints
    states: torch.Tensor
    refitter: Refitter


def told(problem: TrainingProblem, sd: np.ndarray, dataset: Dataset) -> Noise:
    """Return noise of known size, one sd per observable."""
    levels = dict(zip(problem.system.observables, sd.tolist(), strict=True))
    return measure_noise(dataset, NoiseOptions(sd=levels))


def setting(
    problem: TrainingProblem, dataset: Dataset, noise: Noise, laws: RegressOptions, states: np.ndarray
) -> Setting:
    """Return what refits of a problem's laws need.

    Args:
        problem: the system and its truth.
        dataset: the rows.
        noise: what the misfit is measured by.
        laws: the library.
        states: true states at the rows, shape ``(rows, states)``.
    """
    system = problem.system
    rows = make_rows(system, dataset, noise)
    signals = np.column_stack([states, problem.times])
    series = [[signals[:, list(inputs)]] for inputs in system.hole_inputs]
    libraries = [
        library.for_data(along) for library, along in zip(build_libraries(system, laws), series, strict=True)
    ]
    redundant, _ = redundant_terms(system, libraries)
    excluded, _ = excluded_terms(libraries, series, redundant)
    constraints = build_constraints(system, libraries, laws, excluded, longest=1)
    at = torch.as_tensor(states)[None]
    steps, truth = FIRST_STEPS, truth_at(problem, libraries, at)
    if truth is not None:
        steps = max(Refitter(system, libraries, rows, steps).steps_for(truth, 1e-3), steps)
    return Setting(rows, libraries, constraints, at, Refitter(system, libraries, rows, steps))


def every_short_law(place: Setting) -> Candidates:
    """Return all laws of one term for each hole, with every start of the numbers inside."""
    blocks = Blocks.of(place.libraries, place.constraints)
    [laws] = [*laws_up_to(blocks, len(blocks) ** len(place.libraries))][:1]
    return blocks.unfitted([*map(tuple, laws.tolist())], "every")


def begun(place: Setting, candidates: Candidates) -> Fits:
    """Return fits that begin at the true states."""
    return Fits.begin(candidates, place.states, NO_PARAMETERS)


@dataclass(frozen=True)
class ShortLaws:
    """All laws of one term for each hole, refitted.

    Attributes:
        fits: every law once.
        truth: the position of the true law among them; None if it is not in the library.
        seconds: of the refit.
    """

    fits: Fits
    truth: int | None
    seconds: float


@single_threaded
def short_laws(problem: TrainingProblem, place: Setting) -> ShortLaws:
    """Return all laws of one term for each hole, refitted to the data; none is dropped on the way."""
    start = begun(place, every_short_law(place))
    clock = time.perf_counter()
    fits = place.refitter.refit(start, nobody_watches)
    seconds = time.perf_counter() - clock
    keys, best = fits.candidates.keys, dict[bytes, int]()
    for i in np.argsort(fits.chi_square, kind="stable"):
        best.setdefault(keys[i], int(i))
    fits = fits.take(np.array(list(best.values())))
    return ShortLaws(fits, _find_truth(problem, place.libraries, fits.candidates), seconds)


def truth_at(problem: TrainingProblem, libraries: list[Library], states: torch.Tensor) -> Fits | None:
    """Return the true law with its true numbers; None if the library does not have it, or has numbers inside terms."""
    positions = true_positions(problem.system, problem.laws, libraries)
    if positions is None or any(library.inner for library in libraries):
        return None
    coefficients = []
    for hole, library, own in zip(problem.system.missing, libraries, positions, strict=True):
        law = canonical_terms(parse_expression(problem.laws[hole.name], hole.inputs, where="truth"))
        values = np.zeros((1, len(library)))
        for position in own:
            (term,) = canonical_terms(library.expressions[position])
            values[0, position] = law[term]
        coefficients.append(values)
    nothing = tuple(np.zeros((1, 0)) for _ in libraries)
    supports = tuple(values != 0 for values in coefficients)
    return Fits.begin(Candidates(supports, tuple(coefficients), nothing, ("truth",)), states, NO_PARAMETERS)


@single_threaded
def smallest_errors(problem: TrainingProblem, place: Setting) -> np.ndarray:
    """Return the Cramer-Rao bounds of all coefficients, hole by hole, at the truth; initial states are unknown.

    Raises:
        ValueError: the true law is not in the library.
    """
    truth = truth_at(problem, place.libraries, place.states)
    if truth is None:
        raise ValueError("the true law is not in the library")
    objective, unknowns = place.refitter.problem(truth)
    covariance = objective.covariance(unknowns)[0].cpu().numpy()
    return np.sqrt(np.diag(covariance))[: objective.ude.n_theta]


def true_numbers(problem: TrainingProblem) -> Mapping[str, list[float]]:
    """Return the true coefficients of every hole, in the order of its terms."""
    return {
        hole.name: list(
            canonical_terms(parse_expression(problem.laws[hole.name], hole.inputs, where="truth")).values()
        )
        for hole in problem.system.missing
    }


def _find_truth(problem: TrainingProblem, libraries: list[Library], candidates: Candidates) -> int | None:
    positions = true_positions(problem.system, problem.laws, libraries)
    if positions is None:
        return None
    same = np.ones(len(candidates), dtype=bool)
    for own, supports in zip(positions, candidates.supports, strict=True):
        wanted = np.zeros(supports.shape[1], dtype=bool)
        wanted[own] = True
        same &= (supports == wanted).all(axis=1)
    return int(np.argmax(same)) if same.any() else None
