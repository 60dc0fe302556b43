"""Multiple shooting: short segments solved as one batch, tied together by continuity conditions."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Literal

import pydantic

from sciml_discover.base import RowCount, lazy_import
from sciml_discover.controls import Inputs
from sciml_discover.errors import InputError
from sciml_discover.integrate import integrate_batch, integrate_sensitivities, unit_sensitivity
from sciml_discover.linear_algebra import ArrowNormal, Nodes, TridiagonalNormal, condense
from sciml_discover.objectives.abstract import (
    AbstractLinearization,
    AbstractObjective,
    AbstractObjectiveOptions,
    Order,
    choose,
    take,
)
from sciml_discover.objectives.problem import FitState, Rows
from sciml_discover.objectives.segments import Method, Segments, SegmentSolver
from sciml_discover.ude import UDE

if TYPE_CHECKING:
    import torch
else:
    torch = lazy_import("torch")


PENALISED_ROUNDS, PENALTY_GROWTH = 3, 30.0
"""Rounds of a second-order method before continuity becomes an equality, and the growth of the penalty in them."""


LONGEST_SHARE = 0.2
"""Of a series that one segment of automatic length spans at most."""


class MultipleShooting(AbstractObjectiveOptions):
    """Solve short segments as one batch; their initial states are free, continuity is enforced.

    First-order methods see continuity as a penalty that grows into an augmented Lagrangian (Turan & Jaeschke
    2021, arXiv:2109.06786); `gauss_newton` sees it as an equality constraint (Bock & Plitt 1984). Before continuity
    grows, a horizon may: rounds at the first weight that see only the first rows of each trajectory, then more. How
    equations are solved and differentiated can be chosen for first-order methods; `gauss_newton` carries sensitivities
    through steps of the classical Runge-Kutta method.
    """

    kind: Literal["multiple_shooting"] = "multiple_shooting"
    segment_length: RowCount | Literal["auto", "all"] = "auto"
    """Intervals between observations per segment; ``"all"`` is single shooting, ``"auto"`` a fifth of the series or a
    quarter of a period, whichever is shorter."""
    continuity: pydantic.PositiveFloat = 1.0
    """First weight of the continuity penalty, in units of the noise."""
    growth: float = pydantic.Field(default=10.0, ge=1.0)
    """Factor of the continuity weight from round to round."""
    rounds: int = pydantic.Field(default=3, ge=1, le=20)
    """Rounds over the whole horizon in which continuity grows, for a first-order method; all its rounds share its
    iterations."""
    horizon: tuple[Annotated[float, pydantic.Field(gt=0.0, le=1.0)], ...] = (1.0,)
    """Fractions of each trajectory's intervals that first-order methods see, round after round; the last is 1."""
    solver: Method = "rk4"
    """Of first-order methods: ``"rk4"`` with fixed steps, ``"bosh3"`` or ``"dopri5"`` with adaptive ones."""
    rtol: pydantic.PositiveFloat = 1e-7
    """Relative tolerance of an adaptive solver."""
    atol: pydantic.PositiveFloat = 1e-5
    """Absolute tolerance of an adaptive solver, in units of the noise of each state."""
    gradient: Literal["direct", "adjoint"] = "direct"
    """Of first-order methods: through the steps of the solver, or from the adjoint equation, which needs less memory
    and more time."""

    @pydantic.field_validator("horizon")
    @classmethod
    def _grows_to_the_end(cls, horizon: tuple[float, ...]) -> tuple[float, ...]:
        if not horizon or horizon[-1] != 1.0 or any(b <= a for a, b in pairwise(horizon)):
            raise ValueError(f"a horizon of {list(horizon)}; write fractions that grow and end with 1.0")
        return horizon

    @property
    def only_of_first_order(self) -> tuple[str, ...]:
        """Options that were changed and mean nothing to a second-order method."""
        names = ("horizon", "solver", "rtol", "atol", "gradient")
        return tuple(name for name in names if getattr(self, name) != type(self).model_fields[name].default)

    def build(self, ude: UDE, rows: Rows, steps: int) -> ShootingObjective:
        """Return the objective for a universal differential equation and training rows.

        Raises:
            InputError: if segments are longer than the series.
        """
        intervals, length = rows.times.shape[1] - 1, self.segment_length
        if length == "all":
            length = intervals
        elif length == "auto":
            length = automatic_length(rows)
        if length > intervals:
            raise InputError(
                f"segment_length = {length}",
                where="[train] objective multiple_shooting",
                expected=f"at most {intervals} intervals, which the longest trajectory has",
                do='Write a smaller number, or "all".',
            )
        return ShootingObjective(self, ude, rows, length, steps)

    def backed_off(self) -> MultipleShooting | None:
        """Return the same over single intervals, in which a solution has the least time to run away."""
        return None if self.segment_length == 1 else self.model_copy(update={"segment_length": 1})


