"""Laws that are one law, written in two ways."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from sciml_discover.library import Library
    from sciml_discover.refit import Fits
    from sciml_discover.system import System

AS_GOOD = 1e-2
"""Difference of chi-square, in units of the noise, of fits of one law: they end where their iterations do."""

SAME = 1e-7
"""Relative difference of the values of two functions that are the same one."""

NEAR = 1e-2
"""Relative difference from which a fit has to reach it: fits of one law are much nearer."""

EFFECT = 1e-4
"""Relative change of a function's values where its numbers change by their own size, in whatever combination: below
this, values do not tell which function it is."""

FAR = 1e6
"""What stands for a relative difference that is not finite."""


def merge_same_laws(
    system: System, libraries: Sequence[Library], signals: np.ndarray, fits: Fits, order: Sequence[int]
) -> tuple[list[int], list[str]]:
    """Return laws without those that say the same as a better one, with a sentence for each.

    ``a*s/(s + K)`` and ``b*s/(1 + c*s)`` are one function of ``s``, and so are ``1 + sin(s)**2`` and
    ``2 - cos(s)**2``. Texts do not tell, values do: two laws with as many numbers, which fit equally well, are the
    same if the numbers of one can be chosen so that it takes the values of the other, to rounding, hole by hole. The
    values are compared where the data are and at other combinations of the inputs, because laws that agree on a limit
    cycle only are rivals.

    Args:
        system: the known physics with its holes.
        libraries: one per hole.
        signals: what holes may depend on, along a trajectory, shape ``(rows, signals)``.
        fits: of the laws.
        order: positions of the laws, the best first.

    Returns:
        The positions that are left, in the same order. Of two ways to write a law, that whose terms stand first in the
        libraries stays: what a regressor adds stands last.
    """
    candidates = fits.candidates
    points = [_combined(signals[:, list(inputs)]) for inputs in system.hole_inputs]
    numbers = np.stack(
        [
            support.sum(axis=1) + support[:, library.owner].sum(axis=1)
            for support, library in zip(candidates.supports, libraries, strict=True)
        ],
        axis=1,
    )
    positions = {i: [np.flatnonzero(support[i]).tolist() for support in candidates.supports] for i in order}
    kept: list[int] = []
    sentences: list[str] = []
    for i in order:
        for place, k in enumerate(kept):
            if (numbers[i] != numbers[k]).any() or abs(fits.chi_square[i] - fits.chi_square[k]) > AS_GOOD:
                continue
            holes = [hole for hole in range(len(libraries)) if positions[i][hole] != positions[k][hole]]
            with np.errstate(all="ignore"):  # a function may have no value at the other combinations
                same = all(_same(libraries[hole], points[hole], fits, hole, i, k) for hole in holes)
            if same:
                stays, goes = (i, k) if positions[i] < positions[k] else (k, i)
                kept[place] = stays
                sentences += [
                    f"{_text(libraries[hole], fits, hole, goes)} in {system.missing[hole].name} is "
                    f"{_text(libraries[hole], fits, hole, stays)} in other words: merged into it"
                    for hole in holes
                ]
                break
        else:
            kept.append(i)
    return kept, sentences


def _combined(points: np.ndarray) -> np.ndarray:
    """Return points and as many others, whose inputs have the same values in other combinations."""
    count, inputs = points.shape
    shifted = [np.roll(points[:, k], k * (count // (inputs + 1))) for k in range(inputs)]
    return np.concatenate([points, np.stack(shifted, axis=1)])


def _same(library: Library, points: np.ndarray, fits: Fits, hole: int, one: int, two: int) -> bool:
    """Return whether a hole's terms in one fit can take the values of those of another one."""
    from scipy.optimize import least_squares

    coefficients, inner = fits.candidates.coefficients[hole], fits.candidates.inner[hole]
    supports = fits.candidates.supports[hole].astype(bool)
    own, count = supports[two][library.owner], int(supports[two].sum())

    def values(at: np.ndarray, row: int, numbers: np.ndarray) -> np.ndarray:
        return library.matrix(at, numbers)[:, supports[row]] @ coefficients[row][supports[row]]

    wanted, found = values(points, one, inner[one]), values(points, two, inner[two])
    usable = np.isfinite(wanted) & np.isfinite(found)
    points, wanted, found = points[usable], wanted[usable], found[usable]
    size = float(np.linalg.norm(wanted)) or 1.0
    if len(points) <= count + own.sum() or np.linalg.norm(found - wanted) > NEAR * size:
        return False

    def residual(numbers: np.ndarray) -> np.ndarray:
        inside = inner[two].copy()
        inside[own] = numbers[count:]
        left = (library.matrix(points, inside)[:, supports[two]] @ numbers[:count] - wanted) / size
        return np.nan_to_num(left, nan=FAR, posinf=FAR, neginf=-FAR)

    start = np.append(coefficients[two][supports[two]], inner[two][own])
    best = least_squares(residual, start, method="lm", x_scale="jac", xtol=1e-14, ftol=1e-14, gtol=1e-14)
    if np.linalg.norm(best.fun) >= SAME:
        return False
    # Where a number has no effect, as K in x/(K + x) far above K, different functions have the same values.
    effects = np.linalg.svd(best.jac * best.x, compute_uv=False)
    return bool(effects.min() > EFFECT)


def _text(library: Library, fits: Fits, hole: int, row: int) -> str:
    terms = np.flatnonzero(fits.candidates.supports[hole][row])
    return " + ".join(library.texts[term] for term in terms)
