"""Continuity as an equality: every node from the first one, and the small arrow-shaped system that is left.

Equality-constrained continuity gives every node in terms of the first node of its trajectory and of ``theta``
(`condense`: Bock & Plitt 1984, doi:10.1016/S1474-6670(17)61205-9); what is left is a small normal matrix with arrow
structure: one block per trajectory and one for ``theta`` (`ArrowNormal`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sciml_discover.base import lazy_import
from sciml_discover.linear_algebra.dense import damped, solve_positive

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
        own = damped(self.own, damping[:, None])
        shared = damped(self.shared, damping)
        eliminated = solve_positive(own, self._right())
        reduction = self.cross.transpose(-1, -2) @ eliminated
        matrix = shared - reduction[..., :-1].sum(1)
        vector = self.shared_gradient - reduction[..., -1].sum(1)
        shared_step = -solve_positive(matrix, vector[..., None])[..., 0]
        own_step = -eliminated[..., -1] - (eliminated[..., :-1] @ shared_step[:, None, :, None])[..., 0]
        return own_step, shared_step

    def marginal(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return matrix and gradient of ``theta`` once the nodes follow it, and what their own step takes off the cost.

        NaN where a block of nodes is not positive definite.
        """
        right = self._right()
        taken = (right.transpose(-1, -2) @ solve_positive(self.own, right)).sum(1)
        matrix = self.shared - taken[..., :-1, :-1]
        return matrix, self.shared_gradient - taken[..., :-1, -1], 0.5 * taken[..., -1, -1]

    def _right(self) -> torch.Tensor:
        return torch.cat([self.cross, self.own_gradient[..., None]], dim=-1)

    def solve_holding(self, held: torch.Tensor, move: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return Gauss-Newton steps of the first nodes and of ``theta`` in which one number moves as told.

        Args:
            held: position in ``theta`` of each member's number, shape ``(B,)``.
            move: how far it goes, shape ``(B,)``.
        """
        matrix, rows = self.fisher(), torch.arange(len(held), device=held.device)
        gradient = torch.cat([self.shared_gradient, self.own_gradient.flatten(1)], dim=1)
        unit = torch.zeros_like(gradient)
        unit[rows, held] = 1.0
        scale = matrix.diagonal(dim1=-2, dim2=-1).clamp_min(1e-300).rsqrt()[:, :, None]
        right = torch.stack([-gradient, unit], dim=-1) * scale
        solved, _ = torch.linalg.solve_ex(matrix * scale * scale.transpose(-1, -2), right)
        free, along = (solved * scale).unbind(-1)
        # Along this direction only the gradient by the number held changes.
        step = free + along * ((move - free[rows, held]) / along[rows, held])[:, None]
        width = self.shared.shape[-1]
        return step[:, width:].reshape(self.own_gradient.shape), step[:, :width]

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
