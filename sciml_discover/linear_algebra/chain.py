"""Elimination of nodes that are coupled to their neighbours.

Cyclic reduction (Heller 1976, doi:10.1137/0713042): every other node at once, then every other one of those left.
That is Cholesky's method with the nodes in another order, so it is as stable, its cost grows linearly with the number
of nodes, and 100 000 nodes take 17 batched sweeps instead of 100 000 small steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sciml_discover.base import lazy_import
from sciml_discover.linear_algebra.dense import inverse_positive, solve_positive

if TYPE_CHECKING:
    import torch
else:
    torch = lazy_import("torch")

FEW = 100
"""Nodes x states of a trajectory up to which one dense factorisation is faster than all sweeps."""


@dataclass(frozen=True)
class Level:
    """The nodes that one sweep eliminated, as functions of their neighbours.

    Attributes:
        inverse: of their blocks, shape ``(B, J, n, d, d)``.
        by_left: shape ``(B, J, n, d, d)``.
        by_right: of those with a right neighbour, shape ``(B, J, n or n - 1, d, d)``.
        right: their solved right-hand sides, shape ``(B, J, n, d, c)``; without columns if they are not kept.
    """

    inverse: torch.Tensor
    by_left: torch.Tensor
    by_right: torch.Tensor
    right: torch.Tensor


@dataclass(frozen=True)
class Reduced:
    """What is left after all sweeps.

    Attributes:
        levels: one per sweep.
        diagonal: of the nodes that are left: the first, and the last if it was kept.
        upper: what couples them.
        right: their right-hand sides.
        product: right-hand sides x inverse x right-hand sides of the nodes eliminated, shape ``(B, c, c)``.
    """

    levels: list[Level]
    diagonal: torch.Tensor
    upper: torch.Tensor
    right: torch.Tensor
    product: torch.Tensor


def eliminate(
    diagonal: torch.Tensor,
    upper: torch.Tensor,
    right: torch.Tensor,
    *,
    keep_last: bool = False,
    keep_right: bool = True,
) -> Reduced:
    """Eliminate every other node, and again, until one is left.

    Args:
        diagonal: shape ``(B, J, N, d, d)``.
        upper: couples each node to the next, shape ``(B, J, N - 1, d, d)``.
        right: right-hand sides, shape ``(B, J, N, d, c)``.
        keep_last: leave the last node too; ``N - 1`` must be a power of two.
        keep_right: keep the solved right-hand sides for `substitute`.
    """
    dimension, levels = diagonal.shape[-1], []
    product = right.new_zeros(len(right), right.shape[-1], right.shape[-1])
    while diagonal.shape[2] > 1 + keep_last:
        to_left, to_right = upper[:, :, 0::2], upper[:, :, 1::2]
        own, pairs = right[:, :, 1::2], to_right.shape[2]
        inverse = inverse_positive(diagonal[:, :, 1::2])
        by_left, by_right = inverse @ to_left.transpose(-1, -2), inverse[:, :, :pairs] @ to_right
        by_own = inverse @ own
        product = product + own.flatten(1, 3).transpose(-1, -2) @ by_own.flatten(1, 3)
        even, rest = diagonal[:, :, 0::2].clone(), right[:, :, 0::2].clone()
        eliminated = by_left.shape[2]
        even[:, :, :eliminated] -= to_left @ by_left
        rest[:, :, :eliminated] -= to_left @ by_own
        back = to_right.transpose(-1, -2)
        even[:, :, 1 : pairs + 1] -= back @ by_right
        rest[:, :, 1 : pairs + 1] -= back @ by_own[:, :, :pairs]
        upper = -(to_left[:, :, :pairs] @ by_right)
        levels.append(Level(inverse, by_left, by_right, by_own if keep_right else by_own[..., :0]))
        diagonal, right = even, rest
    if keep_last and dimension and diagonal.shape[2] != 2:
        raise ValueError("got a number of intervals that is no power of two")
    return Reduced(levels, diagonal, upper, right, product)


def substitute(reduced: Reduced, root: torch.Tensor, combine: torch.Tensor) -> torch.Tensor:
    """Return all nodes ``(B, J, N, d, k)``, from the last one left to those eliminated first.

    Args:
        reduced: with one node left and the right-hand sides kept.
        root: solution of the node that is left, shape ``(B, J, 1, d, c)``.
        combine: which columns to add up, shape ``(B, c, k)``.
    """
    combine = combine[:, None, None]
    steps = root @ combine
    for level in reversed(reduced.levels):
        steps = _interleaved(steps, level.right @ combine, level)
    return steps


def _interleaved(steps: torch.Tensor, odd: torch.Tensor, level: Level) -> torch.Tensor:
    """Return the nodes of one sweep and those eliminated in it, which follow from their neighbours."""
    pairs, eliminated = level.by_right.shape[2], level.by_left.shape[2]
    odd = odd - level.by_left @ steps[:, :, :eliminated]
    odd[:, :, :pairs] -= level.by_right @ steps[:, :, 1 : pairs + 1]
    whole = steps.new_empty(*steps.shape[:2], steps.shape[2] + eliminated, *steps.shape[3:])
    whole[:, :, 0::2], whole[:, :, 1::2] = steps, odd
    return whole


class NodeSolver:
    """The nodes' matrix, factorised once and for all right-hand sides.

    Args:
        diagonal: shape ``(B, J, N, d, d)``.
        upper: couples each node to the next, shape ``(B, J, N - 1, d, d)``.
    """

    def __init__(self, diagonal: torch.Tensor, upper: torch.Tensor) -> None:
        self._reduced: Reduced | None = None
        nodes, dimension = diagonal.shape[2:4]
        if nodes * dimension <= FEW:
            self._root = inverse_factor(dense_nodes(diagonal, upper))
            return
        self._reduced = eliminate(diagonal, upper, diagonal.new_zeros(*diagonal.shape[:4], 0))
        self._root = inverse_positive(self._reduced.diagonal)

    def solve(self, right: torch.Tensor) -> torch.Tensor:
        """Return the solution for right-hand sides ``(B, J, N, d, c)``."""
        if self._reduced is None:
            flat = self._root @ right.flatten(2, 3)
            return (self._root.transpose(-1, -2) @ flat).reshape(right.shape)
        waiting = []
        for level in self._reduced.levels:
            own, rest = right[:, :, 1::2], right[:, :, 0::2].clone()
            pairs, eliminated = level.by_right.shape[2], level.by_left.shape[2]
            rest[:, :, :eliminated] -= level.by_left.transpose(-1, -2) @ own
            rest[:, :, 1 : pairs + 1] -= level.by_right.transpose(-1, -2) @ own[:, :, :pairs]
            waiting.append(level.inverse @ own)
            right = rest
        steps = self._root @ right
        for level, odd in zip(reversed(self._reduced.levels), reversed(waiting), strict=True):
            steps = _interleaved(steps, odd, level)
        return steps


def dense_nodes(diagonal: torch.Tensor, upper: torch.Tensor) -> torch.Tensor:
    """Return the lower triangle of the nodes' matrix written out, shape ``(B, J, N d, N d)``."""
    batch, count, nodes, dimension, _ = diagonal.shape
    full = diagonal.new_zeros(batch, count, nodes, nodes, dimension, dimension)
    full.diagonal(dim1=2, dim2=3).copy_(diagonal.permute(0, 1, 3, 4, 2))
    if nodes > 1:
        full.diagonal(offset=-1, dim1=2, dim2=3).copy_(upper.permute(0, 1, 4, 3, 2))
    return full.transpose(3, 4).reshape(batch, count, nodes * dimension, nodes * dimension)


def inverse_factor(matrix: torch.Tensor) -> torch.Tensor:
    """Return ``F`` of ``matrix^-1 = F^T F``, NaN where the matrix is not positive definite."""
    scale = matrix.diagonal(dim1=-2, dim2=-1).clamp_min(1e-300).rsqrt()
    factor, failed = torch.linalg.cholesky_ex(matrix * scale[..., :, None] * scale[..., None, :])
    unit = torch.diag_embed(scale)
    solved = torch.linalg.solve_triangular(factor, unit, upper=False)
    return torch.where((failed != 0)[..., None, None], torch.nan, solved)


def solve_root(reduced: Reduced) -> torch.Tensor:
    """Return the solution of the only node that is left."""
    return solve_positive(reduced.diagonal, reduced.right)
