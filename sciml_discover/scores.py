"""Measures of a prediction against rows, and tests of its residuals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sciml_discover.noise import Noise
from sciml_discover.trajectories import Dataset

FEWEST_ROWS = 8
"""Observed values per observable below which whiteness cannot be tested."""

EXACT, NEGLIGIBLE = 1e-6, 0.05
"""Largest residual, as a fraction of the range of the values and of the noise, that solvers may leave of data without
noise. The noise of such data, estimated without the law, is what a smoother could not follow."""


@dataclass(frozen=True)
class Metrics:
    """How one model does on one set of rows.

    Attributes:
        rms: root mean square error per observable, in its unit.
        relative_l2: L2 norm of the error over that of the values, all observables.
        standardised: root mean square of error / predictive sd, all observables.
        unexplained: squared error over that of a constant for each observable, both in units of the noise.
        chi_squares: sum of squared errors over squared noise sd, per observable.
        counts: observed values, per observable.
    """

    rms: dict[str, float]
    relative_l2: float
    standardised: float
    unexplained: float
    chi_squares: dict[str, float]
    counts: dict[str, int]

    @property
    def chi_square(self) -> float:
        """Sum of squared errors over squared noise sd, all observables."""
        return sum(self.chi_squares.values())

    @property
    def n_values(self) -> int:
        """Observed values that were counted."""
        return sum(self.counts.values())


def measure(
    dataset: Dataset,
    prediction: Sequence[np.ndarray] | None,
    predictive_sd: Sequence[np.ndarray] | None,
    noise: Noise,
    constant: np.ndarray | None = None,
) -> Metrics | None:
    """Return how well a prediction meets rows; None if there is no prediction, or it is not finite.

    Args:
        dataset: the rows.
        prediction: observables at the rows of each trajectory, shape ``(rows, observables)``.
        predictive_sd: standard deviation of the prediction without the noise, on the scale on which the noise is
            additive, same shapes; None counts as zero.
        noise: of the observations.
        constant: what ``unexplained`` compares with, shape ``(observables,)``; the best constant of the rows
            themselves unless given.
    """
    if prediction is None:
        return None
    values = np.concatenate([trajectory.values for trajectory in dataset.trajectories])
    found = np.concatenate(list(prediction))
    seen = np.isfinite(values)
    if not np.isfinite(found[seen]).all() or not seen.any():
        return None
    error = np.where(seen, found - values, 0.0)
    scaled = np.where(seen, noise.transform(found) - noise.transform(values), 0.0)
    if not np.isfinite(scaled).all():
        # A negative prediction of a quantity whose logarithm was measured.
        return None
    own = np.zeros_like(values) if predictive_sd is None else np.concatenate(list(predictive_sd))
    count = seen.sum(axis=0)
    sd = noise.sd_of(values)
    standard = scaled / sd
    size = float(np.linalg.norm(np.where(seen, values, 0.0)))
    center = noise.transform(best_constant(dataset, noise) if constant is None else constant)
    spread = float(np.sum(np.where(seen, (noise.transform(values) - center) / sd, 0.0) ** 2))
    return Metrics(
        rms={
            name: float(np.sqrt(np.sum(error[:, column] ** 2) / count[column]))
            for column, name in enumerate(dataset.observables)
            if count[column]
        },
        relative_l2=float(np.linalg.norm(error)) / size if size > 0 else float("inf"),
        standardised=float(np.sqrt(np.sum(scaled**2 / (sd**2 + own**2)) / seen.sum())),
        unexplained=float(np.sum(standard**2) / spread) if spread > 0 else float("inf"),
        chi_squares=dict(zip(dataset.observables, (standard**2).sum(axis=0).tolist(), strict=True)),
        counts=dict(zip(dataset.observables, count.tolist(), strict=True)),
    )


def best_constant(dataset: Dataset, noise: Noise) -> np.ndarray:
    """Return the constant of each observable that fits rows best, shape ``(observables,)``.

    The mean where noise is additive, weighted where every value has its own; the geometric mean where it is
    log-normal; zero where nothing was seen.
    """
    measured = np.concatenate([trajectory.values for trajectory in dataset.trajectories])
    values = noise.transform(measured)
    seen = np.isfinite(values)
    weights = np.where(seen, (noise.sd / noise.sd_of(measured)) ** 2, 0.0)
    total = weights.sum(axis=0)
    center = (weights * np.where(seen, values, 0.0)).sum(axis=0) / np.where(total > 0, total, 1.0)
    return np.where(noise.lognormal, np.exp(center), center)


def constant_metrics(train: Dataset, rows: Dataset, noise: Noise) -> Metrics | None:
    """Return how well the best constant of the training rows meets rows: what every law has to beat."""
    constant = best_constant(train, noise)
    prediction = [np.tile(constant, (len(item.times), 1)) for item in rows.trajectories]
    return measure(rows, prediction, None, noise, constant)


def whiteness(dataset: Dataset, prediction: Sequence[np.ndarray], noise: Noise) -> dict[str, float]:
    """Return the p-value of the Ljung-Box test of each observable's residuals, over all trajectories.

    Ljung & Box 1978, doi:10.1093/biomet/65.2.297, with up to five lags. Observables with too few rows are left out,
    and those that are met exactly: what is left of data without noise are the errors of solvers.
    """
    from scipy import stats

    p_values = {}
    for column, name in enumerate(dataset.observables):
        series, exact = [], []
        for trajectory, found in zip(dataset.trajectories, prediction, strict=True):
            measured = noise.transform(trajectory.values)[:, column]
            residual = noise.transform(found)[:, column] - measured
            sd = noise.sd_of(trajectory.values)[:, column]
            exact.append(_is_exact(residual, measured, sd))
            residual = residual / sd
            series.append(residual[np.isfinite(residual)])
        if all(exact):
            continue
        count = sum(len(item) for item in series)
        lags = min(5, count // 4)
        variance = sum(float(np.sum(item**2)) for item in series)
        if count < FEWEST_ROWS or variance == 0.0:
            continue
        statistic, tested = 0.0, 0
        for lag in range(1, lags + 1):
            # Of one trajectory these are the rows less the lag, as in the paper; of short ones there are far fewer.
            pairs = sum(max(len(item) - lag, 0) for item in series)
            if pairs < count // 4:
                break
            products = sum(float(np.sum(item[lag:] * item[:-lag])) for item in series)
            statistic += (products / variance) ** 2 / pairs
            tested = lag
        if tested:
            p_values[name] = float(stats.chi2.sf(count * (count + 2) * statistic, tested))
    return p_values


def _is_exact(residual: np.ndarray, measured: np.ndarray, sd: np.ndarray) -> bool:
    """Return whether residuals are as small as the errors of solvers; also where nothing was measured."""
    seen = np.isfinite(residual)
    if not seen.any():
        return True
    allowed = np.fmax(EXACT * np.ptp(measured[seen]), NEGLIGIBLE * sd[seen])
    return bool((np.abs(residual[seen]) < allowed).all())
