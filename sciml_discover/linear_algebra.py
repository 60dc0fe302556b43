"""Structured linear solves for multiple shooting.

The unknowns of a linearised shooting problem are the node states of every segment and the shared ``theta``. Where
continuity is a penalty, the normal matrix is block-tridiagonal in the nodes with a border for ``theta``
(`TridiagonalNormal`). Where continuity is an equality, it gives every node in terms of the first node of its
trajectory and of ``theta`` (`condense`: Bock & Plitt 1984, doi:10.1016/S1474-6670(17)61205-9); what is left is a
small normal matrix with arrow structure: one block per trajectory and one for ``theta`` (`ArrowNormal`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sciml_discover.base import lazy_import

if TYPE_CHECKING:
    import torch
else:
    torch = lazy_import("torch")


SINGULAR = 1e-12
"""Eigenvalues of the scaled normal matrix below this, relative to the largest, are rounding errors."""


@dataclass(frozen=True)
class Nodes:
    """Every node's step as a function of the first node's step and of that of ``theta``.

    Attributes:
        matrix: shape ``(B, J, S, d, d + q)``.
        offset: the step that closes the defects alone, shape ``(B, J, S, d)``.
    """

    matrix: torch.Tensor
    offset: torch.Tensor


def condense(sensitivity: torch.Tensor, defect: torch.Tensor) -> Nodes:
    """Return the linearised continuity conditions solved for the nodes.

    Args:
        sensitivity: of each segment's end by its begin and ``theta``, shape ``(B, J, S, d, d + q)``.
        defect: end of each segment minus the next node, shape ``(B, J, S - 1, d)``.
    """
    batch, count, segments, dimension, columns = sensitivity.shape
    matrix = sensitivity.new_zeros(batch, count, segments, dimension, columns)
    offset = sensitivity.new_zeros(batch, count, segments, dimension)
    matrix[:, :, 0, :, :dimension] = torch.eye(dimension, dtype=matrix.dtype, device=matrix.device)
    transition, forcing = sensitivity[..., :dimension], sensitivity[..., dimension:]
    for segment in range(segments - 1):
        following = transition[:, :, segment] @ matrix[:, :, segment]
        following[..., dimension:] += forcing[:, :, segment]
        matrix[:, :, segment + 1] = following
        shifted = (transition[:, :, segment] @ offset[:, :, segment, :, None])[..., 0]
        offset[:, :, segment + 1] = shifted + defect[:, :, segment]
    return Nodes(matrix, offset)


@dataclass(frozen=True)
class ArrowNormal:
    """Normal equations with one block per trajectory and a shared block.

    Attributes:
        own: shape ``(B, J, d, d)``.
        cross: shape ``(B, J, d, q)``.
        shared: shape ``(B, q, q)``.
        own_gradient: shape ``(B, J, d)``.
        shared_gradient: shape ``(B, q)``.
    """

    own: torch.Tensor
    cross: torch.Tensor
    shared: torch.Tensor
    own_gradient: torch.Tensor
    shared_gradient: torch.Tensor

    @classmethod
    def assemble(
        cls, jacobian: torch.Tensor, residual: torch.Tensor, precision: torch.Tensor, theta: torch.Tensor
    ) -> ArrowNormal:
        """Return the normal equations of residual rows and of a Gaussian prior of ``theta``.

        Args:
            jacobian: shape ``(B, J, rows, d + q)``.
            residual: shape ``(B, J, rows)``.
            precision: of the prior of ``theta`` around zero, shape ``(B, q)``.
            theta: shape ``(B, q)``.
        """
        own_width = jacobian.shape[-1] - theta.shape[-1]
        full = jacobian.transpose(-1, -2) @ jacobian
        gradient = (jacobian.transpose(-1, -2) @ residual[..., None])[..., 0]
        return cls(
            own=full[..., :own_width, :own_width],
            cross=full[..., :own_width, own_width:],
            shared=full[..., own_width:, own_width:].sum(1) + torch.diag_embed(precision),
            own_gradient=gradient[..., :own_width],
            shared_gradient=gradient[..., own_width:].sum(1) + precision * theta,
        )

    def solve(self, damping: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the damped Gauss-Newton steps of the first nodes and of ``theta``.

        Damping is relative to the diagonal (Marquardt 1963, doi:10.1137/0111030). Where the matrix is not positive
        definite the step is NaN, which the optimizer answers with more damping.

        Args:
            damping: shape ``(B,)``.
        """
        own = _damped(self.own, damping[:, None])
        shared = _damped(self.shared, damping)
        right = torch.cat([self.cross, self.own_gradient[..., None]], dim=-1)
        eliminated = _solve_positive(own, right)
        reduction = self.cross.transpose(-1, -2) @ eliminated
        matrix = shared - reduction[..., :-1].sum(1)
        vector = self.shared_gradient - reduction[..., -1].sum(1)
        shared_step = -_solve_positive(matrix, vector[..., None])[..., 0]
        own_step = -eliminated[..., -1] - (eliminated[..., :-1] @ shared_step[:, None, :, None])[..., 0]
        return own_step, shared_step

    def predicted_change(self, own_step: torch.Tensor, shared_step: torch.Tensor) -> torch.Tensor:
        """Return the change of half the squared norm that the linear model promises, shape ``(B,)``."""
        linear = (self.own_gradient * own_step).sum((1, 2)) + (self.shared_gradient * shared_step).sum(1)
        coupled = (self.cross @ shared_step[:, None, :, None])[..., 0]
        quadratic = (own_step * (self.own @ own_step[..., None])[..., 0]).sum((1, 2))
        quadratic = quadratic + 2.0 * (own_step * coupled).sum((1, 2))
        quadratic = quadratic + (shared_step * (self.shared @ shared_step[..., None])[..., 0]).sum(1)
        return linear + 0.5 * quadratic

    def fisher(self) -> torch.Tensor:
        """Return the whole normal matrix, ``theta`` first and then the first nodes of all trajectories."""
        batch, count, own_width, _ = self.own.shape
        shared_width = self.shared.shape[-1]
        size = shared_width + count * own_width
        full = self.own.new_zeros(batch, size, size)
        full[:, :shared_width, :shared_width] = self.shared
        for j in range(count):
            block = slice(shared_width + j * own_width, shared_width + (j + 1) * own_width)
            full[:, block, block] = self.own[:, j]
            full[:, block, :shared_width] = self.cross[:, j]
            full[:, :shared_width, block] = self.cross[:, j].transpose(-1, -2)
        return full

    def covariance(self) -> torch.Tensor:
        """Return the inverse of `fisher`; variances are infinite where the data say nothing.

        A direction counts as unseen when its eigenvalue, in the matrix scaled to unit diagonal, is lost in
        rounding; every unknown that such a direction moves gets an infinite variance. So do all unknowns of a
        member whose matrix is not finite.
        """
        full = self.fisher()
        finite = torch.isfinite(full).flatten(1).all(1)[:, None, None]
        full = torch.where(finite, full, 0.0)
        scale = full.diagonal(dim1=-2, dim2=-1).clamp_min(1e-300).rsqrt()
        values, vectors = torch.linalg.eigh(full * scale[:, :, None] * scale[:, None, :])
        unseen = values < SINGULAR * values[:, -1:].clamp_min(1e-300)
        inverse = torch.where(unseen, 0.0, 1.0 / torch.where(unseen, 1.0, values))
        covariance = (vectors * inverse[:, None, :]) @ vectors.transpose(-1, -2)
        covariance = covariance * scale[:, :, None] * scale[:, None, :]
        moved = ((vectors.square() * unseen[:, None, :]).sum(-1) > 1e-4) | (scale > 1e140)
        return covariance + torch.diag_embed(torch.where(moved, torch.inf, 0.0))


