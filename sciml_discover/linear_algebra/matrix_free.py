"""Too many weights for any matrix of theirs: conjugate gradients, with products only.

Nodes are eliminated exactly, by a factorisation without border that is made once. What is left for ``theta`` is
``D + W^T M W`` (see `dual`), and a product with it takes one sweep forwards and one backwards through the networks.
The preconditioner is the same matrix of a sample of intervals. The step is inexact in the sense of Eisenstat & Walker
(1996, doi:10.1137/0917003): iterations end once the quadratic model gains nothing to speak of (Nash & Sofer 1990,
doi:10.1016/0167-6377(90)90059-D).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from sciml_discover.base import lazy_import
from sciml_discover.linear_algebra.chain import NodeSolver, dense_nodes, inverse_factor
from sciml_discover.linear_algebra.continuity import ContinuityProblem
from sciml_discover.linear_algebra.dense import damping_scale

if TYPE_CHECKING:
    import torch
else:
    torch = lazy_import("torch")

ACCURACY = 0.01
"""Iterations end once one more gains less than this, relative to the mean gain of those before it."""

MOST_ITERATIONS = 50
"""Most products with the matrix in one step; what they give is a descent direction in any case."""

ROUNDING = 1e-13
"""Residuals smaller than this, relative to the first in the norm of the preconditioner, are rounding errors."""

LEAST = 1e-9
"""Smallest diagonal of the preconditioner, relative to what the sample says."""

SLIGHTLY = 1e-11
"""How much the diagonal of the nodes' matrix grows within a window, relative to itself."""

FEWEST_SAMPLED, MOST_SAMPLED = 400, 1200
"""Continuity rows of the intervals that make the preconditioner."""

WINDOW = 16
"""Intervals in a row of which a sample consists: within it, continuity of the trajectories counts."""


