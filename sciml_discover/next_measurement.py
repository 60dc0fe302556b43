"""Which measurement would tell the rivals apart: where their trajectories differ most."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from sciml_discover.controls import control_signal
from sciml_discover.forecasts import LawModel

if TYPE_CHECKING:
    from sciml_discover.laws import Law
    from sciml_discover.readers import PreparedData
    from sciml_discover.system import System
    from sciml_discover.trajectories import Trajectory

BEYOND = 0.5
"""How far after the last row is looked, as a fraction of the time from the first to the last."""

POINTS = 301
"""Times that are compared."""


@dataclass(frozen=True)
class NextMeasurement:
    """Where one more value would say most about which law holds.

    Attributes:
        trajectory: the name of the trajectory to continue or repeat.
        time: when to measure.
        observable: what to measure.
        spread: standard deviation between the laws' predictions, in units of the noise of one value.
        sentence: the same in words.
    """

    trajectory: str
    time: float
    observable: str
    spread: float
    sentence: str


def suggest_measurement(system: System, laws: Sequence[Law], data: PreparedData) -> NextMeasurement | None:
    """Return the value that separates some laws best; None for fewer than two laws that can be solved.

    The laws are re-solved over every training trajectory and half as long after it. Predictions are weighted by the
    laws' criterion, ``exp(-delta/2)``; their variance over that of the noise is what a measurement can tell (Hunter &
    Reiner 1965, doi:10.1080/00401706.1965.10490265). Of a system with controls only the measured time is looked at:
    nobody knows the controls after it.

    Args:
        system: the known physics with its holes.
        laws: the choice and its rivals.
        data: that they were fitted to.
    """
    models = [LawModel.of(system, law, data) for law in laws]
    best: NextMeasurement | None = None
    for j, trajectory in enumerate(data.train.trajectories):
        signal = control_signal(system.controls, trajectory)
        times = _times(trajectory, 0.0 if signal is not None else BEYOND)
        solved = [model.path(j, times, signal) for model in models]
        if any(path is None for path in solved):
            # A law that runs away after the rows can still be looked at between them.
            times = _times(trajectory, 0.0)
            solved = [model.path(j, times, signal) for model in models]
        there = [(path, law.delta) for path, law in zip(solved, laws, strict=True) if path is not None]
        if len(there) < 2:
            continue
        observation = system.observation(data.train.observables)
        inputs = None if signal is None else signal.at(times)
        values = np.stack([observation.values(times, path, inputs) for path, _ in there])
        weights = np.exp(-0.5 * np.array([delta for _, delta in there]))
        weights /= weights.sum()
        predicted = data.noise.transform(values)
        mean = np.einsum("m,mtk->tk", weights, predicted)
        variance = np.einsum("m,mtk->tk", weights, (predicted - mean) ** 2)
        noise = data.noise.sd_of(np.einsum("m,mtk->tk", weights, values))
        spread = np.nan_to_num(np.sqrt(variance) / noise)
        t, k = np.unravel_index(int(np.argmax(spread)), spread.shape)
        found = _describe(trajectory, float(times[t]), data.train.observables[k], float(spread[t, k]))
        if found.spread > (0.0 if best is None else best.spread):
            best = found
    return best


def _times(trajectory: Trajectory, beyond: float) -> np.ndarray:
    first, last = float(trajectory.times[0]), float(trajectory.times[-1])
    return np.linspace(first, last + beyond * (last - first), POINTS)


def _describe(trajectory: Trajectory, time: float, observable: str, spread: float) -> NextMeasurement:
    when = "after the last row" if time > trajectory.times[-1] else "between the rows"
    sentence = (
        f"{observable} at t = {time:.4g} ({when} of {trajectory.name}) would separate the rivals best: they differ "
        f"there by {spread:.2g} noise standard deviations"
    )
    return NextMeasurement(trajectory.name, time, observable, spread, sentence)
