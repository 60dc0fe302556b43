"""The one meaning of noise: a standard deviation per observation, given or estimated without the law."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pydantic

from sciml_discover.base import Options
from sciml_discover.errors import InputError
from sciml_discover.smoothers import AbstractCurves, fit_smoother
from sciml_discover.smoothers.abstract import SHORTEST, pooled
from sciml_discover.smoothers.reinsch_spline import third_differences
from sciml_discover.trajectories import Dataset

FIRST_LEVEL, ROUNDS = 0.05, 3
"""Noise per value is estimated in rounds, because what is below the floor depends on the level: from here, so often."""

FEWEST_ABOVE = 8
"""Values above the floor that are enough to estimate the level by."""

CLEARLY = 10.0
"""Twice the difference of log-likelihoods that decides for noise in proportion: very strong evidence for Kass & Raftery
1995, doi:10.1080/01621459.1995.10476572."""
FEWEST_RESIDUALS = 10.0
"""Degrees of freedom below which a noise level says nothing about the kind of noise."""
SMALLEST_PART = 5e-3
"""Noise, as a fraction of an observable's standard deviation, that may be the error of the smooth curve."""
LEAST_PART = 0.1
"""Floor of noise that was found to be in proportion: this part of the noise at the observable's standard deviation. No
instrument measures nothing exactly, and nobody has said here that this one does."""
HIGHEST_PER_VALUE = 0.1
"""Relative noise above which logarithms are taken, or noise stays additive where some values have none: weights by
measured values would favour those that came out small."""

Level = pydantic.PositiveFloat | dict[str, pydantic.PositiveFloat]


LEVELS = ("sd", "relative", "value", "lognormal")
"""The options that say how large the noise is."""


class NoiseOptions(Options):
    """What the fit is told about the measurement noise. Give at most one of sd, relative, value, lognormal."""

    sd: Level | None = None
    """Standard deviation in the unit of the observable, for all or per observable."""
    relative: Level | None = None
    """Standard deviation as a fraction of each observable's mean absolute value."""
    value: Level | None = None
    """Standard deviation as a fraction of each single value's size, but at least the floor."""
    floor: Level = 1e-3
    """Smallest standard deviation of noise per value, as a fraction of each observable's standard deviation."""
    lognormal: Level | None = None
    """Standard deviation of the logarithm of the value: multiplicative noise."""
    estimate: Literal["each", "pooled"] = "each"
    """When no level is given: one standard deviation per observable, or one for all."""
    kind: Literal["automatic", "additive", "value", "lognormal"] = "automatic"
    """When no level is given: noise of one size for all values, in proportion to each value, or of its logarithm.

    By default additive, unless the data say clearly that it is in proportion to the values; see `measure_noise`.
    """

    @pydantic.model_validator(mode="after")
    def _one_level(self) -> NoiseOptions:
        given = [name for name in LEVELS if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} are both given; give one of them")
        if self.says("floor") and not (self.is_per_value or self.is_open):
            raise ValueError('floor is given, but no noise per value; give value = ..., or kind = "value"')
        return self

    @property
    def is_estimated(self) -> bool:
        """Whether no level is given, so that the data have to say it."""
        return all(getattr(self, name) is None for name in LEVELS)

    @property
    def is_open(self) -> bool:
        """Whether the data have to say the kind of noise too."""
        return self.is_estimated and self.kind == "automatic"

    @property
    def is_per_value(self) -> bool:
        """Whether noise is in proportion to each value."""
        return self.value is not None or (self.is_estimated and self.kind == "value")


