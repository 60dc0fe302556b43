"""What must have stood in each hole at each time: unknown-input smoothing, before any network.

Every hole becomes a state of its own that changes by a random walk from row to row, and the whole system is
smoothed by direct collocation: states, hidden ones too, and the holes' values follow from data and known physics
in a handful of iterations. Networks are then fitted to those values, which is plain regression, and start their
training through the differential equation close to its end. (Unknown-input estimation is an old idea of control: Kitanidis 1987,
doi:10.1016/0005-1098(87)90037-9; with a random walk it is the smoother of Rauch, Tung & Striebel 1965,
doi:10.2514/3.3166, iterated for a nonlinear system as by Bell 1994, doi:10.1137/0804035.)
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sciml_discover.base import lazy_import
from sciml_discover.objectives.direct_collocation import (
    CollocationObjective,
    DirectCollocation,
    _Round,
    uniform_mesh,
)
from sciml_discover.objectives.problem import FitState, Rows
from sciml_discover.ude import ParameterMap

if TYPE_CHECKING:
    import torch

    from sciml_discover.system import System
else:
    torch = lazy_import("torch")


@dataclass(frozen=True)
class HoleSignals:
    """Smoothed states and what stood in the holes, at the rows.

    Attributes:
        states: shape ``(J, L, states)``.
        values: what stood in each hole in the interval that begins at the row, shape ``(J, L - 1, holes)``.
        points: states at the middle of that interval, shape ``(J, L - 1, states)``.
        precision: one over the variance that the noise of the data leaves, same shape as ``values``; zero where nothing is known.
    """

    states: torch.Tensor
    values: torch.Tensor
    points: torch.Tensor
    precision: torch.Tensor
    stages: torch.Tensor


class _FreeHoles:
    """The system with its holes as states that do not change within an interval."""

    def __init__(self, system: System, parameters: torch.Tensor) -> None:
        self._functions, self._parameters = system.torch_functions(), parameters
        self._states, self._holes = system.dimension, len(system.missing)
        self.system = self
        self.dimension = self._states + self._holes
        self.n_theta = 0

    def prior_precision(self, batch: int) -> torch.Tensor:
        return self._parameters.new_zeros(batch, 0)

    def rhs(self, time, state, theta):
        return self.linearize(time, state, theta)[0]

    def linearize_states(self, time, state, theta):
        return self.linearize(time, state, theta)[:2]

    def linearize(self, time, state, theta):
        """Return the derivative of states and holes, its derivatives by both, and by no parameters."""
        x, u = state[..., : self._states], state[..., self._states :]
        value, f_x, _, f_u = self._functions.linearize(time, x, self._parameters, u)
        pad = state.new_zeros(*state.shape[:-1], self._holes)
        top = torch.cat([f_x, f_u], dim=-1)
        bottom = state.new_zeros(*state.shape[:-1], self._holes, self.dimension)
        return (
            torch.cat([value, pad], dim=-1),
            torch.cat([top, bottom], dim=-2),
            state.new_zeros(*state.shape, 0),
        )

    def take(self, index):
        return self


WALK = 0.3
"""Standard deviation of a hole's change from row to row, relative to its typical size."""

WEIGHTS = (1e-2, 1.0, 100.0)


def estimate_inputs(system: System, rows: Rows, iterations: int = 20, verbose=False) -> HoleSignals:
    """Return smoothed states and what stood in the holes, without any network."""
    parameters = ParameterMap(system, rows.times.device)
    values = parameters.physical(parameters.initial(1))[:, None, :]
    free = _FreeHoles(system, values)
    first, scale = _first_guess(system, rows, values)
    n_holes = len(system.missing)
    count, longest, dimension = rows.smooth_states.shape
    pad = rows.scale.new_zeros(n_holes)
    tolerance = rows.tolerance.expand(count, longest, dimension)
    options = DirectCollocation()
    x = None
    shift = None
    for number in range(len(WEIGHTS) + 3):
        weight = WEIGHTS[min(number, len(WEIGHTS) - 1)]
        walk = (WALK * scale * weight**0.5).expand(count, longest, n_holes)
        wide = replace(
            rows,
            scale=torch.cat([rows.scale, scale]),
            tolerance=torch.cat([tolerance, walk], dim=-1),
        )
        objective = CollocationObjective(options, free, wide, uniform_mesh(rows), _Round(weight, number, shift))
        if x is None:
            x = objective.start(
                FitState(torch.cat([rows.smooth_states, first], dim=-1)[None], scale.new_zeros(1, 0))
            )
        x, current = _minimise(objective, x, iterations, verbose)
        if number >= len(WEIGHTS) - 1:
            jump = current.jump.clone()
            jump[..., dimension:] = 0.0
            if verbose: print("defect", float(jump.abs().max()))
            if float(jump.abs().max()) < 1e-2:
                break
            shift = jump if shift is None else shift + jump
    nodes, stages, _ = objective._split(x)
    # How many standard deviations of the noise the end of an interval moves by a unit of each hole.
    begin = current.by_begin[..., :dimension, dimension:] / tolerance[:, 1:, :, None]
    return HoleSignals(
        states=nodes[0, ..., :dimension],
        values=nodes[0, :, :-1, dimension:],
        points=0.5 * (nodes[0, :, 1:, :dimension] + nodes[0, :, :-1, :dimension]),
        precision=0.5 * begin[0].square().sum(-2),
        stages=stages[0, ..., :dimension],
    )


