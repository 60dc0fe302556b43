"""What every law of the library could reach, to second order, seen from one trajectory.

Along a trajectory that fits the data, what stands in the holes is exchanged for a sum of library terms: one
linearization of the equation by the coefficients of the whole library, with initial states, continuity and free
parameters following, makes chi-square a quadratic function of all coefficients at once. The chi-square of any law is
then that of a small linear least-squares problem. Nothing is differentiated numerically and no sample of the
network is regressed: the comparison is made where the noise is, at the measured values (generalised least squares
through the linearised equation; Gauss-Newton's approximation, as the score test has it: Rao 1948,
doi:10.1017/S0305004100023987).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from sciml_discover.base import lazy_import
from sciml_discover.blocks import Blocks, Law
from sciml_discover.exchange import Exchange
from sciml_discover.holes import AbstractFilling
from sciml_discover.refit import Refitter

if TYPE_CHECKING:
    import torch
else:
    torch = lazy_import("torch")

RIDGE = 1e-10
"""Added to the unit diagonal of the scaled matrix of a law."""

ROUNDING = 1e-14
"""Relative error of the entries of the scaled matrix and of what is computed with them."""

COLLINEAR = 1e-8
"""Of a block's own curvature, what the blocks already there must leave, or it says nothing new."""

AT_ONCE = 20_000_000
"""Numbers that are held at a time."""

LARGEST = 200_000_000
"""Numbers in the normal equations of all rows of a batch, above which its members are looked at in parts."""


