"""Sequentially thresholded least squares for many problems, ridges and thresholds as one batch.

The iteration is that of Brunton, Proctor & Kutz 2016, doi:10.1073/pnas.1517384113, as pysindy's ``STLSQ`` runs it:
ridge regression on the terms that are left, then every term whose coefficient is below the threshold leaves, until
none does. Here each member of the batch is a mask over the normal equations of its problem, and members whose masks
are equal are solved once.

Normal equations square the condition number. pysindy solves the same ones, so away from ties both find the same
supports; where rounding could decide whether a coefficient passes its threshold, the coefficients are computed anew
from the rows themselves, by the call that pysindy makes. One difference is on purpose: a column that vanishes has the
coefficient zero even without a ridge, where pysindy's solver returns a rounding error of any size.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

VANISHED = 1e-14
"""Coefficients below this are none, as in pysindy."""

WIDTHS = (2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128)
"""Supports of up to so many terms are solved together, the shorter ones padded."""

SAFETY = 100.0
"""How many times its first-order estimate a rounding error may be before a threshold is called close."""


@dataclass(frozen=True)
class Problems:
    """Regressions that share columns: bootstraps of rows, or columns that trade places with the target.

    Attributes:
        columns: of all problems, shape ``(samples, terms)``; those that are not finite must be zero.
        targets: shape ``(problems, samples)``.
        rows: samples that each problem sees, with repetitions, shape ``(problems, seen)``; None if all see all.
        allowed: terms that each problem may use, shape ``(problems, terms)``; None if all may use all.
        normalise: whether every problem scales its columns to norm one, as pysindy's ``normalize_columns`` does.
    """

    columns: np.ndarray
    targets: np.ndarray
    rows: np.ndarray | None = None
    allowed: np.ndarray | None = None
    normalise: bool = False

    def __len__(self) -> int:
        return len(self.targets)

    @cached_property
    def norms(self) -> np.ndarray:
        """What the columns are divided by, shape ``(problems, terms)``."""
        if not self.normalise:
            return np.ones((len(self), self.columns.shape[1]))
        squares = self.columns**2
        norms = np.sqrt(squares.sum(axis=0) if self.rows is None else squares[self.rows].sum(axis=1))
        return np.where(norms > 0, norms, 1.0) * np.ones((len(self), 1))

    @cached_property
    def gram(self) -> np.ndarray:
        """Matrices of the normal equations, shape ``(problems, terms, terms)``."""
        if self.rows is None:
            gram = np.broadcast_to(self.columns.T @ self.columns, (len(self), *[self.columns.shape[1]] * 2))
        else:
            gram = np.stack([self.columns[rows].T @ self.columns[rows] for rows in self.rows])
        return gram / (self.norms[:, :, None] * self.norms[:, None, :]) if self.normalise else gram

    @cached_property
    def moment(self) -> np.ndarray:
        """Right-hand sides of the normal equations, shape ``(problems, terms)``."""
        if self.rows is None:
            return self.targets @ self.columns / self.norms
        pairs = zip(self.rows, self.targets, strict=True)
        return np.stack([target[rows] @ self.columns[rows] for rows, target in pairs]) / self.norms

    @cached_property
    def masks(self) -> np.ndarray:
        """Terms that each problem begins with, shape ``(problems, terms)``."""
        everything = np.ones((len(self), self.columns.shape[1]), dtype=bool)
        return everything if self.allowed is None else everything & self.allowed

    def ridge(self, problem: int, mask: np.ndarray, strength: float) -> np.ndarray:
        """Return the coefficients of some terms by the very call that pysindy makes, from the rows."""
        import warnings

        from scipy.linalg import LinAlgWarning
        from sklearn.linear_model import ridge_regression

        columns, target = self.columns, self.targets[problem]
        if self.rows is not None:
            columns, target = columns[self.rows[problem]], target[self.rows[problem]]
        if self.normalise:
            columns = columns / self.norms[problem]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", LinAlgWarning)
            return ridge_regression(columns[:, mask], target, strength)


def threshold(
    problems: Problems, ridges: np.ndarray, thresholds: np.ndarray, *, iterations: int = 20
) -> np.ndarray:
    """Return the supports that thresholding leaves, shape ``(ridges, problems, thresholds, terms)``.

    Args:
        problems: what is regressed on what.
        ridges: strengths of the ridge penalty, shape ``(ridges,)``.
        thresholds: smallest size of a coefficient, broadcast to ``(ridges, problems, thresholds)``.
        iterations: most rounds of regression and thresholding.

    Example:
        >>> columns = np.eye(3)
        >>> found = threshold(Problems(columns, np.array([[3.0, 2.0, 1.0]])), np.zeros(1), np.array([1.5, 2.5]))
        >>> found[0, 0].astype(int).tolist()
        [[1, 1, 0], [1, 0, 0]]
    """
    shape = (len(ridges), len(problems), np.shape(thresholds)[-1])
    least = np.broadcast_to(thresholds, shape).reshape(-1)
    ridge_of, problem_of = (index.reshape(-1) for index in np.indices(shape)[:2])
    masks = problems.masks[problem_of]
    coefficients = np.zeros(masks.shape)
    running = np.arange(len(least))
    for _ in range(iterations):
        running = running[masks[running].any(axis=1)]
        if not len(running):
            break
        key = np.column_stack(
            [ridge_of[running] * len(problems) + problem_of[running], _packed(masks[running])]
        )
        _, first, member_of = np.unique(
            np.ascontiguousarray(key).view([("", key.dtype)] * key.shape[1]),
            return_index=True,
            return_inverse=True,
        )
        member_of, chosen = member_of.reshape(-1), running[first]
        solved, errors = _solve(problems, problem_of[chosen], masks[chosen], ridges[ridge_of[chosen]])
        found, error, before = solved[member_of], errors[member_of], masks[running]
        close = before & ~(np.abs(np.abs(found) - least[running, None]) > error[:, None])
        for group in np.unique(member_of[close.any(axis=1)]):
            one = chosen[group]
            exact = problems.ridge(problem_of[one], masks[one], float(ridges[ridge_of[one]]))
            found[np.ix_(member_of == group, masks[one])] = exact
        after = before & (np.abs(found) >= least[running, None])
        masks[running], coefficients[running] = after, found
        running = running[(after != before).any(axis=1)]
    return (masks & (np.abs(coefficients) > VANISHED)).reshape(*shape, -1)


def misfits(problems: Problems, masks: np.ndarray) -> np.ndarray:
    """Return the sums of squares that least squares on some terms leave, shape ``(problems, supports)``.

    Args:
        problems: what is regressed on what.
        masks: terms of each fit, shape ``(problems, supports, terms)``.
    """
    count, supports, terms = masks.shape
    problem_of = np.repeat(np.arange(count), supports)
    # A ridge at the level of rounding keeps dependent terms apart.
    tiny = np.full(count * supports, 1e-12)
    found, _ = _solve(problems, problem_of, masks.reshape(-1, terms), tiny)
    found = found.reshape(count, supports, terms)
    seen = (
        problems.targets if problems.rows is None else np.take_along_axis(problems.targets, problems.rows, 1)
    )
    explained = 2.0 * np.einsum("pst,pt->ps", found, problems.moment)
    explained -= np.einsum("pst,ptu,psu->ps", found, problems.gram, found, optimize=True)
    return np.maximum((seen**2).sum(axis=1)[:, None] - explained, 0.0)


def threshold_path(columns: np.ndarray, target: np.ndarray, ridges: np.ndarray, count: int) -> np.ndarray:
    """Return thresholds from a thousandth of each ridge's largest coefficient to all of it, ``(ridges, count)``."""
    terms = columns.shape[1]
    largest = []
    for ridge in ridges:
        stacked = np.vstack([columns, np.sqrt(ridge) * np.eye(terms)])
        full = np.linalg.lstsq(stacked, np.append(target, np.zeros(terms)), rcond=None)[0]
        largest.append(np.abs(full).max(initial=0.0))
    return np.array(largest)[:, None] * np.geomspace(1e-3, 1.0, count)