def automatic_length(rows: Rows) -> int:
    """Return how many intervals a segment should have: a fifth of the series or a quarter of a period, at least one.

    A state that goes its whole range up or down ``n`` times has ``n / 2`` periods; the quickest state counts. A
    segment over which nothing turns has no local minima of its own to fall into.
    """
    share = LONGEST_SHARE
    for position in {column for column in rows.columns if column is not None}:
        for j, length in enumerate(rows.lengths):
            path = rows.smooth_states[j, :length, position]
            way, reach = float(path.diff().abs().sum()), float(path.max() - path.min())
            if reach > 0.0:
                share = min(share, reach / (2.0 * way))
    return max(1, int(share * (rows.times.shape[1] - 1)))


@dataclass(frozen=True)
class Continuity:
    """How one round ties the segments together.

    Attributes:
        weight: of the penalty, in units of the noise.
        exact: whether `linearize` sees an equality instead of the penalty.
        order: of the optimizer whose round it is.
        number: of the round, from zero.
        horizon: fraction of each trajectory's intervals that `loss` sees.
        multipliers: of the augmented Lagrangian, shape ``(B, J, S - 1, d)``; None before the first update.
    """

    weight: float
    exact: bool
    order: Order = 1
    number: int = 0
    horizon: float = 1.0
    multipliers: torch.Tensor | None = None


