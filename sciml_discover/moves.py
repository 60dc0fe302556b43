"""Which terms to add, drop or swap next: predicted from one linearization of the trajectories.

A fitted law is the optimum of its own numbers. One linearization of its trajectory by the coefficients of the whole
library says how much chi-square each term outside the law would gain (the score test: Rao 1948,
doi:10.1017/S0305004100023987), what leaving a term out would cost (Wald), and both at once. A law thus sees all its
neighbours for the price of one iteration.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from sciml_discover.constraints import Constraints
from sciml_discover.library import Library
from sciml_discover.refit import Candidates, Fits, Refitter

COLLINEAR = 1e-9
"""Of the curvature along a new term, what the terms already there must leave, or it says nothing new."""


@dataclass(frozen=True)
class Move:
    """One term more, less, or in another's place.

    Attributes:
        change: of chi-square, predicted.
        dropped: position of the term that goes, over all libraries; None if none does.
        added: the same of the term that comes.
        coefficient: of the term that comes, predicted.
        start: number of the start values of its inner parameters.
    """

    change: float
    dropped: int | None = None
    added: int | None = None
    coefficient: float = 0.0
    start: int = 0


@dataclass(frozen=True)
class Neighbourhood:
    """Half of chi-square around one fitted law, in its own numbers and in the coefficients of other terms.

    Attributes:
        own: positions of the law's terms, over all libraries, shape ``(K,)``.
        values: their coefficients at the optimum, shape ``(K,)``.
        variance: of these coefficients, shape ``(K,)``.
        others: positions of other terms, shape ``(C,)``; a term with several starts is there several times.
        starts: which start values of its inner parameters each has, shape ``(C,)``.
        response: how the law's coefficients fall with each other term's, shape ``(K, C)``.
        gradient: by each other term's coefficient, shape ``(C,)``.
        curvature: the same, the law's own numbers following, shape ``(C,)``; NaN for a term that says nothing new.
    """

    own: np.ndarray
    values: np.ndarray
    variance: np.ndarray
    others: np.ndarray
    starts: np.ndarray
    response: np.ndarray
    gradient: np.ndarray
    curvature: np.ndarray

    def with_more(self, other: Neighbourhood) -> Neighbourhood:
        """Return this with the other terms of another linearization at the same law."""
        return replace(
            self,
            others=np.append(self.others, other.others),
            starts=np.append(self.starts, other.starts),
            response=np.append(self.response, other.response, axis=1),
            gradient=np.append(self.gradient, other.gradient),
            curvature=np.append(self.curvature, other.curvature),
        )

    def moves(self, most: int) -> Iterator[Move]:
        """Yield all terms to drop, and the ``most`` best each of those to add and of the swaps."""
        with np.errstate(invalid="ignore", divide="ignore"):
            step = -self.gradient / self.curvature
            gain = self.gradient**2 / self.curvature
            spread = self.variance[:, None] + self.response**2 / self.curvature
            left = self.values[:, None] - self.response * step
            swap = left**2 / spread - gain
            swap_step = step + self.response / self.curvature * left / spread
        for position, value, variance in zip(self.own, self.values, self.variance, strict=True):
            yield Move(change=float(value**2 / variance), dropped=int(position))
        for c in self._best(-gain, most):
            added, start = int(self.others[c]), int(self.starts[c])
            yield Move(-float(gain[c]), None, added, float(step[c]), start)
        for flat in self._best(swap.ravel(), most):
            k, c = divmod(flat, len(self.others))
            added, start = int(self.others[c]), int(self.starts[c])
            yield Move(float(swap[k, c]), int(self.own[k]), added, float(swap_step[k, c]), start)

    def _best(self, change: np.ndarray, most: int) -> Iterator[int]:
        """Yield positions of the smallest finite changes, one for each pair of terms."""
        seen: set[tuple[int, int]] = set()
        for flat in np.argsort(change, kind="stable"):
            if not np.isfinite(change[flat]) or len(seen) == most:
                return
            k, c = divmod(int(flat), len(self.others))
            if (k, int(self.others[c])) not in seen:
                seen.add((k, int(self.others[c])))
                yield int(flat)


def neighbours(
    refitter: Refitter, fits: Fits, libraries: Sequence[Library], constraints: Constraints, most: int
) -> tuple[Fits, np.ndarray]:
    """Return the most promising laws that are one move away from fitted ones, and their predicted chi-square.

    Args:
        refitter: that fitted them.
        fits: continuous trajectories of some laws.
        libraries: one per hole.
        constraints: what laws may contain.
        most: terms to add, and swaps, of each law.

    Returns:
        Fits that have not begun, in the order of their parents, with these' misfit; and the prediction for each.
    """
    around = _look_around(refitter, fits, libraries, constraints, 0)
    rounds = max(library.start_counts.max() for library in libraries)
    for number in range(1, rounds):
        more = _look_around(refitter, fits, libraries, constraints, number)
        around = [
            one if one is None or two is None else one.with_more(two)
            for one, two in zip(around, more, strict=True)
        ]
    made, parents, predicted = [], [], []
    for row, there in enumerate(around):
        for move in there.moves(most) if there is not None else ():
            candidate = _moved(fits.candidates, row, libraries, constraints, move)
            if candidate is not None:
                made.append(candidate)
                parents.append(row)
                predicted.append(max(float(fits.chi_square[row]) + move.change, 0.0))
    if not made:
        return fits.take(np.arange(0)), np.zeros(0)
    begun = fits.take(np.array(parents))
    return replace(begun, candidates=Candidates.join(made)), np.array(predicted)


def _look_around(
    refitter: Refitter, fits: Fits, libraries: Sequence[Library], constraints: Constraints, number: int
) -> list[Neighbourhood | None]:
    """Return what surrounds each law, other terms with inner parameters at their start values of some number.

    After the first number only terms with as many start values count. None for a law whose linearization fails.
    """
    candidates, supports, inner, eligible = fits.candidates, [], [], []
    for library, own, may, values in zip(
        libraries, candidates.supports, constraints.allowed, candidates.inner, strict=True
    ):
        inner.append(np.where(own[:, library.owner], values, library.starts_at(number)))
        supports.append(own | may)
        eligible.append(may & (number < library.start_counts))
    everything = replace(candidates, supports=tuple(supports), inner=tuple(inner))
    curvature = refitter.curvature(replace(fits, candidates=everything))
    own_terms = np.concatenate(candidates.supports, axis=1)
    own_inner = np.concatenate(
        [own[:, library.owner] for own, library in zip(candidates.supports, libraries, strict=True)], axis=1
    )
    values = np.concatenate(candidates.coefficients, axis=1)
    return [
        _around(
            curvature.matrix[row],
            curvature.gradient[row],
            curvature.terms[row],
            curvature.inner[row][~own_inner[row]],
            np.flatnonzero(own_terms[row]),
            np.flatnonzero(np.concatenate(eligible) & ~own_terms[row]),
            values[row],
            number,
        )
        for row in range(len(candidates))
    ]


def _around(
    matrix: np.ndarray,
    gradient: np.ndarray,
    columns: np.ndarray,
    foreign: np.ndarray,
    own: np.ndarray,
    others: np.ndarray,
    values: np.ndarray,
    number: int,
) -> Neighbourhood | None:
    """Return the neighbourhood of one law; None where the law's own numbers are not determined.

    Args:
        matrix: second derivatives of half of chi-square by everything, shape ``(n, n)``.
        gradient: first derivatives, shape ``(n,)``.
        columns: where each term's coefficient is in these, shape ``(terms,)``.
        foreign: where the inner parameters of other terms are.
        own: the law's terms, shape ``(K,)``.
        others: the other terms that count, shape ``(C,)``.
        values: coefficients of all terms.
        number: of the start values of other terms.
    """
    if not np.isfinite(matrix).all():
        return None
    numbers = np.ones(len(matrix), dtype=bool)
    numbers[columns[columns >= 0]] = False
    numbers[foreign[foreign >= 0]] = False
    numbers[columns[own]] = True
    inside, outside = np.flatnonzero(numbers), columns[others]
    scale = 1.0 / np.sqrt(np.maximum(np.diag(matrix)[inside], 1e-300))
    try:
        variance = np.linalg.inv(matrix[np.ix_(inside, inside)] * np.outer(scale, scale))
    except np.linalg.LinAlgError:
        return None
    variance = variance * np.outer(scale, scale)
    between = matrix[np.ix_(inside, outside)]
    response = variance @ between
    step = -variance @ gradient[inside]
    bare = np.diag(matrix)[outside]
    curvature = bare - (between * response).sum(axis=0)
    places = np.searchsorted(inside, columns[own])
    return Neighbourhood(
        own=own,
        values=values[own] + step[places],
        variance=np.maximum(np.diag(variance)[places], 1e-300),
        others=others,
        starts=np.full(len(others), number),
        response=response[places],
        gradient=gradient[outside] + between.T @ step,
        curvature=np.where(curvature > COLLINEAR * bare, curvature, np.nan),
    )


def _moved(
    candidates: Candidates, row: int, libraries: Sequence[Library], constraints: Constraints, move: Move
) -> Candidates | None:
    """Return a law after a move, None if there is no such law."""
    borders = np.cumsum([0, *(len(library) for library in libraries)])
    supports = [support[row].copy() for support in candidates.supports]
    coefficients = [values[row].copy() for values in candidates.coefficients]
    inner = [values[row].copy() for values in candidates.inner]
    if move.dropped is not None:
        hole, term = _place(borders, move.dropped)
        for other in constraints.together(hole):
            supports[other][term] = False
    if move.added is not None:
        hole, term = _place(borders, move.added)
        supports[hole][term] = True
        coefficients[hole][term] = move.coefficient
        own = libraries[hole].owner == term
        inner[hole][own] = libraries[hole].starts_at(move.start)[own]
    complete = constraints.complete(supports)
    if complete is None or all(
        np.array_equal(one, two[row]) for one, two in zip(complete, candidates.supports, strict=True)
    ):
        return None
    return Candidates(
        tuple(support[None] for support in complete),
        tuple((values * support)[None] for values, support in zip(coefficients, complete, strict=True)),
        tuple(values[None] for values in inner),
        ("move",),
    )


def _place(borders: np.ndarray, position: int) -> tuple[int, int]:
    """Return the hole and the term in its library at a position over all libraries."""
    hole = int(np.searchsorted(borders, position, side="right")) - 1
    return hole, position - int(borders[hole])
