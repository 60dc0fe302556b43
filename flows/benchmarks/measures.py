"""How good a fit is: one function per figure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from flows.benchmarks.problems import TrainingProblem
from flows.benchmarks.solving import Solution, solve_ode, trained_functions
from sciml_discover import residual_samples
from sciml_discover.errors import SolveError
from sciml_discover.readers import PreparedData
from sciml_discover.residual_samples import sample_residual
from sciml_discover.system import System
from sciml_discover.training import TrainingResult


@dataclass(frozen=True)
class LearntTerms:
    """What the networks say at given points, and how well that is determined.

    Attributes:
        values: shape ``(points, holes)``.
        sd: of the posterior and of the spread of starts, same shape.
        truth: what belongs there, same shape.
    """

    values: np.ndarray
    sd: np.ndarray
    truth: np.ndarray


def relative_l2(found: np.ndarray, truth: np.ndarray) -> float:
    """Return the size of the error over the size of the truth, all entries stacked."""
    return float(np.linalg.norm(found - truth) / np.linalg.norm(truth))


def learnt_error_where_it_was(problem: TrainingProblem, data: PreparedData, trained: TrainingResult) -> float:
    """Return the relative L2 error of all learnt terms, stacked, along the re-solved trajectory."""
    samples = sample_residual(problem.system, data, trained).holes
    truth = np.concatenate([problem.law(item.hole, item.points) for item in samples])
    return relative_l2(np.concatenate([item.values for item in samples]), truth)


def learnt_error_where_it_should_be(problem: TrainingProblem, trained: TrainingResult) -> float:
    """Return the relative L2 error of all learnt terms, stacked, along the true trajectory."""
    terms = learnt_terms(problem, trained, problem.times)
    return relative_l2(terms.values, terms.truth)


def learnt_terms(problem: TrainingProblem, trained: TrainingResult, times: np.ndarray) -> LearntTerms:
    """Return the learnt terms at the true states of some times.

    An infinite standard deviation stays infinite: such a band is no answer, and counts as none.
    """
    states = problem.states(times)
    learnt = residual_samples.learnt_terms(problem.system, trained, times, states)
    columns = np.column_stack([states, times])
    truth = [
        problem.law(hole.name, columns[:, list(inputs)])
        for hole, inputs in zip(problem.system.missing, problem.system.hole_inputs, strict=True)
    ]
    return LearntTerms(learnt.values, learnt.sd, np.column_stack(truth))


def band_figures(terms: LearntTerms) -> dict[str, float]:
    """Return which share of the truth lies in the 95 % band, and the band's width relative to the truth.

    The width is that from edge to edge; sizes are root mean squares; holes are stacked.
    """
    half = 1.96 * terms.sd
    inside = np.abs(terms.values - terms.truth) <= half
    return {
        "coverage": float(inside.mean()),
        "worst_coverage": float(inside.mean(axis=0).min()),
        "band_width": float(np.linalg.norm(2.0 * half) / np.linalg.norm(terms.truth)),
        "learnt_error": relative_l2(terms.values, terms.truth),
    }


def resolve(
    system: System, trained: TrainingResult, times: np.ndarray, sizes: np.ndarray | float = 1.0
) -> np.ndarray:
    """Return the states of a trained equation from its learnt initial state, shape ``(times, states)``.

    Args:
        system: with its holes.
        trained: of one trajectory.
        times: increasing, from the first row on.
        sizes: typical size of each state, for the absolute tolerance.

    Raises:
        SolveError: the solution runs away, or the solver gives up.
    """
    solution = solve_trained(system, trained, (float(times[0]), float(times[-1])), sizes)
    return solution(times)


def solve_trained(
    system: System, trained: TrainingResult, span: tuple[float, float], sizes: np.ndarray | float = 1.0
) -> Solution:
    """Return the solution of a trained equation, and where its first state rises through zero."""
    return solve_ode(
        trained_functions(system, trained),
        trained.initial_states[0],
        span,
        rtol=1e-8,
        atol=1e-10 * np.asarray(sizes),
        event=lambda _, state: state[0],
    )


def worst_relative_errors(found: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return per state the largest ``|error| / (|truth| + 1e-3 max |truth|)`` over times, shape ``(states,)``."""
    size = np.abs(truth)
    return (np.abs(found - truth) / (size + 1e-3 * size.max(axis=0))).max(axis=0)


def last_period(rises: np.ndarray) -> float:
    """Return the time between the last two rises through zero.

    Raises:
        SolveError: there are fewer than two.
    """
    if len(rises) < 2:
        raise SolveError(f"it does not oscillate: its first state rises through zero {len(rises)} times")
    return float(rises[-1] - rises[-2])
