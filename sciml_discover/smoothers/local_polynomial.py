"""Kernel local polynomial regression."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import pydantic

from sciml_discover.smoothers.abstract import SHORTEST, AbstractSmoother, SeparateCurves, typical_spacing
from sciml_discover.smoothers.local_fits import LocalFits, Series, fit_windows, rows_apart, smooth_locally

BANDWIDTHS, NARROWEST, WIDEST = 16, 2.0, 500.0
"""How many bandwidths are tried, and the limits between which, in median intervals."""

CENTERS_PER_BANDWIDTH = 10
"""Polynomials per bandwidth: between them they are blended."""


class LocalPolynomial(AbstractSmoother):
    """Weighted polynomials around each time (Fan & Gijbels 1996, Local Polynomial Modelling and Its Applications).

    The weights are Epanechnikov's. A window counts time; where rows are too sparse for a polynomial it widens. Degree
    two is the right one for a first derivative (degree minus order of the derivative odd).
    """

    kind: Literal["local_polynomial"] = "local_polynomial"
    bandwidth: pydantic.PositiveFloat | None = None
    """Half-width of the windows, in median intervals between rows; chosen by leaving out one row at a time unless
    given."""
    degree: Literal[2, 3] = 2
    """Degree of the polynomials."""

    def fit(
        self, times: Sequence[np.ndarray], values: Sequence[np.ndarray], sizes: Sequence[np.ndarray]
    ) -> SeparateCurves:
        """Return one curve per series; see `AbstractSmoother.fit`."""
        spacing = typical_spacing(times)
        span = max((float(series[-1] - series[0]) for series in times if len(series)), default=spacing)
        widest = min(max(span / spacing, 2.0 * NARROWEST), WIDEST)
        tried = [self.bandwidth] if self.bandwidth else np.geomspace(NARROWEST, widest, BANDWIDTHS).tolist()
        return smooth_locally(
            list(zip(times, values, sizes, strict=True)),
            max(self.degree + 2, SHORTEST),
            [spacing * bandwidth for bandwidth in tried],
            self._fit_rows,
            lambda series, bandwidth: rows_apart(
                series[0], np.full(len(series[0]), bandwidth / CENTERS_PER_BANDWIDTH)
            ),
        )

    def _fit_rows(self, series: Series, bandwidth: float, rows: np.ndarray) -> LocalFits:
        times = series[0]
        # As many neighbours as a polynomial needs, one more, and another at the very edge of the kernel.
        near = _distance_to_neighbour(times, min(self.degree + 2, len(times) - 1))[rows]
        reach = np.maximum(bandwidth, 1.01 * near)
        first = np.searchsorted(times, times[rows] - reach)
        last = np.searchsorted(times, times[rows] + reach, side="right")
        return fit_windows(series, rows, first, int(np.max(last - first)), reach, self.degree, _epanechnikov)


def _epanechnikov(distance: np.ndarray) -> np.ndarray:
    return np.maximum(1.0 - distance**2, 0.0)


def _distance_to_neighbour(times: np.ndarray, rank: int) -> np.ndarray:
    """Return how far the neighbour of a rank is from each time, shape ``(times,)``."""
    count = len(times)
    nearest = np.full(count, np.inf)
    for before in range(rank + 1):
        # Windows of rank + 1 times that begin `before` rows earlier.
        first = np.arange(count) - before
        fits = (first >= 0) & (first + rank < count)
        own = np.flatnonzero(fits)
        left, right = times[first[own]], times[first[own] + rank]
        nearest[own] = np.minimum(nearest[own], np.maximum(times[own] - left, right - times[own]))
    return nearest
