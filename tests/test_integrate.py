"""Both solvers against closed forms and against each other."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from sciml_discover.controls import no_controls
from sciml_discover.errors import SolveError
from sciml_discover.integrate import (
    integrate_batch,
    integrate_sensitivities,
    solve_reference,
    unit_sensitivity,
)
from sciml_discover.system import System
from sciml_discover.systems import get_system
from tests.problems import EXCHANGE, FORCED, PROBLEMS, Problem, network_ude, random_theta


def test_reference_meets_closed_forms() -> None:
    times = np.array([1.0, 1.5, 4.0, 9.0])
    known = get_system("logistic")
    found = solve_reference(known.system, known.parameter_values, known.initial_values, times, start=0.0)
    np.testing.assert_allclose(found[:, 0], 10.0 / (1.0 + 19.0 * np.exp(-0.8 * times)), rtol=1e-8)
    k = 0.5
    forced = FORCED.states(0, times)[:, 0]
    exact = (k * np.sin(times) - np.cos(times)) / (1 + k**2) + (1 + 1 / (1 + k**2)) * np.exp(-k * times)
    np.testing.assert_allclose(forced, exact, rtol=1e-8)


def test_reference_starts_at_the_first_time_unless_told() -> None:
    known = get_system("logistic")
    found = solve_reference(known.system, known.parameter_values, known.initial_values, np.array([2.0, 3.0]))
    np.testing.assert_allclose(found[0], known.initial_values)


def test_threads_that_solve_at_the_same_time_do_not_disturb_each_other() -> None:
    def solve(name: str) -> np.ndarray:
        known = get_system(name)
        return solve_reference(
            known.system, known.parameter_values, known.initial_values, np.linspace(0.0, 30.0, 60)
        )

    names = ["robertson", "van_der_pol", "lotka_volterra", "fitzhugh_nagumo"]
    alone = [solve(name) for name in names]
    with ThreadPoolExecutor(len(names)) as pool:
        together = list(pool.map(solve, names * 3))
    for found, expected in zip(together, alone * 3, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_reference_masters_stiffness() -> None:
    known = get_system("robertson")
    found = solve_reference(known.system, known.parameter_values, known.initial_values, np.array([0.0, 4e3]))
    assert found[-1].sum() == pytest.approx(1.0, rel=1e-8)


@pytest.mark.parametrize(
    ("equation", "initial", "message"),
    [
        ("x**2", 1.0, "runs away"),
        ("1e9*sin(1e9*t)*x", 1.0, "right-hand sides needed|stopped|runs away"),
        ("sqrt(x) - 2", 0.5, "not finite|stopped"),
        ("log(x)", -1.0, "not finite"),
    ],
)
def test_reference_gives_up_with_a_reason(equation: str, initial: float, message: str) -> None:
    system = System.from_text(states=["x"], equations={"x": equation})
    with pytest.raises(SolveError, match=message):
        solve_reference(system, np.zeros(0), np.array([initial]), np.array([0.0, 5.0]))


def test_batch_has_order_four_and_leaves_empty_intervals_alone() -> None:
    start, length = torch.tensor([0.0, 1.0, 2.0]).double(), torch.tensor([1.0, 2.0, 0.0]).double()
    state = torch.tensor([[1.0], [2.0], [3.0]]).double()

    def rhs(time: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
        return torch.cos(time)[..., None] * at

    exact = state[:, 0] * torch.exp(torch.sin(start + length) - torch.sin(start))
    errors = [
        (integrate_batch(rhs, start, length, state, steps)[:, 0] - exact).abs().max().item()
        for steps in (8, 16)
    ]
    assert 12.0 < errors[0] / errors[1] < 20.0
    assert integrate_batch(rhs, start, length, state, 4)[2, 0] == 3.0


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem.name)
def test_batch_and_reference_agree(problem: Problem) -> None:
    functions = problem.filled.torch_functions()
    parameters = torch.as_tensor(problem.parameters)
    for j, times in enumerate(problem.times):
        exact = torch.as_tensor(problem.states(j, times))
        signal = problem.signal(j)
        inputs = no_controls if signal is None else signal.lines(times)
        ends = integrate_batch(
            lambda time, at: functions.rhs(time, at, parameters, at.new_zeros(0), inputs(time)),  # noqa: B023
            torch.as_tensor(times[:-1]),
            torch.as_tensor(np.diff(times)),
            exact[:-1],
            64,
        )
        torch.testing.assert_close(ends, exact[1:], rtol=1e-6, atol=1e-7)


def test_sensitivities_are_the_derivative_of_the_steps() -> None:
    ude = network_ude(EXCHANGE.system)
    theta = random_theta(ude, 2)
    state = torch.as_tensor(EXCHANGE.initial[None]).expand(2, -1, -1).clone()
    start, length = torch.tensor([0.0, 0.2, 0.5]).double(), torch.tensor([0.5, 0.9, 0.0]).double()

    def end(at: torch.Tensor, of: torch.Tensor) -> torch.Tensor:
        return integrate_batch(lambda time, x: ude.rhs(time, x, of), start, length, at, 4)

    found, by = integrate_sensitivities(
        lambda time, x: ude.linearize(time, x, theta),
        start,
        length,
        state,
        unit_sensitivity(state, ude.n_theta),
        4,
    )
    torch.testing.assert_close(found, end(state, theta))
    by_state, by_theta = torch.autograd.functional.jacobian(lambda *both: end(*both), (state, theta))
    for b in range(2):
        torch.testing.assert_close(by[b, :, :, 3:], by_theta[b, :, :, b])
        for p in range(3):
            torch.testing.assert_close(by[b, p, :, :3], by_state[b, p, :, b, p])