def _packed(masks: np.ndarray) -> np.ndarray:
    """Return masks as few integers each, shape ``(members, words)``."""
    bits = np.packbits(masks, axis=1)
    padded = np.zeros((len(bits), -(-bits.shape[1] // 8) * 8), dtype=np.uint8)
    padded[:, : bits.shape[1]] = bits
    return padded.view(np.int64)


def _solve(
    problems: Problems, problem_of: np.ndarray, masks: np.ndarray, ridges: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return ridge coefficients of each member, zero outside its mask, and how far rounding may have moved them."""
    members, terms = masks.shape
    solutions, errors = np.zeros((members, terms)), np.zeros(members)
    sizes = masks.sum(axis=1)
    place = np.searchsorted(WIDTHS, sizes)
    for group in np.unique(place):
        inside = np.flatnonzero(place == group)
        width = int(sizes[inside].max())
        if not width:
            continue
        # The terms of the mask first; what follows them is cut off by a unit row and column.
        order = np.argsort(~masks[inside], axis=1, kind="stable")[:, :width]
        real = np.take_along_axis(masks[inside], order, axis=1)
        which = problem_of[inside]
        matrices = problems.gram[which[:, None, None], order[:, :, None], order[:, None, :]]
        matrices *= real[:, :, None] & real[:, None, :]
        right = problems.moment[which[:, None], order] * real
        diagonal = np.einsum("mii->mi", matrices)
        diagonal += np.where(real, ridges[inside, None], 1.0)
        # A column that vanishes has the coefficient zero, with or without a ridge.
        diagonal[diagonal == 0] = 1.0
        found, errors[inside] = _coefficients(matrices, right)
        solutions[inside[:, None], order] = found
    return solutions, errors


def _coefficients(matrices: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return solutions of shape ``(members, width)`` and first-order bounds of their rounding errors.

    The norm of the inverse is estimated by solving for one more right-hand side, as LAPACK's estimators begin.
    """
    members, width = right.shape
    probe = np.where(np.arange(width) % 2, -1.0, 1.0) * (1.0 + np.arange(width) / max(width - 1, 1))
    both = np.stack([right, np.broadcast_to(probe, right.shape)], axis=2)
    try:
        solved = np.linalg.solve(matrices, both)
    except np.linalg.LinAlgError:  # one singular matrix spoils the whole call
        if members == 1:
            return np.zeros((1, width)), np.array([np.inf])
        parts = [_coefficients(matrices[part], right[part]) for part in np.array_split(np.arange(members), 2)]
        return np.concatenate([found for found, _ in parts]), np.concatenate([error for _, error in parts])
    size = np.trace(matrices, axis1=1, axis2=2)
    largest = np.abs(solved).max(axis=1)
    errors = SAFETY * np.finfo(float).eps * size * largest[:, 0] * largest[:, 1]
    return solved[..., 0], np.where(np.isfinite(errors), errors, np.inf)