def solve_matrix_free(
    problem: ContinuityProblem,
    damping: torch.Tensor,
    *,
    accuracy: float = ACCURACY,
    most: int = MOST_ITERATIONS,
    sampled: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return nearly the same steps as `solve_bordered`, of the nodes ``(B, J, N, d)`` and of ``theta`` ``(B, q)``.

    The damping of ``theta`` is relative to the diagonal that the sample of intervals leads to expect.

    Args:
        problem: what is solved.
        damping: shape ``(B,)``.
        accuracy: when iterations end.
        most: most iterations.
        sampled: rows of the sample for the preconditioner; as `rows_to_sample` says unless given.
    """
    weight, forcing = problem.weight, problem.forcing
    solver = NodeSolver(*problem.node_blocks(damping))
    slope = problem.node_gradient()
    pulled = problem.gather(solver.solve(slope[..., None]))[..., 0]
    gradient = problem.prior_gradient - weight * forcing.backward(problem.scaled - pulled)
    sample = data_factor(problem, damping, sampled)
    expected = problem.precision + sample.square().sum(1)
    diagonal = problem.precision + damping[:, None] * damping_scale(expected)

    def product(theta: torch.Tensor) -> torch.Tensor:
        rows = forcing.forward(theta)
        inner = problem.gather(solver.solve(problem.spread(rows[..., None])))[..., 0]
        return diagonal * theta + weight * forcing.backward(rows - weight * inner)

    # Where neither prior nor damping say anything, the preconditioner needs something to divide by.
    precondition = _preconditioner(torch.maximum(diagonal, LEAST * damping_scale(expected)), sample)
    theta = conjugate_gradients(product, precondition, -gradient, accuracy, most)
    right = slope - weight * problem.spread(forcing.forward(theta)[..., None])[..., 0]
    return -solver.solve(right[..., None])[..., 0], theta


def conjugate_gradients(
    product: Callable[[torch.Tensor], torch.Tensor],
    precondition: Callable[[torch.Tensor], torch.Tensor],
    right: torch.Tensor,
    accuracy: float,
    most: int,
) -> torch.Tensor:
    """Return nearly the solutions of a batch of positive definite systems, shape ``(B, q)``.

    A member whose numbers are not finite becomes NaN and does not disturb the others.

    Args:
        product: with the matrices.
        precondition: product with nearly their inverses.
        right: right-hand sides, shape ``(B, q)``.
        accuracy: a member is done once one more iteration gains less than this, relative to the mean gain so far.
        most: most iterations.
    """
    solution, residual = torch.zeros_like(right), right
    direction = preconditioned = precondition(residual)
    strength = (residual * preconditioned).sum(1)
    gained = torch.zeros_like(strength)
    # Below this, residuals are rounding errors. A comparison with NaN does not hold.
    least = ROUNDING**2 * strength
    open_ = strength > 0.0
    for iteration in range(1, most + 1):
        moved = product(direction)
        length = torch.where(open_, strength / (direction * moved).sum(1), 0.0)
        solution = solution + length[:, None] * direction
        residual = residual - length[:, None] * moved
        gain = 0.5 * length * strength
        gained = gained + gain
        open_ = open_ & (iteration * gain > accuracy * gained)
        if not bool(open_.any()):
            break
        preconditioned = precondition(residual)
        following = (residual * preconditioned).sum(1)
        open_ = open_ & (following > least)
        direction = preconditioned + (following / strength.clamp_min(1e-300))[:, None] * direction
        strength = following
    return torch.where(torch.isfinite(least)[:, None], solution, torch.nan)


def rows_to_sample(points: int) -> int:
    """Return how many rows make a sample that costs as much as a few products, with holes evaluated at ``points``."""
    return min(max(int((10.0 * points) ** 0.5), FEWEST_SAMPLED), MOST_SAMPLED)


def data_factor(
    problem: ContinuityProblem, damping: torch.Tensor | None = None, sampled: int | None = None
) -> torch.Tensor:
    """Return ``Z`` such that ``Z^T Z`` is what all intervals say about ``theta``, shape ``(B, m, q)``.

    It is what a sample of intervals says, times their share. Nodes are eliminated within each window of the sample
    alone, as though nothing were known around it. With few intervals the sample is all of them, and exact.

    Args:
        problem: what is solved.
        damping: of the nodes, shape ``(B,)``; none unless given.
        sampled: rows of the sample; as `rows_to_sample` says unless given.
    """
    sampled = sampled or rows_to_sample(problem.forcing.points)
    _, count, intervals, dimension = problem.scaled.shape
    if count * intervals * dimension <= sampled:
        return _windowed(problem, damping, slice(0, intervals)).flatten(1, 2)
    length = min(max(sampled // (count * dimension), 1), WINDOW, intervals)
    windows = min(max(sampled // (count * dimension * length), 1), intervals // length)
    # Of very many trajectories only some are looked at.
    stride = max((count * length * dimension) // sampled, 1)
    share = windows * length * len(range(0, count, stride)) / (intervals * count)
    found = []
    for number in range(windows):
        begin = round((number + 0.5) / windows * intervals - 0.5 * length)
        found.append(_windowed(problem, damping, slice(begin, begin + length))[:, ::stride])
    return torch.cat(found, dim=2).flatten(1, 2) / share**0.5


def _windowed(problem: ContinuityProblem, damping: torch.Tensor | None, intervals: slice) -> torch.Tensor:
    """Return the factor ``Z`` of the intervals of one window, shape ``(B, J, rows, q)``."""
    part = problem.part(intervals)
    batch, count, length, dimension = part.scaled.shape
    size = length * dimension
    forcing = problem.forcing.dense(intervals).flatten(2, 3)
    unit = torch.eye(size, dtype=forcing.dtype, device=forcing.device).reshape(length, dimension, size)
    spread = part.spread(unit.expand(batch, count, *unit.shape)).flatten(2, 3)
    nodes = dense_nodes(*part.node_blocks(damping))
    # What nothing is known about within the window is no reason to fail: the rows do not see it either.
    nodes.diagonal(dim1=-2, dim2=-1).mul_(1.0 + SLIGHTLY)
    half = inverse_factor(nodes) @ spread
    matrix = part.weight * (unit.reshape(size, size) - part.weight * half.transpose(-1, -2) @ half)
    finite = torch.isfinite(matrix).flatten(2).all(2)[..., None, None]
    values, vectors = torch.linalg.eigh(torch.where(finite, matrix, 0.0))
    return (vectors * values.clamp_min(0.0).sqrt()[..., None, :]).transpose(-1, -2) @ forcing


def _preconditioner(diagonal: torch.Tensor, sample: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return the product with the inverse of ``diagonal + sample^T sample``, by the smaller of the two shapes."""
    root = diagonal.rsqrt()
    scaled = sample * root[:, None, :]
    rows, columns = scaled.shape[1:]
    narrow = columns < rows
    inner = scaled.transpose(1, 2) @ scaled if narrow else scaled @ scaled.transpose(1, 2)
    inner.diagonal(dim1=1, dim2=2).add_(1.0)
    factor, failed = torch.linalg.cholesky_ex(inner)
    factor = torch.where((failed != 0)[:, None, None], torch.nan, factor)

    def apply(vector: torch.Tensor) -> torch.Tensor:
        vector = (root * vector)[..., None]
        if narrow:
            return root * torch.cholesky_solve(vector, factor)[..., 0]
        known = scaled.transpose(1, 2) @ torch.cholesky_solve(scaled @ vector, factor)
        return root * (vector - known)[..., 0]

    return apply
