"""Time stretched where rows are dense, so that very uneven rows become about even."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sciml_discover.smoothers.abstract import AbstractCurves

UNEVEN = 20.0
"""Largest over smallest local spacing within a series above which smoothing in plain time is hopeless."""

FEWEST = 6
"""Rows of a series below which nothing is said of its spacing."""

GRADING = 1.0
"""Steepest growth of the local spacing with time: with one, a step is at most as long as all of its way so far."""

JITTER = 0.3
"""Scatter of the logarithm of the local spacing that is put up with."""


@dataclass(frozen=True)
class TimeWarp:
    """A smooth increasing coordinate in which local spacings are about one.

    It is the integral of one over a local spacing that is piecewise linear in time, and so known in closed form:
    between knots a logarithm. That the spacing is graded keeps a curve that is smooth in time smooth in the coordinate.

    Attributes:
        knots: times, increasing.
        spacing: local spacing at the knots.
        places: the coordinate of the knots.
    """

    knots: np.ndarray
    spacing: np.ndarray
    places: np.ndarray

    @classmethod
    def between(cls, times: Sequence[np.ndarray]) -> TimeWarp | None:
        """Return the warp for series of increasing times, None where their rows are even enough.

        Rows at random are uneven, too; so what counts is the spacing averaged over as many neighbours as its scatter
        demands. All series share one warp, which follows the densest of them.
        """
        local = [_local_spacing(series) for series in times]
        if not any(np.ptp(np.log(spacing)) > np.log(UNEVEN) for spacing in local if len(spacing)):
            return None
        knots = np.concatenate([series for series, spacing in zip(times, local, strict=True) if len(spacing)])
        spacing = np.concatenate(local)
        order = np.argsort(knots, kind="stable")
        knots, spacing = knots[order], spacing[order]
        # In the middle of a gap the graded spacing may be larger than at both ends.
        every = np.unique(np.concatenate([knots, 0.5 * (knots[1:] + knots[:-1])]))
        growth = GRADING * every
        at = np.full(len(every), np.inf)
        np.minimum.at(at, np.searchsorted(every, knots), spacing)
        from_left = growth + np.minimum.accumulate(at - growth)
        from_right = np.minimum.accumulate((at + growth)[::-1])[::-1] - growth
        graded = np.minimum(from_left, from_right)
        # Only there: between rows as near as the spacing says it would go up and down from row to row.
        between = np.flatnonzero(np.isinf(at))
        straight = 0.5 * (graded[between - 1] + graded[between + 1])
        gap = every[between + 1] - every[between - 1]
        graded[between] = np.minimum(graded[between], np.maximum(straight, 0.5 * gap))
        graded = np.maximum(graded, 0.5 * float(spacing.min()))
        steps = np.diff(every) * _mean_inverse(graded[:-1], graded[1:])
        return cls(every, graded, np.concatenate([[0.0], np.cumsum(steps)]))

    def place(self, times: np.ndarray) -> np.ndarray:
        """Return the coordinate of times; beyond the knots the local spacing stays as it is."""
        index, offset, spacing = self._locate(times)
        return self.places[index] + offset * _mean_inverse(self.spacing[index], spacing)

    def slope(self, times: np.ndarray) -> np.ndarray:
        """Return the derivative of the coordinate by time."""
        return 1.0 / self._locate(times)[2]

    def _locate(self, times: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the knot before each time (the first for earlier ones), how far it is, the local spacing."""
        times = np.asarray(times, dtype=float)
        index = np.clip(np.searchsorted(self.knots, times, side="right") - 1, 0, len(self.knots) - 1)
        following = np.minimum(index + 1, len(self.knots) - 1)
        gap = np.where(following > index, self.knots[following] - self.knots[index], 1.0)
        offset = times - self.knots[index]
        share = np.clip(offset / gap, 0.0, 1.0)
        return index, offset, self.spacing[index] + share * (self.spacing[following] - self.spacing[index])


@dataclass(frozen=True)
class WarpedCurves(AbstractCurves):
    """Curves that were fitted in a warped time."""

    curves: AbstractCurves
    warp: TimeWarp

    @property
    def noise_sd(self) -> float:  # type: ignore[override]
        """Standard deviation of the noise of a value of size one."""
        return self.curves.noise_sd

    @property
    def degrees_of_freedom(self) -> float:  # type: ignore[override]
        """How many residuals the noise estimate rests on."""
        return self.curves.degrees_of_freedom

    def value(self, series: int, times: np.ndarray) -> np.ndarray:
        """Return the smoothed values of one series, shape ``(times,)``."""
        return self.curves.value(series, self.warp.place(times))

    def derivative(self, series: int, times: np.ndarray) -> np.ndarray:
        """Return the time derivative of one smoothed series, shape ``(times,)``, by the chain rule."""
        return self.curves.derivative(series, self.warp.place(times)) * self.warp.slope(times)


def _mean_inverse(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """Return the mean of one over what goes linearly from ``one`` to ``two``."""
    growth = (two - one) / one
    close = np.abs(growth) < 1e-8
    return np.where(close, 1.0 - 0.5 * growth, np.log1p(growth) / np.where(close, 1.0, growth)) / one


def _local_spacing(times: np.ndarray) -> np.ndarray:
    """Return the geometric mean of the intervals around each row, empty for a short series."""
    if len(times) < FEWEST:
        return np.zeros(0)
    logs = np.log(np.diff(times))
    # Scatter around a straight course of the logarithm, whatever a few real jumps of the spacing do.
    bends = np.abs(logs[:-2] - 2.0 * logs[1:-1] + logs[2:]) / np.sqrt(6.0)
    scatter = 1.4826 * float(np.median(bends))
    half = int(min(np.ceil(0.5 * (scatter / JITTER) ** 2), (len(logs) - 1) // 2))
    if half:
        logs = _moving_line(logs, half)
    return np.exp(np.concatenate([logs[:1], 0.5 * (logs[1:] + logs[:-1]), logs[-1:]]))


def _moving_line(values: np.ndarray, half: int) -> np.ndarray:
    """Return straight lines fitted to ``2 half + 1`` neighbours, at the middle; at the ends, the last whole line."""
    width = 2 * half + 1
    windows = np.lib.stride_tricks.sliding_window_view(values, width)
    middle = windows.mean(axis=1)
    steps = np.arange(-half, half + 1)
    tilt = windows[[0, -1]] @ steps / np.sum(steps**2)
    before = middle[0] + tilt[0] * np.arange(-half, 0)
    return np.concatenate([before, middle, middle[-1] + tilt[1] * np.arange(1, half + 1)])
