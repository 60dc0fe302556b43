"""Continuity as a penalty, as a least-squares problem that has not been multiplied out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sciml_discover.linear_algebra.forcing import Forcing

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class ContinuityProblem:
    """Steps of nodes and ``theta`` that lower data misfit, prior and weighted continuity rows together.

    The continuity row of an interval is ``own dx_(i+1) - begin dx_i - forcing dtheta + scaled``, in units of the
    tolerances.

    Attributes:
        data: what data say about each node: their normal matrix, shape ``(B, J, N, d, d)``.
        data_gradient: shape ``(B, J, N, d)``.
        begin: how the begin of an interval moves its end, shape ``(B, J, N - 1, d, d)``.
        own: one over the tolerance of its end, shape broadcastable to ``(B, J, N - 1, d)``.
        scaled: how far the end is off, shape ``(B, J, N - 1, d)``.
        weight: of the squared rows.
        forcing: how ``theta`` moves the ends.
        precision: of the prior of ``theta``, shape ``(B, q)``.
        prior_gradient: of its part of the cost, shape ``(B, q)``.
        node_damping: what the damping of a node multiplies, shape broadcastable to ``(B, J, N, d)``.
    """

    data: torch.Tensor
    data_gradient: torch.Tensor
    begin: torch.Tensor
    own: torch.Tensor
    scaled: torch.Tensor
    weight: float
    forcing: Forcing
    precision: torch.Tensor
    prior_gradient: torch.Tensor
    node_damping: torch.Tensor

    @property
    def rows(self) -> int:
        """Number of continuity rows."""
        _, count, intervals, dimension = self.scaled.shape
        return count * intervals * dimension

    def node_blocks(self, damping: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the blocks of the nodes' matrix: its diagonal, and what couples each node to the next.

        Args:
            damping: shape ``(B,)``; None for no damping.
        """
        diagonal = self.data.clone()
        if damping is not None:
            scale = self.node_damping.expand(self.data_gradient.shape)
            diagonal.diagonal(dim1=-2, dim2=-1).add_(damping[:, None, None, None] * scale)
        transposed = self.weight * self.begin.transpose(-1, -2)
        diagonal[:, :, :-1] += transposed @ self.begin
        diagonal[:, :, 1:].diagonal(dim1=-2, dim2=-1).add_(self.weight * self.own.square())
        return diagonal, -transposed * self.own[..., None, :]

    def part(self, intervals: slice) -> ContinuityProblem:
        """Return the problem of some intervals and their nodes alone; its forcing is still that of all."""
        nodes = slice(intervals.start, intervals.stop + 1)
        own = self.own.expand(self.scaled.shape)
        damping = self.node_damping.expand(self.data_gradient.shape)
        return replace(
            self,
            data=self.data[:, :, nodes],
            data_gradient=self.data_gradient[:, :, nodes],
            begin=self.begin[:, :, intervals],
            own=own[:, :, intervals],
            scaled=self.scaled[:, :, intervals],
            node_damping=damping[:, :, nodes],
        )

    def spread(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the rows' derivatives by the nodes, transposed, times columns ``(B, J, N - 1, d, c)``.

        The weight is not among the factors; shape ``(B, J, N, d, c)``.
        """
        found = rows.new_zeros(*rows.shape[:2], rows.shape[2] + 1, *rows.shape[3:])
        found[:, :, 1:] = self.own[..., None] * rows
        found[:, :, :-1] -= self.begin.transpose(-1, -2) @ rows
        return found

    def gather(self, nodes: torch.Tensor) -> torch.Tensor:
        """Return the rows' derivatives by the nodes, times columns ``(B, J, N, d, c)``."""
        return self.own[..., None] * nodes[:, :, 1:] - self.begin @ nodes[:, :, :-1]

    def node_gradient(self) -> torch.Tensor:
        """Return the gradient of the cost by the nodes, shape ``(B, J, N, d)``."""
        return self.data_gradient + self.weight * self.spread(self.scaled[..., None])[..., 0]

    def predicted_change(
        self, nodes: torch.Tensor, theta: torch.Tensor, forced: torch.Tensor
    ) -> torch.Tensor:
        """Return the change of the cost that the linear model promises, shape ``(B,)``.

        Args:
            nodes: step of the nodes.
            theta: step of ``theta``.
            forced: `Forcing.forward` of it.
        """
        moved = self.gather(nodes[..., None])[..., 0] - forced
        product = (self.data @ nodes[..., None])[..., 0]
        at_nodes = (nodes * (self.data_gradient + 0.5 * product)).sum((1, 2, 3))
        at_rows = self.weight * (moved * (self.scaled + 0.5 * moved)).sum((1, 2, 3))
        return at_nodes + at_rows + (theta * (self.prior_gradient + 0.5 * self.precision * theta)).sum(1)
