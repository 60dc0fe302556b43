"""Re-solving universal differential equations over whole series, and choosing the step for it."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from sciml_discover.base import lazy_import
from sciml_discover.controls import ControlLines, ControlSignal, Inputs, no_controls
from sciml_discover.integrate import integrate_batch

if TYPE_CHECKING:
    import torch

    from sciml_discover.objectives.problem import FitState, Rows
    from sciml_discover.ude import UDE
else:
    torch = lazy_import("torch")

MOST_STEPS = 64
"""Most Runge-Kutta steps per interval between rows; a system that needs more is stiff."""

STIFF_EVALUATIONS, STIFF_TOLERANCE = 20_000, 1e-6
"""Most right-hand sides of one solution by the stiff solver, and its relative tolerance."""


def choose_steps(ude: UDE, rows: Rows, state: FitState, accuracy: float = 1e-2) -> int:
    """Return the power of two of Runge-Kutta steps per interval that solves all of them accurately enough.

    Every interval is solved from the current state with ``n`` and ``2 n`` steps. The method has order four, so the error
    of ``2 n`` is a fifteenth of their difference; it is enough once that is, for the median member of the batch, below
    ``accuracy`` times the tolerance of each state (its noise).
    The answer is twice `MOST_STEPS` if not even those do: the system is stiff.
    """
    start = rows.times[:, :-1].flatten()
    length = rows.intervals.flatten()
    begin = state.states[:, :, :-1].flatten(1, 2)
    tolerance = rows.tolerance_at_rows[:, 1:].flatten(0, 1)
    inputs, field = rows.inputs(), ude.at(state.theta)

    def solve(steps: int) -> torch.Tensor:
        with torch.no_grad():
            return integrate_batch(
                lambda time, at: field(time, at, inputs(time)), start, length, begin, steps
            )

    steps, coarse = 1, solve(1)
    while steps < MOST_STEPS:
        fine = solve(2 * steps)
        error = ((fine - coarse).abs() / tolerance).flatten(1).amax(1) / 15.0
        steps, coarse = 2 * steps, fine
        if float(torch.nan_to_num(error, nan=torch.inf).median()) <= accuracy:
            return steps
    return 2 * MOST_STEPS


def resolve_rows(ude: UDE, rows: Rows, state: FitState) -> torch.Tensor:
    """Return states at all rows, solved in one piece from the first ones; NaN where that fails, ``(B, J, L, d)``.

    Runge-Kutta steps for the whole batch; a stiff system is solved one member and trajectory at a time.
    """
    initial = state.states[:, :, 0]
    steps = choose_steps(ude, rows, state)
    if steps <= MOST_STEPS:
        return solve_rows(ude, rows, initial, state.theta, steps)
    solved = torch.full_like(state.states, torch.nan)
    for member in range(len(initial)):
        index = torch.tensor([member], device=initial.device)
        one = ude.take(index)
        for j, length in enumerate(rows.lengths):
            times = rows.times[j, :length].cpu().numpy()
            lines = None if rows.control_lines is None else rows.control_lines.map(lambda item: item[j])  # noqa: B023
            begin = initial[member, j].cpu().numpy()
            found = solve_stiff(one, state.theta[index], begin, times, lines)
            path = torch.as_tensor(found, device=solved.device)
            solved[member, j, :length] = path
            solved[member, j, length:] = path[-1]
    return solved


def solve_stiff(
    ude: UDE, theta: torch.Tensor, initial: np.ndarray, times: np.ndarray, lines: ControlLines | None = None
) -> np.ndarray:
    """Return states of one trajectory at increasing times by LSODA, shape ``(times, states)``; NaN where it failed.

    Args:
        ude: the equation.
        theta: shape ``(1, n_theta)``.
        initial: states at ``times[0]``, shape ``(states,)``.
        times: shape ``(times,)``.
        lines: the controls between the times, for a system with controls; one interval per line.
    """
    from scipy.integrate import solve_ivp

    device, evaluations, field = theta.device, 0, ude.at(theta)

    def rhs(time: float, state: np.ndarray, inputs: Inputs) -> np.ndarray:
        nonlocal evaluations
        evaluations += 1
        if evaluations > STIFF_EVALUATIONS or not np.isfinite(state).all():
            raise FloatingPointError("the solution runs away")
        at = torch.tensor([time], dtype=torch.float64, device=device)
        point = torch.as_tensor(state, device=device)[None, None]
        with torch.no_grad():
            value = field(at, point, inputs(at))[0, 0].cpu().numpy()
        if not np.isfinite(value).all():
            raise FloatingPointError("the right-hand side is not finite")
        return value

    solved = np.full((len(times), len(initial)), np.nan)
    solved[0] = initial
    # Without controls one piece; with them one for each interval, in which they are smooth.
    pieces = [(0, len(times) - 1)] if lines is None else [(k, k + 1) for k in range(len(times) - 1)]
    scale = STIFF_TOLERANCE * np.maximum(np.abs(initial), 1e-6)
    for first, last in pieces:
        inputs = no_controls if lines is None else lines.map(lambda item: item[first][None])  # noqa: B023
        try:
            piece = solve_ivp(
                rhs,
                (times[first], times[last]),
                solved[first],
                method="LSODA",
                t_eval=times[first + 1 : last + 1],
                rtol=STIFF_TOLERANCE,
                atol=scale,
                args=(inputs,),
            )
        except FloatingPointError:
            return solved
        found = piece.y.T
        solved[first + 1 : first + 1 + len(found)] = found
        if piece.status != 0:
            return solved
    return solved


def solve_rows(ude: UDE, rows: Rows, initial: torch.Tensor, theta: torch.Tensor, steps: int) -> torch.Tensor:
    """Return states at all rows, solved in one piece from the initial states, shape ``(B, J, L, d)``."""
    state, path, field = initial, [initial], ude.at(theta)
    with torch.no_grad():
        for interval in range(rows.times.shape[1] - 1):
            inputs = rows.inputs(interval)
            state = integrate_batch(
                lambda time, at: field(time, at, inputs(time)),  # noqa: B023 - used at once
                rows.times[:, interval],
                rows.intervals[:, interval],
                state,
                steps,
            )
            path.append(state)
    return torch.stack(path, dim=2)


def solve_times(
    ude: UDE,
    theta: torch.Tensor,
    initial: np.ndarray,
    times: np.ndarray,
    steps: int = 2,
    controls: ControlSignal | None = None,
) -> np.ndarray:
    """Return states of one trajectory at increasing times, shape ``(times, states)``; NaN once it ran away.

    Args:
        ude: the equation.
        theta: shape ``(1, n_theta)``.
        initial: states at ``times[0]``, shape ``(states,)``.
        times: shape ``(times,)``; with controls, every row in their span is one of them.
        steps: Runge-Kutta steps between neighbouring times.
        controls: the measured inputs of the trajectory, for a system with controls.
    """
    grid = torch.as_tensor(times, dtype=torch.float64)
    state = torch.as_tensor(initial, dtype=torch.float64)[None, None]
    path, field = [state], ude.at(theta)
    with torch.no_grad():
        lines = None if controls is None else controls.lines(times)
        for number, (begin, end) in enumerate(pairwise(grid)):
            inputs = no_controls if lines is None else lines.map(lambda item: item[number][None])  # noqa: B023
            state = integrate_batch(
                lambda time, at: field(time, at, inputs(time)),  # noqa: B023 - used at once
                begin[None],
                (end - begin)[None],
                state,
                steps,
            )
            path.append(state)
    solved = torch.cat(path, dim=1)[0].numpy()
    if np.isfinite(solved).all():
        return solved
    # Either it runs away, or it is stiff.
    return solve_stiff(ude, theta, initial, times, lines)
