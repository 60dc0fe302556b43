"""Smoothers: value, derivative and noise of a measured series, without any law."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Annotated

import numpy as np
import pydantic

from sciml_discover.smoothers.abstract import AbstractCurves, AbstractSmoother
from sciml_discover.smoothers.automatic import Automatic
from sciml_discover.smoothers.gaussian_process import GaussianProcess
from sciml_discover.smoothers.local_polynomial import LocalPolynomial
from sciml_discover.smoothers.logarithm import ExponentialCurves
from sciml_discover.smoothers.reinsch_spline import ReinschSpline
from sciml_discover.smoothers.savitzky_golay import SavitzkyGolay
from sciml_discover.smoothers.smoothing_spline import SmoothingSpline
from sciml_discover.smoothers.warped_time import TimeWarp, WarpedCurves

SmootherOptions = Annotated[
    Automatic | GaussianProcess | ReinschSpline | SmoothingSpline | LocalPolynomial | SavitzkyGolay,
    pydantic.Field(discriminator="kind"),
]


def fit_smoother(
    times: Sequence[np.ndarray],
    values: Sequence[np.ndarray],
    smoother: AbstractSmoother | None = None,
    sizes: Sequence[np.ndarray] | None = None,
) -> AbstractCurves:
    """Smooth several series of one observable that share noise and smoothness.

    Where the rows of a series are very uneven, such as at times that are powers of ten, all of this happens in a
    warped time in which they are about even; see `TimeWarp`.

    Args:
        times: increasing times of each series.
        values: of each series, same lengths; NaN where nothing was measured.
        smoother: the method; `Automatic` unless given.
        sizes: relative standard deviation of the noise of each value; all one unless given.
    """
    sizes = [np.ones(len(series)) for series in times] if sizes is None else sizes
    seen = [np.isfinite(series) for series in values]
    times, values, sizes = (
        [np.asarray(series, dtype=float)[keep] for series, keep in zip(part, seen, strict=True)]
        for part in (times, values, sizes)
    )
    series = tuple(
        tuple(part.tobytes() for part in (at, measured, size))
        for at, measured, size in zip(times, values, sizes, strict=True)
    )
    method = Automatic() if smoother is None else smoother
    return _remembered(method, series)  # pyright: ignore[reportArgumentType] - pydantic hashes frozen models


@functools.lru_cache(maxsize=64)
def _remembered(smoother: AbstractSmoother, series: tuple[tuple[bytes, ...], ...]) -> AbstractCurves:
    """Return smooth curves, which every stage of a run asks for again: bytes of times, values and sizes."""
    times, values, sizes = ([np.frombuffer(item[part]) for item in series] for part in range(3))
    warp = TimeWarp.between(times)
    if warp is None:
        return smoother.fit(times, values, sizes)
    return WarpedCurves(smoother.fit([warp.place(at) for at in times], values, sizes), warp)


def fit_smoother_per_value(
    times: Sequence[np.ndarray],
    values: Sequence[np.ndarray],
    sds: Sequence[np.ndarray],
    smoother: AbstractSmoother | None = None,
) -> AbstractCurves:
    """Smooth several series of one observable whose noise is in proportion to each value.

    Values that are all positive are smoothed as logarithms: over orders of magnitude no curve is smooth enough
    otherwise.

    Args:
        times: increasing times of each series.
        values: of each series, same lengths; NaN where nothing was measured.
        sds: standard deviation of each value, up to a common factor: the ``noise_sd`` of what is returned.
        smoother: the method; `Automatic` unless given.
    """
    if any(np.any(series <= 0) for series in values):
        return fit_smoother(times, values, smoother, sds)
    logs = [np.log(series) for series in values]
    # A value within its noise says little of its logarithm, but not as little as the linear error would have it.
    relative = [np.minimum(sd / series, 1.0) for sd, series in zip(sds, values, strict=True)]
    return ExponentialCurves(fit_smoother(times, logs, smoother, relative))
