"""What the data do not settle about a choice, in sentences."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

    from sciml_discover.laws import Law
    from sciml_discover.library import Library
    from sciml_discover.refit import Candidates
    from sciml_discover.system import System

COLLINEAR = 0.98
"""Correlation of two fitted numbers above which they are named as hardly separable."""

ALIKE = 0.999
"""Cosine between two terms over the rows above which they are named: they differ by 4.5 % of their size."""

MOST_ALIKE = 3
"""Terms that are named as like one of the choice."""

CANCELLED = 0.2
"""Root mean square of what terms make together, relative to the largest of them, below which they cancel."""

CANCEL = "cancel each other"
"""What the sentence about such terms says."""

INSEPARABLE = "are hardly separable"
"""What the sentence about correlated numbers says."""


def correlations(system: System, law: Law) -> list[str]:
    """Name fitted numbers that the data hardly separate, or do not determine at all."""
    names = [parameter.name for parameter in system.free_parameters]
    for hole, terms in law.missing.items():
        names += [f"{term.term} in {hole}" for term in terms]
        names += [f"{name} in {term.term} in {hole}" for term in terms for name in term.inner]
    size = len(names)
    variance = np.diag(law.covariance)[:size]
    sentences = [
        f"{name} is not determined by the data"
        for name, own in zip(names, variance, strict=True)
        if not np.isfinite(own)
    ]
    for i in range(size):
        for k in range(i):
            if not np.isfinite(variance[i] * variance[k]) or variance[i] * variance[k] <= 0:
                continue
            correlation = law.covariance[i, k] / np.sqrt(variance[i] * variance[k])
            if abs(correlation) > COLLINEAR:
                sentences.append(f"{names[k]} and {names[i]} {INSEPARABLE} (correlation {correlation:.3f})")
    return sentences


def cancellations(
    system: System, libraries: Sequence[Library], signals: torch.Tensor, candidates: Candidates
) -> list[str]:
    """Name the holes of the first candidate whose terms, all or two of them, are much larger than their sum.

    A sum of functions can imitate another one over the range of the data, and then its parts are large and undo each
    other: the law predicts well there, and says little elsewhere.

    Args:
        system: whose holes they are.
        libraries: one per hole.
        signals: what holes may depend on, along the law's trajectory, shape ``(rows, signals)``.
        candidates: the choice first.
    """
    points, sentences = signals.cpu().numpy(), []
    for number, (hole, inputs, library) in enumerate(
        zip(system.missing, system.hole_inputs, libraries, strict=True)
    ):
        columns = library.matrix(points[:, list(inputs)], candidates.inner[number][0])
        support = candidates.supports[number][0]
        parts = columns[:, support] * candidates.coefficients[number][0][support]
        size = np.sqrt((parts**2).mean(axis=0))
        every = tuple(range(parts.shape[1]))
        if not every:
            continue
        shares = {
            some: np.sqrt((parts[:, some].sum(axis=1) ** 2).mean()) / size[list(some)].max()
            for some in [every, *combinations(every, 2)]
        }
        # All of them first: pairs that cancel are then no news.
        least = every if shares[every] < CANCELLED else min(shares, key=lambda some: shares[some])
        if shares[least] < CANCELLED:
            texts = np.array(library.texts)[support]
            named = "the terms" if least == every else " and ".join(texts[list(least)])
            sentences.append(
                f"{named} of {hole.name} {CANCEL} to {100.0 * shares[least]:.2g} % of the largest: together they may "
                "stand for a function that the library does not have"
            )
    return sentences


def collinear_terms(
    system: System,
    libraries: Sequence[Library],
    allowed: Sequence[np.ndarray],
    signals: torch.Tensor,
    candidates: Candidates,
) -> list[str]:
    """Name terms of the libraries that go along with a term of the choice wherever its trajectory is.

    ``x**3`` and ``x`` are not the same, but where ``x`` is near one they are multiples of each other, and little in
    these data tells which of them it is. A term with parameters inside stands at its fitted or first values.

    Args:
        system: whose holes they are.
        libraries: one per hole.
        allowed: which terms laws may have, shape ``(terms,)`` for each hole.
        signals: what holes may depend on, along the law's trajectory, shape ``(rows, signals)``.
        candidates: the choice first.
    """
    points, sentences = signals.cpu().numpy(), []
    for number, (hole, inputs, library) in enumerate(
        zip(system.missing, system.hole_inputs, libraries, strict=True)
    ):
        support = candidates.supports[number][0].astype(bool)
        inner = np.where(support[library.owner], candidates.inner[number][0], library.starts_at(0))
        columns = library.matrix(points[:, list(inputs)], inner)
        largest = np.abs(columns).max(axis=0)
        usable = np.isfinite(largest) & (largest > 0.0) & (allowed[number] | support)
        unit = columns[:, usable] / largest[usable]
        unit /= np.linalg.norm(unit, axis=0)
        cosine = np.zeros((len(library), len(library)))
        cosine[np.ix_(usable, usable)] = np.abs(unit.T @ unit)
        for term in np.flatnonzero(support):
            others = [
                k for k in np.argsort(-cosine[term], kind="stable") if k != term and cosine[term, k] > ALIKE
            ]
            if others:
                named = ", ".join(library.texts[k] for k in others[:MOST_ALIKE])
                more = f" and {len(others) - MOST_ALIKE} more" if len(others) > MOST_ALIKE else ""
                sentences.append(
                    f"{library.texts[term]} in {hole.name} is collinear, over the region that the data visit, with "
                    f"{named}{more} (cosine up to {cosine[term, others[0]]:.5f})"
                )
    return sentences


def exchangeable(laws: Sequence[Law]) -> list[str]:
    """Name terms of the choice that a rival has another term for: on these data they cannot be told apart."""
    found: dict[tuple[str, str, str], float] = {}
    for rival in laws[1:]:
        for hole, terms in laws[0].missing.items():
            own, other = {term.term for term in terms}, {term.term for term in rival.missing[hole]}
            if len(own - other) == len(other - own) == 1:
                # Rivals come by criterion: the first says how near the exchange alone can be.
                found.setdefault((hole, (own - other).pop(), (other - own).pop()), rival.delta)
    return [
        f"{one} and {two} in {hole} cannot be told apart on these data (criterion {delta:+.1f})"
        for (hole, one, two), delta in found.items()
    ]
