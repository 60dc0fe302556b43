"""Re-solving universal differential equations over whole series, and choosing the step for it."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from sciml_discover.base import lazy_import
from sciml_discover.controls import ControlSignal, no_controls
from sciml_discover.integrate import integrate_batch

if TYPE_CHECKING:
    import torch

    from sciml_discover.objectives.problem import FitState, Rows
    from sciml_discover.ude import UDE
else:
    torch = lazy_import("torch")

MOST_STEPS = 64
"""Most Runge-Kutta steps per interval between rows; a system that needs more is stiff."""


def choose_steps(ude: UDE, rows: Rows, state: FitState, accuracy: float = 1e-2) -> int:
    """Return the power of two of Runge-Kutta steps per interval that solves all of them accurately enough.

    Every interval is solved from the current state with ``n`` and ``2 n`` steps; ``2 n`` is enough once the two
    agree, for the median member of the batch, to ``accuracy`` times the tolerance of each state (its noise).
    """
    start = rows.times[:, :-1].flatten()
    length = rows.intervals.flatten()
    begin = state.states[:, :, :-1].flatten(1, 2)
    tolerance = rows.tolerance_at_rows[:, 1:].flatten(0, 1)
    inputs = rows.inputs()

    def solve(steps: int) -> torch.Tensor:
        with torch.no_grad():
            return integrate_batch(
                lambda time, at: ude.rhs(time, at, state.theta, inputs(time)), start, length, begin, steps
            )

    steps, coarse = 1, solve(1)
    while steps < MOST_STEPS:
        fine = solve(2 * steps)
        error = ((fine - coarse).abs() / tolerance).flatten(1).amax(1)
        steps, coarse = 2 * steps, fine
        if float(torch.nan_to_num(error, nan=torch.inf).median()) <= accuracy:
            break
    return steps


def solve_rows(ude: UDE, rows: Rows, initial: torch.Tensor, theta: torch.Tensor, steps: int) -> torch.Tensor:
    """Return states at all rows, solved in one piece from the initial states, shape ``(B, J, L, d)``."""
    state, path = initial, [initial]
    with torch.no_grad():
        for interval in range(rows.times.shape[1] - 1):
            inputs = rows.inputs(interval)
            state = integrate_batch(
                lambda time, at: ude.rhs(time, at, theta, inputs(time)),  # noqa: B023 - used at once
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
    path = [state]
    with torch.no_grad():
        lines = None if controls is None else controls.lines(times)
        for number, (begin, end) in enumerate(pairwise(grid)):
            inputs = no_controls if lines is None else lines.map(lambda item: item[number][None])  # noqa: B023
            state = integrate_batch(
                lambda time, at: ude.rhs(time, at, theta, inputs(time)),  # noqa: B023 - used at once
                begin[None],
                (end - begin)[None],
                state,
                steps,
            )
            path.append(state)
    solved = torch.cat(path, dim=1)[0].numpy()
    return np.where(np.isfinite(solved), solved, np.nan)
