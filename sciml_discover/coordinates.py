"""Numbers between bounds in unbounded coordinates, where every step of an optimizer is allowed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from sciml_discover.base import lazy_import

if TYPE_CHECKING:
    import torch
else:
    torch = lazy_import("torch")


NEAR = 1e-4
"""Of the width between bounds: nearer to a bound than this, a number is at it, and has no error of its own."""

FLAT, BACK = 5.0, 2.0
"""Coordinates of numbers that ran towards a bound, to within a hundredth of the width, and where they are put back to,
an eighth of it away."""


class Coordinates:
    """Smooth coordinates, all of order one, of ``n`` numbers.

    A number with bounds is a logistic curve between them, or its logarithm is; one without is a multiple of its scale.

    Args:
        low: lower bounds, minus infinity for none.
        high: upper bounds, infinity for none.
        scale: typical magnitudes of the numbers without bounds.
        logarithmic: which numbers with positive bounds may span decades; none unless given.
        device: where the tensors live.

    Example:
        >>> decades = Coordinates([0.01], [100.0], [1.0], [True])
        >>> round(decades.physical(torch.zeros(1)).item(), 6)
        1.0
    """

    def __init__(
        self,
        low: Sequence[float],
        high: Sequence[float],
        scale: Sequence[float],
        logarithmic: Sequence[bool] | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        log = np.zeros(len(low), dtype=bool) if logarithmic is None else np.array(logarithmic, dtype=bool)
        ends = []
        for bounds in (low, high):
            end = np.array(bounds, dtype=float)
            end[log] = np.log(end[log])
            ends.append(torch.as_tensor(end, device=device))
        self._log = torch.as_tensor(log, device=device)
        self.scale = torch.as_tensor(np.array(scale, dtype=float), device=device)
        self.bounded = torch.isfinite(ends[0]) & torch.isfinite(ends[1])
        self.width = torch.where(self.bounded, ends[1] - ends[0], 1.0)
        self.base = torch.where(self.bounded, ends[0], 0.0)

    def coordinates(self, value: torch.Tensor) -> torch.Tensor:
        """Return the coordinates of numbers, shape ``(..., n)``."""
        # Only rounding is kept away from the bounds: a fitted value close to one must come back as it is.
        fraction = ((self._level(value) - self.base) / self.width).clamp(1e-12, 1.0 - 1e-12)
        return torch.where(self.bounded, torch.log(fraction / (1.0 - fraction)), value / self.scale)

    def inside(self, value: torch.Tensor) -> torch.Tensor:
        """Return numbers moved a thousandth of the width off a bound that they are at, where coordinates still move."""
        level = self._level(value)
        moved = level.clamp(self.base + 1e-3 * self.width, self.base + (1.0 - 1e-3) * self.width)
        moved = torch.where(self._log, torch.exp(moved), moved)
        at_bound = (level <= self.base) | (level >= self.base + self.width)
        return torch.where(self.bounded & at_bound, moved, value)

    def physical(self, coordinates: torch.Tensor) -> torch.Tensor:
        """Return the numbers at coordinates ``(..., n)``."""
        level = self.base + self.width * torch.sigmoid(coordinates)
        level = torch.where(self._log, torch.exp(torch.where(self._log, level, 0.0)), level)
        return torch.where(self.bounded, level, coordinates * self.scale)

    def at_bound(self, coordinates: torch.Tensor) -> torch.Tensor:
        """Return which numbers are within a ten-thousandth of the width of a bound, shape ``(..., n)``."""
        share = torch.sigmoid(coordinates)
        return self.bounded & ((share < NEAR) | (share > 1.0 - NEAR))

    def brought_back(self, coordinates: torch.Tensor) -> torch.Tensor:
        """Return coordinates ``(..., n)`` with those that ran towards a bound put back to where numbers still move.

        Out there the curve is flat, and no later step would find the way back.
        """
        ran = self.bounded & (coordinates.abs() > FLAT)
        return torch.where(ran, BACK * torch.sign(coordinates), coordinates)

    def slope(self, coordinates: torch.Tensor) -> torch.Tensor:
        """Return the derivative of each number by its coordinate, shape ``(..., n)``."""
        share = torch.sigmoid(coordinates)
        slope = self.width * share * (1.0 - share)
        slope = torch.where(self._log, slope * self.physical(coordinates), slope)
        return torch.where(self.bounded, slope, self.scale.expand_as(coordinates))

    def _level(self, value: torch.Tensor) -> torch.Tensor:
        """Return what is between the bounds: the number or its logarithm."""
        return torch.where(self._log, torch.log(torch.where(self._log, value, 1.0)), value)
