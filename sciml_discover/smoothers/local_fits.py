"""Polynomials fitted to windows of rows: what local regression and Savitzky-Golay filters share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from sciml_discover.smoothers.abstract import SeparateCurves, connect, pooled, smallest_noise

CHUNK = 1_000_000
"""Most values of all windows that are worked on at once."""

ROWS_JUDGED = 250
"""Rows that a setting is judged by."""

T = TypeVar("T")
Kernel = Callable[[np.ndarray], np.ndarray]


Series = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Times, values and sizes of the noise of one series."""


@dataclass(frozen=True)
class LocalFits:
    """Polynomials in ``(time - center) / reach`` around some rows of a series.

    Attributes:
        rows: which rows, shape ``(centers,)``.
        centers: their times.
        reach: half-width of each window.
        coefficients: from the constant upwards, shape ``(centers, degree + 1)``.
        leverage: weight of each row in its own fit, shape ``(centers,)``.
        variance: of each fitted value, in units of that of its own row's noise, same shape.
    """

    rows: np.ndarray
    centers: np.ndarray
    reach: np.ndarray
    coefficients: np.ndarray
    leverage: np.ndarray
    variance: np.ndarray


def fit_windows(
    series: Series,
    rows: np.ndarray,
    first: np.ndarray,
    width: int,
    reach: np.ndarray,
    degree: int,
    kernel: Kernel,
) -> LocalFits:
    """Fit one polynomial per row to the window that begins at ``first`` and is ``width`` rows wide.

    Args:
        series: times, values, sizes of the noise.
        rows: centres of the windows.
        first: first row of each window; what stands beyond the end of the series has no weight.
        width: of the windows, in rows.
        reach: distance at which the argument of the kernel is one, per window.
        degree: of the polynomials.
        kernel: weight of a row by its scaled distance, one at zero.
    """
    parts = []
    step = max(CHUNK // width, 1)
    for begin in range(0, len(rows), step):
        part = slice(begin, begin + step)
        parts.append(_fit(series, rows[part], first[part], width, reach[part], degree, kernel))
    return LocalFits(
        rows, series[0][rows], reach, *(np.concatenate(column) for column in zip(*parts, strict=True))
    )


def _fit(
    series: Series,
    rows: np.ndarray,
    first: np.ndarray,
    width: int,
    reach: np.ndarray,
    degree: int,
    kernel: Kernel,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    times, values, sizes = series
    index = first[:, None] + np.arange(width)
    inside = index < len(times)
    index = np.minimum(index, len(times) - 1)
    scaled = (times[index] - times[rows][:, None]) / reach[:, None]
    near = inside * kernel(scaled)
    # In units of the own row's noise, so that the numbers stay of order one.
    weights = near * (sizes[rows][:, None] / sizes[index]) ** 2
    powers = scaled[..., None] ** np.arange(degree + 1)
    weighted = (powers * weights[..., None]).swapaxes(1, 2)
    right = np.zeros((len(rows), degree + 1, 2))
    right[..., 0] = (weighted @ values[index][..., None])[..., 0]
    right[:, 0, 1] = 1.0  # the first column of the inverse tells the weight of each row in the fitted value
    solution = np.linalg.solve(weighted @ powers, right)
    coefficients, inverse = solution[..., 0], solution[..., 1]
    # The variance of a row is one over its weight, without the kernel.
    spread = (weighted * near[:, None]) @ powers
    variance = (inverse[:, None] @ spread @ inverse[..., None])[:, 0, 0]
    return coefficients, inverse[:, 0], variance


@dataclass(frozen=True)
class BlendedPolynomials:
    """Local polynomials, blended between neighbouring centres so that value and slope are continuous."""

    fits: LocalFits

    def __call__(self, x: np.ndarray, nu: int = 0) -> np.ndarray:
        """Return values (``nu = 0``) or first derivatives (``nu = 1``) at times."""
        centers = self.fits.centers
        left = np.clip(np.searchsorted(centers, x, side="right") - 1, 0, max(len(centers) - 2, 0))
        right = np.minimum(left + 1, len(centers) - 1)
        gap = np.where(right > left, centers[right] - centers[left], 1.0)
        place = np.clip((x - centers[left]) / gap, 0.0, 1.0)
        share = place**2 * (3.0 - 2.0 * place)
        (one, one_slope), (two, two_slope) = self._polynomial(left, x), self._polynomial(right, x)
        if nu == 0:
            return (1.0 - share) * one + share * two
        turn = 6.0 * place * (1.0 - place) / gap
        return (1.0 - share) * one_slope + share * two_slope + turn * (two - one)

    def _polynomial(self, index: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        reach = self.fits.reach[index]
        scaled = (x - self.fits.centers[index]) / reach
        value, slope = np.zeros_like(scaled), np.zeros_like(scaled)
        for coefficient in self.fits.coefficients[index].T[::-1]:
            slope = slope * scaled + value
            value = value * scaled + coefficient
        return value, slope / reach


def rows_apart(times: np.ndarray, step: np.ndarray) -> np.ndarray:
    """Return rows that are at least a step apart, the first and the last among them.

    Polynomials around rows that nearly coincide differ a little, which over so short a way is a wild slope.

    Args:
        times: increasing.
        step: least distance to the next row, from each row.
    """
    following = np.searchsorted(times, times + step).tolist()
    rows = [0]
    while following[rows[-1]] < len(times):
        rows.append(max(following[rows[-1]], rows[-1] + 1))
    last = len(times) - 1
    return np.unique([*(row for row in rows if row == 0 or times[last] - times[row] >= step[row]), last])


def smooth_locally(
    series: Sequence[Series],
    least: int,
    settings: Sequence[T],
    fit: Callable[[Series, T, np.ndarray], LocalFits],
    centers: Callable[[Series, T], np.ndarray],
) -> SeparateCurves:
    """Return curves of local polynomials, of the setting that predicts each row best from the others.

    Leaving a row out changes its residual by ``1 / (1 - leverage)`` exactly, so that nothing is fitted twice; of long
    data some of the rows are enough to judge by. The noise is the residual over its degrees of freedom,
    ``trace((I - S)' (I - S))`` with the smoother matrix S.

    Args:
        series: times, values and sizes of each.
        least: rows that a series needs; shorter ones are connected.
        settings: to choose from.
        fit: returns the fits of a series, with a setting, around some rows.
        centers: returns the rows of a series that the curve is made from.
    """
    long = [item for item in series if len(item[0]) >= least]
    best, lowest, noise_sd, freedom = settings[0], np.inf, 0.0, 1.0
    count = sum(len(item[0]) for item in long)
    every = max(count // ROWS_JUDGED, 1)
    for setting in settings if long else ():
        found = [(fit(item, setting, np.arange(0, len(item[0]), every)), item) for item in long]
        residual = np.concatenate(
            [(item[1][part.rows] - part.coefficients[:, 0]) / item[2][part.rows] for part, item in found]
        )
        leverage = np.concatenate([part.leverage for part, _ in found])
        variance = np.concatenate([part.variance for part, _ in found])
        score = float(np.mean((residual / np.maximum(1.0 - leverage, 1e-6)) ** 2))
        if score < lowest:
            best, lowest = setting, score
            left = float(np.sum(1.0 - 2.0 * leverage + variance))
            noise_sd = float(np.sqrt(np.sum(residual**2) / left)) if left > 0 else 0.0
            freedom = left * count / len(residual)
    values, sizes = [item[1] for item in series], [item[2] for item in series]
    overall = float(np.mean(pooled(values)))
    return SeparateCurves(
        noise_sd=max(noise_sd, smallest_noise(values, sizes)),
        degrees_of_freedom=max(freedom, 1.0),
        curves=tuple(
            BlendedPolynomials(fit(item, best, centers(item, best)))
            if len(item[0]) >= least
            else connect(item[0], item[1], overall)
            for item in series
        ),
    )
