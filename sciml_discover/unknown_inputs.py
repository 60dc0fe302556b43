"""What must have stood in each hole at each time: unknown-input smoothing, before any network.

Every hole becomes a state of its own that changes by a random walk from row to row, and the whole system is smoothed by
direct collocation: states that nobody measured follow from data and known physics in a handful of iterations. That is
where training starts from when some states are hidden or rarely seen, for which no smoother of the data alone can tell
anything. (Unknown-input estimation: Kitanidis 1987, doi:10.1016/0005-1098(87)90037-9. With a random walk it is the
smoother of Rauch, Tung & Striebel 1965, doi:10.2514/3.3166, iterated for a nonlinear system as by Bell 1994,
doi:10.1137/0804035.)
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from sciml_discover.base import lazy_import
from sciml_discover.linear_algebra import OuterProducts
from sciml_discover.objectives.direct_collocation import CollocationObjective, DirectCollocation
from sciml_discover.objectives.mesh import row_mesh
from sciml_discover.objectives.problem import FitState, Rows
from sciml_discover.optimizers import GaussNewton
from sciml_discover.optimizers.driver import minimise
from sciml_discover.ude import Slopes, stated_parameters

if TYPE_CHECKING:
    import torch

    from sciml_discover.system import System
else:
    torch = lazy_import("torch")

WALK = 0.3
"""Standard deviation of a hole's change from row to row, relative to its typical size."""

WEIGHTS = (1e-2, 1.0, 100.0)
"""Weights of the defects of the states, one after the other."""

ITERATIONS, TOLERANCE = 20, 0.5
"""Of Gauss-Newton, for each weight."""

LARGEST_GUESS = 5.0
"""First guesses of holes are cut at so many times their typical size."""

WORTHWHILE = 3.0
"""Least gain in accuracy for which equations without holes correct the smoother of the data."""

SWEEPS = 3
"""Newton iterations of that correction."""

SMALLEST_SCALE = 1e-3
"""Smallest scale that an estimated state may have, relative to what it was before."""


def estimate_states(system: System, rows: Rows) -> Rows:
    """Return rows whose law-free states and slopes are those of the smoothed system, hidden states too.

    Free parameters keep their stated values: what is wrong with them, the holes take over.

    Args:
        system: the known physics with its holes.
        rows: the training rows, whose states the smoother of the data alone has estimated.
    """
    values = stated_parameters(system, rows.times.device)
    guess, size = _first_guess(system, rows, values)
    free = FreeHoles(system, values)
    state = FitState(torch.cat([rows.smooth_states, guess], dim=-1)[None], size.new_zeros(1, 0))
    for weight in WEIGHTS:
        # The walk of the holes is what it is; only the defects of the states weigh more and more.
        walk = (WALK * size * weight**0.5).expand(*rows.times.shape, -1)
        wide = replace(
            rows,
            extra=len(size),
            scale=torch.cat([rows.scale, size]),
            tolerance_at_rows=torch.cat([rows.tolerance_at_rows, walk], dim=-1),
        )
        options = DirectCollocation(continuity=weight, rounds=1, multiplier_rounds=0)
        objective = CollocationObjective(options, free, wide, row_mesh(rows))
        optimizer = GaussNewton(iterations=ITERATIONS, tolerance=TOLERANCE)
        position = minimise(optimizer, objective, objective.start(state))
        state = objective.finish(position.state.unknowns)
    nodes = state.states[:, :, :, : system.dimension]
    with torch.no_grad():
        slopes = free.rhs(rows.times.flatten(), state.states.flatten(1, 2), state.theta, rows.flat_controls)
    slopes = slopes[..., : system.dimension].reshape(nodes.shape)
    if not bool(torch.isfinite(nodes).all() & torch.isfinite(slopes).all()):
        return rows
    states = rows.keep_positive(nodes[0])
    scale = rows.scale.clone()
    for position in range(system.dimension):
        if position not in rows.columns:
            typical = states[..., position].square().mean().sqrt()
            scale[position] = torch.maximum(typical, SMALLEST_SCALE * scale[position])
    return replace(
        rows,
        scale=scale,
        slope_scale=slopes[0].flatten(0, 1).square().mean(0).sqrt().clamp_min(1e-12),
        smooth_states=states,
        smooth_slopes=slopes[0],
    )


