"""Dense positive definite solves with Levenberg-Marquardt damping, for a batch of matrices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sciml_discover.base import lazy_import

if TYPE_CHECKING:
    import torch
else:
    torch = lazy_import("torch")


def damped(matrix: torch.Tensor, damping: torch.Tensor) -> torch.Tensor:
    """Return matrices with a damping relative to their diagonals added (Marquardt 1963, doi:10.1137/0111030)."""
    if not matrix.shape[-1]:
        return matrix
    scale = damping_scale(matrix.diagonal(dim1=-2, dim2=-1))
    return matrix + torch.diag_embed(damping[..., None] * scale)


def damping_scale(diagonal: torch.Tensor) -> torch.Tensor:
    """Return what the damping multiplies: the diagonal ``(..., n)``, kept from zero."""
    if not diagonal.shape[-1]:
        return diagonal
    return torch.maximum(diagonal, 1e-14 * diagonal.amax(-1, keepdim=True) + 1e-300)


def solve_positive(matrix: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Solve with a unit-diagonal scaling, NaN where the matrix is not positive definite."""
    scale = matrix.diagonal(dim1=-2, dim2=-1).clamp_min(1e-300).rsqrt()
    scaled = matrix * scale[..., :, None] * scale[..., None, :]
    factor, failed = torch.linalg.cholesky_ex(scaled)
    solution = torch.cholesky_solve(right * scale[..., None], factor) * scale[..., None]
    return torch.where((failed != 0)[..., None, None], torch.full_like(solution, torch.nan), solution)


def inverse_positive(matrix: torch.Tensor) -> torch.Tensor:
    """Return the inverses of small matrices, NaN where they are not positive definite.

    To multiply by these is several times faster than to solve with many columns, one small matrix after another.
    """
    size = matrix.shape[-1]
    unit = torch.eye(size, dtype=matrix.dtype, device=matrix.device).expand(matrix.shape)
    return solve_positive(matrix, unit)


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
        step = -solve_positive(damped(self.matrix, damping), self.gradient[..., None])[..., 0]
        product = (self.matrix @ step[..., None])[..., 0]
        return step, (self.gradient * step).sum(1) + 0.5 * (step * product).sum(1)
