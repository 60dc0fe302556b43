"""Derivatives by the weights of a layer are outer products, and need not be written out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sciml_discover.base import lazy_import

if TYPE_CHECKING:
    import torch
else:
    torch = lazy_import("torch")


@dataclass(frozen=True)
class OuterProducts:
    """Derivative of one number at ``P`` points by its own weights: outer products, one after another, flat.

    Attributes:
        pairs: left factors ``(B, P, a)`` and right factors ``(B, P, b)`` of each product.
    """

    pairs: tuple[tuple[torch.Tensor, torch.Tensor], ...]

    @property
    def width(self) -> int:
        """Number of weights."""
        return sum(left.shape[-1] * right.shape[-1] for left, right in self.pairs)

    def dense(self) -> torch.Tensor:
        """Return the derivative written out, shape ``(B, P, width)``."""
        return torch.cat(
            [(left[..., :, None] * right[..., None, :]).flatten(-2) for left, right in self.pairs], dim=-1
        )

    def forward(self, weights: torch.Tensor) -> torch.Tensor:
        """Return the derivative times a change of the weights ``(B, width)``, shape ``(B, P)``."""
        total, begin = None, 0
        for left, right in self.pairs:
            end = begin + left.shape[-1] * right.shape[-1]
            matrix = weights[:, begin:end].reshape(-1, left.shape[-1], right.shape[-1])
            part = (torch.bmm(left, matrix) * right).sum(-1)
            total, begin = part if total is None else total + part, end
        return self.pairs[0][0].new_zeros(self.pairs[0][0].shape[:2]) if total is None else total

    def backward(self, values: torch.Tensor) -> torch.Tensor:
        """Return the transposed derivative times values ``(B, P)``, shape ``(B, width)``."""
        blocks = [
            torch.bmm(left.transpose(1, 2), right * values[..., None]).flatten(1)
            for left, right in self.pairs
        ]
        return torch.cat(blocks, dim=1)
