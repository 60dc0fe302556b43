"""Two independent ways to solve an initial value problem.

Training and refitting use `integrate_batch` and `integrate_sensitivities`: fixed steps of the classical
Runge-Kutta method in torch, where candidates, trajectories and intervals are batch axes. Judging uses
`solve_reference`: scipy's LSODA with the analytic Jacobian and tight tolerances, one problem at a time.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from sciml_discover.base import lazy_import
from sciml_discover.controls import ControlSignal
from sciml_discover.errors import SolveError

if TYPE_CHECKING:
    import torch

    from sciml_discover.system import System
else:
    torch = lazy_import("torch")

MOST_EVALUATIONS = 200_000
"""A reference solve that needs more right-hand sides than this is given up."""

LARGEST_GROWTH = 1e6
"""A solution this many times larger than its largest initial state has run away."""

RightHandSide = Callable[["torch.Tensor", "torch.Tensor"], "torch.Tensor"]
Linearization = Callable[
    ["torch.Tensor", "torch.Tensor"], tuple["torch.Tensor", "torch.Tensor", "torch.Tensor"]
]


def solve_reference(
    system: System,
    parameters: np.ndarray,
    initial: np.ndarray,
    times: np.ndarray,
    *,
    start: float | None = None,
    controls: ControlSignal | None = None,
    rtol: float = 1e-10,
    atol: float = 1e-12,
) -> np.ndarray:
    """Solve a system without holes and return its states, shape ``(times, states)``.

    LSODA (Petzold 1983, doi:10.1137/0904010) switches between Adams and BDF formulas, so that stiff
    systems are no obstacle; it gets the analytic Jacobian. It starts anew wherever a control jumps or bends, and so
    neither misses a short pulse nor takes a jump for stiffness.

    Args:
        system: a system whose holes are all filled.
        parameters: values of all its parameters, fixed ones too, shape ``(parameters,)``.
        initial: states at ``start``, shape ``(states,)``.
        times: increasing times at which the states are wanted, shape ``(times,)``.
        start: time of ``initial``; the first of ``times`` if not given.
        controls: the measured inputs from ``start`` to the last of ``times``, for a system with controls.
        rtol: relative tolerance.
        atol: absolute tolerance, relative to the largest initial state, or to what the controls make of it.

    Raises:
        SolveError: the solution runs away, the solver gives up, or the controls are not known somewhere.
        ValueError: if ``controls`` are missing.
    """
    from scipy.integrate import solve_ivp

    functions = system.numpy_functions()
    if system.controls and controls is None:
        raise ValueError(f"got no values of the controls {', '.join(system.control_names)}, expected them")
    begin = float(times[0]) if start is None else float(start)
    evaluations = 0
    interval = 0
    scale = max(float(np.max(np.abs(initial))), _pushed(system, parameters, initial, times, controls), 1e-8)

    def inputs(time: float) -> np.ndarray | None:
        return None if controls is None else controls.during(interval, time)

    def rhs(time: float, state: np.ndarray) -> np.ndarray:
        nonlocal evaluations
        evaluations += 1
        if np.abs(state).max() > LARGEST_GROWTH * scale:
            raise SolveError(f"the solution runs away at t = {time:.6g}")
        if evaluations > MOST_EVALUATIONS:
            raise SolveError(f"more than {MOST_EVALUATIONS} right-hand sides needed up to t = {time:.6g}")
        with np.errstate(all="ignore"):
            value = functions.rhs(time, state, parameters, inputs(time))
        if not np.all(np.isfinite(value)):
            raise SolveError(f"the right-hand side is not finite at t = {time:.6g}")
        return value

    def jacobian(time: float, state: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):
            return np.nan_to_num(functions.jacobian(time, state, parameters, inputs(time)))

    def solve(low: float, high: float, state: np.ndarray, wanted: np.ndarray) -> np.ndarray:
        with warnings.catch_warnings():
            # LSODA announces its failure as a warning too; the status below is what is acted on.
            warnings.simplefilter("ignore", UserWarning)
            solution = solve_ivp(
                rhs,
                (low, high),
                state,
                method="LSODA",
                t_eval=wanted,
                jac=jacobian,
                rtol=rtol,
                atol=atol * scale,
            )
        if not solution.success or solution.y.shape[1] != len(wanted):
            reached = solution.t[-1] if len(solution.t) else low
            raise SolveError(f"the solver stopped at t = {reached:.6g}: {solution.message}")
        return solution.y.T

    state, wanted = np.asarray(initial, dtype=float), np.asarray(times, dtype=float)
    if controls is None:
        return solve(begin, float(wanted[-1]), state, wanted)
    edges, path = _edges(controls, begin, float(wanted[-1])), []
    for low, high in pairwise(edges):
        # A wanted time at a break is the end of the piece before it.
        inside = wanted[(wanted >= low if low == begin else wanted > low) & (wanted <= high)]
        interval = int(controls.interval(np.array([low]))[0])
        found = solve(low, high, state, np.append(inside[inside < high], high))
        path.append(found[: len(inside)])
        state = found[-1]
    return np.concatenate(path)


def _pushed(
    system: System,
    parameters: np.ndarray,
    initial: np.ndarray,
    times: np.ndarray,
    controls: ControlSignal | None,
) -> float:
    """Return how far a system that starts at rest is moved by what drives it: the size of its states, roughly.

    Zero for a system that nothing but its own state moves.
    """
    functions = system.numpy_functions()
    if controls is None:
        if np.any(initial):
            return 0.0
        # Driven by an expression in the time, which may be zero now.
        rest = functions.rhs(float(times[0]), initial, parameters)
        moved = float(np.nan_to_num(np.abs(rest)).max()) * float(times[-1] - times[0])
        return moved or 1.0
    rates = [
        functions.rhs(time, initial, parameters, values)
        for time, values in zip(controls.times.tolist(), controls.values, strict=True)
    ]
    return float(np.nan_to_num(np.abs(rates)).max() * np.median(np.diff(controls.times)))


def _edges(controls: ControlSignal, begin: float, end: float) -> list[float]:
    """Return where the solver has to start anew from ``begin`` to ``end``, both included."""
    controls.interval(np.array([begin, end]))
    inner = controls.times[controls.breaks]
    return [begin, *inner[(inner > begin) & (inner < end)].tolist(), end]


def integrate_batch(
    rhs: RightHandSide, start: torch.Tensor, length: torch.Tensor, state: torch.Tensor, steps: int
) -> torch.Tensor:
    """Return the states at the ends of many intervals, solved side by side.

    Args:
        rhs: right-hand side ``(time (...), state (..., d)) -> (..., d)``.
        start: begin of each interval, broadcastable to ``(...)``.
        length: length of each interval; zero leaves the state as it is.
        state: states at the begins, shape ``(..., d)``.
        steps: equal steps of the classical Runge-Kutta method per interval.
    """
    step = length / steps
    width = step[..., None]
    for number in range(steps):
        time = start + number * step
        slope1 = rhs(time, state)
        slope2 = rhs(time + 0.5 * step, state + 0.5 * width * slope1)
        slope3 = rhs(time + 0.5 * step, state + 0.5 * width * slope2)
        slope4 = rhs(time + step, state + width * slope3)
        state = state + width / 6.0 * (slope1 + 2.0 * (slope2 + slope3) + slope4)
    return state


def unit_sensitivity(state: torch.Tensor, n_parameters: int) -> torch.Tensor:
    """Return the derivatives of begin states by themselves and by parameters, shape ``(..., d, d + q)``."""
    dimension = state.shape[-1]
    sensitivity = state.new_zeros(*state.shape, dimension + n_parameters)
    sensitivity[..., :dimension] = torch.eye(dimension, dtype=state.dtype, device=state.device)
    return sensitivity


def integrate_sensitivities(
    linearize: Linearization,
    start: torch.Tensor,
    length: torch.Tensor,
    state: torch.Tensor,
    sensitivity: torch.Tensor,
    steps: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return end states and their derivatives, by the variational equations of the same steps.

    The derivative is exact for the discrete solution: Runge-Kutta steps of state and sensitivity together
    are the sensitivity of the Runge-Kutta steps ("internal differentiation", Bock 1981,
    doi:10.1007/978-3-642-68220-9_8).

    Args:
        linearize: ``(time, state) -> (f (..., d), df/dx (..., d, d), df/dparameters (..., d, q))``.
        start: begin of each interval, broadcastable to ``(...)``.
        length: length of each interval.
        state: states at the begins, shape ``(..., d)``.
        sensitivity: derivatives of the begin states by whatever is asked for, shape ``(..., d, n + q)``; the last
            ``q`` columns are those of the parameters. See `unit_sensitivity`.
        steps: steps per interval.

    Returns:
        End states ``(..., d)`` and their derivatives, of the shape of ``sensitivity``.
    """
    step = length / steps
    width = step[..., None]
    matrix_width = step[..., None, None]

    def slopes(time: torch.Tensor, at: torch.Tensor, by: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        value, by_state, by_parameters = linearize(time, at)
        slope = by_state @ by
        slope[..., slope.shape[-1] - by_parameters.shape[-1] :] += by_parameters
        return value, slope

    for number in range(steps):
        time = start + number * step
        middle = time + 0.5 * step
        f1, s1 = slopes(time, state, sensitivity)
        f2, s2 = slopes(middle, state + 0.5 * width * f1, sensitivity + 0.5 * matrix_width * s1)
        f3, s3 = slopes(middle, state + 0.5 * width * f2, sensitivity + 0.5 * matrix_width * s2)
        f4, s4 = slopes(time + step, state + width * f3, sensitivity + matrix_width * s3)
        state = state + width / 6.0 * (f1 + 2.0 * (f2 + f3) + f4)
        sensitivity = sensitivity + matrix_width / 6.0 * (s1 + 2.0 * (s2 + s3) + s4)
    return state, sensitivity
