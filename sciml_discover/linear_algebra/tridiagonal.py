"""Continuity as a penalty, multiplied out: nodes coupled to their neighbours, bordered by ``theta``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sciml_discover.base import lazy_import
from sciml_discover.linear_algebra.chain import Reduced, eliminate, solve_root, substitute
from sciml_discover.linear_algebra.dense import damped, solve_positive

if TYPE_CHECKING:
    import torch
else:
    torch = lazy_import("torch")


@dataclass(frozen=True)
class TridiagonalNormal:
    """Normal equations of nodes coupled to their neighbours, and of a shared ``theta``.

    Attributes:
        diagonal: shape ``(B, J, N, d, d)``.
        upper: couples each node to the next, shape ``(B, J, N - 1, d, d)``.
        border: couples nodes to ``theta``, shape ``(B, J, N, d, q)``.
        shared: shape ``(B, q, q)``.
        node_gradient: shape ``(B, J, N, d)``.
        shared_gradient: shape ``(B, q)``.
        node_damping: what the damping of a node multiplies, shape broadcastable to ``(B, J, N, d)``.
    """

    diagonal: torch.Tensor
    upper: torch.Tensor
    border: torch.Tensor
    shared: torch.Tensor
    node_gradient: torch.Tensor
    shared_gradient: torch.Tensor
    node_damping: torch.Tensor

    def solve(self, damping: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the damped steps of the nodes and of ``theta``, and the promised change of the cost.

        The damping of ``theta`` is relative to the diagonal of its Schur complement, which is what the data say
        about it once every node follows: the diagonal of the whole matrix grows with the weight of the penalty
        and would freeze steps along the valley of continuous trajectories.

        Args:
            damping: shape ``(B,)``.
        """
        reduced = eliminate(self._damped_diagonal(damping), self.upper, self._right())
        schur, gradient, _ = self._schur(reduced)
        shared_step = -solve_positive(damped(schur, damping), gradient[..., None])[..., 0]
        both = torch.cat([shared_step, shared_step.new_ones(len(shared_step), 1)], dim=1)
        nodes = -substitute(reduced, solve_root(reduced), both[..., None])[..., 0]
        return nodes, shared_step, self._predicted_change(nodes, shared_step)

    def marginal(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return matrix and gradient of ``theta`` once the nodes follow it, and what their own step takes off the cost.

        NaN where the nodes' matrix is not positive definite.
        """
        return self._schur(eliminate(self.diagonal, self.upper, self._right()))

    def _damped_diagonal(self, damping: torch.Tensor) -> torch.Tensor:
        return self.diagonal + torch.diag_embed(
            (damping[:, None, None, None] * self.node_damping).expand(self.node_gradient.shape)
        )

    def _right(self) -> torch.Tensor:
        return torch.cat([self.border, self.node_gradient[..., None]], dim=-1)

    def _schur(self, reduced: Reduced) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return matrix and gradient of ``theta`` once all nodes follow it, and what that takes off the cost."""
        root = solve_root(reduced).flatten(1, 3)
        taken = reduced.product + reduced.right.flatten(1, 3).transpose(-1, -2) @ root
        matrix, gradient = self.shared - taken[..., :-1, :-1], self.shared_gradient - taken[..., :-1, -1]
        return matrix, gradient, 0.5 * taken[..., -1, -1]

    def _predicted_change(self, steps: torch.Tensor, shared_step: torch.Tensor) -> torch.Tensor:
        product = (self.diagonal @ steps[..., None])[..., 0]
        product = product + 2.0 * (self.border @ shared_step[:, None, None, :, None])[..., 0]
        product[:, :, :-1] += 2.0 * (self.upper @ steps[:, :, 1:, :, None])[..., 0]
        shared_product = (self.shared @ shared_step[..., None])[..., 0]
        linear = (self.node_gradient * steps).sum((1, 2, 3)) + (self.shared_gradient * shared_step).sum(1)
        return linear + 0.5 * ((steps * product).sum((1, 2, 3)) + (shared_step * shared_product).sum(1))
