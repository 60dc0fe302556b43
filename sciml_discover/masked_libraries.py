"""Candidate laws as a filling: library terms x coefficients x 0/1 supports."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np

from sciml_discover.base import lazy_import
from sciml_discover.factors import Factors, FactorTable
from sciml_discover.holes import AbstractFilling, gather_inputs
from sciml_discover.library import Library
from sciml_discover.linear_algebra import OuterProducts

if TYPE_CHECKING:
    import torch
else:
    torch = lazy_import("torch")

INNER_PRIOR = 1e-6
"""Precision of an inner parameter's coordinate around zero: it holds what nothing else does."""


@dataclass(frozen=True)
class _Room:
    """Where the terms of one hole stand among the weights of each member of a batch.

    A member's weights are the coefficients of its terms, then the coordinates of the inner parameters of these, both
    padded to what the most demanding member needs.

    Attributes:
        terms: positions of the active terms in the library, shape ``(B, W)``.
        present: 1 for an active term, 0 for padding, shape ``(B, W)``.
        inner: positions of the active terms' inner parameters in the library, shape ``(B, V)``.
        inner_present: 1 for an active inner parameter, 0 for padding, shape ``(B, V)``.
        inner_slot: which of the ``W`` terms an inner parameter belongs to, shape ``(B, V)``.
    """

    terms: torch.Tensor
    present: torch.Tensor
    inner: torch.Tensor
    inner_present: torch.Tensor
    inner_slot: torch.Tensor

    @property
    def width(self) -> int:
        """Number of weights."""
        return self.terms.shape[1] + self.inner.shape[1]

    def take(self, index: torch.Tensor) -> _Room:
        """Return the places of the chosen members, with room for as much as before."""
        return _Room(**{item.name: getattr(self, item.name)[index] for item in fields(self)})

    @classmethod
    def of(cls, library: Library, support: np.ndarray, device: torch.device | str) -> _Room:
        """Return the room that supports ``(B, terms)`` need."""
        active = support.astype(bool)
        inner_active = active[:, library.owner]
        terms, present = _places(active, max(int(active.sum(1).max(initial=0)), 1))
        inner, inner_present = _places(inner_active, int(inner_active.sum(1).max(initial=0)))
        slot = np.cumsum(active, axis=1)[np.arange(len(active))[:, None], library.owner[inner]] - 1
        return cls(
            terms=torch.as_tensor(terms, device=device),
            present=torch.as_tensor(present.astype(float), device=device),
            inner=torch.as_tensor(inner, device=device),
            inner_present=torch.as_tensor(inner_present.astype(float), device=device),
            inner_slot=torch.as_tensor(np.maximum(slot, 0), device=device),
        )


