"""How ``theta`` moves the ends of intervals: a large matrix as an operator on a few intervals at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from sciml_discover.base import lazy_import
from sciml_discover.linear_algebra.outer import OuterProducts

if TYPE_CHECKING:
    import torch
else:
    torch = lazy_import("torch")

KEPT = 100_000_000
"""Numbers of outer products that are kept between two uses; beyond it they are computed anew."""

AT_ONCE = 4_000_000
"""Numbers in the outer products of the intervals that are worked on at once."""


class Forcing:
    """The derivative of every interval's end by ``theta``: rows ``(B, J, S, d)``, columns ``q``.

    ``theta`` is the parameters and then the weights of each hole; a hole has values at the ``s`` stages of an
    interval, and its derivatives by its weights there are outer products.

    Args:
        by_parameters: derivative of the ends by the parameters, shape ``(B, J, S, d, n)``.
        by_holes: derivative of the ends by the values of the holes, shape ``(B, J, S, d, s, holes)``.
        products: ``intervals`` -> per hole its derivative at their stages, points in the order ``(J, S, s)``.
        widths: number of weights of each hole.
        factors: numbers in the outer products of one stage, all holes together.
    """

    def __init__(
        self,
        by_parameters: torch.Tensor,
        by_holes: torch.Tensor,
        products: Callable[[slice], tuple[OuterProducts, ...]],
        widths: tuple[int, ...],
        factors: int,
    ) -> None:
        self.by_parameters, self.by_holes = by_parameters, by_holes
        self._products, self.widths, self._factors = products, widths, factors
        self._known: dict[tuple[int, int], tuple[OuterProducts, ...]] = {}

    @property
    def shape(self) -> torch.Size:
        """Shape of the rows: members, trajectories, intervals, states."""
        return self.by_parameters.shape[:4]

    @property
    def points(self) -> int:
        """Number of points at which the holes are evaluated."""
        _, count, intervals, _ = self.shape
        return count * intervals * self.by_holes.shape[4]

    @property
    def columns(self) -> int:
        """Number of unknowns of the equation."""
        return self.by_parameters.shape[-1] + sum(self.widths)

    def pieces(self, length: int) -> Iterator[slice]:
        """Yield all intervals, some at a time."""
        intervals = self.shape[2]
        for begin in range(0, intervals, length):
            yield slice(begin, min(begin + length, intervals))

    def dense(self, intervals: slice) -> torch.Tensor:
        """Return the matrix of some intervals, shape ``(B, J, intervals, d, q)``."""
        by_holes = self.by_holes[:, :, intervals]
        blocks = [self.by_parameters[:, :, intervals]]
        whole = intervals.stop - intervals.start == self.shape[2]
        products = self._kept(intervals) if whole else self._products(intervals)
        for number, hole in enumerate(products):
            derivative = hole.dense().reshape(*by_holes.shape[:3], by_holes.shape[4], hole.width)
            blocks.append(by_holes[..., number] @ derivative)
        return torch.cat(blocks, dim=-1) if len(blocks) > 1 else blocks[0]

    def at_stages(self, theta: torch.Tensor) -> torch.Tensor:
        """Return how a change of ``theta`` changes the holes at the stages, shape ``(B, J, S, s, holes)``."""
        _, count, intervals, _ = self.shape
        n_stages, batch = self.by_holes.shape[4], len(theta)
        if not self.widths:
            return self.by_holes.new_zeros(batch, count, intervals, n_stages, 0)
        found = []
        for piece in self._sweep():
            values, begin = [], self.by_parameters.shape[-1]
            for hole, width in zip(self._kept(piece), self.widths, strict=True):
                values.append(hole.forward(theta[:, begin : begin + width]))
                begin += width
            found.append(torch.stack(values, dim=-1).reshape(batch, count, -1, n_stages, len(values)))
        return found[0] if len(found) == 1 else torch.cat(found, dim=2)

    def at_ends(self, theta: torch.Tensor, at_stages: torch.Tensor) -> torch.Tensor:
        """Return how it changes the ends ``(B, J, S, d)``, from what it changes at the stages."""
        free = self.by_parameters.shape[-1]
        ends = (self.by_holes.flatten(-2) @ at_stages.flatten(-2)[..., None])[..., 0]
        if free:
            ends = ends + (self.by_parameters @ theta[:, None, None, :free, None])[..., 0]
        return ends

    def forward(self, theta: torch.Tensor) -> torch.Tensor:
        """Return the matrix times a change of ``theta``, shape ``(B, J, S, d)``."""
        return self.at_ends(theta, self.at_stages(theta))

    def backward(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the transposed matrix times rows ``(B, J, S, d)``, shape ``(B, q)``."""
        blocks = [(self.by_parameters * rows[..., None]).sum((1, 2, 3))]
        if self.widths:
            values = (self.by_holes.flatten(-2).transpose(-1, -2) @ rows[..., None])[..., 0]
            values = values.unflatten(-1, self.by_holes.shape[-2:])
            total = None
            for piece in self._sweep():
                some = values[:, :, piece].flatten(1, 3)
                parts = [hole.backward(some[..., h]) for h, hole in enumerate(self._kept(piece))]
                found = torch.cat(parts, dim=1)
                total = found if total is None else total + found
            if total is not None:
                blocks.append(total)
        return torch.cat(blocks, dim=1)

    def _sweep(self) -> Iterator[slice]:
        batch, count, _, _ = self.shape
        per_interval = batch * count * self.by_holes.shape[4] * self._factors
        return self.pieces(max(AT_ONCE // max(per_interval, 1), 1))

    def _kept(self, intervals: slice) -> tuple[OuterProducts, ...]:
        """Return the outer products of some intervals, from the last time where all of them fit into memory."""
        key = (intervals.start, intervals.stop)
        if key in self._known:
            return self._known[key]
        found = self._products(intervals)
        batch, count, total, _ = self.shape
        if batch * count * total * self.by_holes.shape[4] * self._factors <= KEPT:
            self._known[key] = found
        return found
