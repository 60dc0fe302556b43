"""What stands in the holes, and every library term that could stand there instead."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from sciml_discover.base import lazy_import
from sciml_discover.holes import AbstractFilling, gather_inputs
from sciml_discover.library import Library
from sciml_discover.linear_algebra import OuterProducts

if TYPE_CHECKING:
    import torch
else:
    torch = lazy_import("torch")


@dataclass(frozen=True)
class Offer:
    """What one hole's library offers: each term at each start of the parameters inside, and its derivatives by them.

    Attributes:
        terms: the term of each column, shape ``(C,)``.
        turns: the number of the start, in ascending order, same shape.
        inner: the parameter that a column is the derivative by, -1 for the term itself, same shape.
    """

    terms: np.ndarray
    turns: np.ndarray
    inner: np.ndarray

    def __len__(self) -> int:
        return len(self.terms)

    @classmethod
    def of(cls, library: Library, allowed: np.ndarray) -> Offer:
        """Return the offer of the allowed terms ``(terms,)`` of a library."""
        columns = [
            (term, turn, inner)
            for turn in range(library.start_counts.max())
            for term in np.flatnonzero(allowed & (turn < library.start_counts))
            for inner in (-1, *np.flatnonzero(library.owner == term))
        ]
        return cls(*np.array(columns, dtype=int).reshape(-1, 3).T)


class Exchange(AbstractFilling):
    """What stands in the holes now, with derivatives by how much of it is left and by everything that is on offer.

    A hole's weights are how far what stands there has grown (-1: it is gone) and the coefficients of the columns of
    its offer. All are zero now: values are those of the present filling whatever the weights, only derivatives count.

    Args:
        present: what stands in the holes.
        weights: of the present filling, shape ``(B, n_weights)``.
        libraries: one per hole; those with inner parameters come from `Library.for_data`.
        inputs: positions of each hole's inputs among the states, then the time, then the controls.
        offers: one per hole.
        inner: per hole, inner parameters at the first start of each term, shape ``(B, n_inner)``.
    """

    def __init__(
        self,
        present: AbstractFilling,
        weights: torch.Tensor,
        libraries: Sequence[Library],
        inputs: Sequence[tuple[int, ...]],
        offers: Sequence[Offer],
        inner: Sequence[np.ndarray],
    ) -> None:
        self.present, self._weights = present, weights
        self.libraries, self.inputs, self.offers = tuple(libraries), tuple(inputs), tuple(offers)
        self.n_weights = sum(self.widths)
        device = weights.device
        self._index = [
            [
                torch.as_tensor(place[offer.turns == turn], device=device)
                for turn in range(offer.turns.max(initial=-1) + 1)
            ]
            for library, offer in zip(libraries, offers, strict=True)
            for place in [np.where(offer.inner < 0, offer.terms, len(library) + offer.inner)]
        ]
        self._inner = [
            [torch.as_tensor(library.tangent_inner(first), device=device)]
            + [
                torch.as_tensor(library.tangent_inner(library.starts_at(turn)), device=device).expand(
                    len(first), -1
                )
                for turn in range(1, len(index))
            ]
            for library, first, index in zip(libraries, inner, self._index, strict=True)
        ]

    @property
    def widths(self) -> tuple[int, ...]:
        """Number of weights of each hole."""
        return tuple(1 + len(offer) for offer in self.offers)

    def value(
        self,
        weights: torch.Tensor,  # noqa: ARG002 - zero
        time: torch.Tensor,
        state: torch.Tensor,
        controls: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return what stands in the holes, shape ``(B, P, holes)``."""
        return self.present.value(self._weights, time, state, controls)

    def linearize(
        self,
        weights: torch.Tensor,
        time: torch.Tensor,
        state: torch.Tensor,
        controls: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return what stands in the holes, and its derivatives by state and by weights."""
        values, by_state = self.slopes(weights, time, state, controls)
        by_weights = state.new_zeros(*values.shape, self.n_weights)
        begin = 0
        for number, own in enumerate(self._by_own(values, time, state, controls)):
            by_weights[:, :, number, begin : begin + own.shape[-1]] = own
            begin += own.shape[-1]
        return values, by_state, by_weights

    def slopes(
        self,
        weights: torch.Tensor,  # noqa: ARG002 - zero
        time: torch.Tensor,
        state: torch.Tensor,
        controls: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what stands in the holes, and its derivative by state."""
        return self.present.slopes(self._weights, time, state, controls)

    def products(
        self,
        weights: torch.Tensor,
        time: torch.Tensor,
        state: torch.Tensor,
        controls: torch.Tensor | None = None,
    ) -> tuple[OuterProducts, ...]:
        """Return each hole's derivatives by its own weights."""
        values = self.value(weights, time, state, controls)
        one = state.new_ones(()).expand(*state.shape[:2], 1)
        return tuple(OuterProducts(((own, one),)) for own in self._by_own(values, time, state, controls))

    @property
    def factors(self) -> int:
        """One number per weight."""
        return self.n_weights

    def prior_precision(self, batch: int) -> torch.Tensor:
        """Return zero: nothing is known of what comes."""
        return self._weights.new_zeros(batch, self.n_weights)

    def take(self, index: torch.Tensor) -> Exchange:
        """Return the chosen members of the batch."""
        rows = index.cpu().numpy()
        first = [
            turns[0].cpu().numpy()[rows, : len(library.inner)]
            for library, turns in zip(self.libraries, self._inner, strict=True)
        ]
        return Exchange(
            self.present.take(index), self._weights[index], self.libraries, self.inputs, self.offers, first
        )

    def _by_own(
        self,
        values: torch.Tensor,
        time: torch.Tensor,
        state: torch.Tensor,
        controls: torch.Tensor | None,
    ) -> list[torch.Tensor]:
        """Return each hole's derivatives by its own weights, shape ``(B, P, width)``."""
        done, known = [], {}
        for number, library in enumerate(self.libraries):
            inputs = gather_inputs(self.inputs[number], time, state, controls)
            # Holes often have the same library of the same inputs.
            key = (id(library), self.inputs[number]) if not library.inner else number
            table = known.get(key)
            columns = [values[..., number : number + 1]]
            for inner, index in zip(self._inner[number], self._index[number], strict=False):
                if table is None or library.inner:
                    table = known[key] = library.tangents.at(inputs, inner if library.inner else None)
                columns.append(table.terms(index.expand(len(state), -1)))
            done.append(torch.cat(columns, dim=-1))
        return done
