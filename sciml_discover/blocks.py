"""Laws as sets of building blocks: terms at one start of the parameters inside, in every hole that shares them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from sciml_discover.constraints import Constraints
from sciml_discover.exchange import Offer
from sciml_discover.library import Library
from sciml_discover.refit import Candidates

Law = tuple[int, ...]
"""Blocks of a law, in ascending order."""

FARTHEST = 3.0
"""How far, as a factor, a linear step may take a parameter inside a term from its start."""


@dataclass(frozen=True)
class Blocks:
    """What laws are put together from.

    A block has one column of the offer of each of its holes, and beside it those of the derivatives by the parameters
    inside: where these are unknown, the derivative takes part in a linear fit and says which way they go.

    Attributes:
        libraries: one per hole, with ranges for inner parameters.
        constraints: what laws may contain.
        offers: one per hole.
        columns: positions in all offers, one after another, those without derivatives first; padded with their total
            number, shape ``(U, G)``.
        term: number of the term, the same for all its starts, shape ``(U,)``.
        place: one hole of each block and the position of its term there, shape ``(U, 2)``.
        turn: number of the start, shape ``(U,)``.
        added: terms that it adds to each hole, shape ``(U, holes)``.
        n_inner: parameters inside, over all its holes, shape ``(U,)``.
        required: which blocks' terms are in every law, shape ``(U,)``.
    """

    libraries: tuple[Library, ...]
    constraints: Constraints
    offers: tuple[Offer, ...]
    columns: np.ndarray
    term: np.ndarray
    place: np.ndarray
    turn: np.ndarray
    added: np.ndarray
    n_inner: np.ndarray
    required: np.ndarray

    def __len__(self) -> int:
        return len(self.term)

    @classmethod
    def of(cls, libraries: Sequence[Library], constraints: Constraints) -> Blocks:
        """Return the blocks of the allowed terms."""
        offers = tuple(
            Offer.of(library, may) for library, may in zip(libraries, constraints.allowed, strict=True)
        )
        begins = np.cumsum([0, *(len(offer) for offer in offers)])
        columns, term, place, turn, added, inner, required = [], [], [], [], [], [], []
        names: dict[tuple[int, int], int] = {}
        for group in constraints.groups:
            first = group[0]
            every = Offer.of(libraries[first], np.any([constraints.allowed[hole] for hole in group], axis=0))
            starts = every.inner < 0
            for k, number in zip(every.terms[starts], every.turns[starts], strict=True):
                holes = [hole for hole in group if constraints.allowed[hole][k]]
                own = [
                    begins[hole] + np.flatnonzero((offers[hole].terms == k) & (offers[hole].turns == number))
                    for hole in holes
                ]
                columns.append([*(item[0] for item in own), *(more for item in own for more in item[1:])])
                term.append(names.setdefault((first, int(k)), len(names)))
                place.append((holes[0], int(k)))
                turn.append(int(number))
                added.append([int(hole in holes) for hole in range(len(libraries))])
                inner.append(len(columns[-1]) - len(holes))
                required.append(any(constraints.required[hole][k] for hole in group))
        most = max(len(item) for item in columns)
        total = int(begins[-1])
        return cls(
            tuple(libraries),
            constraints,
            offers,
            np.array([item + [total] * (most - len(item)) for item in columns]),
            np.array(term),
            np.array(place),
            np.array(turn),
            np.array(added),
            np.array(inner),
            np.array(required),
        )

    @cached_property
    def of_term(self) -> dict[tuple[int, int], list[int]]:
        """The blocks of each term, by first hole and position, in the order of their starts."""
        found: dict[tuple[int, int], list[int]] = {}
        for number, (hole, position) in enumerate(self.place.tolist()):
            found.setdefault((hole, position), []).append(number)
        return found

    @cached_property
    def holes(self) -> tuple[tuple[int, ...], ...]:
        """The holes that each block adds a term to."""
        return tuple(tuple(np.flatnonzero(own).tolist()) for own in self.added)

    @cached_property
    def _required_in(self) -> tuple[frozenset[int], ...]:
        """Numbers of the terms that every law has, hole by hole."""
        return tuple(frozenset(self.term[self.required & (own > 0)].tolist()) for own in self.added.T)

    @cached_property
    def _terms(self) -> list[int]:
        return self.term.tolist()

    def is_complete(self, law: Law, holes: Sequence[int] | None = None) -> bool:
        """Return whether a law has a term in every hole, what it must have, and no more than it may have.

        Args:
            law: of blocks.
            holes: in which it has terms; all unless given.
        """
        filled = [0] * self.added.shape[1]
        for block in law:
            for hole in self.holes[block]:
                filled[hole] += 1
        terms = {self._terms[block] for block in law}
        return all(
            0 < filled[hole] <= self.constraints.longest and self._required_in[hole] <= terms
            for hole in (range(len(filled)) if holes is None else holes)
        )

    def laws(self, candidates: Candidates, row: int) -> Iterator[Law]:
        """Yield a candidate with its terms at their first starts, then at their second ones, and so on."""
        own = [starts for (hole, k), starts in self.of_term.items() if candidates.supports[hole][row, k]]
        for turn in range(max(len(starts) for starts in own)):
            yield tuple(sorted(starts[min(turn, len(starts) - 1)] for starts in own))

    def candidates(
        self,
        laws: Sequence[Law],
        coefficients: np.ndarray,
        inner: Sequence[np.ndarray],
        sources: Sequence[str],
    ) -> Candidates:
        """Return laws as candidates.

        Args:
            laws: of blocks.
            coefficients: of all columns, zero for those of other laws, shape ``(laws, columns)``.
            inner: per hole, inner parameters at the first start of every term, shape ``(n_inner,)``.
            sources: who proposed each.
        """
        count = len(laws)
        supports = [np.zeros((count, len(library)), dtype=bool) for library in self.libraries]
        values = [np.zeros((count, len(library))) for library in self.libraries]
        inside = [np.tile(own, (count, 1)) for own in inner]
        begins = np.cumsum([0, *(len(offer) for offer in self.offers)])
        for row, (law, sizes) in enumerate(zip(laws, coefficients, strict=True)):
            for column in self.columns[list(law)].ravel():
                if column == begins[-1]:
                    continue
                hole = int(np.searchsorted(begins, column, side="right")) - 1
                offer, library = self.offers[hole], self.libraries[hole]
                at = column - begins[hole]
                term, turn, parameter = int(offer.terms[at]), int(offer.turns[at]), int(offer.inner[at])
                if parameter < 0:
                    supports[hole][row, term] = True
                    values[hole][row, term] = sizes[column]
                    if turn:
                        own = library.owner == term
                        inside[hole][row, own] = library.starts_at(turn)[own]
                elif values[hole][row, term]:
                    start = inside[hole][row, parameter]
                    step = start + sizes[column] / values[hole][row, term]
                    inside[hole][row, parameter] = _near(step, start, library, parameter)
        return Candidates(tuple(supports), tuple(values), tuple(inside), tuple(sources))

    def unfitted(self, laws: Sequence[Law], source: str) -> Candidates:
        """Return laws as candidates with coefficients of zero, and inner parameters where they start."""
        nothing = np.zeros((len(laws), sum(len(offer) for offer in self.offers)))
        starts = [library.starts_at(0) for library in self.libraries]
        return self.candidates(laws, nothing, starts, [source] * len(laws))


def _near(value: float, start: float, library: Library, parameter: int) -> float:
    """Return an inner parameter not too far from its start, and in its range."""
    if not np.isfinite(value):
        return start
    ends = sorted((start / FARTHEST, start * FARTHEST)) if start else (-1.0, 1.0)
    item = library.inner[parameter]
    low = ends[0] if item.low is None else max(ends[0], item.low)
    high = ends[1] if item.high is None else min(ends[1], item.high)
    return float(np.clip(value, low, high)) if low <= high else start