@dataclass(frozen=True)
class DenseNormal:
    """Normal equations without structure: ``matrix`` ``(B, n, n)`` and ``gradient`` ``(B, n)``."""

    matrix: torch.Tensor
    gradient: torch.Tensor

    @classmethod
    def assemble(
        cls, jacobian: torch.Tensor, residual: torch.Tensor, precision: torch.Tensor, unknowns: torch.Tensor
    ) -> DenseNormal:
        """Return the normal equations of a Jacobian ``(B, rows, n)`` and of a Gaussian prior around zero."""
        transposed = jacobian.transpose(-1, -2)
        return cls(
            matrix=transposed @ jacobian + torch.diag_embed(precision),
            gradient=(transposed @ residual[..., None])[..., 0] + precision * unknowns,
        )

    def solve(self, damping: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the damped step and the promised change of the cost."""
        step = -_solve_positive(_damped(self.matrix, damping), self.gradient[..., None])[..., 0]
        product = (self.matrix @ step[..., None])[..., 0]
        return step, (self.gradient * step).sum(1) + 0.5 * (step * product).sum(1)


@dataclass(frozen=True)
class TridiagonalNormal:
    """Normal equations of nodes coupled to their neighbours, and of a shared ``theta``.

    Attributes:
        diagonal: shape ``(B, J, S, d, d)``.
        upper: couples each node to the next, shape ``(B, J, S - 1, d, d)``.
        border: couples nodes to ``theta``, shape ``(B, J, S, d, q)``.
        shared: shape ``(B, q, q)``.
        node_gradient: shape ``(B, J, S, d)``.
        shared_gradient: shape ``(B, q)``.
    """

    diagonal: torch.Tensor
    upper: torch.Tensor
    border: torch.Tensor
    shared: torch.Tensor
    node_gradient: torch.Tensor
    shared_gradient: torch.Tensor

    def solve(self, damping: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the damped steps of the nodes and of ``theta``, and the promised change of the cost.

        Block elimination from the first node to the last, then ``theta``, then back.

        Args:
            damping: relative to the diagonal, shape ``(B,)``.
        """
        diagonal = _damped(self.diagonal, damping[:, None, None])
        shared = _damped(self.shared, damping)
        segments, dimension = self.diagonal.shape[2:4]
        right = torch.cat([self.border, self.node_gradient[..., None]], dim=-1)
        eliminated, reduction = [], torch.zeros_like(right[:, :, 0].transpose(-1, -2) @ right[:, :, 0])
        pivot, column = diagonal[:, :, 0], right[:, :, 0]
        for segment in range(segments):
            last = segment == segments - 1
            both = column if last else torch.cat([self.upper[:, :, segment], column], dim=-1)
            solved = _solve_positive(pivot, both)
            eliminated.append(solved)
            own = solved if last else solved[..., dimension:]
            reduction = reduction + column.transpose(-1, -2) @ own
            if not last:
                lower = self.upper[:, :, segment].transpose(-1, -2)
                pivot = diagonal[:, :, segment + 1] - lower @ solved[..., :dimension]
                column = right[:, :, segment + 1] - lower @ own
        total = reduction.sum(1)
        matrix = shared - total[..., :-1, :-1]
        vector = self.shared_gradient - total[..., :-1, -1]
        shared_step = -_solve_positive(matrix, vector[..., None])[..., 0]
        steps = torch.empty_like(self.node_gradient)
        for segment in reversed(range(segments)):
            solved = eliminated[segment]
            own = solved[..., -1 - shared_step.shape[-1] :]
            step = -own[..., -1] - (own[..., :-1] @ shared_step[:, None, :, None])[..., 0]
            if segment < segments - 1:
                step = step - (solved[..., :dimension] @ steps[:, :, segment + 1, :, None])[..., 0]
            steps[:, :, segment] = step
        return steps, shared_step, self._predicted_change(steps, shared_step)

    def _predicted_change(self, steps: torch.Tensor, shared_step: torch.Tensor) -> torch.Tensor:
        product = (self.diagonal @ steps[..., None])[..., 0]
        product = product + 2.0 * (self.border @ shared_step[:, None, None, :, None])[..., 0]
        product[:, :, :-1] += 2.0 * (self.upper @ steps[:, :, 1:, :, None])[..., 0]
        shared_product = (self.shared @ shared_step[..., None])[..., 0]
        linear = (self.node_gradient * steps).sum((1, 2, 3)) + (self.shared_gradient * shared_step).sum(1)
        return linear + 0.5 * ((steps * product).sum((1, 2, 3)) + (shared_step * shared_product).sum(1))


def _damped(matrix: torch.Tensor, damping: torch.Tensor) -> torch.Tensor:
    diagonal = matrix.diagonal(dim1=-2, dim2=-1)
    floor = 1e-14 * diagonal.amax(-1, keepdim=True) + 1e-300
    return matrix + torch.diag_embed(damping[..., None] * torch.maximum(diagonal, floor))


def _solve_positive(matrix: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Solve with a unit-diagonal scaling, NaN where the matrix is not positive definite."""
    scale = matrix.diagonal(dim1=-2, dim2=-1).clamp_min(1e-300).rsqrt()
    scaled = matrix * scale[..., :, None] * scale[..., None, :]
    factor, failed = torch.linalg.cholesky_ex(scaled)
    solution = torch.cholesky_solve(right * scale[..., None], factor) * scale[..., None]
    return torch.where((failed != 0)[..., None, None], torch.full_like(solution, torch.nan), solution)
