"""Savitzky-Golay filters on unequal spacing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import pydantic

from sciml_discover.smoothers.abstract import SHORTEST, AbstractSmoother, SeparateCurves
from sciml_discover.smoothers.local_fits import LocalFits, Series, fit_windows, rows_apart, smooth_locally

LONGEST_WINDOW, WINDOWS = 501, 16
"""Widest window tried, and how many are tried."""

CENTERS_PER_REACH = 10
"""Polynomials per reach of a window: between them they are blended."""


class SavitzkyGolay(AbstractSmoother):
    """Least-squares polynomials over windows of neighbouring rows (Savitzky & Golay 1964, doi:10.1021/ac60214a047).

    A window counts rows, not time, and the polynomials are fitted at the true times; at both ends the window stays
    within the series.
    """

    kind: Literal["savitzky_golay"] = "savitzky_golay"
    window: int | None = pydantic.Field(default=None, ge=5, le=1_000_001)
    """Rows per window, odd; chosen by leaving out one row at a time unless given."""
    degree: Literal[2, 3] = 3
    """Degree of the polynomials."""

    @pydantic.field_validator("window")
    @classmethod
    def _has_a_middle(cls, window: int | None) -> int | None:
        if window is not None and window % 2 == 0:
            raise ValueError(f"a window of {window} rows; give an odd number, so that it has a middle")
        return window

    def fit(
        self, times: Sequence[np.ndarray], values: Sequence[np.ndarray], sizes: Sequence[np.ndarray]
    ) -> SeparateCurves:
        """Return one curve per series; see `AbstractSmoother.fit`."""
        least = max(self.degree + 2, SHORTEST)
        widest = min(max(map(len, times)), LONGEST_WINDOW)
        windows = np.unique(np.geomspace(least, max(widest, least), WINDOWS).astype(int) // 2 * 2 + 1)
        return smooth_locally(
            list(zip(times, values, sizes, strict=True)),
            least,
            [self.window] if self.window else windows.tolist(),
            self._fit_rows,
            self._centers,
        )

    def _fit_rows(self, series: Series, window: int, rows: np.ndarray) -> LocalFits:
        width, first, reach = _windows(series[0], window, rows)
        return fit_windows(series, rows, first, width, reach, self.degree, np.ones_like)

    def _centers(self, series: Series, window: int) -> np.ndarray:
        *_, reach = _windows(series[0], window, np.arange(len(series[0])))
        return rows_apart(series[0], reach / CENTERS_PER_REACH)


def _windows(times: np.ndarray, window: int, rows: np.ndarray) -> tuple[int, np.ndarray, np.ndarray]:
    """Return the width of the windows around rows, where they begin, and how far they reach."""
    width = min(window, len(times))
    first = np.clip(rows - width // 2, 0, len(times) - width)
    reach = np.maximum(times[rows] - times[first], times[first + width - 1] - times[rows])
    return width, first, reach
