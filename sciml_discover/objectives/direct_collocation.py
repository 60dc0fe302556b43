"""Direct collocation: states at the nodes are unknowns, the differential equation is a set of conditions."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

import numpy as np
import pydantic

from sciml_discover.base import Options, lazy_import
from sciml_discover.linear_algebra import TridiagonalNormal
from sciml_discover.objectives.abstract import AbstractLinearization, AbstractObjective, choose, take
from sciml_discover.objectives.problem import FitState, Rows
from sciml_discover.ude import UDE

if TYPE_CHECKING:
    import torch
else:
    torch = lazy_import("torch")


class DirectCollocation(Options):
    """Radau IIA collocation: states at the nodes and the weights are solved for together.

    Nothing is stepped through time: all right-hand sides of an iteration are one batch, and the method is L-stable, so
    stiffness is no obstacle. Defects are measured as errors of the states (the natural level of Deuflhard 2011,
    doi:10.1007/978-3-642-23899-4): with the plain defect a stiff system is all scales and no direction. Their weight
    grows from round to round; in the end multipliers (Hestenes 1969, doi:10.1007/BF00927673) close them.
    """

    kind: Literal["direct_collocation"] = "direct_collocation"
    stages: int = pydantic.Field(default=3, ge=1, le=5)
    """Collocation points per interval; the order of the method is one less than twice that."""
    continuity: pydantic.PositiveFloat = 1.0
    """First weight of the defects, in units of the noise."""
    growth: float = pydantic.Field(default=30.0, gt=1.0)
    """Factor of that weight from round to round."""
    rounds: int = pydantic.Field(default=3, ge=1, le=20)
    """Rounds in which the weight grows; after them multipliers close the defects."""

    def build(self, ude: UDE, rows: Rows, steps: int) -> CollocationObjective:  # noqa: ARG002 - no steps
        """Return the objective for a universal differential equation and training rows."""
        return CollocationObjective(self, ude, rows, uniform_mesh(rows), _Round(self.continuity))


@lru_cache(maxsize=8)
def radau(stages: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the matrix and the nodes of the Radau IIA method (Hairer & Wanner 1996, section IV.5).

    Example:
        >>> radau(2)[0].round(4).tolist(), radau(2)[1].round(4).tolist()
        ([[0.4167, -0.0833], [0.75, 0.25]], [0.3333, 1.0])
    """
    legendre = np.polynomial.legendre.Legendre
    # The nodes on [-1, 1] are the zeros of P_s - P_(s-1), the right end among them.
    zeros = np.sort((legendre.basis(stages) - legendre.basis(stages - 1)).roots().real)
    nodes = 0.5 * (zeros + 1.0)
    nodes[-1] = 1.0
    powers = np.arange(1, stages + 1)
    # The method integrates every polynomial of a lower degree than `stages` exactly.
    values = nodes[:, None] ** (powers - 1)
    integrals = nodes[:, None] ** powers / powers
    return np.linalg.solve(values.T, integrals.T).T, nodes


@dataclass(frozen=True)
class Mesh:
    """Where the nodes are.

    Attributes:
        start: begin of each interval, shape ``(J, S)``.
        length: its length; zero where a trajectory is shorter than the longest, shape ``(J, S)``.
        row: position of each row among the nodes, shape ``(J, L)``.
    """

    start: torch.Tensor
    length: torch.Tensor
    row: torch.Tensor

    @property
    def intervals(self) -> int:
        """Number of intervals of the longest trajectory."""
        return self.start.shape[1]


def uniform_mesh(rows: Rows) -> Mesh:
    """Return the mesh whose nodes are the rows."""
    count, longest = rows.times.shape
    row = torch.arange(longest, device=rows.times.device).expand(count, longest)
    return Mesh(rows.times[:, :-1], rows.intervals, row)


@dataclass(frozen=True)
class _Round:
    """Weight of the defects and their multipliers ``(B, J, S, d)``, in units of the tolerances."""

    weight: float
    number: int = 0
    shift: torch.Tensor | None = None