class ShootingObjective(AbstractObjective):
    """Multiple shooting of a batch of equations over the same rows.

    The flat unknowns are the node states ``(J, S, d)`` of every segment and then ``theta``.

    Args:
        options: weights of the continuity penalty.
        ude: the equations.
        rows: the training rows.
        segment_length: intervals per segment.
        steps: Runge-Kutta steps per interval; a power of two, so that step ends meet the rows exactly.
        stage: the round it is in; before the first, `loss` has the first weight and sees all rows, `linearize` has the
            equality.
    """

    def __init__(
        self,
        options: MultipleShooting,
        ude: UDE,
        rows: Rows,
        segment_length: int,
        steps: int,
        stage: Continuity | None = None,
    ) -> None:
        self.options, self.ude, self.rows, self.steps = options, ude, rows, steps
        self.segment_length = segment_length
        count, longest = rows.times.shape
        self.segments = math.ceil((longest - 1) / segment_length)
        padded = self.segments * segment_length + 1
        times = torch.cat([rows.times, rows.times[:, -1:].expand(count, padded - longest)], dim=1)
        shape = (count, self.segments, segment_length)
        self.starts = times[:, :-1].reshape(shape)
        self.lengths = (times[:, 1:] - times[:, :-1]).reshape(shape)
        self._longest = longest
        # Noise where a segment begins, from the second on.
        begins = rows.tolerance_at_rows[:, : longest - 1 : segment_length]
        self._tolerance = begins[:, 1:]  # (J, S - 1, d)
        self._stage = stage or Continuity(options.continuity, exact=True)
        self._inputs = self._inputs_of(self.segments)

    def _inputs_of(self, segments: int) -> list[Inputs]:
        """Return the controls in the first segments, one function per interval of a segment."""
        length = self.segment_length
        return [
            self.rows.inputs(slice(interval, segments * length, length), segments)
            for interval in range(length)
        ]

    # --- the flat unknowns -------------------------------------------------------------------------------

    def start(self, state: FitState) -> torch.Tensor:
        """Return the flat unknowns: nodes are the states at the segments' first rows."""
        nodes = state.states[:, :, : self._longest - 1 : self.segment_length]
        return torch.cat([nodes.flatten(1), state.theta], dim=1)

    def finish(self, unknowns: torch.Tensor) -> FitState:
        """Return states at all rows, by solving the segments from their nodes."""
        with torch.no_grad():
            nodes, theta = self._split(unknowns)
            inside, end = self._solve(nodes, theta)
        return FitState(self._at_rows(inside, end), theta)

    def finish_nodes(self, unknowns: torch.Tensor) -> FitState:
        """Return states at all rows as the nodes say, for single-interval segments; nothing is solved."""
        if self.segment_length != 1:
            raise ValueError(f"got segments of {self.segment_length} intervals, expected single intervals")
        nodes, theta = self._split(unknowns)
        # The last row has no node of its own: its state is the end of the last segment.
        with torch.no_grad():
            _, end = self._solve(nodes, theta)
        return FitState(torch.cat([nodes, end[:, :, -1:]], dim=2)[:, :, : self._longest], theta)

    def unit(self, unknowns: torch.Tensor) -> torch.Tensor:
        """Return the scales of the states for the nodes, one for ``theta``."""
        nodes, theta = self._split(unknowns)
        return torch.cat([self.rows.scale.expand(nodes.shape[1:]).flatten(), torch.ones_like(theta[0])])

    def _split(self, unknowns: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        count = self.rows.times.shape[0]
        size = unknowns.shape[1] - self.ude.n_theta
        nodes = unknowns[:, :size].reshape(unknowns.shape[0], count, self.segments, self.ude.system.dimension)
        return nodes, unknowns[:, size:]

    def _at_rows(self, inside: torch.Tensor, end: torch.Tensor) -> torch.Tensor:
        """Return states at rows from those inside the segments ``(B, J, S, k, ...)`` and at their ends."""
        return torch.cat([inside.flatten(2, 3), end[:, :, -1:]], dim=2)[:, :, : self._longest]

    # --- rounds ------------------------------------------------------------------------------------------

    def rounds_of(self, order: Order) -> int:
        """Return the number of rounds; with nothing to tie, only the horizon grows."""
        tied = self.segments > 1
        if order == 2:
            return PENALISED_ROUNDS + 1 if tied else 1
        return len(self.options.horizon) - 1 + (self.options.rounds if tied else 1)

    def first_round(self, order: Order) -> ShootingObjective:
        """Return the objective with the weakest continuity, and for first-order methods the nearest horizon.

        For second-order methods continuity is a penalty that grows, and at last an equality: with a poor right-hand
        side the equality-constrained step extrapolates an unstable linearised flow over the whole series; the
        penalty cannot. Its optimum is also a lower bound of the constrained one.
        """
        exact = order == 2 and self.segments == 1
        horizon = self.options.horizon[0] if order == 1 else 1.0
        return self._in(Continuity(self.options.continuity, exact=exact, order=order, horizon=horizon))

    def next_round(self, unknowns: torch.Tensor) -> ShootingObjective | None:
        """Return the objective with a further horizon, or else with a stronger continuity.

        For order 1 the horizon grows first, at the first weight; then come the updates of the augmented Lagrangian.
        Nodes of segments that were beyond the horizon begin where they stand, which is where the fit started.
        """
        stage = self._stage
        if stage.number + 1 >= self.rounds_of(stage.order):
            return None
        if stage.order == 2:
            following = replace(
                stage,
                number=stage.number + 1,
                weight=stage.weight * PENALTY_GROWTH,
                exact=stage.number + 1 == PENALISED_ROUNDS,
            )
            return self._in(following)
        if stage.horizon < 1.0:
            horizon = self.options.horizon[stage.number + 1]
            return self._in(replace(stage, number=stage.number + 1, horizon=horizon))
        with torch.no_grad():
            nodes, theta = self._split(unknowns)
            _, end = self._solve(nodes, theta)
            update = stage.weight * self._defect(nodes, end)
        return self._in(
            replace(
                stage,
                number=stage.number + 1,
                weight=stage.weight * self.options.growth,
                multipliers=update if stage.multipliers is None else stage.multipliers + update,
            )
        )

    @property
    def memory(self) -> dict[str, torch.Tensor]:
        """Number, kind, weight, horizon and multipliers of the round."""
        stage = self._stage
        memory = {
            "round": torch.tensor([stage.order, stage.number, int(stage.exact)]),
            "weight": torch.tensor(stage.weight, dtype=torch.float64),
            "horizon": torch.tensor(stage.horizon, dtype=torch.float64),
        }
        return memory if stage.multipliers is None else {**memory, "multipliers": stage.multipliers}

    def recall(self, memory: dict[str, torch.Tensor]) -> ShootingObjective:
        """Return exactly the objective that had this ``memory``."""
        order, number, exact = memory["round"].tolist()
        multipliers = memory.get("multipliers")
        if multipliers is not None:
            multipliers = multipliers.to(self.rows.times.device)
        weight, horizon = float(memory["weight"]), float(memory["horizon"])
        return self._in(Continuity(weight, bool(exact), order, number, horizon, multipliers))

    def _in(self, stage: Continuity) -> ShootingObjective:
        """Return this objective in another round."""
        return ShootingObjective(self.options, self.ude, self.rows, self.segment_length, self.steps, stage)

    # --- first-order methods -----------------------------------------------------------------------------

    def loss(self, unknowns: torch.Tensor) -> torch.Tensor:
        """Return half the squared residuals, prior and shifted continuity penalty included."""
        nodes, theta = self._split(unknowns)
        inside, end = self._solve_differentiably(nodes, theta)
        reached = self._at_rows(inside, end)
        smooth = self.rows.smooth_states[:, reached.shape[2] :].expand(len(reached), -1, -1, -1)
        residual = self.rows.residual(torch.cat([reached, smooth], dim=2))
        seen = self._seen_intervals
        if seen is not None:
            row = torch.arange(self._longest, device=seen.device)
            residual = residual * (row <= seen[:, None])[..., None]
        total = 0.5 * residual.square().sum((1, 2, 3))
        total = total + 0.5 * (self.ude.prior_precision(theta.shape[0]) * theta.square()).sum(1)
        if inside.shape[2] > 1:
            shifted = self._defect(nodes, end)
            weight, multipliers = self._stage.weight, self._stage.multipliers
            if multipliers is not None:
                shifted = shifted + multipliers / weight
            if seen is not None:
                begin = self.segment_length * torch.arange(1, inside.shape[2], device=seen.device)
                shifted = shifted * (begin <= seen[:, None])[..., None]
            total = total + 0.5 * weight * shifted.square().sum((1, 2, 3))
        return total

    @property
    def _seen_intervals(self) -> torch.Tensor | None:
        """Intervals of each trajectory within the horizon, shape ``(J,)``; None for all of them."""
        if self._stage.horizon == 1.0:
            return None
        intervals = torch.as_tensor(self.rows.lengths, device=self.rows.times.device) - 1
        return torch.ceil(self._stage.horizon * intervals).long()

    def _defect(self, nodes: torch.Tensor, end: torch.Tensor) -> torch.Tensor:
        """Return the jumps between solved segments in units of the tolerances, shape ``(B, J, S - 1, d)``."""
        solved = end.shape[2]
        return (end[:, :, :-1] - nodes[:, :, 1:solved]) / self._tolerance[:, : solved - 1]

    def _solve_differentiably(
        self, nodes: torch.Tensor, theta: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return states at the rows inside every segment within the horizon, and at its end."""
        seen, options = self._seen_intervals, self.options
        inputs, solved = self._inputs, self.segments
        if seen is not None:
            solved = math.ceil(int(seen.max()) / self.segment_length)
            inputs = self._inputs_of(solved)
        segments = Segments(
            self.ude,
            self.starts[:, :solved].flatten(0, 1),
            self.lengths[:, :solved].flatten(0, 1),
            inputs,
        )
        solver = SegmentSolver(
            method=options.solver,
            adjoint=options.gradient == "adjoint",
            steps=self.steps,
            rtol=options.rtol,
            atol=options.atol,
            unit=self.rows.tolerance,
        )
        path = solver.solve(segments, nodes[:, :, :solved].flatten(1, 2), theta)
        path = path.unflatten(1, (nodes.shape[1], solved))  # (B, J, S, k + 1, d)
        return path[..., :-1, :], path[..., -1, :]

    # --- second-order methods and re-solving -------------------------------------------------------------

    def _solve(self, nodes: torch.Tensor, theta: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return states at the rows inside every segment ``(B, J, S, k, d)`` and at its end."""
        shape, path = nodes.shape, []
        state = nodes.flatten(1, 2)
        for interval in range(self.segment_length):
            path.append(state.reshape(shape))
            start, length = self.starts[..., interval].flatten(), self.lengths[..., interval].flatten()
            inputs = self._inputs[interval]
            state = integrate_batch(
                lambda time, at: self.ude.rhs(time, at, theta, inputs(time)),  # noqa: B023 - used at once
                start,
                length,
                state,
                self.steps,
            )
        return torch.stack(path, dim=3), state.reshape(shape)

    def linearize(self, unknowns: torch.Tensor) -> AbstractLinearization:
        """Return the least-squares problem with continuity as this round sees it."""
        with torch.no_grad():
            return self._linearize(unknowns)

    def covariance(self, unknowns: torch.Tensor) -> torch.Tensor:
        """Return the covariance of ``theta`` and of all initial states, ``(B, n_theta + J * d, same)``.

        The inverse of the whole Fisher matrix of the continuous trajectories, prior included. No pseudo-inverse:
        where the matrix is singular to rounding, the entries of the directions concerned are infinite.
        """
        with torch.no_grad():
            linearized = self._in(replace(self._stage, exact=True))._linearize(unknowns)
        if not isinstance(linearized, ConstrainedShooting):
            raise TypeError(f"got {type(linearized).__name__}, expected a constrained linearization")
        return linearized.normal.covariance()

    def _linearize(self, unknowns: torch.Tensor) -> AbstractLinearization:
        nodes, theta = self._split(unknowns)
        inside, end, by_inside, by_end = self._solve_sensitivities(nodes, theta)
        states = self._at_rows(inside, end)
        residual, by_node = self.rows.linearize_along(states, self._at_rows(by_inside, by_end))
        defect = end[:, :, :-1] - nodes[:, :, 1:]
        precision = self.ude.prior_precision(theta.shape[0])
        chi_square = residual.square().sum((1, 2, 3))
        cost = 0.5 * chi_square + 0.5 * (precision * theta.square()).sum(1)
        scaled = defect / self._tolerance
        if not self._stage.exact:
            weight = self._stage.weight
            return PenalisedShooting(
                cost=cost + 0.5 * weight * scaled.square().sum((1, 2, 3)),
                infeasibility=torch.zeros_like(cost),
                worst_defect=torch.zeros_like(cost),
                normal=self._tridiagonal(weight, by_node, residual, by_end, scaled, precision, theta),
            )
        condensed = condense(by_end, defect)
        dimension = nodes.shape[-1]
        jacobian = by_node[..., :dimension] @ self._spread(condensed.matrix)
        jacobian[..., dimension:] += by_node[..., dimension:]
        closing = (by_node[..., :dimension] @ self._spread(condensed.offset)[..., None])[..., 0]
        closed = residual + closing
        # Small jumps of an unstable equation are no small matter: they count by what they do to the rows as well.
        worst = torch.cat([scaled.abs().flatten(1), closing.abs().flatten(1)], dim=1).amax(1)
        return ConstrainedShooting(
            cost=cost,
            closed_cost=cost + 0.5 * (closed.square() - residual.square()).sum((1, 2, 3)),
            infeasibility=scaled.abs().sum((1, 2, 3)),
            worst_defect=worst,
            chi_square=chi_square,
            condensed=condensed,
            normal=ArrowNormal.assemble(jacobian.flatten(2, 3), closed.flatten(2), precision, theta),
        )

    def _solve_sensitivities(
        self, nodes: torch.Tensor, theta: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return states inside and at the ends of the segments, and their derivatives by node and ``theta``."""
        shape, columns = nodes.shape, nodes.shape[-1] + theta.shape[1]
        state = nodes.flatten(1, 2)
        sensitivity = unit_sensitivity(state, theta.shape[1])
        path, path_sensitivity = [], []
        for interval in range(self.segment_length):
            path.append(state.reshape(shape))
            path_sensitivity.append(sensitivity.reshape(*shape, columns))
            start, length = self.starts[..., interval].flatten(), self.lengths[..., interval].flatten()
            inputs = self._inputs[interval]
            state, sensitivity = integrate_sensitivities(
                lambda time, at: self.ude.linearize(time, at, theta, inputs(time)),  # noqa: B023 - used at once
                start,
                length,
                state,
                sensitivity,
                self.steps,
            )
        return (
            torch.stack(path, dim=3),
            state.reshape(shape),
            torch.stack(path_sensitivity, dim=3),
            sensitivity.reshape(*shape, columns),
        )

    def _tridiagonal(
        self,
        penalty: float,
        by_node: torch.Tensor,
        residual: torch.Tensor,
        by_end: torch.Tensor,
        scaled: torch.Tensor,
        precision: torch.Tensor,
        theta: torch.Tensor,
    ) -> TridiagonalNormal:
        """Return the normal equations with continuity as a penalty."""
        batch, count, segments, dimension, _ = by_end.shape
        # Rows of a segment depend on its node; the very last row belongs to the last segment.
        by_row = by_node.flatten(2, 3)
        seen = self.rows.n_columns
        missing = segments * self.segment_length * seen - (by_row.shape[2] - seen)
        pad = by_row.new_zeros(batch, count, missing, by_row.shape[3])
        inner = torch.cat([by_row[:, :, :-seen], pad], dim=2).unflatten(2, (segments, -1))
        flat = residual.flatten(2)
        inner_residual = torch.cat([flat[:, :, :-seen], pad[..., 0]], dim=2).unflatten(2, (segments, -1))
        nodes, theta_part = inner[..., :dimension], inner[..., dimension:]
        diagonal = nodes.transpose(-1, -2) @ nodes
        border = nodes.transpose(-1, -2) @ theta_part
        node_gradient = (nodes.transpose(-1, -2) @ inner_residual[..., None])[..., 0]
        last, last_residual = by_row[:, :, -seen:], flat[:, :, -seen:]
        last_node = last[..., :dimension].transpose(-1, -2)
        diagonal[:, :, -1] += last_node @ last[..., :dimension]
        border[:, :, -1] += last_node @ last[..., dimension:]
        node_gradient[:, :, -1] += (last_node @ last_residual[..., None])[..., 0]
        # Defects: end of a segment minus the next node, in units of the tolerance.
        root = penalty**0.5
        ends = root * by_end[:, :, :-1] / self._tolerance[..., None]
        jump = root * scaled
        end_nodes, end_theta = ends[..., :dimension].transpose(-1, -2), ends[..., dimension:]
        diagonal[:, :, :-1] += end_nodes @ ends[..., :dimension]
        border[:, :, :-1] += end_nodes @ end_theta
        node_gradient[:, :, :-1] += (end_nodes @ jump[..., None])[..., 0]
        own = root / self._tolerance  # (J, S - 1, d)
        diagonal[:, :, 1:] += torch.diag_embed(own.square())
        node_gradient[:, :, 1:] -= own * jump
        border[:, :, 1:] -= own[..., None] * end_theta
        # What all rows say of theta is summed by one product: a matrix for each of them would be large.
        rows = torch.cat([by_row[..., dimension:].flatten(1, 2), end_theta.flatten(1, 3)], dim=1)
        offsets = torch.cat([flat.flatten(1), jump.flatten(1)], dim=1)
        transposed = rows.transpose(-1, -2)
        return TridiagonalNormal(
            diagonal=diagonal,
            upper=-(end_nodes * own[..., None, :]),
            border=border,
            shared=transposed @ rows + torch.diag_embed(precision),
            node_gradient=node_gradient,
            shared_gradient=(transposed @ offsets[..., None])[..., 0] + precision * theta,
            node_damping=diagonal.diagonal(dim1=-2, dim2=-1),
        )

    def _spread(self, per_segment: torch.Tensor) -> torch.Tensor:
        """Return values of segments ``(B, J, S, ...)`` at the rows ``(B, J, L, ...)`` that lie in them."""
        repeated = per_segment.repeat_interleave(self.segment_length, dim=2)
        return torch.cat([repeated, per_segment[:, :, -1:]], dim=2)[:, :, : self._longest]

    def take(self, index: torch.Tensor) -> ShootingObjective:
        """Return the objective of the chosen members of the batch."""
        stage = self._stage
        if stage.multipliers is not None:
            stage = replace(stage, multipliers=stage.multipliers[index])
        return ShootingObjective(
            self.options, self.ude.take(index), self.rows, self.segment_length, self.steps, stage
        )


@dataclass(frozen=True)
class PenalisedShooting(AbstractLinearization):
    """A linearised shooting problem with continuity as part of the cost.

    Attributes:
        normal: the normal equations of nodes and ``theta``.
    """

    cost: torch.Tensor
    infeasibility: torch.Tensor
    worst_defect: torch.Tensor
    normal: TridiagonalNormal

    def solve(self, damping: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the step of all unknowns and the change of cost that the linear model promises."""
        nodes, shared, change = self.normal.solve(damping)
        return torch.cat([nodes.flatten(1), shared], dim=1), change

    def choose(self, keep: torch.Tensor, other: AbstractLinearization) -> PenalisedShooting:
        """Return the members of this one where ``keep`` holds, of the other elsewhere."""
        return choose(keep, self, other)

    def take(self, index: torch.Tensor) -> PenalisedShooting:
        """Return the chosen members of the batch."""
        return take(self, index)


@dataclass(frozen=True)
class ConstrainedShooting(AbstractLinearization):
    """A linearised shooting problem with continuity as an equality constraint.

    Attributes:
        closed_cost: ``cost`` as the linear model sees it once the defects are closed, shape ``(B,)``.
        chi_square: squared residuals of the rows alone, shape ``(B,)``.
        condensed: every node's step from that of the first.
        normal: the condensed normal equations.
    """

    cost: torch.Tensor
    closed_cost: torch.Tensor
    infeasibility: torch.Tensor
    worst_defect: torch.Tensor
    chi_square: torch.Tensor
    condensed: Nodes
    normal: ArrowNormal

    def solve(self, damping: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the step of all unknowns and the change of cost that the linear model promises."""
        own, shared = self.normal.solve(damping)
        change = self.normal.predicted_change(own, shared) + self.closed_cost - self.cost
        return self._of_all(own, shared), change

    def solve_holding(self, held: torch.Tensor, move: torch.Tensor) -> torch.Tensor:
        """Return the step of all unknowns in which one number of ``theta`` moves as told and all else follows.

        Args:
            held: position in ``theta`` of each member's number, shape ``(B,)``.
            move: how far it goes, shape ``(B,)``.
        """
        own, shared = self.normal.solve_holding(held, move)
        return self._of_all(own, shared)

    def _of_all(self, own: torch.Tensor, shared: torch.Tensor) -> torch.Tensor:
        """Return the step of all unknowns from those of the first nodes and of ``theta``."""
        both = torch.cat([own, shared[:, None, :].expand(-1, own.shape[1], -1)], dim=-1)
        nodes = (self.condensed.matrix @ both[:, :, None, :, None])[..., 0] + self.condensed.offset
        return torch.cat([nodes.flatten(1), shared], dim=1)

    def choose(self, keep: torch.Tensor, other: AbstractLinearization) -> ConstrainedShooting:
        """Return the members of this one where ``keep`` holds, of the other elsewhere."""
        return choose(keep, self, other)

    def take(self, index: torch.Tensor) -> ConstrainedShooting:
        """Return the chosen members of the batch."""
        return take(self, index)
