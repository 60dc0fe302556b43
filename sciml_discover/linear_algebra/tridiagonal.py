"""Continuity as a penalty: nodes coupled to their neighbours, bordered by ``theta``.

Nodes are eliminated by cyclic reduction (Heller 1976, doi:10.1137/0713042): every other node at once, then every
other one of those left. That is Cholesky's method with the nodes in another order, so it is as stable, its cost grows
linearly with the number of nodes, and 100 000 nodes take 17 batched sweeps instead of 100 000 small steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sciml_discover.base import lazy_import
from sciml_discover.linear_algebra.arrow import ArrowNormal
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
        node_damping: what the damping of a node multiplies, shape broadcastable to ``(B, J, N, d)``; the diagonal
            itself unless given.
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
        reduced = _eliminate(self._damped_diagonal(damping), self.upper, self._right())
        schur, gradient = self._schur(reduced)
        shared_step = -solve_positive(damped(schur, damping), gradient[..., None])[..., 0]
        nodes = _substitute(reduced, shared_step)
        return nodes, shared_step, self._predicted_change(nodes, shared_step)

    def marginal_precision(self) -> torch.Tensor:
        """Return the precision of ``theta`` once the nodes are integrated out, shape ``(B, q, q)``."""
        return self._schur(_eliminate(self.diagonal, self.upper, self._right()))[0]

    def arrow(self) -> ArrowNormal:
        """Return the normal equations that are left once all nodes but the first of each trajectory are eliminated."""
        reduced = _eliminate(self.diagonal, self.upper, self._right())
        return ArrowNormal(
            own=reduced.last[0][:, :, 0],
            cross=reduced.last[1][:, :, 0, :, :-1],
            shared=self.shared - reduced.without_root[..., :-1, :-1],
            own_gradient=reduced.last[1][:, :, 0, :, -1],
            shared_gradient=self.shared_gradient - reduced.without_root[..., :-1, -1],
        )

    def _damped_diagonal(self, damping: torch.Tensor) -> torch.Tensor:
        return self.diagonal + torch.diag_embed(
            (damping[:, None, None, None] * self.node_damping).expand(self.node_gradient.shape)
        )

    def _right(self) -> torch.Tensor:
        return torch.cat([self.border, self.node_gradient[..., None]], dim=-1)

    def _schur(self, reduced: _Reduced) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the matrix and the gradient of ``theta`` after the elimination of all nodes."""
        total = reduced.product
        return self.shared - total[..., :-1, :-1], self.shared_gradient - total[..., :-1, -1]

    def _predicted_change(self, steps: torch.Tensor, shared_step: torch.Tensor) -> torch.Tensor:
        product = (self.diagonal @ steps[..., None])[..., 0]
        product = product + 2.0 * (self.border @ shared_step[:, None, None, :, None])[..., 0]
        product[:, :, :-1] += 2.0 * (self.upper @ steps[:, :, 1:, :, None])[..., 0]
        shared_product = (self.shared @ shared_step[..., None])[..., 0]
        linear = (self.node_gradient * steps).sum((1, 2, 3)) + (self.shared_gradient * shared_step).sum(1)
        return linear + 0.5 * ((steps * product).sum((1, 2, 3)) + (shared_step * shared_product).sum(1))


@dataclass(frozen=True)
class _Level:
    """The nodes that one sweep eliminated, as functions of their neighbours and of the right-hand sides.

    Attributes:
        right: shape ``(B, J, n, d, c)``.
        by_left: shape ``(B, J, n, d, d)``.
        by_right: of those with a right neighbour, shape ``(B, J, n or n - 1, d, d)``.
    """

    right: torch.Tensor
    by_left: torch.Tensor
    by_right: torch.Tensor


@dataclass(frozen=True)
class _Reduced:
    """All sweeps.

    Attributes:
        levels: one per sweep.
        last: diagonal and right-hand sides of the node that is left, the first.
        root: their solution.
        without_root: right-hand sides x inverse x right-hand sides of all nodes but the first, ``(B, c, c)``.
        product: the same of all nodes.
    """

    levels: list[_Level]
    last: tuple[torch.Tensor, torch.Tensor]
    root: torch.Tensor
    without_root: torch.Tensor
    product: torch.Tensor


def _eliminate(diagonal: torch.Tensor, upper: torch.Tensor, right: torch.Tensor) -> _Reduced:
    """Eliminate every other node, and again, until one is left."""
    dimension, levels = diagonal.shape[-1], []
    product = right.new_zeros(len(right), right.shape[-1], right.shape[-1])
    while diagonal.shape[2] > 1:
        to_left, to_right = upper[:, :, 0::2], upper[:, :, 1::2]
        odd, own = diagonal[:, :, 1::2], right[:, :, 1::2]
        pairs = to_right.shape[2]
        beside = torch.zeros_like(to_left)
        beside[:, :, :pairs] = to_right
        solved = solve_positive(odd, torch.cat([to_left.transpose(-1, -2), beside, own], dim=-1))
        by_left = solved[..., :dimension]
        by_right = solved[:, :, :pairs, :, dimension : 2 * dimension]
        by_own = solved[..., 2 * dimension :]
        levels.append(_Level(by_own, by_left, by_right))
        product = product + own.flatten(1, 3).transpose(-1, -2) @ by_own.flatten(1, 3)

        even = diagonal[:, :, 0::2].clone()
        rest = right[:, :, 0::2].clone()
        eliminated = odd.shape[2]
        even[:, :, :eliminated] -= to_left @ by_left
        rest[:, :, :eliminated] -= to_left @ by_own
        back = to_right.transpose(-1, -2)
        even[:, :, 1 : pairs + 1] -= back @ by_right
        rest[:, :, 1 : pairs + 1] -= back @ by_own[:, :, :pairs]
        upper = -(to_left[:, :, :pairs] @ by_right)
        diagonal, right = even, rest
    root = solve_positive(diagonal, right)
    whole = product + right.flatten(1, 3).transpose(-1, -2) @ root.flatten(1, 3)
    return _Reduced(levels, (diagonal, right), root, product, whole)


def _substitute(reduced: _Reduced, shared_step: torch.Tensor) -> torch.Tensor:
    """Return the steps of all nodes, from the last one left to those eliminated first."""
    both = torch.cat([shared_step, shared_step.new_ones(len(shared_step), 1)], dim=1)[:, None, None, :, None]
    steps = -(reduced.root @ both)[..., 0]
    for level in reversed(reduced.levels):
        pairs, eliminated = level.by_right.shape[2], level.by_left.shape[2]
        odd = -(level.right @ both)[..., 0]
        odd -= (level.by_left @ steps[:, :, :eliminated, :, None])[..., 0]
        odd[:, :, :pairs] -= (level.by_right @ steps[:, :, 1 : pairs + 1, :, None])[..., 0]
        whole = steps.new_empty(*steps.shape[:2], steps.shape[2] + eliminated, steps.shape[3])
        whole[:, :, 0::2], whole[:, :, 1::2] = steps, odd
        steps = whole
    return steps