@dataclass(frozen=True)
class Outlook:
    """Chi-square of laws as a quadratic function of the coefficients of all columns on offer.

    Attributes:
        level: chi-square with nothing in the holes.
        slope: half of how it falls with each coefficient, scaled, with a zero at its end, shape ``(C + 1,)``.
        matrix: its second derivatives by halves, scaled to unit diagonal, with zeros at its end, shape
            ``(C + 1, C + 1)``.
        scale: coefficients are this times the scaled ones, shape ``(C + 1,)``.
        usable: columns that have a value and an effect, same shape; the padding of blocks at the end is usable.
    """

    level: float
    slope: np.ndarray
    matrix: np.ndarray
    scale: np.ndarray
    usable: np.ndarray

    @classmethod
    def of(cls, level: float, slope: np.ndarray, matrix: np.ndarray) -> Outlook:
        """Return the outlook for slope ``(C,)`` and matrix ``(C, C)`` of all columns."""
        count = len(slope)
        diagonal = np.diag(matrix)
        with np.errstate(invalid="ignore"):
            usable = np.isfinite(slope) & np.isfinite(diagonal) & (diagonal > 0)
        scale = np.zeros(count + 1)
        scale[:-1][usable] = diagonal[usable] ** -0.5
        padded, flat = np.zeros((count + 1, count + 1)), np.zeros(count + 1)
        both = np.ix_(usable, usable)
        padded[:-1, :-1][both] = (matrix * np.outer(scale[:-1], scale[:-1]))[both]
        flat[:-1][usable] = (slope * scale[:-1])[usable]
        return cls(level, flat, padded, scale, np.append(usable, True))

    def available(self, blocks: Blocks) -> np.ndarray:
        """Return which blocks' terms have columns that can be used, shape ``(U,)``."""
        terms = blocks.added.sum(axis=1)
        there = self.usable[blocks.columns] | (np.arange(blocks.columns.shape[1]) >= terms[:, None])
        return there.all(axis=1)

    def fit(self, blocks: Blocks, laws: Sequence[Law]) -> tuple[np.ndarray, np.ndarray]:
        """Return the smallest chi-square of laws ``(n,)`` and the coefficients there, of all columns ``(n, C)``."""
        columns = self._columns(blocks, laws)
        chi_square, fitted, _ = self._solved(columns)
        coefficients = np.zeros((len(laws), len(self.scale)))
        np.put_along_axis(coefficients, columns, fitted * self.scale[columns], axis=1)
        return np.maximum(chi_square, 0.0), coefficients[:, :-1]

    def chi_square(self, columns: np.ndarray) -> np.ndarray:
        """Return the smallest chi-square for sets of columns, shape ``(n, w)``, of shape ``(n,)``."""
        parts = np.array_split(columns, -(-columns.size * columns.shape[1] // AT_ONCE))
        return np.concatenate([self._solved(part)[0] for part in parts])

    def gains(self, blocks: Blocks, laws: Sequence[Law]) -> tuple[np.ndarray, np.ndarray]:
        """Return the smallest chi-square of laws ``(n,)``, and what each block more would take off it ``(n, U)``.

        It is NaN for blocks that say nothing new.
        """
        columns = self._columns(blocks, laws)
        chi_square, fitted, inverse = self._solved(columns)
        between = self.matrix[columns]  # (n, w, C + 1)
        slope = self.slope - (between * fitted[..., None]).sum(axis=1)
        reach = inverse @ between
        if blocks.columns.shape[1] == 1:
            own = blocks.columns[:, 0]
            left = np.diag(self.matrix)[own] - (between * reach).sum(axis=1)[:, own]
            with np.errstate(divide="ignore", invalid="ignore"):
                return chi_square, np.where(left > COLLINEAR, slope[:, own] ** 2 / left, np.nan)
        own = blocks.columns
        left = self.matrix[own[:, :, None], own[:, None, :]] - np.einsum(
            "nwug,nwuh->nugh", between[:, :, own], reach[:, :, own]
        )
        size = own.shape[1]
        empty = ~self.usable[own] | (own == len(self.scale) - 1)
        first = left[..., 0, 0] > COLLINEAR
        # A derivative that says nothing new is left out; a block whose term says nothing new is no block.
        flat = np.einsum("nugg->nug", left) <= COLLINEAR
        unit = np.where(empty | flat, 1.0, 0.0)
        left = np.where((empty | flat)[..., None] | (empty | flat)[..., None, :], 0.0, left)
        left = left + unit[..., None] * np.eye(size) + RIDGE * np.eye(size)
        right = np.where(empty | flat, 0.0, slope[:, own])
        gain = (right * np.linalg.solve(left, right[..., None])[..., 0]).sum(axis=-1)
        return chi_square, np.where(first, gain, np.nan)

    def _columns(self, blocks: Blocks, laws: Sequence[Law]) -> np.ndarray:
        """Return the columns of laws, padded, shape ``(n, w)`` with at least one."""
        last = len(self.scale) - 1
        own = [blocks.columns[list(law)].ravel() for law in laws]
        own = [columns[(columns != last) & self.usable[columns]] for columns in own]
        width = max(1, *(len(columns) for columns in own))
        return np.array([[*columns, *[last] * (width - len(columns))] for columns in own])

    def _solved(self, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return chi-square of sets of columns ``(n,)``, scaled coefficients ``(n, w)``, inverses ``(n, w, w)``."""
        matrix = self.matrix[columns[:, :, None], columns[:, None, :]]
        unit = np.eye(columns.shape[1])
        matrix = matrix + (columns == len(self.scale) - 1)[..., None] * unit
        inverse = np.linalg.inv(matrix + RIDGE * unit)
        slope = self.slope[columns]
        fitted = (inverse @ slope[..., None])[..., 0]
        # The ridge is there for the inverse alone: a second step takes it back.
        fitted = fitted + (inverse @ (slope[..., None] - matrix @ fitted[..., None]))[..., 0]
        reached = ((matrix @ fitted[..., None])[..., 0] - 2.0 * slope) * fitted
        # Terms that all but cancel each other leave the difference of large numbers: it is not known any better.
        rounding = ROUNDING * np.abs(fitted).sum(axis=1) ** 2
        return self.level + reached.sum(axis=1) + rounding, fitted, inverse


@dataclass(frozen=True)
class Surroundings:
    """Chi-square around a trajectory, as a quadratic function of what could be there instead.

    Attributes:
        level: chi-square where nothing is exchanged.
        slope: half of its derivatives by the free parameters, how far what stands in each hole has grown, and the
            coefficients of all columns on offer, hole by hole; shape ``(n,)``.
        matrix: its second derivatives by halves, shape ``(n, n)``.
        n_free: number of free parameters.
        widths: number of columns on offer of each hole.
    """

    level: float
    slope: np.ndarray
    matrix: np.ndarray
    n_free: int
    widths: tuple[int, ...]

    def outlook(self, holes: Sequence[int] | None = None) -> Outlook | None:
        """Return what laws could reach in some holes while the others stay as they are; None where nothing is known.

        Args:
            holes: those in which terms are exchanged for what stands there; all unless given.
        """
        exchanged = np.isin(np.arange(len(self.widths)), range(len(self.widths)) if holes is None else holes)
        begins = self.n_free + np.cumsum([0, *(1 + width for width in self.widths[:-1])])
        leaving = begins[exchanged]
        coming = np.setdiff1d(np.arange(self.n_free, len(self.slope)), begins)
        slope, level = self.slope, self.level
        # What stands there now goes: a step of -1 along each of its shares.
        level = level - 2.0 * slope[leaving].sum() + self.matrix[np.ix_(leaving, leaving)].sum()
        slope = slope - self.matrix[:, leaving].sum(axis=1)
        free = self.matrix[: self.n_free, : self.n_free]
        if not (np.isfinite(level) and np.isfinite(free).all() and np.isfinite(slope[: self.n_free]).all()):
            return None
        scale = 1.0 / np.sqrt(np.maximum(np.diag(free), 1e-300))
        inverse = np.linalg.pinv(free * np.outer(scale, scale), rcond=1e-10, hermitian=True)
        inverse = inverse * np.outer(scale, scale)
        across = self.matrix[np.ix_(coming, np.arange(self.n_free))] @ inverse
        gradient = across @ slope[: self.n_free] - slope[coming]
        return Outlook.of(
            float(level - slope[: self.n_free] @ inverse @ slope[: self.n_free]),
            np.where(np.repeat(exchanged, self.widths), gradient, np.nan),
            self.matrix[np.ix_(coming, coming)]
            - across @ self.matrix[np.ix_(np.arange(self.n_free), coming)],
        )


def look_around(
    refitter: Refitter,
    blocks: Blocks,
    present: AbstractFilling,
    weights: torch.Tensor,
    states: torch.Tensor,
    coordinates: torch.Tensor,
    inner: Sequence[np.ndarray],
) -> list[Surroundings]:
    """Return what is known of chi-square around trajectories.

    Args:
        refitter: whose rows and weights count.
        blocks: what laws are put together from.
        present: what stands in the holes.
        weights: of that, shape ``(B, n_weights)``.
        states: at the rows, shape ``(B, J, L, d)``.
        coordinates: of the free parameters, shape ``(B, n_free)``.
        inner: per hole, inner parameters at the first start of every term, shape ``(B, n_inner)``.
    """
    columns = states.shape[-1] + coordinates.shape[1] + sum(len(offer) for offer in blocks.offers)
    parts = min(len(states), -(-states[..., 0].numel() * columns**2 // LARGEST))
    if parts > 1:
        groups = np.array_split(np.arange(len(states)), parts)
        return [
            one
            for group in groups
            for one in look_around(
                refitter,
                blocks,
                present.take(torch.as_tensor(group, device=weights.device)),
                weights[group],
                states[group],
                coordinates[group],
                [own[group] for own in inner],
            )
        ]
    exchange = Exchange(present, weights, blocks.libraries, refitter.system.hole_inputs, blocks.offers, inner)
    matrix, gradient, chi_square = refitter.marginal(exchange, states, coordinates)
    widths = tuple(len(offer) for offer in blocks.offers)
    return [
        Surroundings(level, slope, own, coordinates.shape[1], widths)
        for own, slope, level in zip(matrix, gradient, chi_square.tolist(), strict=True)
    ]
