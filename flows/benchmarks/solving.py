"""Solves that judge a fit: scipy's stiff solver, for true systems and for trained ones alike."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from sciml_discover.errors import SolveError
from sciml_discover.system import System
from sciml_discover.training import TrainingResult, trained_ude

MOST_EVALUATIONS = 300_000
"""A solve that needs more right-hand sides than this is given up."""


@dataclass(frozen=True)
class Functions:
    """A right-hand side ``(t, state) -> (states,)`` and its derivative by the state ``(states, states)``."""

    rhs: Callable[[float, np.ndarray], np.ndarray]
    jacobian: Callable[[float, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Solution:
    """A solved trajectory.

    Attributes:
        steps: the solver's own times, shape ``(steps,)``.
        events: times of the event, shape ``(events,)``.
        interpolant: scipy's dense output.
    """

    steps: np.ndarray
    events: np.ndarray
    interpolant: Callable[[np.ndarray], np.ndarray]

    def __call__(self, times: np.ndarray) -> np.ndarray:
        """Return the states at times, shape ``(times, states)``."""
        return self.interpolant(times).T


def functions_of(system: System, parameters: np.ndarray) -> Functions:
    """Return a system without holes, with values for its parameters, as functions of one state."""
    functions = system.numpy_functions()
    return Functions(
        lambda time, state: functions.rhs(time, state, parameters),
        lambda time, state: functions.jacobian(time, state, parameters),
    )


def trained_functions(system: System, trained: TrainingResult) -> Functions:
    """Return a trained equation as functions of one state."""
    import torch

    ude, theta = trained_ude(system, trained)

    def point(time: float, state: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        at = torch.as_tensor(np.asarray(state, dtype=float))[None, None]
        return torch.full((1, 1), float(time), dtype=torch.float64), at

    def rhs(time: float, state: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return ude.rhs(*point(time, state), theta)[0, 0].numpy()

    def jacobian(time: float, state: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return ude.linearize(*point(time, state), theta)[1][0, 0].numpy()

    return Functions(rhs, jacobian)


def solve_ode(
    functions: Functions,
    initial: np.ndarray,
    span: tuple[float, float],
    *,
    rtol: float,
    atol: float | np.ndarray,
    event: Callable[[float, np.ndarray], float] | None = None,
) -> Solution:
    """Solve an initial value problem with LSODA (Petzold 1983, doi:10.1137/0904010).

    Args:
        functions: right-hand side and Jacobian.
        initial: states at the begin, shape ``(states,)``.
        span: begin and end.
        rtol: relative tolerance.
        atol: absolute tolerance, per state if an array.
        event: a function whose rises through zero are recorded.

    Raises:
        SolveError: the solution runs away, or the solver gives up.
    """
    from scipy.integrate import solve_ivp

    evaluations = 0

    def rhs(time: float, state: np.ndarray) -> np.ndarray:
        nonlocal evaluations
        evaluations += 1
        if evaluations > MOST_EVALUATIONS:
            raise SolveError(f"more than {MOST_EVALUATIONS} right-hand sides needed up to t = {time:.6g}")
        value = functions.rhs(time, state)
        if not np.isfinite(value).all():
            raise SolveError(f"the right-hand side is not finite at t = {time:.6g}")
        return value

    arguments: dict[str, Any] = {}
    if event is not None:

        def rises(time: float, state: np.ndarray) -> float:
            return event(time, state)

        rises.direction = 1.0  # pyright: ignore[reportFunctionMemberAccess] - scipy's interface
        arguments["events"] = rises
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        # LSODA announces its failure as a warning too; the status below is what is acted on.
        warnings.simplefilter("ignore", UserWarning)
        solved = solve_ivp(
            rhs, span, initial, method="LSODA", jac=functions.jacobian, rtol=rtol, atol=atol,
            dense_output=True, **arguments,
        )  # fmt: skip
    if not solved.success:
        raise SolveError(f"the solver stopped at t = {solved.t[-1]:.6g}: {solved.message}")
    events = solved.t_events[0] if event is not None else np.zeros(0)
    return Solution(solved.t, events, solved.sol)