@dataclass(frozen=True)
class Noise:
    """Measurement noise of a dataset's training rows.

    Attributes:
        observables: names, in the order of the dataset.
        lognormal: per observable, whether ``sd`` refers to the logarithm of the value.
        sd: standard deviation per observable, shape ``(observables,)``; a fraction of each value where there are
            floors. Whoever weighs a value wants `sd_of` instead.
        estimated: whether the data had to say it.
        pooled: whether all observables share one estimated level.
        degrees_of_freedom: how many residuals the estimate rests on, shape ``(observables,)``;
            infinite where the level is given.
        floors: smallest standard deviation of a value, shape ``(observables,)``, in the unit of each observable, where
            noise is in proportion to each value; otherwise None.
    """

    observables: tuple[str, ...]
    lognormal: tuple[bool, ...]
    sd: np.ndarray
    estimated: bool
    pooled: bool
    degrees_of_freedom: np.ndarray
    floors: np.ndarray | None = None

    def sd_of(self, values: np.ndarray) -> np.ndarray:
        """Return the standard deviation of each measured value, on the scale on which the noise is additive.

        It is that of the measured value, never of a model's, on hold-out rows too: a model must not earn a larger
        allowance by predicting larger values.

        Args:
            values: as measured, shape ``(..., observables)``; where nothing was, the floor counts.
        """
        values = np.asarray(values, dtype=float)
        if self.floors is None:
            return np.broadcast_to(self.sd, values.shape).copy()
        return np.fmax(self.sd * np.abs(values), self.floors)

    def typical_sd(self, values: np.ndarray) -> np.ndarray:
        """Return the median standard deviation of the measured values of each observable.

        Args:
            values: shape ``(rows, observables)``.
        """
        if self.floors is None:
            return self.sd.copy()
        seen = np.isfinite(values)
        sd = self.sd_of(values)
        return np.array(
            [
                np.median(sd[seen[:, k], k]) if seen[:, k].any() else self.floors[k]
                for k in range(len(self.sd))
            ]
        )

    def times(self, factor: np.ndarray) -> Noise:
        """Return noise that is larger by a factor for each observable, shape ``(observables,)``."""
        floors = None if self.floors is None else self.floors * factor
        return replace(self, sd=self.sd * factor, floors=floors)

    def transform(self, values: np.ndarray) -> np.ndarray:
        """Return values on the scale on which the noise is additive, shape ``(..., observables)``."""
        result = np.array(values, dtype=float)
        for column, is_lognormal in enumerate(self.lognormal):
            if is_lognormal:
                with np.errstate(divide="ignore", invalid="ignore"):
                    result[..., column] = np.log(result[..., column])
        return result


def smooth_observables(dataset: Dataset, lognormal: tuple[bool, ...]) -> tuple[AbstractCurves, ...]:
    """Return smooth curves for each observable, over all trajectories, of the values or their logarithms.

    Args:
        dataset: the rows.
        lognormal: per observable, whether logarithms are smoothed.
    """
    curves = []
    for column, is_lognormal in enumerate(lognormal):
        times, values = _series(dataset, column)
        curves.append(fit_smoother(times, [np.log(item) for item in values] if is_lognormal else values))
    return tuple(curves)


