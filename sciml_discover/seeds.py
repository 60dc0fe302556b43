"""Where the search for laws begins: what the regressors propose, and all small laws where there are few."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations, product
from math import comb

import numpy as np

from sciml_discover.constraints import Constraints
from sciml_discover.library import Library
from sciml_discover.refit import Candidates
from sciml_discover.regressors import Supports

Law = tuple[np.ndarray, ...]


def proposed(supports: Supports, constraints: Constraints, most_terms: int, limit: int) -> Candidates | None:
    """Return the combinations of the holes' proposals, the most promising ``limit`` of them; None without any.

    Promising is a small sum, over the holes, of the misfit to the samples and of the number of terms in units of a
    hundredth of the samples' norm: crude on purpose, because the ODE decides afterwards.

    Args:
        supports: proposals per hole.
        constraints: what laws may contain.
        most_terms: longest proposal of a hole; if all are longer, its shortest.
        limit: most candidates.
    """
    choices = []
    for hole, allowed in zip(supports.holes, constraints.allowed, strict=True):
        cleaned = hole.supports.astype(bool) & allowed
        there = cleaned.any(axis=1)
        if not there.any():
            return None
        longest = max(most_terms, int(cleaned[there].sum(axis=1).min()))
        kept: dict[bytes, tuple[float, int]] = {}
        for row in np.flatnonzero(there & (cleaned.sum(axis=1) <= longest)):
            score = float(np.log(hole.residuals[row] + 0.01) + 0.1 * cleaned[row].sum())
            kept.setdefault(cleaned[row].tobytes(), (score, int(row)))
        choices.append(sorted(kept.values()))
    laws = []
    for choice in _cheapest(choices, limit):
        rows = [row for _, row in choice]
        complete = constraints.complete(
            [hole.supports[row] for hole, row in zip(supports.holes, rows, strict=True)]
        )
        if complete is None:
            continue
        values = [
            hole.coefficients[row] * support
            for hole, row, support in zip(supports.holes, rows, complete, strict=True)
        ]
        inner = [hole.inner[row] for hole, row in zip(supports.holes, rows, strict=True)]
        source = "+".join(
            dict.fromkeys(hole.sources[row] for hole, row in zip(supports.holes, rows, strict=True))
        )
        laws.append(_candidate(complete, values, inner, source))
    return Candidates.join(laws) if laws else None


def _cheapest(
    choices: Sequence[Sequence[tuple[float, int]]], limit: int
) -> list[tuple[tuple[float, int], ...]]:
    """Return the combinations of one choice per hole with the smallest sums of scores, at most ``limit``.

    Hole by hole, only so many beginnings are kept: no cheaper end can rescue one that is worse than all of them.
    """
    best: list[tuple[tuple[float, int], ...]] = [()]
    for hole in choices:
        longer = [(*begin, choice) for begin in best for choice in hole]
        best = sorted(longer, key=lambda law: sum(score for score, _ in law))[:limit]
    return best


def exhaustive(libraries: Sequence[Library], constraints: Constraints, limit: int) -> Candidates | None:
    """Return all laws of up to as many terms as ``limit`` candidates allow, with every start of inner parameters.

    Coefficients start at zero. None where not even the shortest laws, one term for each hole, are few enough.
    """
    found: dict[bytes, list[np.ndarray]] = {}
    for extra in range(3):
        fresh: dict[bytes, list[np.ndarray]] = {}
        sizes = [
            size
            for size in product(range(1, 2 + extra), repeat=len(libraries))
            if sum(size) == len(size) + extra
        ]
        if sum(_count(constraints, size) for size in sizes) + len(found) > limit:
            break
        for size in sizes:
            for law in product(
                *(_subsets(may, number) for may, number in zip(constraints.allowed, size, strict=True))
            ):
                complete = constraints.complete(law)
                if complete is not None:
                    fresh.setdefault(np.concatenate(complete).tobytes(), complete)
        found.update(fresh)
    laws = []
    for complete in found.values():
        nothing = [np.zeros(len(library)) for library in libraries]
        laws += [
            _candidate(complete, nothing, inner, "exhaustive") for inner in _inner_starts(libraries, complete)
        ]
    return Candidates.join(laws) if laws else None


def _count(constraints: Constraints, size: Sequence[int]) -> int:
    """Return how many laws have so many terms in each hole."""
    total = 1
    for may, number in zip(constraints.allowed, size, strict=True):
        total *= comb(int(may.sum()), number)
    return total


def _subsets(allowed: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """Yield all supports of one size."""
    for chosen in combinations(np.flatnonzero(allowed), size):
        support = np.zeros(len(allowed), dtype=bool)
        support[list(chosen)] = True
        yield support


def _inner_starts(libraries: Sequence[Library], supports: Sequence[np.ndarray]) -> Iterator[list[np.ndarray]]:
    """Yield start values of all inner parameters, so that each active term meets each of its own start values."""
    most = max(library.start_counts[own].max() for library, own in zip(libraries, supports, strict=True))
    for turn in range(most):
        yield [library.starts_at(turn) for library in libraries]


def _candidate(
    supports: Sequence[np.ndarray],
    coefficients: Sequence[np.ndarray],
    inner: Sequence[np.ndarray],
    source: str,
) -> Candidates:
    return Candidates(
        tuple(support[None] for support in supports),
        tuple(values[None] for values in coefficients),
        tuple(values[None] for values in inner),
        (source,),
    )