def _places(active: np.ndarray, room: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the positions of what is active in each row, padded, and which of them are no padding.

    Padding repeats the first: what stands there anyway has a value wherever the member has one.
    """
    order = np.argsort(~active, axis=1, kind="stable")[:, :room]
    present = np.take_along_axis(active, order, axis=1)
    return np.where(present, order, order[:, :1]), present


def _columns(positions: torch.Tensor, present: torch.Tensor, size: int, begin: int) -> np.ndarray:
    """Return where each of ``size`` things stands, the first place being ``begin``; -1 for those that do not."""
    places, there = positions.cpu().numpy(), present.cpu().numpy() > 0
    found = np.full((len(places), size), -1)
    rows, slots = np.nonzero(there)
    found[rows, places[rows, slots]] = begin + slots
    return found


def _factors_of(
    libraries: Sequence[Library], inputs: Sequence[tuple[int, ...]], supports: Sequence[np.ndarray]
) -> list[Factors]:
    """Return the factors of each hole's active terms, one for all holes with the same library of the same inputs."""
    # Parameters inside terms are other ones in each hole.
    keys = [
        (number if library.inner else id(library), own)
        for number, (library, own) in enumerate(zip(libraries, inputs, strict=True))
    ]
    made: dict[tuple[int, tuple[int, ...]], Factors] = {}
    for key, library in zip(keys, libraries, strict=True):
        if key not in made:
            alike = [support for other, support in zip(keys, supports, strict=True) if other == key]
            made[key] = library.factors.only(np.any(np.concatenate(alike), axis=0))
    return [made[key] for key in keys]


class MaskedLibraries(AbstractFilling):
    """Candidate laws: one support per hole and member of the batch.

    Weights are the coefficients of the active terms and the coordinates of their inner parameters, each hole's block
    padded to its widest support, so that a candidate with two terms costs two columns of the sensitivities and not
    the whole library.

    Args:
        libraries: one per hole; those with inner parameters come from `Library.for_data`.
        inputs: positions of each hole's inputs among the states, then the time, then the controls.
        supports: per hole, whether each term is in, shape ``(B, terms)``.
        device: where the tensors live.
    """

    def __init__(
        self,
        libraries: Sequence[Library],
        inputs: Sequence[tuple[int, ...]],
        supports: Sequence[np.ndarray],
        device: torch.device | str = "cpu",
    ) -> None:
        self.libraries = tuple(libraries)
        self.inputs = tuple(inputs)
        self.rooms = [
            _Room.of(library, support, device)
            for library, support in zip(self.libraries, supports, strict=True)
        ]
        self._factors = _factors_of(self.libraries, self.inputs, supports)
        self._maps = [library.coordinates(device) for library in self.libraries]
        self._starts = [torch.as_tensor(library.starts, device=device) for library in self.libraries]
        self.n_weights = sum(self.widths)

    @property
    def widths(self) -> tuple[int, ...]:
        """Number of weights of each hole."""
        return tuple(room.width for room in self.rooms)

    def pack(
        self, coefficients: Sequence[np.ndarray], inner: Sequence[np.ndarray] | None = None
    ) -> torch.Tensor:
        """Return the flat weights of full arrays, one per hole.

        Args:
            coefficients: shape ``(B, terms)``.
            inner: values of the inner parameters, shape ``(B, n_inner)``; where they start unless given.
        """
        blocks = []
        for number, (full, room) in enumerate(zip(coefficients, self.rooms, strict=True)):
            values = torch.as_tensor(full, dtype=torch.float64, device=room.terms.device)
            blocks.append(values.gather(1, room.terms) * room.present)
            if room.inner.shape[1]:
                if inner is None:
                    own = self._starts[number].expand(len(full), -1)
                else:
                    own = torch.as_tensor(inner[number], dtype=torch.float64, device=room.terms.device)
                coordinates = self._maps[number].coordinates(self._maps[number].inside(own))
                blocks.append(coordinates.gather(1, room.inner) * room.inner_present)
        return torch.cat(blocks, dim=1)

    def unpack(self, weights: torch.Tensor) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Return full arrays of coefficients ``(B, terms)``, zero outside the supports, and of inner parameters."""
        coefficients, inner = [], []
        for number, block in enumerate(self._blocks(weights)):
            room = self.rooms[number]
            dense = block.new_zeros(block.shape[0], len(self.libraries[number]))
            chosen = block[:, : room.terms.shape[1]] * room.present
            coefficients.append(dense.scatter_add(1, room.terms, chosen).cpu().numpy())
            values = self._inner(number, block)
            if values is None:
                values = block.new_zeros(block.shape[0], 0)
            inner.append(values.cpu().numpy())
        return coefficients, inner

    @property
    def columns(self) -> tuple[np.ndarray, np.ndarray]:
        """Where the terms ``(B, terms)`` and the inner parameters ``(B, n_inner)`` of all libraries are in the weights.

        It is -1 for those that are not active.
        """
        terms, inner, begin = [], [], 0
        for library, room in zip(self.libraries, self.rooms, strict=True):
            width = room.terms.shape[1]
            terms.append(_columns(room.terms, room.present, len(library), begin))
            inner.append(_columns(room.inner, room.inner_present, len(library.inner), begin + width))
            begin += room.width
        return np.concatenate(terms, axis=1), np.concatenate(inner, axis=1)

    def physical(self, weights: torch.Tensor) -> torch.Tensor:
        """Return the coefficients and inner parameters that weights stand for, zero in the padding, same shape."""
        blocks = []
        for number, block in enumerate(self._blocks(weights)):
            room = self.rooms[number]
            blocks.append(self._coefficients(number, block))
            if room.inner.shape[1]:
                values = self._maps[number].physical(self._spread(number, block))
                blocks.append(values.gather(1, room.inner) * room.inner_present)
        return torch.cat(blocks, dim=1)

    @property
    def present(self) -> torch.Tensor:
        """Which weights are no padding, shape ``(B, n_weights)``."""
        blocks = [torch.cat([room.present, room.inner_present], dim=1) for room in self.rooms]
        return torch.cat(blocks, dim=1) > 0

    def at_bound(self, weights: torch.Tensor) -> torch.Tensor:
        """Return which weights are inner parameters at a bound, shape ``(B, n_weights)``."""
        blocks = []
        for number, block in enumerate(self._blocks(weights)):
            room = self.rooms[number]
            blocks.append(torch.zeros_like(room.present, dtype=torch.bool))
            if room.inner.shape[1]:
                there = self._maps[number].at_bound(self._spread(number, block))
                blocks.append(there.gather(1, room.inner) & (room.inner_present > 0))
        return torch.cat(blocks, dim=1)

    def slope_of_coordinates(self, weights: torch.Tensor) -> torch.Tensor:
        """Return the derivative of each coefficient or inner parameter by its weight, shape ``(B, n_weights)``."""
        blocks = []
        for number, block in enumerate(self._blocks(weights)):
            room = self.rooms[number]
            blocks.append(room.present)
            if room.inner.shape[1]:
                slope = self._slope(number, block)
                blocks.append(slope * room.inner_present)
        return torch.cat(blocks, dim=1)

    def value(
        self,
        weights: torch.Tensor,
        time: torch.Tensor,
        state: torch.Tensor,
        controls: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return the sums of the active terms, shape ``(B, P, holes)``."""
        outputs = []
        for number, block in enumerate(self._blocks(weights)):
            room = self.rooms[number]
            inputs = gather_inputs(self.inputs[number], time, state, controls)
            terms = self._factors[number].at(inputs, self._inner(number, block)).terms(room.terms)
            outputs.append(torch.bmm(terms, self._coefficients(number, block)[..., None]))
        return torch.cat(outputs, dim=-1)

    def linearize(
        self,
        weights: torch.Tensor,
        time: torch.Tensor,
        state: torch.Tensor,
        controls: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the sums and their derivatives by state and by weights."""
        values, by_state, chosen = self._sweep(weights, time, state, controls)
        by_weights = state.new_zeros(*values.shape, self.n_weights)
        begin = 0
        for number, by_own in enumerate(chosen):
            by_weights[:, :, number, begin : begin + by_own.shape[-1]] = by_own
            begin += by_own.shape[-1]
        return values, by_state, by_weights

    def slopes(
        self,
        weights: torch.Tensor,
        time: torch.Tensor,
        state: torch.Tensor,
        controls: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the sums and their derivatives by state."""
        return self._sweep(weights, time, state, controls)[:2]

    def products(
        self,
        weights: torch.Tensor,
        time: torch.Tensor,
        state: torch.Tensor,
        controls: torch.Tensor | None = None,
    ) -> tuple[OuterProducts, ...]:
        """Return each hole's derivatives by its own weights."""
        _, _, chosen = self._sweep(weights, time, state, controls)
        one = state.new_ones(()).expand(*state.shape[:2], 1)
        return tuple(OuterProducts(((by_own, one),)) for by_own in chosen)

    @property
    def factors(self) -> int:
        """One number per weight."""
        return self.n_weights

    def _sweep(
        self,
        weights: torch.Tensor,
        time: torch.Tensor,
        state: torch.Tensor,
        controls: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
        """Return the sums, their derivatives by state, and each hole's by its own weights ``(B, P, width)``."""
        batch, points, dimension = state.shape
        outputs, chosen = [], []
        by_state = state.new_zeros(batch, points, len(self.libraries), dimension)
        known: dict[int, FactorTable] = {}
        for number, block in enumerate(self._blocks(weights)):
            room, factors = self.rooms[number], self._factors[number]
            inputs = gather_inputs(self.inputs[number], time, state, controls)
            inner = self._inner(number, block)
            coefficients = self._coefficients(number, block)
            table = known.get(id(factors))
            if table is None:
                table = known[id(factors)] = factors.at(inputs, inner, slopes=True)
            output, by_inputs, terms = table.sum_of_terms(room.terms, coefficients)
            outputs.append(output)
            by_own = [terms * room.present[:, None, :]]
            if inner is not None and room.inner.shape[1]:
                scale = coefficients.gather(1, room.inner_slot) * self._slope(number, block)
                by_inner = factors.by_inner(inputs, room.inner, inner) * scale[:, None, :]
                by_own.append(torch.where(room.inner_present[:, None, :] > 0, by_inner, 0.0))
            chosen.append(by_own[0] if len(by_own) == 1 else torch.cat(by_own, dim=-1))
            for position, source in enumerate(self.inputs[number]):
                if source < dimension:
                    by_state[:, :, number, source] += by_inputs[..., position]
        return torch.stack(outputs, dim=-1), by_state, chosen

    def prior_precision(self, batch: int) -> torch.Tensor:  # noqa: ARG002 - supports know the batch
        """Return zero for active coefficients and one for padding, which keeps the padding at zero."""
        blocks = []
        for room in self.rooms:
            blocks += [1.0 - room.present, 1.0 - (1.0 - INNER_PRIOR) * room.inner_present]
        return torch.cat(blocks, dim=1)

    def take(self, index: torch.Tensor) -> MaskedLibraries:
        """Return the chosen candidates, with room for as much as before."""
        chosen = copy(self)
        chosen.rooms = [room.take(index) for room in self.rooms]
        return chosen

    def _blocks(self, weights: torch.Tensor) -> Iterator[torch.Tensor]:
        """Yield the weights of each hole."""
        begin = 0
        for width in self.widths:
            yield weights[:, begin : begin + width]
            begin += width

    def _coefficients(self, number: int, block: torch.Tensor) -> torch.Tensor:
        """Return a hole's coefficients, zero in the padding, shape ``(B, W)``."""
        room = self.rooms[number]
        return block[:, : room.terms.shape[1]] * room.present

    def _inner(self, number: int, block: torch.Tensor) -> torch.Tensor | None:
        """Return all inner parameters of a hole's library, at their start where inactive, shape ``(B, n_inner)``."""
        room, start = self.rooms[number], self._starts[number]
        if not len(start):
            return None
        full = start.expand(len(block), -1)
        if not room.inner.shape[1]:
            return full
        coordinates = self._spread(number, block)
        active = torch.zeros_like(full).scatter_add(1, room.inner, room.inner_present) > 0
        return torch.where(active, self._maps[number].physical(coordinates), full)

    def _slope(self, number: int, block: torch.Tensor) -> torch.Tensor:
        """Return the derivative of a hole's active inner parameters by their coordinates, shape ``(B, V)``."""
        slope = self._maps[number].slope(self._spread(number, block))
        return slope.gather(1, self.rooms[number].inner)

    def _spread(self, number: int, block: torch.Tensor) -> torch.Tensor:
        """Return the coordinates of all inner parameters of a hole's library, zero where inactive."""
        room = self.rooms[number]
        own = block[:, room.terms.shape[1] :] * room.inner_present
        return block.new_zeros(len(block), len(self._starts[number])).scatter_add(1, room.inner, own)