def _series(dataset: Dataset, column: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return times and values of one observable in each trajectory, NaN where nothing was measured."""
    trajectories = dataset.trajectories
    return [item.times for item in trajectories], [item.values[:, column] for item in trajectories]


def _measure_per_value(dataset: Dataset, floors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return level and degrees of freedom of noise in proportion to each value, but at least the floor."""
    found = []
    for column, floor in enumerate(floors):
        times, values = _series(dataset, column)
        positive = not any(np.any(item <= 0) for item in values)
        level, freedom = FIRST_LEVEL, 1.0
        near = values
        for _ in range(ROUNDS):
            if positive:
                curves = _smooth_above(times, values, floor / level)
                level = curves.noise_sd
            else:
                curves = fit_smoother(
                    times, values, None, [np.fmax(level * np.abs(item), floor) for item in near]
                )
                # A value's own noise must not say how large it is: from now on the smooth value does.
                near = [curves.value(j, time) for j, time in enumerate(times)]
                level *= curves.noise_sd
            freedom = curves.degrees_of_freedom
        found.append((level, freedom))
    level, freedom = np.array(found).T
    return level, freedom


def _smooth_above(times: list[np.ndarray], values: list[np.ndarray], lowest: float) -> AbstractCurves:
    """Return curves through the logarithms of values; those below the lowest say nothing, if enough are left."""
    if sum(int(np.sum(item > lowest)) for item in values) < FEWEST_ABOVE:
        lowest = 0.0
    return fit_smoother(times, [np.log(np.where(item > lowest, item, np.nan)) for item in values])


@dataclass(frozen=True)
class _Level:
    """Estimated noise, attributes as those of `Noise`."""

    sd: np.ndarray
    degrees_of_freedom: np.ndarray
    lognormal: bool = False
    floors: np.ndarray | None = None


def _additive(dataset: Dataset, lognormal: bool) -> _Level:
    """Return noise of one size for all values of an observable, or for all their logarithms."""
    curves = smooth_observables(dataset, tuple(lognormal for _ in dataset.observables))
    sd, freedom = np.array([(item.noise_sd, item.degrees_of_freedom) for item in curves]).T
    return _Level(sd, freedom, lognormal)


def _per_value(dataset: Dataset, level: Level) -> _Level:
    """Return noise in proportion to each value, but at least the floor."""
    floors = _floors(dataset, level)
    return _Level(*_measure_per_value(dataset, floors), False, floors)


def _of_found_kind(dataset: Dataset, held: Dataset | None, options: NoiseOptions) -> _Level:
    """Return noise of the kind that the rows speak for, additive unless neighbours and smooth curves both say else.

    What is below zero as well as above is measured by something that has no true zero: its noise is additive.
    """
    same = _additive(dataset, lognormal=False)
    values = np.concatenate([item.values for item in dataset.trajectories])
    changes_sign = ((values > 0).any(axis=0) & (values < 0).any(axis=0)).any()
    if changes_sign or not _neighbours_say_proportional(dataset):
        return same
    own = _per_value(dataset, options.floor)
    floors = own.floors if options.says("floor") else LEAST_PART * own.sd * _floors(dataset, 1.0)
    if _evidence_of_curves(dataset, same, replace(own, floors=floors)) <= CLEARLY:
        return same
    parts = [dataset] if held is None else [dataset, held]
    has_logarithms = not any(np.any(item.values <= 0) for part in parts for item in part.trajectories)
    telling = np.minimum(same.degrees_of_freedom, own.degrees_of_freedom) >= FEWEST_RESIDUALS
    if float(np.max(own.sd, where=telling, initial=0.0)) > HIGHEST_PER_VALUE:
        return _additive(dataset, lognormal=True) if has_logarithms else same
    return replace(own, floors=floors)


def _neighbours_say_proportional(dataset: Dataset) -> bool:
    """Return whether differences between neighbours are clearly in proportion to their size.

    Third differences do not see a course that is smooth enough, and no curve has to follow it. Where rows are too far
    apart for that, curvature makes a few large ones, and their mean square says what their mean size does not: both
    have to say it.
    """
    spread = _floors(dataset, 1.0)
    evidence = np.zeros(2)
    for column, typical in enumerate(spread):
        differences, sizes = [], []
        for times, values in zip(*_series(dataset, column), strict=True):
            seen = np.isfinite(values)
            if seen.sum() >= SHORTEST:
                differences.append(third_differences(times[seen], values[seen], np.ones(int(seen.sum()))))
                near = np.lib.stride_tricks.sliding_window_view(values[seen], 4).mean(axis=1)
                sizes.append(np.fmax(np.abs(near), LEAST_PART * typical))
        difference, size = pooled(differences), pooled(sizes)
        if len(difference) < FEWEST_RESIDUALS:
            continue
        for number, power in enumerate((1.0, 2.0)):
            same, relative = (
                float(np.mean(np.abs(item) ** power)) ** (1.0 / power)
                for item in (difference, difference / size)
            )
            if same > SMALLEST_PART * typical:
                evidence[number] += 2.0 * float(np.sum(np.log(same / (relative * size))))
    return bool((evidence > CLEARLY).all())


def _evidence_of_curves(dataset: Dataset, same: _Level, own: _Level) -> float:
    """Return how much more probable noise in proportion makes the rows, on the scale of chi-square.

    Two smooth curves are laid through each observable, one for each kind. Both leave as much as their own noise level
    says, so that their likelihoods differ by the logarithms of what they take for the noise of each value. These are
    added up over all observables, because mostly one instrument or one person measured them all.
    """
    least = np.minimum(same.degrees_of_freedom, own.degrees_of_freedom)
    proportional = Noise(dataset.observables, (), own.sd, True, False, least, own.floors)
    curves = smooth_observables(dataset, tuple(False for _ in dataset.observables))
    # Without noise, or with few residuals, curves differ by how well they follow the course.
    telling = (same.sd > SMALLEST_PART * _floors(dataset, 1.0)) & (least >= FEWEST_RESIDUALS)
    evidence = 0.0
    for number, item in enumerate(dataset.trajectories):
        smooth = np.column_stack([curve.value(number, item.times) for curve in curves])
        gain = np.log(same.sd / proportional.sd_of(smooth))
        evidence += 2.0 * float(np.sum(gain, where=np.isfinite(item.values) & telling))
    return evidence


def measure_noise(dataset: Dataset, options: NoiseOptions, held: Dataset | None = None) -> Noise:
    """Return the noise of the training rows: as the options give it, or estimated without the law.

    The estimate is the noise level of a Gaussian process fitted by its evidence (large data: of third
    differences), so that no physics enters: a wrong law cannot hide in a large noise. In the same way the rows say
    whether noise has one size or is in proportion to each value, unless the options say it. It is additive where they
    do not speak clearly.

    Args:
        dataset: the training rows.
        options: what is known of the noise.
        held: the hold-out rows. Nothing is learnt from them, but noise is not called lognormal if they have values
            without a logarithm.

    Example:
        >>> import numpy as np
        >>> from sciml_discover.trajectories import Dataset, Trajectory
        >>> data = Dataset(("x",), (Trajectory("a", np.arange(4.0), np.ones((4, 1))),))
        >>> measure_noise(data, NoiseOptions(sd=0.1)).sd
        array([0.1])
    """
    names = dataset.observables
    if options.is_estimated:
        if options.is_open:
            found = _of_found_kind(dataset, held, options)
        elif options.is_per_value:
            found = _per_value(dataset, options.floor)
        else:
            found = _additive(dataset, options.kind == "lognormal")
        sd, freedom, pooled = found.sd, found.degrees_of_freedom, options.estimate == "pooled"
        if pooled:
            sd = np.full(len(names), np.sqrt(np.sum(freedom * sd**2) / np.sum(freedom)))
            freedom = np.full(len(names), np.sum(freedom))
        return Noise(names, tuple(found.lognormal for _ in names), sd, True, pooled, freedom, found.floors)
    floors = _floors(dataset, options.floor) if options.is_per_value else None
    sd, lognormal = np.empty(len(names)), [False] * len(names)
    for column, name in enumerate(names):
        if options.lognormal is not None:
            sd[column], lognormal[column] = _level(options.lognormal, name), True
        elif options.relative is not None:
            values = np.concatenate([trajectory.values[:, column] for trajectory in dataset.trajectories])
            sd[column] = _level(options.relative, name) * np.nanmean(np.abs(values))
        elif options.value is not None:
            sd[column] = _level(options.value, name)
        elif options.sd is not None:
            sd[column] = _level(options.sd, name)
    return Noise(names, tuple(lognormal), sd, False, False, np.full(len(names), np.inf), floors)


def _floors(dataset: Dataset, level: Level) -> np.ndarray:
    """Return the smallest noise of each observable in its own unit."""
    values = np.concatenate([trajectory.values for trajectory in dataset.trajectories])
    spread = np.nanstd(values, axis=0)
    spread = np.where(spread > 0, spread, np.nanmax(np.abs(values), axis=0))
    return np.array([_level(level, name) for name in dataset.observables]) * np.where(spread > 0, spread, 1.0)


def _level(level: Level, name: str) -> float:
    if not isinstance(level, dict):
        return level
    if name not in level:
        raise InputError(
            f"no noise level for {name!r}",
            where="[data.noise]",
            expected="one level for every observable",
            do=f"Add {name} = ..., or give one number for all.",
        )
    return level[name]
