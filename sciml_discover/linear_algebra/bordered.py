"""Nodes are eliminated, a few intervals at a time, and leave a dense matrix for ``theta``.

Cost: the number of intervals times the square of the number of weights. What is in memory at once does not grow with
the number of intervals.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sciml_discover.base import lazy_import
from sciml_discover.linear_algebra.arrow import ArrowNormal
from sciml_discover.linear_algebra.chain import (
    FEW,
    NodeSolver,
    Reduced,
    dense_nodes,
    eliminate,
    inverse_factor,
    solve_root,
    substitute,
)
from sciml_discover.linear_algebra.continuity import ContinuityProblem
from sciml_discover.linear_algebra.dense import damped, solve_positive

if TYPE_CHECKING:
    import torch
else:
    torch = lazy_import("torch")

AT_ONCE = 4_000_000
"""Numbers of the border that are worked on at once."""


def solve_bordered(
    problem: ContinuityProblem, damping: torch.Tensor, at_once: int = AT_ONCE
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the damped steps of the nodes ``(B, J, N, d)`` and of ``theta`` ``(B, q)``.

    Args:
        problem: what is solved.
        damping: shape ``(B,)``.
        at_once: numbers of the border that are worked on at once.
    """
    intervals, dimension = problem.scaled.shape[2:]
    length = _piece(problem, at_once)
    if length >= intervals and (intervals + 1) * dimension <= FEW:
        return _solve_few(problem, damping)
    reduced, shared, gradient = _reduce(problem, damping, length)
    root = solve_root(reduced)
    product = reduced.product + reduced.right.flatten(1, 3).transpose(-1, -2) @ root.flatten(1, 3)
    theta = _shared_step(shared, gradient, product, damping)
    if length >= intervals:
        return -substitute(reduced, root, _with_one(theta)[..., None])[..., 0], theta
    del reduced, root, shared, product
    forced = problem.forcing.forward(theta)
    right = problem.node_gradient() - problem.weight * problem.spread(forced[..., None])[..., 0]
    return -NodeSolver(*problem.node_blocks(damping)).solve(right[..., None])[..., 0], theta


def arrow(problem: ContinuityProblem, at_once: int = AT_ONCE) -> ArrowNormal:
    """Return the normal equations that are left once all nodes but the first of each trajectory are eliminated."""
    reduced, shared, gradient = _reduce(problem, None, _piece(problem, at_once))
    return ArrowNormal(
        own=reduced.diagonal[:, :, 0],
        cross=reduced.right[:, :, 0, :, :-1],
        shared=shared - reduced.product[..., :-1, :-1],
        own_gradient=reduced.right[:, :, 0, :, -1],
        shared_gradient=gradient - reduced.product[..., :-1, -1],
    )


def marginal_precision(problem: ContinuityProblem, at_once: int = AT_ONCE) -> torch.Tensor:
    """Return the precision of ``theta`` once the nodes are integrated out, shape ``(B, q, q)``."""
    reduced, shared, _ = _reduce(problem, None, _piece(problem, at_once))
    right = reduced.right[..., :-1]
    last = solve_positive(reduced.diagonal, right)
    taken = reduced.product[..., :-1, :-1] + right.flatten(1, 3).transpose(-1, -2) @ last.flatten(1, 3)
    return shared - taken


