"""Which of the methods for a `ContinuityProblem` is cheapest, by the number of operations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from sciml_discover.linear_algebra.bordered import solve_bordered
from sciml_discover.linear_algebra.continuity import ContinuityProblem
from sciml_discover.linear_algebra.dual import solve_dual
from sciml_discover.linear_algebra.matrix_free import rows_to_sample, solve_matrix_free

if TYPE_CHECKING:
    import torch

Method = Literal["bordered", "dual", "matrix-free"]
"""How a `ContinuityProblem` is solved."""

EXACT = 4e9
"""Operations up to which an exact method is taken in any case: a fraction of a second."""

USUAL_ITERATIONS = 20
"""Iterations of the matrix-free method that its estimate counts on."""

_SOLVE = {"bordered": solve_bordered, "dual": solve_dual, "matrix-free": solve_matrix_free}


def solve_continuity(
    problem: ContinuityProblem, damping: torch.Tensor, method: Method | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the damped steps of the nodes ``(B, J, N, d)`` and of ``theta`` ``(B, q)``.

    Args:
        problem: what is solved.
        damping: shape ``(B,)``.
        method: the cheapest unless given.
    """
    if method is None:
        forcing = problem.forcing
        method = cheapest(problem.rows, forcing.points, forcing.columns)
    return _SOLVE[method](problem, damping)


def cheapest(rows: int, points: int, columns: int) -> Method:
    """Return the cheapest method for one member of the batch.

    Args:
        rows: continuity rows.
        points: at which holes are evaluated.
        columns: unknowns of the equation.
    """
    bordered = 4.0 * rows * columns**2 + columns**3 / 3.0
    # Its few large products take a third of the time of as many operations on small blocks (measured).
    dual = 0.3 * (6.0 * rows**2 * columns + 6.0 * rows**3)
    exact: Method = "dual" if dual < bordered else "bordered"
    matrix_free = 4.0 * points * columns * USUAL_ITERATIONS + 2.0 * rows_to_sample(points) ** 2 * columns
    return exact if min(bordered, dual) <= max(EXACT, matrix_free) else "matrix-free"
