"""Solving over whole series, and the number of steps for it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sciml_discover.objectives.problem import FitState, Rows
from sciml_discover.solve import MOST_STEPS, choose_steps, solve_rows, solve_times
from sciml_discover.system import System
from sciml_discover.ude import UDE
from tests.problems import EXCHANGE, PROBLEMS, Problem, true_ude


def true_states(problem: Problem, rows: Rows) -> torch.Tensor:
    """True states at the padded rows, shape (1, J, L, d)."""
    states = rows.smooth_states.clone()
    for j, times in enumerate(problem.times):
        exact = torch.as_tensor(problem.states(j, times))
        states[j, : len(times)], states[j, len(times) :] = exact, exact[-1]
    return states[None]


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem.name)
def test_the_chosen_steps_are_accurate_enough(problem: Problem) -> None:
    ude, theta = true_ude(problem)
    rows = problem.rows(0.01)
    exact = true_states(problem, rows)
    steps = choose_steps(ude, rows, FitState(exact, theta))
    assert steps in {1, 2, 4, 8, 16, 32, 64}
    solved = solve_rows(ude, rows, exact[:, :, 0], theta, steps)
    assert ((solved - exact).abs() / rows.tolerance).max() < 0.1
    finer = choose_steps(ude, rows, FitState(exact, theta), accuracy=1e-6)
    assert finer > steps


def test_a_stiff_equation_needs_more_than_the_most_steps() -> None:
    system = System.from_text(
        states=["x"],
        parameters={"k": {"value": 1e6, "fixed": True}},
        missing={"h": ["x"]},
        equations={"x": "h - k*x"},
    )
    problem = Problem("stiff", system, {"h": "0"}, np.ones((1, 1)), (np.linspace(0, 1, 5),))
    ude, theta = true_ude(problem)
    rows = Problem("slow", EXCHANGE.system, EXCHANGE.laws, EXCHANGE.initial, EXCHANGE.times).rows()
    states = torch.ones(1, 1, 8, 1).double()
    some = Rows(
        **{**rows.__dict__, "times": rows.times[:1], "tolerance_at_rows": torch.ones(1, 8, 1).double()}
    )
    assert choose_steps(ude, some, FitState(states, theta)) == 2 * MOST_STEPS


def test_one_trajectory_at_any_times() -> None:
    ude, theta = true_ude(EXCHANGE)
    times = np.array([0.0, 0.1, 0.25, 0.7, 1.0])
    found = solve_times(ude, theta, EXCHANGE.initial[0], times, steps=8)
    np.testing.assert_allclose(found, EXCHANGE.states(0, times), rtol=1e-6)


def test_what_runs_away_is_not_a_number_from_there_on() -> None:
    system = System.from_text(states=["x"], missing={"h": ["x"]}, equations={"x": "h"})
    problem = Problem("away", system, {"h": "x**3"}, np.ones((1, 1)), (np.linspace(0, 0.4, 5),))
    ude, theta = true_ude(problem)
    assert isinstance(ude, UDE)
    found = solve_times(ude, theta, np.array([1.0]), np.linspace(0, 40, 101))
    assert np.isfinite(found[0]).all()
    assert np.isnan(found[-1]).all()
    assert not np.isinf(found).any()
