"""What the network learnt in each hole, sampled along the re-solved trajectories."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from sciml_discover.base import Watch, lazy_import, nobody_watches
from sciml_discover.controls import control_signal
from sciml_discover.errors import SolveError
from sciml_discover.solve import solve_times
from sciml_discover.threads import single_threaded
from sciml_discover.training import TrainingResult, trained_ude

if TYPE_CHECKING:
    import torch

    from sciml_discover.readers import PreparedData
    from sciml_discover.system import System
else:
    torch = lazy_import("torch")

PER_INTERVAL = 4
"""Samples per interval between rows."""

MOST_SAMPLES = 400
"""Most samples per trajectory."""

ALIKE = 10.0
"""Starts whose chi-square with prior is at most this much larger than the best one's fit about as well."""


@dataclass(frozen=True)
class HoleSamples:
    """Samples of one learnt missing term.

    Attributes:
        hole: the name of the missing term.
        inputs: names of its inputs.
        trajectory: name of the trajectory of each sample.
        times: shape ``(samples,)``.
        points: values of the inputs, shape ``(samples, inputs)``.
        values: what the network says, shape ``(samples,)``.
        sd: standard deviation of what the network says, shape ``(samples,)``; infinite where nothing determines it.
        weights: how much each sample counts in regression, shape ``(samples,)``.
    """

    hole: str
    inputs: tuple[str, ...]
    trajectory: tuple[str, ...]
    times: np.ndarray
    points: np.ndarray
    values: np.ndarray
    sd: np.ndarray
    weights: np.ndarray

    @property
    def series(self) -> list[np.ndarray]:
        """Values of the inputs along each trajectory, shapes ``(samples, inputs)``."""
        names = np.array(self.trajectory)
        return [self.points[names == name] for name in dict.fromkeys(self.trajectory)]


@dataclass(frozen=True)
class ResidualSamples:
    """Samples of every missing term, in the order of the system's holes."""

    holes: tuple[HoleSamples, ...]


def dense_times(times: np.ndarray) -> np.ndarray:
    """Return times that divide every interval between rows evenly, rows included."""
    parts = max(1, min(PER_INTERVAL, MOST_SAMPLES // max(len(times) - 1, 1)))
    fractions = np.arange(parts) / parts
    inner = (times[:-1, None] + np.diff(times)[:, None] * fractions).ravel()
    return np.append(inner, times[-1])


@dataclass(frozen=True)
class LearntTerms:
    """What the networks say at some points, and how sure that is; both of shape ``(points, holes)``."""

    values: np.ndarray
    sd: np.ndarray


def learnt_terms(
    system: System,
    trained: TrainingResult,
    times: np.ndarray,
    states: np.ndarray,
    controls: np.ndarray | None = None,
) -> LearntTerms:
    """Return every learnt missing term at some points, with its standard deviation.

    The variance is that of the Laplace posterior of the weights (linearised, prior included; free parameters and
    initial states integrated out) plus the spread of those surviving starts that fit about as well as the best. Each
    alone can mislead: starts may be unanimous and wrong, a posterior knows one optimum only.

    Args:
        system: the known physics with its holes.
        trained: what was learnt.
        times: shape ``(points,)``.
        states: shape ``(points, states)``.
        controls: shape ``(points, controls)``; None for a system without controls.
    """
    ude, theta = trained_ude(system, trained)
    at = (torch.as_tensor(times)[None], torch.as_tensor(states)[None])
    inputs = None if controls is None else torch.as_tensor(controls)[None]
    with torch.no_grad():
        values, _, by_weights = ude.filling.linearize(theta[:, ude.n_free :], *at, inputs)
        alike = trained.survivors.score <= trained.survivors.score[0] + ALIKE
        others = torch.as_tensor(trained.survivors.theta[alike][:, ude.n_free :])
        several = (at[0], at[1].expand(len(others), -1, -1))
        said = ude.filling.value(others, *several, inputs).numpy()
    learnt, slopes = values[0].numpy(), by_weights[0].numpy()
    covariance = trained.covariance[ude.n_free : ude.n_theta, ude.n_free : ude.n_theta]
    if np.isfinite(covariance).all():
        variance = np.maximum(np.einsum("phi,ij,phj->ph", slopes, covariance, slopes), 0.0)
    else:
        variance = np.full_like(learnt, np.inf)
    return LearntTerms(learnt, np.sqrt(variance + np.mean((said - learnt) ** 2, axis=0)))


@single_threaded
def sample_residual(
    system: System,
    data: PreparedData,
    trained: TrainingResult,
    *,
    watch: Watch = nobody_watches,  # noqa: ARG001 - every verb takes it; this one is over at once
) -> ResidualSamples:
    """Sample the network of every hole along the re-solved training trajectories.

    A sample weighs as much as the data determine it: one over the variance of `learnt_terms` plus one per cent of the
    term's typical size squared, scaled to a mean of one.

    Raises:
        SolveError: the trained equation cannot be re-solved over any training trajectory.
    """
    ude, theta = trained_ude(system, trained)
    names, times, states, inputs = [], [], [], []
    for trajectory, initial in zip(data.train.trajectories, trained.initial_states, strict=True):
        dense = dense_times(trajectory.times)
        signal = control_signal(system.controls, trajectory)
        solved = solve_times(ude, theta, initial, dense, controls=signal)
        finite = np.isfinite(solved).all(axis=1)
        names += [trajectory.name] * int(finite.sum())
        times.append(dense[finite])
        states.append(solved[finite])
        if signal is not None:
            inputs.append(signal.at(dense[finite]))
    time, state = np.concatenate(times), np.concatenate(states)
    controls = np.concatenate(inputs) if inputs else None
    if len(time) < 2:
        raise SolveError("the trained equation runs away at once on every training trajectory")
    learnt = learnt_terms(system, trained, time, state, controls)
    columns = np.column_stack([state, time] if controls is None else [state, time, controls])
    holes = []
    for number, hole in enumerate(system.missing):
        values, sd = learnt.values[:, number], learnt.sd[:, number]
        precision = 1.0 / (sd**2 + 0.01 * np.mean(values**2) + 1e-300)
        if not precision.any():
            precision = np.ones_like(sd)
        holes.append(
            HoleSamples(
                hole=hole.name,
                inputs=hole.inputs,
                trajectory=tuple(names),
                times=time,
                points=columns[:, list(system.hole_inputs[number])],
                values=values,
                sd=sd,
                weights=precision / precision.mean(),
            )
        )
    return ResidualSamples(tuple(holes))
