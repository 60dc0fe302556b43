"""Fitted numbers as people write them: as many digits as the fit needs, and simple numbers that may be meant."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

LARGEST_DENOMINATOR = 4
"""Numbers are snapped to integers, halves, thirds and quarters."""

UNDETERMINED_DIGITS = 8
"""Digits of a number without an error: the data may determine its sum with another such number well."""

NEGLIGIBLE = 0.25
"""Rise of chi-square for each number that rounding may cost: half of a last digit, where that is the standard error."""

MORE_DIGITS = 8
"""Most digits that are written beyond those that the errors of single numbers ask for."""

EXACT = 1e-12
"""Of the largest eigenvalue of a correlation matrix: what is smaller is rounding."""


def round_to_error(value: float, stderr: float | None, more: int = 0) -> float:
    """Return a number without the digits that its standard error makes meaningless.

    The last digit kept is that of the error's first; two significant digits are kept at least,
    `UNDETERMINED_DIGITS` where there is no error.

    Args:
        value: the number.
        stderr: its standard error; None where there is none.
        more: digits that are kept beyond those.

    Example:
        >>> round_to_error(0.899398722, 0.00061), round_to_error(27.46, 4.0), round_to_error(0.01234567891, None)
        (0.8994, 27.0, 0.012345679)
    """
    if value == 0.0 or not math.isfinite(value):
        return value
    lead = math.floor(math.log10(abs(value)))
    place = lead + 1 - UNDETERMINED_DIGITS
    if stderr is not None and stderr > 0.0:
        place = min(math.floor(math.log10(stderr)), lead - 1)
    return round(value, more - place)


def round_together(
    values: Sequence[float], stderrs: Sequence[float | None], covariance: np.ndarray
) -> list[float]:
    """Return numbers rounded by their errors, with as many more digits as their fit needs.

    Numbers whose errors hang together may not be rounded one by one: where ``a*x - b*y`` is known well and ``a`` and
    ``b`` are not, digits far below their errors count. All keep one digit more until chi-square rises no more than
    `NEGLIGIBLE` for each number. Numbers that the data do not determine have no chi-square, and keep all their digits.

    Args:
        values: fitted numbers.
        stderrs: their standard errors; None where the data do not determine a number.
        covariance: of all of them, shape ``(numbers, numbers)``.

    Example:
        >>> close = 1e-4 * np.array([[1.0, 0.9999], [0.9999, 1.0]])
        >>> round_together([1.2345678, 2.3456789], [0.01, 0.01], close)
        [1.2346, 2.3457]
        >>> round_together([1.2345678, 2.3456789], [0.01, 0.01], 1e-4 * np.eye(2))
        [1.23, 2.35]
    """
    known = np.array([stderr is not None and stderr > 0.0 for stderr in stderrs], dtype=bool)
    shown = list(values)
    for more in range(MORE_DIGITS + 1):
        shown = [
            round_to_error(value, stderr, more if sure else 0)
            for value, stderr, sure in zip(values, stderrs, known, strict=True)
        ]
        moved = np.subtract(shown, values)[known]
        if _rise(moved, covariance[np.ix_(known, known)]) <= NEGLIGIBLE * len(moved):
            break
    return shown


def snap(value: float, stderr: float | None) -> str | None:
    """Return the one integer or small fraction within a standard error of a number, or None.

    Nothing is returned where two such numbers are within two standard errors: then the data do not choose.

    Example:
        >>> snap(0.4998, 0.001), snap(1.02, 0.5), snap(0.9, 0.001)
        ('1/2', None, None)
    """
    if stderr is None or not stderr > 0.0:
        return None
    simple = {
        Fraction(round(value * denominator), denominator) for denominator in range(1, LARGEST_DENOMINATOR + 1)
    }
    spacing = 1.0 / (LARGEST_DENOMINATOR * (LARGEST_DENOMINATOR - 1))
    inside = [number for number in simple if number != 0 and abs(float(number) - value) <= stderr]
    if len(inside) != 1 or 4.0 * stderr > spacing:
        return None
    return str(inside[0])


def snap_together(
    values: Sequence[float], stderrs: Sequence[float | None], covariance: np.ndarray
) -> list[str | None]:
    """Return for each number the simple one that it may be, as long as the fit does not suffer.

    The nearest come first. Another is added while chi-square, all other numbers following, rises by no more than one
    for each: what numbers that are meant to be simple rise by on average.

    Args:
        values: fitted numbers.
        stderrs: their standard errors; None where the data do not determine a number.
        covariance: of all of them, shape ``(numbers, numbers)``.

    Example:
        >>> apart, close = 1e-6 * np.eye(2), 1e-6 * np.array([[1.0, -0.999], [-0.999, 1.0]])
        >>> snap_together([0.5004, 1.9992], [0.001, 0.001], apart)
        ['1/2', '2']
        >>> snap_together([0.5004, 2.0008], [0.001, 0.001], close)
        ['1/2', None]
    """
    found = [snap(value, stderr) for value, stderr in zip(values, stderrs, strict=True)]
    moves = {
        place: float(Fraction(text)) - values[place] for place, text in enumerate(found) if text is not None
    }
    agreed: list[int] = []
    for place in sorted(moves, key=lambda place: abs(moves[place]) / (stderrs[place] or 1.0)):
        together = [*agreed, place]
        moved = np.array([moves[own] for own in together])
        if _rise(moved, covariance[np.ix_(together, together)]) <= len(together):
            agreed = together
    return [text if place in agreed else None for place, text in enumerate(found)]


def _rise(moved: np.ndarray, covariance: np.ndarray) -> float:
    """Return by how much chi-square rises where numbers are moved and all others follow, in units of the noise."""
    if not len(moved):
        return 0.0
    if not np.isfinite(covariance).all():
        return math.inf
    deviation = np.sqrt(np.diag(covariance))
    size, directions = np.linalg.eigh(covariance / np.outer(deviation, deviation))
    along = directions.T @ (moved / deviation)
    return float(np.sum(along**2 / np.fmax(size, EXACT * size[-1])))
