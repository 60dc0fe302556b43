"""One discovery of a problem whose truth is known, all states seen or not: what most cases do."""

from __future__ import annotations

import numpy as np

from flows.benchmarks.measurement import Measurement
from flows.benchmarks.problems import TrainingProblem, estimated_noise, noisy, prepared
from flows.recovery.discovery import Discovery, compared, discover
from sciml_discover.regressors import RegressOptions
from sciml_discover.trajectories import Dataset, Trajectory


def dataset_of(problem: TrainingProblem, starts: np.ndarray, level: float, seed: int) -> Dataset:
    """Return simulated rows of several trajectories with noise of a fraction of each observable's sd.

    Args:
        problem: the system, its truth and the times.
        starts: initial states, shape ``(trajectories, states)``.
        level: noise sd over the sd of the clean values of all trajectories together.
        seed: of the noise.
    """
    system = problem.system
    clean = np.stack(
        [
            TrainingProblem(
                system, problem.laws, start, problem.times, problem.start, problem.parameters
            ).states(problem.times)
            for start in starts
        ]
    )
    seen = clean[..., [system.state_names.index(name) for name in system.observables]]
    values = noisy(seen, level * seen.std((0, 1)), seed)
    nothing = np.zeros((len(problem.times), 0))
    return Dataset(
        system.observables,
        tuple(
            Trajectory(f"start {number + 1}", problem.times, own, nothing)
            for number, own in enumerate(values)
        ),
    )


def measure(
    problem: TrainingProblem, dataset: Dataset, laws: RegressOptions, seed: int
) -> tuple[Measurement, Discovery]:
    """Return one discovery with estimated noise, compared with the truth."""
    data = prepared(dataset, estimated_noise(dataset))
    found = discover(problem.system, data, laws, seed)
    figures, words = compared(problem, data, laws, found)
    return Measurement(figures, found.seconds, words), found
