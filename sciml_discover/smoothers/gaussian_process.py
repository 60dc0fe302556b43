"""Gaussian-process smoothing, its hyperparameters weighed by their evidence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from sciml_discover.errors import InputError
from sciml_discover.smoothers.abstract import AbstractCurves, AbstractSmoother

Kernel = Literal["squared_exponential", "matern52"]

NOISE_FLOOR = 1e-5
"""Smallest noise sd, relative to the spread of the series: below it the kernel matrix is singular."""

LENGTHS = 40
"""Length scales tried, from half the spacing to three times the span."""

RATIOS = np.geomspace(1e-4, 3.0, 60)
"""Noise sd over signal amplitude: the values tried."""

EXPECTED_NOISE, EXPECTED_NOISE_FACTOR = 0.05, 5.0
"""Prior of noise sd over spread: log-normal around the first, one sd is the second as a factor.

A short series that oscillates can be interpolated exactly; then the evidence alone says nothing about the noise,
and this very wide prior keeps the answer from running to zero.
"""


LARGEST = 2000
"""Most values of one series: its covariance matrix is decomposed eighty times."""


class GaussianProcess(AbstractSmoother):
    """The Gaussian process whose length, amplitude, noise and kernel the evidence likes best.

    Rasmussen & Williams 2006, Gaussian Processes for Machine Learning, chapters 2 and 5. The best for few values; the
    time grows with the cube of the length of a series.
    """

    kind: Literal["gaussian_process"] = "gaussian_process"

    def fit(
        self, times: Sequence[np.ndarray], values: Sequence[np.ndarray], sizes: Sequence[np.ndarray]
    ) -> GaussianProcessCurves:
        """Return the posterior mean of every series; see `AbstractSmoother.fit`.

        Raises:
            InputError: if a series is too long.
        """
        longest = max(map(len, times))
        if longest > LARGEST:
            raise InputError(
                f"a Gaussian process over {longest} values of one trajectory",
                where="the smoother",
                expected=f"at most {LARGEST}",
                do='Use kind = "smoothing_spline" or "savitzky_golay".',
            )
        return _fit(times, values, sizes)


@dataclass(frozen=True)
class GaussianProcessCurves(AbstractCurves):
    """Posterior of several series of one observable (Rasmussen & Williams 2006, chapters 2 and 5).

    Attributes:
        kernel: covariance function.
        length_scale: in units of time.
        noise_sd: posterior root mean square of the noise sd of a value of size one.
        degrees_of_freedom: those of the scaled chi-square with the posterior's variance of the log
            noise variance, ``2 / var(log sd**2)``.
    """

    kernel: Kernel
    length_scale: float
    noise_sd: float
    degrees_of_freedom: float
    times: tuple[np.ndarray, ...]
    offsets: tuple[float, ...]
    amplitude: float
    dual: tuple[np.ndarray, ...]

    def value(self, series: int, times: np.ndarray) -> np.ndarray:
        """Return the posterior mean of one series, shape ``(times,)``."""
        gap = (np.asarray(times)[:, None] - self.times[series][None, :]) / self.length_scale
        return self.offsets[series] + self.amplitude**2 * _covariance(self.kernel, gap) @ self.dual[series]

    def derivative(self, series: int, times: np.ndarray) -> np.ndarray:
        """Return the time derivative of the posterior mean of one series, shape ``(times,)``."""
        gap = (np.asarray(times)[:, None] - self.times[series][None, :]) / self.length_scale
        slope = _covariance_slope(self.kernel, gap) / self.length_scale
        return self.amplitude**2 * slope @ self.dual[series]


def _fit(
    times: Sequence[np.ndarray], values: Sequence[np.ndarray], sizes: Sequence[np.ndarray]
) -> GaussianProcessCurves:
    """Smooth several series of one observable, with common amplitude, length scale, noise and kernel.

    Divided by the sizes, all values have the same noise, and their covariance stays a matrix that is decomposed once.

    Every kernel and length scale costs one eigendecomposition of the covariance matrix; the evidence of all
    noise levels follows from it, and the best amplitude has a closed form. So the posterior of the noise is
    a sum over a grid: no iteration that could stop in the wrong mode.
    """
    # A trajectory may lack an observable: it stays at the mean of the others.
    overall = float(np.mean(np.concatenate(list(values))))
    offsets = [float(np.mean(series)) if len(series) else overall for series in values]
    centred = [series - offset for series, offset in zip(values, offsets, strict=True)]
    n_values = sum(len(series) for series in centred)
    spread = float(np.sqrt(np.mean(np.concatenate(centred) ** 2))) or 1.0
    unit = float(np.sqrt(np.mean(np.concatenate(list(sizes)) ** 2)))
    sizes = [size / unit for size in sizes]
    gaps = [series[:, None] - series[None, :] for series in times]
    steps = np.concatenate([np.diff(series) for series in times])
    spacing = float(np.median(steps)) if len(steps) else 1.0
    span = max((float(series[-1] - series[0]) for series in times if len(series) > 1), default=spacing)
    lengths = np.geomspace(0.5 * spacing, 3.0 * span, LENGTHS)
    kernels: tuple[Kernel, ...] = ("squared_exponential", "matern52")

    log_posterior = np.empty((len(kernels), len(lengths), len(RATIOS)))
    noise = np.empty_like(log_posterior)
    for row, kernel in enumerate(kernels):
        for column, length in enumerate(lengths):
            quadratic, log_determinant = np.zeros(len(RATIOS)), np.zeros(len(RATIOS))
            for gap, series, size in zip(gaps, centred, sizes, strict=True):
                covariance = _covariance(kernel, gap / length) / np.outer(size, size)
                eigenvalues, vectors = np.linalg.eigh(covariance)
                levels = np.maximum(eigenvalues, 0.0)[None, :] + RATIOS[:, None] ** 2
                quadratic += np.sum((vectors.T @ (series / size)) ** 2 / levels, axis=1)
                log_determinant += np.sum(np.log(levels), axis=1)
            amplitude_squared = np.maximum(quadratic / n_values, (1e-3 * spread) ** 2)
            log_evidence = -0.5 * (
                n_values * np.log(amplitude_squared) + quadratic / amplitude_squared + log_determinant
            )
            noise[row, column] = np.sqrt(amplitude_squared) * RATIOS
            deviation = np.log(noise[row, column] / (EXPECTED_NOISE * spread)) / np.log(EXPECTED_NOISE_FACTOR)
            log_posterior[row, column] = log_evidence - 0.5 * deviation**2

    weights = np.exp(log_posterior - log_posterior.max())
    weights /= weights.sum()
    noise_sd = max(float(np.sqrt(np.sum(weights * noise**2))), NOISE_FLOOR * spread)
    log_variance = 2.0 * np.log(noise)
    variance_of_log = float(np.sum(weights * (log_variance - np.sum(weights * log_variance)) ** 2))

    row, column, level = np.unravel_index(np.argmax(log_posterior), log_posterior.shape)
    kernel, length, ratio = kernels[row], float(lengths[column]), float(RATIOS[level])
    amplitude = float(noise[row, column, level] / ratio)
    dual = [
        np.linalg.solve(
            amplitude**2 * (_covariance(kernel, gap / length) + ratio**2 * np.diag(size**2)), series
        )
        for gap, series, size in zip(gaps, centred, sizes, strict=True)
    ]
    return GaussianProcessCurves(
        kernel=kernel,
        length_scale=length,
        noise_sd=noise_sd / unit,
        degrees_of_freedom=float(np.clip(2.0 / max(variance_of_log, 1e-9), 1.0, n_values)),
        times=tuple(times),
        offsets=tuple(offsets),
        amplitude=amplitude,
        dual=tuple(dual),
    )


def _covariance(kernel: Kernel, gap: np.ndarray) -> np.ndarray:
    if kernel == "squared_exponential":
        return np.exp(-0.5 * gap**2)
    distance = np.sqrt(5.0) * np.abs(gap)
    return (1.0 + distance + distance**2 / 3.0) * np.exp(-distance)


def _covariance_slope(kernel: Kernel, gap: np.ndarray) -> np.ndarray:
    """Return the derivative of the covariance by ``gap``."""
    if kernel == "squared_exponential":
        return -gap * np.exp(-0.5 * gap**2)
    distance = np.sqrt(5.0) * np.abs(gap)
    return -(5.0 / 3.0) * gap * (1.0 + distance) * np.exp(-distance)
