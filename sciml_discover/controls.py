"""Measured inputs between the rows at which they were measured: straight lines, or held values that jump.

Whatever is measured at rows is a straight line in each interval between them; a held input is one of slope zero.
A held input jumps at the rows, so that a value belongs to an interval and not to a time alone: a solver step in
the interval of row ``i`` uses that interval's line at both of its ends. `ControlSignal` serves scipy's solvers,
`ControlLines` training, where intervals are batch axes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from sciml_discover.base import lazy_import
from sciml_discover.errors import SolveError

if TYPE_CHECKING:
    import torch

    from sciml_discover.system import Control
    from sciml_discover.trajectories import Dataset, Trajectory
else:
    torch = lazy_import("torch")

Inputs = Callable[["torch.Tensor"], "torch.Tensor | None"]
"""Controls at times inside some intervals, shape ``(..., controls)``; None for a system without controls."""


def no_controls(time: torch.Tensor) -> None:
    """Return nothing: the controls of a system without any."""


@dataclass(frozen=True)
class ControlLines:
    """Controls inside intervals of any shape ``(...)``, each a straight line there.

    Attributes:
        start: begin of each interval, shape ``(...)``.
        value: controls at the begin, shape ``(..., controls)``.
        slope: their time derivatives, same shape.
    """

    start: torch.Tensor
    value: torch.Tensor
    slope: torch.Tensor

    def __call__(self, time: torch.Tensor) -> torch.Tensor:
        """Return the controls at one time in (or at either end of) each interval, shape ``(..., controls)``."""
        return self.value + self.slope * (time - self.start)[..., None]

    def map(self, function: Callable[[torch.Tensor], torch.Tensor]) -> ControlLines:
        """Return the lines of other intervals, chosen by a function of the interval axes alone."""
        return ControlLines(function(self.start), function(self.value), function(self.slope))


@dataclass(frozen=True)
class ControlSignal:
    """The controls of one trajectory.

    Attributes:
        times: of the rows, shape ``(rows,)``.
        values: at the rows, shape ``(rows, controls)``.
        held: per control, whether it keeps the value of the earlier row, shape ``(controls,)``.

    Example:
        >>> signal = ControlSignal(np.arange(3.0), np.array([[0.0, 1.0], [2.0, 5.0], [2.0, 9.0]]),
        ...                        np.array([False, True]))
        >>> signal.at(np.array([0.5, 1.0, 2.0]))
        array([[1., 1.],
               [2., 5.],
               [2., 9.]])
    """

    times: np.ndarray
    values: np.ndarray
    held: np.ndarray

    @cached_property
    def slopes(self) -> np.ndarray:
        """Time derivative of each control in each interval, shape ``(rows - 1, controls)``."""
        steps = np.diff(self.values, axis=0) / np.diff(self.times)[:, None]
        return np.where(self.held, 0.0, steps)

    @cached_property
    def breaks(self) -> np.ndarray:
        """Inner rows at which a control jumps or bends: no solver may step over them, shape ``(breaks,)``."""
        # Rows of one straight line differ by rounding only.
        bends = np.abs(np.diff(self.slopes, axis=0)) > 1e-9 * np.abs(self.slopes).max(axis=0, initial=0.0)
        jumps = np.where(self.held, np.diff(self.values, axis=0)[:-1] != 0.0, bends)
        return np.flatnonzero(jumps.any(axis=1)) + 1

    def interval(self, times: np.ndarray) -> np.ndarray:
        """Return the interval in which each time lies, that which begins there at a row.

        Raises:
            SolveError: at a time before the first or after the last row: nobody measured the controls there.
        """
        outside = (times < self.times[0]) | (times > self.times[-1])
        if np.any(outside):
            raise SolveError(
                f"the controls are known from t = {self.times[0]:.6g} to {self.times[-1]:.6g} only, "
                f"not at {times[outside][0]:.6g}"
            )
        return np.searchsorted(self.times, times, side="right") - 1

    def at(self, times: np.ndarray) -> np.ndarray:
        """Return the controls at times, after the jump at a row, shape ``(times, controls)``."""
        index = self.interval(times)
        # From the last row on there is no slope, and no time either.
        slopes = np.concatenate([self.slopes, np.zeros_like(self.values[:1])])
        return self.values[index] + slopes[index] * (times - self.times[index])[:, None]

    def during(self, interval: int, time: float) -> np.ndarray:
        """Return the controls at a time in (or at either end of) one interval, shape ``(controls,)``."""
        index = min(interval, len(self.slopes) - 1)
        return self.values[index] + self.slopes[index] * (time - self.times[index])

    def lines(self, times: np.ndarray) -> ControlLines:
        """Return the lines between neighbouring times, shape ``(times - 1,)``.

        Raises:
            SolveError: at times without controls.
            ValueError: if a row lies between two of the times.
        """
        index = self.interval(times)[:-1]
        if np.any(times[1:] > self.times[index + 1]):
            raise ValueError("got times with a row of the controls between two of them, expected every row")
        values, slopes = self.at(times[:-1]), self.slopes[index]
        return ControlLines(*(torch.as_tensor(array) for array in (times[:-1], values, slopes)))


def control_signal(controls: Sequence[Control], *parts: Trajectory) -> ControlSignal | None:
    """Return the controls of a trajectory over the rows of all its parts in turn; None without controls.

    The interval between the last training row and the first hold-out row is one like any other.
    """
    if not controls:
        return None
    return ControlSignal(
        np.concatenate([part.times for part in parts]),
        np.concatenate([part.controls for part in parts]),
        np.array([control.interpolation == "hold" for control in controls]),
    )


def training_lines(controls: Sequence[Control], dataset: Dataset, times: np.ndarray) -> ControlLines:
    """Return the controls between the rows of every trajectory, shape ``(J, L - 1)``, empty after its last row.

    Args:
        controls: of the system.
        dataset: trajectories of unequal length.
        times: of their rows, padded with the last time of each, shape ``(J, L)``.

    Raises:
        ValueError: if the data have other controls.
    """
    names = tuple(control.name for control in controls)
    if dataset.controls != names:
        raise ValueError(f"got data with the controls {dataset.controls}, expected {names}")
    count, longest = times.shape
    values = np.zeros((count, longest - 1, len(controls)))
    slopes = np.zeros_like(values)
    for j, trajectory in enumerate(dataset.trajectories):
        signal = control_signal(controls, trajectory)
        if signal is not None:
            rows = len(trajectory.times)
            values[j, : rows - 1], values[j, rows - 1 :] = signal.values[:-1], signal.values[-1]
            slopes[j, : rows - 1] = signal.slopes
    return ControlLines(*(torch.as_tensor(array) for array in (times[:, :-1], values, slopes)))