def use_known_equations(system: System, rows: Rows) -> Rows:
    """Return rows whose law-free states also make the slopes that equations without holes ask for.

    A state that is drowned in its own noise may be known from the slope of another one, such as a speed from
    positions while it is slow. Each row is a small least-squares problem of its own; states that gain less than a
    factor `WORTHWHILE` in accuracy stay as they are.

    Args:
        system: the known physics with its holes.
        rows: the training rows; each state is measured.
    """
    known = np.flatnonzero(~system.hole_influence.any(axis=1)).tolist()
    if not known or system.free_parameters:
        return rows
    values = stated_parameters(system, rows.times.device)
    steps = rows.intervals.clone()
    for j, length in enumerate(rows.lengths):
        steps[j, length - 1 :] = steps[j, length - 2]
    shorter = torch.minimum(
        torch.cat([steps[:, :1], steps], dim=1), torch.cat([steps, steps[:, -1:]], dim=1)
    ).flatten()
    tolerance = rows.tolerance_at_rows.flatten(0, 1)
    # Two neighbouring values make a slope.
    accuracy = 2.0**0.5 * tolerance[:, known] / shorter[:, None]
    functions, time = system.torch_functions(), rows.times.flatten()
    smooth = rows.smooth_states.flatten(0, 1)
    slopes = rows.smooth_slopes.flatten(0, 1)[:, known]
    nothing = smooth.new_zeros(1, len(smooth), len(system.missing))
    states, precision = smooth, torch.diag_embed(tolerance.reciprocal().square())
    matrix = precision
    for _ in range(SWEEPS):
        value, by_state, _, _ = functions.linearize(time, states[None], values, nothing, rows.flat_controls)
        by_state = by_state.expand(1, len(smooth), -1, -1)[0, :, known] / accuracy[..., None]
        mismatch = (slopes - value[0][:, known]) / accuracy
        matrix = precision + by_state.transpose(-1, -2) @ by_state
        pull = by_state.transpose(-1, -2) @ mismatch[..., None] + precision @ (smooth - states)[..., None]
        states = states + torch.linalg.solve_ex(matrix, pull).result[..., 0]
    sd = torch.linalg.inv_ex(matrix).inverse.diagonal(dim1=-2, dim2=-1).clamp_min(0.0).sqrt()
    better = (sd * WORTHWHILE < tolerance) & torch.isfinite(states) & (sd > 0)
    if not bool(better.any()):
        return rows
    shape = rows.smooth_states.shape
    return replace(
        rows,
        smooth_states=rows.keep_positive(torch.where(better, states, smooth).reshape(shape)),
        tolerance_at_rows=torch.where(better, sd, tolerance).reshape(shape),
    )


