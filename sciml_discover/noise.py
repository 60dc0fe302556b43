"""The one meaning of noise: a standard deviation per observation, given or estimated without the law."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pydantic

from sciml_discover.base import Options
from sciml_discover.errors import InputError
from sciml_discover.smoothers import Smoother, fit_smoother
from sciml_discover.trajectories import Dataset

Level = pydantic.PositiveFloat | dict[str, pydantic.PositiveFloat]


class NoiseOptions(Options):
    """What the fit is told about the measurement noise. Give at most one of sd, relative, lognormal."""

    sd: Level | None = None
    """Standard deviation in the unit of the observable, for all or per observable."""
    relative: Level | None = None
    """Standard deviation as a fraction of each observable's mean absolute value."""
    lognormal: Level | None = None
    """Standard deviation of the logarithm of the value: multiplicative noise."""
    estimate: Literal["each", "pooled"] = "each"
    """When no level is given: one standard deviation per observable, or one for all."""
    kind: Literal["additive", "lognormal"] = "additive"
    """When no level is given: noise added to the value, or to its logarithm."""

    @pydantic.model_validator(mode="after")
    def _one_level(self) -> NoiseOptions:
        given = [name for name in ("sd", "relative", "lognormal") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} are both given; give one of them")
        return self

    @property
    def is_estimated(self) -> bool:
        """Whether no level is given, so that the data have to say it."""
        return self.sd is None and self.relative is None and self.lognormal is None


@dataclass(frozen=True)
class Noise:
    """Measurement noise of a dataset's training rows.

    Attributes:
        observables: names, in the order of the dataset.
        lognormal: per observable, whether ``sd`` refers to the logarithm of the value.
        sd: standard deviation per observable, shape ``(observables,)``.
        estimated: whether the data had to say it.
        pooled: whether all observables share one estimated level.
        degrees_of_freedom: how many residuals the estimate rests on, shape ``(observables,)``;
            infinite where the level is given.
    """

    observables: tuple[str, ...]
    lognormal: tuple[bool, ...]
    sd: np.ndarray
    estimated: bool
    pooled: bool
    degrees_of_freedom: np.ndarray

    def transform(self, values: np.ndarray) -> np.ndarray:
        """Return values on the scale on which the noise is additive, shape ``(..., observables)``."""
        result = np.array(values, dtype=float)
        for column, is_lognormal in enumerate(self.lognormal):
            if is_lognormal:
                with np.errstate(divide="ignore", invalid="ignore"):
                    result[..., column] = np.log(result[..., column])
        return result


def smooth_observables(dataset: Dataset, lognormal: tuple[bool, ...]) -> tuple[Smoother, ...]:
    """Return one smoother per observable, over all trajectories, of the values or their logarithms."""
    smoothers = []
    for column, is_lognormal in enumerate(lognormal):
        times, values = [], []
        for trajectory in dataset.trajectories:
            seen = np.isfinite(trajectory.values[:, column])
            series = trajectory.values[seen, column]
            times.append(trajectory.times[seen])
            values.append(np.log(series) if is_lognormal else series)
        smoothers.append(fit_smoother(times, values))
    return tuple(smoothers)


def measure_noise(dataset: Dataset, options: NoiseOptions) -> Noise:
    """Return the noise of the training rows: as the options give it, or estimated without the law.

    The estimate is the noise level of a Gaussian process fitted by its evidence (large data: of third
    differences), so that no physics enters: a wrong law cannot hide in a large noise.

    Example:
        >>> import numpy as np
        >>> from sciml_discover.trajectories import Dataset, Trajectory
        >>> data = Dataset(("x",), (Trajectory("a", np.arange(4.0), np.ones((4, 1))),))
        >>> measure_noise(data, NoiseOptions(sd=0.1)).sd
        array([0.1])
    """
    names = dataset.observables
    if options.is_estimated:
        lognormal = tuple(options.kind == "lognormal" for _ in names)
        smoothers = smooth_observables(dataset, lognormal)
        sd = np.array([smoother.noise_sd for smoother in smoothers])
        freedom = np.array([smoother.degrees_of_freedom for smoother in smoothers])
        if options.estimate == "pooled":
            sd = np.full(len(names), np.sqrt(np.sum(freedom * sd**2) / np.sum(freedom)))
            freedom = np.full(len(names), np.sum(freedom))
        return Noise(names, lognormal, sd, True, options.estimate == "pooled", freedom)
    sd, lognormal = np.empty(len(names)), [False] * len(names)
    for column, name in enumerate(names):
        if options.lognormal is not None:
            sd[column], lognormal[column] = _level(options.lognormal, name), True
        elif options.relative is not None:
            values = np.concatenate([trajectory.values[:, column] for trajectory in dataset.trajectories])
            sd[column] = _level(options.relative, name) * np.nanmean(np.abs(values))
        elif options.sd is not None:
            sd[column] = _level(options.sd, name)
    return Noise(names, tuple(lognormal), sd, False, False, np.full(len(names), np.inf))


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