def _solve_few(problem: ContinuityProblem, damping: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Solve by one dense factorisation of all nodes of a trajectory, which takes the fewest operations."""
    right, shared, gradient = _border(problem, slice(0, problem.scaled.shape[2]))
    right[..., -1] += problem.node_gradient()
    factor = inverse_factor(dense_nodes(*problem.node_blocks(damping)))
    half = factor @ right.flatten(2, 3)
    flat = half.flatten(1, 2)
    theta = _shared_step(
        shared + torch.diag_embed(problem.precision),
        gradient + problem.prior_gradient,
        flat.transpose(-1, -2) @ flat,
        damping,
    )
    nodes = factor.transpose(-1, -2) @ (half @ _with_one(theta)[:, None, :, None])
    return -nodes.reshape(problem.data_gradient.shape), theta


def _shared_step(
    shared: torch.Tensor, gradient: torch.Tensor, product: torch.Tensor, damping: torch.Tensor
) -> torch.Tensor:
    """Return the step of ``theta``, given what the elimination of the nodes takes from its normal equations.

    Its damping is relative to the diagonal of the Schur complement, which is what the data say about it once every
    node follows: the diagonal of the whole matrix grows with the weight of the penalty and would freeze steps along
    the valley of continuous trajectories.
    """
    schur, slope = shared - product[..., :-1, :-1], gradient - product[..., :-1, -1]
    return -solve_positive(damped(schur, damping), slope[..., None])[..., 0]


def _with_one(theta: torch.Tensor) -> torch.Tensor:
    return torch.cat([theta, theta.new_ones(len(theta), 1)], dim=1)


def _border(problem: ContinuityProblem, intervals: slice) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return what couples nodes to ``theta``, with a column of zeros, and what the rows say about ``theta``."""
    forcing, weight = problem.forcing.dense(intervals), problem.weight
    right = forcing.new_zeros(
        *forcing.shape[:2], forcing.shape[2] + 1, forcing.shape[3], forcing.shape[4] + 1
    )
    right[..., :-1] = -weight * problem.part(intervals).spread(forcing)
    flat = forcing.flatten(1, 3)
    gradient = (
        -weight * (flat.transpose(-1, -2) @ problem.scaled[:, :, intervals].flatten(1)[..., None])[..., 0]
    )
    return right, weight * (flat.transpose(-1, -2) @ flat), gradient


def _reduce(
    problem: ContinuityProblem, damping: torch.Tensor | None, length: int
) -> tuple[Reduced, torch.Tensor, torch.Tensor]:
    """Eliminate all nodes but the first: at first those inside pieces, then the ends of the pieces.

    Returns:
        What is left of the nodes, and the matrix and the gradient of ``theta`` without what their elimination takes.
    """
    diagonal, upper = problem.node_blocks(damping)
    slope = problem.node_gradient()
    shared, gradient = torch.diag_embed(problem.precision), problem.prior_gradient
    intervals = problem.scaled.shape[2]
    product = shared.new_zeros(len(shared), shared.shape[-1] + 1, shared.shape[-1] + 1)
    ends = []
    for begin in range(0, intervals, length):
        piece = slice(begin, min(begin + length, intervals))
        right, own_shared, own_gradient = _border(problem, piece)
        shared, gradient = shared + own_shared, gradient + own_gradient
        last = piece.stop == intervals
        blocks = diagonal[:, :, begin : piece.stop + 1].clone()
        right[..., -1] = slope[:, :, begin : piece.stop + 1]
        if length < intervals:
            # What a piece's end itself contributes is added where the pieces are put together.
            for end in [0] if last else [0, -1]:
                blocks[:, :, end], right[:, :, end, :, -1] = 0.0, 0.0
        reduced = eliminate(
            blocks, upper[:, :, piece], right, keep_last=not last, keep_right=last and not begin
        )
        if length >= intervals:
            return reduced, shared, gradient
        product = product + reduced.product
        ends.append(reduced)
    chain = diagonal[:, :, 0:intervals:length].clone()
    right = torch.stack([item.right[:, :, 0] for item in ends], dim=2)
    right[..., -1] += slope[:, :, 0:intervals:length]
    chain += torch.stack([item.diagonal[:, :, 0] for item in ends], dim=2)
    chain[:, :, 1:] += torch.stack([item.diagonal[:, :, 1] for item in ends[:-1]], dim=2)
    right[:, :, 1:] += torch.stack([item.right[:, :, 1] for item in ends[:-1]], dim=2)
    between = torch.cat([item.upper for item in ends[:-1]], dim=2)
    coarse = eliminate(chain, between, right)
    return (
        Reduced(coarse.levels, coarse.diagonal, coarse.upper, coarse.right, coarse.product + product),
        shared,
        gradient,
    )


def _piece(problem: ContinuityProblem, at_once: int) -> int:
    """Return how many intervals are worked on at once: all, or a power of two."""
    batch, count, intervals, dimension = problem.scaled.shape
    most = max(at_once // (batch * count * dimension * (problem.forcing.columns + 1)), 1)
    return intervals if most >= intervals else 1 << (most.bit_length() - 1)
