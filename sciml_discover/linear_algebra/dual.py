"""Fewer continuity rows than weights: the system is solved for the rows instead of the weights.

With the nodes eliminated, the rows have the matrix ``M = w (I - w R A^-1 R^T)``, where ``A`` is the nodes' matrix,
``R`` the rows' derivative by the nodes and ``w`` their weight. With the rows' derivative by the weights ``W`` and a
diagonal ``D`` of prior and damping, the weights have the matrix ``D + W^T M W``, whose inverse needs a matrix of the
size of the rows only (Woodbury's identity: Golub & Van Loan 2013, section 2.1.4).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sciml_discover.base import lazy_import
from sciml_discover.linear_algebra.chain import NodeSolver
from sciml_discover.linear_algebra.continuity import ContinuityProblem
from sciml_discover.linear_algebra.dense import damping_scale

if TYPE_CHECKING:
    import torch
else:
    torch = lazy_import("torch")

LEAST = 1e-12
"""Smallest damping: where there is no prior, the diagonal must not be zero."""


def solve_dual(problem: ContinuityProblem, damping: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the same steps as `solve_bordered`, of the nodes ``(B, J, N, d)`` and of ``theta`` ``(B, q)``.

    Args:
        problem: what is solved.
        damping: shape ``(B,)``.
    """
    weight = problem.weight
    batch, count, intervals, dimension = problem.scaled.shape
    size = intervals * dimension
    forcing = problem.forcing.dense(slice(0, intervals)).flatten(2, 3)  # (B, J, size, q)
    unit = torch.eye(size, dtype=forcing.dtype, device=forcing.device).reshape(intervals, dimension, size)
    spread = problem.spread(unit.expand(batch, count, *unit.shape))
    slope = problem.node_gradient()
    solver = NodeSolver(*problem.node_blocks(damping))
    solved = solver.solve(torch.cat([spread, slope[..., None]], dim=-1))
    gathered = problem.gather(solved).flatten(2, 3)  # (B, J, size, size + 1)
    matrix = weight * (unit.reshape(size, size) - weight * gathered[..., :-1])
    weighted = matrix @ forcing
    rows, weighted_rows = forcing.flatten(1, 2), weighted.flatten(1, 2)  # (B, J size, q)
    diagonal = problem.precision + (rows * weighted_rows).sum(1)
    damped = damping.clamp_min(LEAST)[:, None] * damping_scale(diagonal)
    inverse = 1.0 / (problem.precision + damped)
    pull = weight * (problem.scaled.flatten(1) - gathered[..., -1].flatten(1))
    gradient = problem.prior_gradient - (rows.transpose(1, 2) @ pull[..., None])[..., 0]

    scaled = rows * inverse[:, None, :]
    system = scaled @ weighted_rows.transpose(1, 2)
    system.diagonal(dim1=1, dim2=2).add_(1.0)
    inner, _ = torch.linalg.solve_ex(system, scaled @ gradient[..., None])
    theta = -inverse * (gradient - (weighted_rows.transpose(1, 2) @ inner)[..., 0])

    forced = (forcing @ theta[:, None, :, None]).reshape(problem.scaled.shape)
    # The nodes' step, from what was solved already: columns of the rows' unit vectors, and the gradient's.
    columns = torch.cat([-weight * forced.flatten(2), forced.new_ones(batch, count, 1)], dim=-1)
    nodes = solved.flatten(2, 3) @ columns[..., None]
    return -nodes.reshape(slope.shape), theta
