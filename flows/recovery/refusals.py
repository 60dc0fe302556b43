"""Data that no law of the library explains: the verdict has to be a refusal."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from scipy.integrate import solve_ivp

from flows.benchmarks.measurement import Measurement
from flows.benchmarks.problems import estimated_noise, prepared
from flows.recovery.case import SECONDS, Case, Column, Run, constant
from flows.recovery.discovery import discover
from sciml_discover.regressors import RegressOptions
from sciml_discover.system import System
from sciml_discover.trajectories import Dataset, Trajectory

ROWS = 200

DELAY = 17.0
"""Of Mackey and Glass 1977 (doi:10.1126/science.267326), where it is chaotic."""

SETTLING = 300.0
"""Time before the first row of the delayed system."""

FINE = 0.1
"""Step of the delayed system's solution."""


def white_noise(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return times and a constant that is measured with noise."""
    return np.linspace(0.0, 20.0, ROWS), 2.0 + 0.3 * rng.standard_normal((ROWS, 1))


def random_walk(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return times and the sum of independent steps."""
    return np.linspace(0.0, 20.0, ROWS), rng.standard_normal((ROWS, 1)).cumsum(0)


def mackey_glass(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return times, and the delayed system's state now and one delay ago, with 1 % noise; it starts anywhere."""
    lag = round(DELAY / FINE)
    steps = round((SETTLING + ROWS) / FINE)
    path = np.empty(lag + steps + 1)
    path[: lag + 1] = rng.uniform(0.5, 1.3)

    def slope(now: float, before: float) -> float:
        return 0.2 * before / (1.0 + before**10) - 0.1 * now

    for i in range(lag, lag + steps):  # Heun's method
        first = slope(path[i], path[i - lag])
        path[i + 1] = path[i] + 0.5 * FINE * (first + slope(path[i] + FINE * first, path[i + 1 - lag]))
    each = round(1.0 / FINE)
    rows = lag + round(SETTLING / FINE) + each * np.arange(ROWS)
    values = np.column_stack([path[rows], path[rows - lag]])
    return np.arange(ROWS, dtype=float), values + 0.01 * values.std(0) * rng.standard_normal(values.shape)


def outside(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return times, and a mass on a spring with ripples, with 1 % noise.

    ``x' = v``, ``v' = -x - 3 sin(4 x)``: no polynomial of degree three.
    """
    times = np.linspace(0.0, 12.0, ROWS)
    values = solve_ivp(
        lambda _, state: [state[1], -state[0] - 3.0 * np.sin(4.0 * state[0])],
        (0.0, 12.0),
        [2.0, 0.0],
        t_eval=times,
        rtol=1e-9,
        atol=1e-11,
    ).y.T
    return times, values + 0.01 * values.std(0) * rng.standard_normal(values.shape)


SOURCES: Mapping[str, Callable[[np.random.Generator], tuple[np.ndarray, np.ndarray]]] = {
    "white noise around a constant": white_noise,
    "random walk": random_walk,
    "Mackey-Glass, x(t) and x(t - 17)": mackey_glass,
    "a law outside the library": outside,
}


def measure_refusal(row: str, _: str, seed: int) -> Measurement:
    """Return whether the verdict is a refusal, and why."""
    times, values = SOURCES[row](np.random.default_rng(seed))
    names = [f"x{number + 1}" for number in range(values.shape[1])]
    system = System.from_text(
        states=names,
        missing={f"f{number + 1}": names for number in range(len(names))},
        equations={name: f"f{number + 1}" for number, name in enumerate(names)},
    )
    dataset = Dataset(tuple(names), (Trajectory("measured", times, values, np.zeros((ROWS, 0))),))
    data = prepared(dataset, estimated_noise(dataset))
    found = discover(system, data, RegressOptions(), seed)
    law = found.choice
    failed = [reason.name for reason in found.report.reasons if not reason.passed]
    figures = {
        "rejected": found.report.status == "rejected",
        "misfit": law.chi_square / max(law.n_observed - law.n_parameters, 1),
    }
    return Measurement(figures, found.seconds, {"law": dict(law.expressions), "failed": failed})


def _rejected(_: str, runs: Sequence[Run]) -> str:
    return f"{sum(bool(run['figures'].get('rejected')) for run in runs)} of {len(runs)}"


def _reasons(_: str, runs: Sequence[Run]) -> str:
    counts = Counter(name for run in runs for name in run["words"].get("failed", ()))
    return ", ".join(f"{name} {count}" for name, count in counts.most_common())


def _misfit(_: str, runs: Sequence[Run]) -> str:
    values = [run["figures"]["misfit"] for run in runs if run["figures"].get("misfit") is not None]
    return f"{statistics.median(values):.3g}" if values else "–"


REFUSALS = Case(
    title="Refusals: 200 rows of what the library cannot say",
    rows=tuple(SOURCES),
    measure=measure_refusal,
    columns=(
        constant("to reach", dict.fromkeys(SOURCES, "19 of 20")),
        Column("rejected", _rejected),
        Column("failed conditions", _reasons),
        Column("chi-square / degrees of freedom of the choice, median", _misfit),
        SECONDS,
    ),
    seeds=tuple(range(1000, 1020)),
    seconds=180.0,
    note="The whole right-hand side is missing, candidates are polynomials to degree 3, the default.",
)