def _first_guess(system, rows, values):
    """Return pointwise least-squares values of the holes ``(J, L, holes)``, and their typical sizes ``(holes,)``."""
    n_holes = len(system.missing)
    x = rows.smooth_states.flatten(0, 1)[None]
    time = rows.times.flatten()
    f0, _, _, f_u = system.torch_functions().linearize(time, x, values, x.new_zeros(*x.shape[:2], n_holes))
    f0, f_u = f0[0], f_u.expand(1, x.shape[1], -1, -1)[0]
    slopes = rows.smooth_slopes.flatten(0, 1)
    lengths = rows.intervals
    around = torch.cat([lengths[:, :1], lengths], 1).maximum(torch.cat([lengths, lengths[:, -1:]], 1)).clamp_min(1e-300)
    tolerance = rows.tolerance.expand(*rows.smooth_states.shape).flatten(0, 1)
    accuracy = tolerance / around.flatten()[:, None]
    known = torch.isfinite(slopes)
    mismatch = torch.where(known, slopes - f0, 0.0)
    scale = torch.stack([_typical_size(f_u[..., hole], f0, mismatch, known, accuracy) for hole in range(n_holes)])
    # Slopes are no better than a tenth of what the holes do: that keeps a few exact rows from dominating.
    accuracy = (accuracy.square() + (0.1 * (f_u.abs() @ scale)).square()).sqrt().clamp_min(1e-300)
    weighted = torch.where(known[..., None], f_u / accuracy[..., None], 0.0)
    matrix = weighted.transpose(-1, -2) @ weighted + torch.diag(0.1 * scale.reciprocal().square())
    right = weighted.transpose(-1, -2) @ (mismatch / accuracy)[..., None]
    guess = torch.linalg.solve(matrix, right)[..., 0].clamp(-5 * scale, 5 * scale)
    return guess.reshape(*rows.times.shape, n_holes), scale


def _typical_size(
    by_hole: torch.Tensor, f0: torch.Tensor, mismatch: torch.Tensor, known: torch.Tensor, accuracy: torch.Tensor
) -> torch.Tensor:
    """Return the median size of what one hole would have to be, over the rows that determine it."""
    slope = torch.where(known, by_hole.abs(), 0.0)
    size = (mismatch.abs() / slope.clamp_min(1e-300))[(slope > 0) & (mismatch.abs() > 2.0 * accuracy)]
    if len(size) < 3:
        size = (f0.abs() / by_hole.abs().clamp_min(1e-300))[(by_hole != 0) & (f0 != 0)]
    return size.median() if len(size) else torch.ones_like(f0[0, 0])


def _minimise(objective, x, iterations, verbose):
    current = objective.linearize(x)
    damping = x.new_full((1,), 1e-3)
    growth = 2.0
    for it in range(iterations):
        step, change = current.solve(damping)
        following = objective.linearize(x + torch.nan_to_num(step))
        ratio = float((following.cost_seen_from(current) - current.cost) / change)
        if verbose: print(it, float(current.cost), float(change), ratio, float(damping))
        good = ratio > 1e-4
        if good:
            x, current, growth = x + step, following, 2.0
            damping = damping * max(1 - (2 * ratio - 1) ** 3, 0.1)
            if float(-change) < 0.05 * 1: break
        else:
            damping, growth = damping * growth, growth * 2
            if float(damping) > 1e12: break
    return x, current