class CollocationObjective(AbstractObjective):
    """Direct collocation of a batch of equations over the same rows.

    The flat unknowns are the node states ``(J, S + 1, d)``, the stages inside the intervals ``(J, S, s - 1, d)`` and
    then ``theta``. The last stage of an interval is its right node.
    """

    def __init__(
        self, options: DirectCollocation, ude: UDE, rows: Rows, mesh: Mesh, current: _Round
    ) -> None:
        self.options, self.ude, self.rows, self.mesh, self.current = options, ude, rows, mesh, current
        matrix, nodes = radau(options.stages)
        tensor = {"dtype": rows.times.dtype, "device": rows.times.device}
        self._matrix = torch.as_tensor(matrix, **tensor)
        self._fractions = torch.as_tensor(nodes, **tensor)
        points = mesh.start[..., None] + mesh.length[..., None] * self._fractions
        self._times = points.flatten()
        tolerance = rows.tolerance if rows.tolerance.dim() == 3 else rows.tolerance.expand(*rows.times.shape, -1)
        self._tolerance = torch.minimum(tolerance[:, :-1], tolerance[:, 1:])  # (J, S, d)
        self._stepped = mesh.length[..., None, None] * self._matrix  # (J, S, s, s)

    # --- the flat unknowns -------------------------------------------------------------------------------

    def start(self, state: FitState) -> torch.Tensor:
        """Return the flat unknowns: nodes are the states at the rows, stages lie on the lines between them."""
        nodes = state.states
        inner = torch.lerp(nodes[:, :, :-1, None, :], nodes[:, :, 1:, None, :], self._fractions[:-1, None])
        return torch.cat([nodes.flatten(1), inner.flatten(1), state.theta], dim=1)

    def finish(self, unknowns: torch.Tensor) -> FitState:
        """Return the states at all rows."""
        nodes, _, theta = self._split(unknowns)
        return FitState(self._at_rows(nodes).clone(), theta)

    def unit(self, unknowns: torch.Tensor) -> torch.Tensor:
        """Return the scales of the states for nodes and stages, one for ``theta``."""
        nodes, stages, theta = self._split(unknowns)
        scale = self.rows.scale
        return torch.cat(
            [
                scale.expand(nodes.shape[1:]).flatten(),
                scale.expand(stages.shape[1:]).flatten(),
                torch.ones_like(theta[0]),
            ]
        )

    def _split(self, unknowns: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        batch, (count, intervals) = unknowns.shape[0], self.mesh.start.shape
        dimension = self.ude.system.dimension
        first = count * (intervals + 1) * dimension
        second = first + count * intervals * (self.options.stages - 1) * dimension
        return (
            unknowns[:, :first].reshape(batch, count, intervals + 1, dimension),
            unknowns[:, first:second].reshape(batch, count, intervals, self.options.stages - 1, dimension),
            unknowns[:, second:],
        )

    def _at_rows(self, nodes: torch.Tensor) -> torch.Tensor:
        """Return values of nodes ``(B, J, N, ...)`` at the rows ``(B, J, L, ...)``."""
        index = self.mesh.row.reshape(1, *self.mesh.row.shape, *([1] * (nodes.dim() - 3)))
        return nodes.gather(2, index.expand(nodes.shape[0], -1, -1, *nodes.shape[3:]))

    # --- the least-squares problem -----------------------------------------------------------------------

    def _inverse(self, by_state: torch.Tensor) -> torch.Tensor:
        """Return the inverse of the stage matrices ``I - h A (x) df/dx``, shape ``(B, J, S, s d, s d)``."""
        stages, dimension = self.options.stages, self.ude.system.dimension
        count, intervals = self.mesh.start.shape
        by_state = by_state.reshape(-1, count, intervals, 1, stages, dimension, dimension)
        blocks = self._stepped[..., None, None] * by_state  # (B, J, S, s, s, d, d)
        size = stages * dimension
        matrix = -blocks.transpose(-3, -2).reshape(*blocks.shape[:3], size, size)
        matrix.diagonal(dim1=-2, dim2=-1).add_(1.0)
        return torch.linalg.inv_ex(matrix).inverse

    def _error(
        self, nodes: torch.Tensor, stages: torch.Tensor, slopes: torch.Tensor
    ) -> torch.Tensor:
        """Return the defects of the collocation conditions, shape ``(B, J, S, s, d)``."""
        return stages - nodes[:, :, :-1, None] - self._stepped @ slopes.reshape(stages.shape)

    def loss(self, unknowns: torch.Tensor) -> torch.Tensor:
        """Return half the squared residuals, prior and weighted defects included."""
        nodes, inner, theta = self._split(unknowns)
        stages = torch.cat([inner, nodes[:, :, 1:, None]], dim=3)
        points = stages.flatten(1, 3)
        with torch.no_grad():
            inverse = self._inverse(self.ude.linearize_states(self._times, points, theta)[1])
        defect = self._error(nodes, stages, self.ude.rhs(self._times, points, theta))
        residual = self.rows.residual(self._at_rows(nodes))
        prior = (self.ude.prior_precision(theta.shape[0]) * theta.square()).sum(1)
        return 0.5 * (residual.square().sum((1, 2, 3)) + prior) + self._penalty(inverse, defect)[0]

    def _penalty(self, inverse: torch.Tensor, defect: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return half the weighted square of defects as errors of the states, and these in units of the tolerance."""
        error = (inverse @ defect.flatten(3)[..., None])[..., 0].reshape(defect.shape)
        scaled = error / self._tolerance[..., None, :]
        if self.current.shift is not None:
            ends = scaled[..., -1:, :] + self.current.shift[..., None, :]
            scaled = torch.cat([scaled[..., :-1, :], ends], dim=-2)
        return 0.5 * self.current.weight * scaled.square().sum((1, 2, 3, 4)), scaled

    def linearize(self, unknowns: torch.Tensor) -> CollocationLinearization:
        """Return the least-squares problem with defects measured in the states' units."""
        with torch.no_grad():
            return self._linearize(unknowns)

    def _linearize(self, unknowns: torch.Tensor) -> CollocationLinearization:
        nodes, inner, theta = self._split(unknowns)
        batch, count, _, dimension = nodes.shape
        intervals, n_stages, n_theta = self.mesh.intervals, self.options.stages, theta.shape[1]
        stages = torch.cat([inner, nodes[:, :, 1:, None]], dim=3)
        slopes, by_state, by_theta = self.ude.linearize(self._times, stages.flatten(1, 3), theta)
        inverse = self._inverse(by_state)
        defect = self._error(nodes, stages, slopes)
        penalty, scaled = self._penalty(inverse, defect)
        last = inverse[..., -dimension:, :].unflatten(-1, (n_stages, dimension))  # (B, J, S, d, s, d)
        by_begin = last.sum(-2)
        # The end by theta: the last rows of inverse x (h A (x) I) x df/dtheta.
        weights = torch.einsum("bnsijk,nsjm->bnsimk", last, self._stepped)
        raw = by_theta.reshape(batch, count, intervals, n_stages * dimension, n_theta)

        at_rows = self._at_rows(nodes)
        residual = self.rows.residual(at_rows)
        slope = self.rows.residual_slope(at_rows)
        unit = torch.eye(dimension, dtype=slope.dtype, device=slope.device)[self.rows.columns]
        precision = self.ude.prior_precision(batch)
        fit = 0.5 * (residual.square().sum((1, 2, 3)) + (precision * theta.square()).sum(1))
        ends = scaled[..., -1, :]
        jump = ends if self.current.shift is None else ends - self.current.shift
        return CollocationLinearization(
            cost=fit + penalty,
            infeasibility=torch.zeros_like(fit),
            worst_defect=torch.maximum(
                jump.abs().flatten(1).amax(1), scaled[..., :-1, :].abs().flatten(1).amax(1) if n_stages > 1 else 0 * fit
            ),
            fit=fit,
            inner_cost=0.5 * self.current.weight * scaled[..., :-1, :].square().sum((1, 2, 3, 4)),
            jump=jump,
            defect=defect,
            inverse=inverse,
            by_begin=by_begin,
            by_theta=raw,
            stepped=self._stepped.expand(batch, *self._stepped.shape),
            objective=self,
            normal=self._normal(
                by_begin, weights.flatten(-2) @ raw, ends, slope[..., None] * unit, residual, precision, theta
            ),
        )

    def _normal(
        self,
        by_begin: torch.Tensor,
        by_theta: torch.Tensor,
        scaled: torch.Tensor,
        observed: torch.Tensor,
        residual: torch.Tensor,
        precision: torch.Tensor,
        theta: torch.Tensor,
    ) -> TridiagonalNormal:
        """Return the normal equations of nodes and ``theta``.

        The defect of an interval is linear in its nodes: ``dx_(i+1) - by_begin dx_i - by_theta dtheta``.
        """
        weight, tolerance = self.current.weight, self._tolerance
        batch, count, intervals, dimension, _ = by_begin.shape
        begin, border = by_begin / tolerance[..., None], by_theta / tolerance[..., None]
        own = 1.0 / tolerance
        diagonal = by_begin.new_zeros(batch, count, intervals + 1, dimension, dimension)
        gradient = by_begin.new_zeros(batch, count, intervals + 1, dimension)
        transposed = observed.transpose(-1, -2)
        self._add_at_rows(diagonal, transposed @ observed)
        self._add_at_rows(gradient, (transposed @ residual[..., None])[..., 0])
        diagonal[:, :, :-1] += weight * (begin.transpose(-1, -2) @ begin)
        diagonal[:, :, 1:].diagonal(dim1=-2, dim2=-1).add_(weight * own.square())
        gradient[:, :, :-1] -= weight * (begin.transpose(-1, -2) @ scaled[..., None])[..., 0]
        gradient[:, :, 1:] += weight * own * scaled
        upper = -weight * begin.transpose(-1, -2) * own[..., None, :]
        coupling = by_begin.new_zeros(batch, count, intervals + 1, dimension, theta.shape[1])
        coupling[:, :, :-1] = weight * (begin.transpose(-1, -2) @ border)
        coupling[:, :, 1:] -= weight * own[..., None] * border
        flat = border.flatten(1, 3)
        shared = weight * (flat.transpose(-1, -2) @ flat) + torch.diag_embed(precision)
        pull = weight * (flat.transpose(-1, -2) @ scaled.flatten(1)[..., None])[..., 0]
        return TridiagonalNormal(
            diagonal=diagonal,
            upper=upper,
            border=coupling,
            shared=shared,
            node_gradient=gradient,
            shared_gradient=precision * theta - pull,
            node_damping=self.rows.scale.reciprocal().square().expand(gradient.shape),
        )

    def _add_at_rows(self, target: torch.Tensor, values: torch.Tensor) -> None:
        """Add values of rows ``(B, J, L, ...)`` to their nodes ``(B, J, N, ...)``."""
        if target.shape == values.shape:
            target += values
            return
        index = self.mesh.row.reshape(1, *self.mesh.row.shape, *([1] * (values.dim() - 3)))
        target.scatter_add_(2, index.expand(values.shape), values)

    def take(self, index: torch.Tensor) -> CollocationObjective:
        """Return the objective of the chosen members of the batch."""
        current = self.current
        if current.shift is not None:
            current = replace(current, shift=current.shift[index])
        return CollocationObjective(self.options, self.ude.take(index), self.rows, self.mesh, current)


@dataclass(frozen=True)
class CollocationLinearization(AbstractLinearization):
    """A linearised collocation problem with the defects as part of the cost.

    Attributes:
        fit: ``cost`` without the defects, shape ``(B,)``.
        inner_cost: what stages inside the intervals contribute to ``cost``, shape ``(B,)``.
        jump: error at the end of each interval in units of the tolerance, shape ``(B, J, S, d)``.
        defect: defects of the conditions, shape ``(B, J, S, s, d)``.
        inverse: of the stage matrices, shape ``(B, J, S, s d, s d)``.
        by_begin: derivative of an interval's end by its begin, shape ``(B, J, S, d, d)``.
        by_theta: derivative of the stages' slopes, shape ``(B, J, S, s d, q)``.
        stepped: interval lengths times the Radau matrix, shape ``(B, J, S, s, s)``.
        normal: the normal equations of nodes and ``theta``.
    """

    cost: torch.Tensor
    infeasibility: torch.Tensor
    worst_defect: torch.Tensor
    fit: torch.Tensor
    inner_cost: torch.Tensor
    jump: torch.Tensor
    defect: torch.Tensor
    inverse: torch.Tensor
    by_begin: torch.Tensor
    by_theta: torch.Tensor
    stepped: torch.Tensor
    normal: TridiagonalNormal
    objective: CollocationObjective

    def solve(self, damping: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the step of all unknowns and the change of cost that the linear model promises."""
        nodes, shared, change = self.normal.solve(damping)
        # Stages follow their interval's begin and theta, and close their own defects.
        slope = (self.by_theta @ shared[:, None, None, :, None])[..., 0].reshape(self.defect.shape)
        moved = self.stepped @ slope + nodes[:, :, :-1, None] - self.defect
        dimension = nodes.shape[-1]
        inner = (self.inverse[..., :-dimension, :] @ moved.flatten(3)[..., None])[..., 0]
        return torch.cat([nodes.flatten(1), inner.flatten(1), shared], dim=1), change - self.inner_cost

    def cost_seen_from(self, before: CollocationLinearization) -> torch.Tensor:
        """Return the cost with the defects weighted as at the point that the step came from (natural level)."""
        return self.fit + self.objective._penalty(before.inverse, self.defect)[0]

    def choose(self, keep: torch.Tensor, other: AbstractLinearization) -> CollocationLinearization:
        """Return the members of this one where ``keep`` holds, of the other elsewhere."""
        return choose(keep, self, other)

    def take(self, index: torch.Tensor) -> CollocationLinearization:
        """Return the chosen members of the batch."""
        return take(self, index)