class FreeHoles:
    """The system with its holes as further states, which do not change within an interval.

    Args:
        system: the known physics with its holes.
        parameters: values of all its parameters, shape ``(1, 1, parameters)``.
    """

    def __init__(self, system: System, parameters: torch.Tensor) -> None:
        self._functions, self._parameters = system.torch_functions(), parameters
        self._states, self._holes = system.dimension, len(system.missing)

    def prior_precision(self, batch: int) -> torch.Tensor:
        """Return nothing: there are no weights."""
        return self._parameters.new_zeros(batch, 0)

    def rhs(
        self,
        time: torch.Tensor,
        state: torch.Tensor,
        theta: torch.Tensor,
        controls: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return the time derivative of states and holes."""
        return self.linearize(time, state, theta, controls)[0]

    def linearize(
        self,
        time: torch.Tensor,
        state: torch.Tensor,
        theta: torch.Tensor,  # noqa: ARG002 - there are no weights
        controls: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the time derivative of states and holes, its derivatives by both, and by no weights."""
        x, u = state[..., : self._states], state[..., self._states :]
        value, f_x, _, f_u = self._functions.linearize(time, x, self._parameters, u, controls)
        by_state = state.new_zeros(*state.shape, state.shape[-1])
        by_state[..., : self._states, : self._states] = f_x
        by_state[..., : self._states, self._states :] = f_u
        return torch.cat([value, torch.zeros_like(u)], dim=-1), by_state, state.new_zeros(*state.shape, 0)

    def slopes(
        self,
        time: torch.Tensor,
        state: torch.Tensor,
        theta: torch.Tensor,
        controls: torch.Tensor | None = None,
    ) -> Slopes:
        """Return the same as `linearize`: there are neither parameters nor weights."""
        value, by_state, nothing = self.linearize(time, state, theta, controls)
        return Slopes(value, by_state, nothing, nothing)

    def products(
        self,
        time: torch.Tensor,  # noqa: ARG002 - there are no weights
        state: torch.Tensor,  # noqa: ARG002
        theta: torch.Tensor,  # noqa: ARG002
        controls: torch.Tensor | None = None,  # noqa: ARG002
    ) -> tuple[OuterProducts, ...]:
        """Return nothing: there are no weights."""
        return ()

    @property
    def widths(self) -> tuple[int, ...]:
        """Return nothing: there are no weights."""
        return ()

    @property
    def factors(self) -> int:
        """Return zero: there are no weights."""
        return 0

    def take(self, index: torch.Tensor) -> FreeHoles:  # noqa: ARG002 - nothing differs between members
        """Return itself."""
        return self


def _first_guess(system: System, rows: Rows, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return pointwise least-squares values of the holes ``(J, L, holes)``, and their typical sizes ``(holes,)``."""
    x, time = rows.smooth_states.flatten(0, 1)[None], rows.times.flatten()
    n_holes = len(system.missing)
    nothing = x.new_zeros(*x.shape[:2], n_holes)
    known, _, _, by_hole = system.torch_functions().linearize(time, x, values, nothing, rows.flat_controls)
    known, by_hole = known[0], by_hole.expand(1, x.shape[1], -1, -1)[0]
    slopes = rows.smooth_slopes.flatten(0, 1)
    seen = torch.isfinite(slopes)
    mismatch = torch.where(seen, slopes - known, 0.0)
    accuracy = (0.05 * rows.slope_scale_at_rows).flatten(0, 1).clamp_min(1e-300)
    size = torch.stack(
        [_typical_size(by_hole[..., hole], known, mismatch, seen, accuracy) for hole in range(n_holes)]
    )
    weighted = torch.where(seen[..., None], by_hole / accuracy[..., None], 0.0)
    matrix = weighted.transpose(-1, -2) @ weighted + torch.diag(0.1 * size.reciprocal().square())
    right = weighted.transpose(-1, -2) @ (mismatch / accuracy)[..., None]
    guess = torch.linalg.solve(matrix, right)[..., 0].clamp(-LARGEST_GUESS * size, LARGEST_GUESS * size)
    return guess.reshape(*rows.times.shape, n_holes), size


def _typical_size(
    by_hole: torch.Tensor,
    known: torch.Tensor,
    mismatch: torch.Tensor,
    seen: torch.Tensor,
    accuracy: torch.Tensor,
) -> torch.Tensor:
    """Return the median size of what a hole would have to be, over the rows whose slopes determine it.

    Where no slope does, the hole is as large as the known physics beside it, and one if there is none.
    """
    slope = torch.where(seen, by_hole.abs(), 0.0)
    size = (mismatch.abs() / slope.clamp_min(1e-300))[(slope > 0) & (mismatch.abs() > 2.0 * accuracy)]
    if len(size) < 3:
        size = (known.abs() / by_hole.abs().clamp_min(1e-300))[(by_hole != 0) & (known != 0)]
    return size.median() if len(size) else torch.ones_like(known[0, 0])
