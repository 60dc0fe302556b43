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
"""How far after the last measured row is looked, as a fraction of the time from the first to that."""

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

    The laws are re-solved over every training trajectory, over its hold-out rows, and half as long after all of them.
    Predictions are weighted by the
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
        measured = (trajectory, *_held_out(trajectory, data))
        signal = control_signal(system.controls, *measured)
        times, solved = np.zeros(0), []
        for end in _ends(measured, 0.0 if signal is not None else BEYOND):
            times = np.linspace(float(trajectory.times[0]), end, POINTS)
            solved = [model.path(j, times, signal) for model in models]
            if all(path is not None for path in solved):
                break
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
        found = _describe(measured, float(times[t]), data.train.observables[k], float(spread[t, k]))
        if found.spread > (0.0 if best is None else best.spread):
            best = found
    return best


def _held_out(trajectory: Trajectory, data: PreparedData) -> tuple[Trajectory, ...]:
    """Return the later rows of a trajectory that were measured and held out, if there are any."""
    if data.holdout is None or data.kind_of_holdout != "time":
        return ()
    return tuple(item for item in data.holdout.trajectories if item.name == trajectory.name)


def _ends(measured: Sequence[Trajectory], beyond: float) -> list[float]:
    """Return up to when is looked; a law that runs away after the rows can still be looked at between them."""
    first, last = float(measured[0].times[0]), float(measured[-1].times[-1])
    return [last + beyond * (last - first), *(float(part.times[-1]) for part in reversed(measured))]


def _describe(measured: Sequence[Trajectory], time: float, observable: str, spread: float) -> NextMeasurement:
    name = measured[0].name
    if time > measured[-1].times[-1]:
        when = f"after the last row of {name}"
    elif time > measured[0].times[-1]:
        # A value may be there already, only not for the fit.
        when = f"among the rows of {name} that were held out"
    else:
        when = f"between the rows of {name}"
    sentence = (
        f"{observable} at t = {time:.4g} ({when}) would separate the rivals best: they differ "
        f"there by {spread:.2g} noise standard deviations"
    )
    return NextMeasurement(name, time, observable, spread, sentence)
