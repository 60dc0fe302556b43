"""Where the search for laws begins: combinations of what the regressors propose for each hole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from sciml_discover.constraints import Constraints
from sciml_discover.refit import Candidates
from sciml_discover.regressors import Supports

T = TypeVar("T")


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
    for choice in cheapest(choices, limit):
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
            dict.fromkeys(
                source
                for hole, row in zip(supports.holes, rows, strict=True)
                for source in hole.sources[row].split("+")
            )
        )
        laws.append(_candidate(complete, values, inner, source))
    return Candidates.join(laws) if laws else None


def cheapest(choices: Sequence[Sequence[tuple[float, T]]], limit: int) -> list[tuple[tuple[float, T], ...]]:
    """Return the combinations of one choice per hole with the smallest sums of scores, at most ``limit``.

    Hole by hole, only so many beginnings are kept: no cheaper end can rescue one that is worse than all of them.
    """
    best: list[tuple[tuple[float, T], ...]] = [()]
    for hole in choices:
        longer = [(*begin, choice) for begin in best for choice in hole]
        best = sorted(longer, key=lambda law: sum(score for score, _ in law))[:limit]
    return best


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
