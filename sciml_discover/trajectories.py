"""Measured time series: `Trajectory` and `Dataset`, and how a hold-out is split off."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import pydantic

from sciml_discover.base import Options, RowCount
from sciml_discover.errors import InputError, did_you_mean

LEAST_ROWS = 4
"""Fewest training rows of a trajectory."""
LEAST_VALUES = 4
"""Fewest measured training values of an observable, over all trajectories."""


class HoldoutOptions(Options):
    """Which rows are kept for validation only. Give exactly one."""

    fraction: float | None = pydantic.Field(default=None, gt=0, lt=1)
    """The last part of each trajectory, rounded to whole rows."""
    rows: RowCount | None = None
    """The last rows of each trajectory."""
    trajectories: tuple[str, ...] | None = pydantic.Field(default=None, min_length=1)
    """Whole trajectories, by name."""

    @pydantic.model_validator(mode="after")
    def _exactly_one(self) -> HoldoutOptions:
        given = [name for name in ("fraction", "rows", "trajectories") if getattr(self, name) is not None]
        if len(given) != 1:
            raise InputError(
                " and ".join(given) or "nothing",
                where="[data] holdout",
                expected="one of fraction, rows, trajectories",
            )
        return self


@dataclass(frozen=True)
class Trajectory:
    """One measured run of a system.

    Attributes:
        name: the label of the trajectory, such as a site or an experiment number.
        times: strictly increasing times of the rows, shape ``(rows,)``.
        values: what was measured, shape ``(rows, observables)``; NaN where nothing was.
        controls: the measured inputs, without gaps, shape ``(rows, controls)``; none unless given.
    """

    name: str
    times: np.ndarray
    values: np.ndarray
    controls: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))

    def __post_init__(self) -> None:
        if not self.controls.size:
            object.__setattr__(self, "controls", np.zeros((len(self.times), 0)))

    def rows(self, which: slice) -> Trajectory:
        """Return some of the rows."""
        return Trajectory(self.name, self.times[which], self.values[which], self.controls[which])


@dataclass(frozen=True)
class Dataset:
    """Several trajectories of the same observables.

    Attributes:
        observables: names of what was measured, in the order of the columns of ``values``.
        trajectories: one or more; lengths and times may differ.
        controls: names of the measured inputs, in the order of the columns of ``controls``.
    """

    observables: tuple[str, ...]
    trajectories: tuple[Trajectory, ...]
    controls: tuple[str, ...] = ()

    @property
    def start_times(self) -> tuple[float, ...]:
        """Time of the first row of each trajectory."""
        return tuple(float(trajectory.times[0]) for trajectory in self.trajectories)

    @property
    def n_observed(self) -> int:
        """Number of values that were really measured."""
        return int(sum(np.isfinite(trajectory.values).sum() for trajectory in self.trajectories))


def split_holdout(dataset: Dataset, options: HoldoutOptions | None) -> tuple[Dataset, Dataset | None]:
    """Return the training rows and the hold-out rows; None where nothing is held out.

    By time, both have the same trajectory names, the hold-out with the later rows.

    Args:
        dataset: all rows.
        options: which of them are held out.

    Raises:
        InputError: if too little is left to train on, or nothing is held out that can be scored.

    Example:
        >>> rows = Trajectory("a", np.arange(21.0), np.arange(21.0).reshape(21, 1))
        >>> train, holdout = split_holdout(Dataset(("x",), (rows,)), HoldoutOptions(fraction=0.2))
        >>> len(train.trajectories[0].times), holdout.trajectories[0].times
        (17, array([17., 18., 19., 20.]))
    """
    if options is None:
        train, holdout = dataset, None
    elif options.trajectories is not None:
        train, holdout = _split_by_trajectory(dataset, options.trajectories)
    else:
        train, holdout = _split_by_time(dataset, options)
    _check_training_rows(train, holdout)
    if holdout is not None and not holdout.n_observed:
        raise InputError(
            "hold-out rows without a single measured value",
            where="[data] holdout",
            expected="at least one",
            do="Hold out more, or nothing.",
        )
    if holdout is not None and options is not None and options.trajectories is not None:
        _check_scored_rows(holdout)
    return train, holdout


def fitted_rows(times: np.ndarray) -> int:
    """Return how many rows of a held-out trajectory go into its initial state: a quarter, at least two."""
    return max(2, len(times) // 4)


def _split_by_trajectory(dataset: Dataset, names: tuple[str, ...]) -> tuple[Dataset, Dataset]:
    known = [trajectory.name for trajectory in dataset.trajectories]
    for name in names:
        if name not in known:
            raise InputError(
                f"no trajectory {name!r}",
                where="[data] holdout.trajectories",
                expected="names of trajectories",
                do=did_you_mean(name, known),
            )
    kept = tuple(item for item in dataset.trajectories if item.name not in names)
    if not kept:
        raise InputError(
            "every trajectory held out",
            where="[data] holdout.trajectories",
            expected="at least one to train on",
            do="Hold out fewer.",
        )
    held = tuple(item for item in dataset.trajectories if item.name in names)
    return replace(dataset, trajectories=kept), replace(dataset, trajectories=held)


def _split_by_time(dataset: Dataset, options: HoldoutOptions) -> tuple[Dataset, Dataset]:
    kept, held = [], []
    for item in dataset.trajectories:
        n_rows = len(item.times)
        n_held = options.rows if options.rows is not None else round((options.fraction or 0.0) * n_rows)
        cut = max(n_rows - n_held, 0)
        kept.append(item.rows(slice(cut)))
        if n_held:
            held.append(item.rows(slice(cut, None)))
    return replace(dataset, trajectories=tuple(kept)), replace(dataset, trajectories=tuple(held))


def _check_scored_rows(holdout: Dataset) -> None:
    """Refuse held-out trajectories that leave nothing to score after the rows that their initial states take."""
    if any(np.isfinite(item.values[fitted_rows(item.times) :]).any() for item in holdout.trajectories):
        return
    rows = ", ".join(str(fitted_rows(item.times)) for item in holdout.trajectories)
    raise InputError(
        f"no measured value after the rows that initial states are fitted to ({rows})",
        where="[data] holdout.trajectories",
        expected="at least one: the first quarter of a trajectory's rows, at least two, only says where it begins",
        do="Hold out a longer trajectory, or hold out by fraction or rows.",
    )


def _check_training_rows(train: Dataset, holdout: Dataset | None) -> None:
    """Refuse too few rows or values, and columns that say nothing."""
    after = "" if holdout is None else " after the hold-out"
    for item in train.trajectories:
        if len(item.times) < LEAST_ROWS:
            raise InputError(
                f"{len(item.times)} rows to train on{after}",
                where=f"trajectory {item.name!r}",
                expected=f"at least {LEAST_ROWS}",
                do="Add rows, or hold out fewer." if holdout is not None else "Add rows.",
            )
    for column, name in enumerate(train.observables):
        values = np.concatenate([item.values[:, column] for item in train.trajectories])
        values = values[np.isfinite(values)]
        if len(values) < LEAST_VALUES:
            raise InputError(
                f"{len(values)} measured values of {name!r} to train on{after}",
                where=f"column {name!r}",
                expected=f"at least {LEAST_VALUES}",
                do="Remove the column if the state was not measured.",
            )
        if np.ptp(values) == 0:
            raise InputError(
                f"a constant column: every training value of {name!r} is {values[0]:g}",
                where=f"column {name!r}",
                expected="values that change",
                do="Remove the column, and make the state a parameter if it really is constant.",
            )
