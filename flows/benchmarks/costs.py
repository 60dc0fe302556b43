"""Cases that ask what an iteration costs, not where it leads."""

from __future__ import annotations

import contextlib
import resource
import statistics
import sys
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from flows.benchmarks import fits, problems
from flows.benchmarks.measurement import Measurement
from flows.benchmarks.problems import TrainingProblem
from sciml_discover.base import Progress
from sciml_discover.holes import NetworkShape
from sciml_discover.linear_algebra import cheapest
from sciml_discover.noise import NoiseOptions, measure_noise
from sciml_discover.objectives import DirectCollocation
from sciml_discover.readers import PreparedData
from sciml_discover.training import TrainOptions, train
from sciml_discover.trajectories import Dataset

METHODS = (
    "direct_collocation x gauss_newton",
    "multiple_shooting x gauss_newton",
    "multiple_shooting x adam",
)
"""Objective and optimizer of each method whose cost is measured; the first one is measured in batches too."""

ITERATIONS = 3
"""Iterations that are timed, after one that is not."""

BATCH, BATCH_ITERATIONS, REPEATS = 64, 50, 3


class _Enough(Exception):
    """Ends a training from inside once it was watched long enough."""


class Stopwatch:
    """Watches a training: notes when each iteration ends, and stops it after some.

    Attributes:
        seconds: of each iteration but the first, which also holds whatever comes before it.
    """

    def __init__(self, iterations: int) -> None:
        self._iterations = iterations
        self._last: float | None = None
        self.seconds: list[float] = []

    def __call__(self, _: Progress) -> None:
        """Note the time of one event.

        Raises:
            _Enough: that was the last one wanted.
        """
        now = time.perf_counter()
        if self._last is not None:
            self.seconds.append(now - self._last)
        self._last = now
        if len(self.seconds) >= self._iterations:
            raise _Enough


def iteration_cost(seed: int, _: str, settings: Mapping[str, str]) -> Measurement:
    """Measure seconds of an iteration and the peak memory of a process that does nothing else.

    Args:
        seed: of noise and weights.
        settings: ``method``, ``wide`` (the network's two hidden layers) and ``points``.
    """
    problem = problems.lorenz(int(settings["points"]))
    clean = problem.states(problem.times)
    data = with_known_noise(problem, fits.attractor_data(problem, seed), 0.01 * clean.std(axis=0))
    width = int(settings["wide"])
    options = method_options(settings["method"], ITERATIONS + 1, starts=1, hidden=(width, width))
    begun = time.perf_counter()
    seconds = timed_iterations(problem, data, options, seed, ITERATIONS)
    total = time.perf_counter() - begun
    return Measurement(
        {"iteration": statistics.median(seconds), "peak_gigabytes": peak_gigabytes()},
        {"train": total},
        {
            "method": settings["method"],
            "iterations": len(seconds),
            "solved": solved_by(problem, options),
        },
    )


def solved_by(problem: TrainingProblem, options: TrainOptions) -> str:
    """Return how states and weights are solved for in an iteration, for a method that has a choice."""
    objective, system = options.stages[0].objective, problem.system
    if not isinstance(objective, DirectCollocation):
        return ""
    intervals = len(problem.times) - 1
    columns = len(system.free_parameters)
    for hole in system.missing:
        scale = np.ones(len(hole.inputs))
        inputs = tuple(range(len(hole.inputs)))
        columns += NetworkShape(inputs, options.network.hidden, scale, scale, 1.0).n_weights
    return cheapest(intervals * system.dimension, intervals * objective.stages, columns)


def batch_cost(seed: int, _: str, settings: Mapping[str, str]) -> Measurement:
    """Measure an iteration of 64 starts against one of a single start, in turns in one process."""
    problem = problems.lotka_volterra()
    clean = problem.states(problem.times)
    data = with_known_noise(problem, fits.tutorial_data(problem, seed), 0.005 * clean.mean(axis=0))

    def seconds(starts: int, iterations: int) -> float:
        options = method_options(settings["method"], iterations + 1, starts, hidden=(5, 5))
        return statistics.mean(timed_iterations(problem, data, options, seed, iterations))

    seconds(1, 2)  # whatever only the first call does
    one, many = [], []
    for _repeat in range(REPEATS):
        one.append(seconds(1, BATCH_ITERATIONS))
        many.append(seconds(BATCH, BATCH_ITERATIONS))
    single, batch = statistics.median(one), statistics.median(many)
    figures = {
        "ratio_64_to_1": batch / single,
        "milliseconds_per_start": 1000.0 * batch / BATCH,
        "milliseconds_of_one": 1000.0 * single,
    }
    return Measurement(figures, {"train": BATCH_ITERATIONS * batch}, {"method": settings["method"]})


def method_options(method: str, iterations: int, starts: int, hidden: tuple[int, ...]) -> TrainOptions:
    """Return the options of a single stage that does not stop by itself before its last iteration."""
    objective, optimizer = method.split(" x ")
    by: dict[str, Any] = {"kind": optimizer, "iterations": iterations}
    if optimizer == "gauss_newton":
        by["tolerance"] = 1e-300
    return TrainOptions.model_validate(
        {
            "stages": [{"objective": {"kind": objective}, "optimizer": by}],
            "starts": starts,
            "network": {"hidden": hidden},
        }
    )


def timed_iterations(
    problem: TrainingProblem, data: PreparedData, options: TrainOptions, seed: int, iterations: int
) -> list[float]:
    """Return the seconds of some iterations of a training; it is stopped after them."""
    stopwatch = Stopwatch(iterations)
    with contextlib.suppress(_Enough):
        train(problem.system, data, options, seed=seed, watch=stopwatch)
    if not stopwatch.seconds:
        raise RuntimeError("training ended before its second iteration")
    return stopwatch.seconds


def with_known_noise(problem: TrainingProblem, dataset: Dataset, sd: Any) -> PreparedData:
    """Return what training reads, its noise known."""
    levels = dict(zip(problem.system.observables, sd.tolist(), strict=True))
    return problems.prepared(dataset, measure_noise(dataset, NoiseOptions(sd=levels)))


def peak_gigabytes() -> float:
    """Return the most memory that this process ever held."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
