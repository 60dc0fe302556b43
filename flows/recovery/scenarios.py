"""The scenarios of Rackauckas et al. 2020 (arXiv:2001.04385): Lotka-Volterra with both interactions missing."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from flows.benchmarks.measurement import Measurement
from flows.benchmarks.problems import TrainingProblem, estimated_noise, noisy, one_trajectory, prepared
from flows.recovery.case import EXACT, SECONDS, Case, Column, Run, constant, share, succeeded
from flows.recovery.discovery import Discovery, compared, discover
from flows.recovery.oracle import setting, short_laws, smallest_errors, told
from sciml_discover.library import LibraryOptions
from sciml_discover.regressors import RegressOptions
from sciml_discover.search import SearchOptions
from sciml_discover.selection import SelectOptions
from sciml_discover.system import System

LAWS = RegressOptions(library=LibraryOptions(polynomial_degree=5, functions=("sin",)))
"""23 terms for each hole."""

LEVELS = ("0.001", "0.005", "0.01", "0.025", "0.05")
"""Noise sd as a fraction of the mean of each species."""

NO_LIST = SelectOptions(exhaustive=0)
PROPOSED_ONLY = SelectOptions(exhaustive=0, search=SearchOptions(width=0, rounds=0))

FEWER = {
    "no exhaustive seeds": (NO_LIST, False),
    "no exhaustive seeds, samples shuffled": (NO_LIST, True),
    "proposals alone": (PROPOSED_ONLY, False),
    "proposals alone, samples shuffled": (PROPOSED_ONLY, True),
}
"""Rows with less of the search: its options, and whether the samples are shuffled."""

PREDATOR_EVERY = 12
"""Rows of the prey for one of the predator."""

DEATH_RATE = 1.8


def _problem(times: np.ndarray, death: dict[str, Any]) -> TrainingProblem:
    system = System.from_text(
        states={"x": {"positive": True}, "y": {"positive": True}},
        parameters={"alpha": {"value": 1.3, "fixed": True}, "delta": death},
        missing={"predation": ["x", "y"], "growth": ["x", "y"]},
        equations={"x": "alpha*x - predation", "y": "growth - delta*y"},
    )
    laws = {"predation": "0.9*x*y", "growth": "0.8*x*y"}
    start = np.array([0.44249296, 4.6280594])
    return TrainingProblem(system, laws, start, times, 0.0, {"delta": DEATH_RATE})


@cache
def scenario_1() -> TrainingProblem:
    """Return the first scenario: 31 rows of both species."""
    return _problem(np.linspace(0.0, 3.0, 31), {"value": DEATH_RATE, "fixed": True})


@cache
def _clean_1() -> np.ndarray:
    problem = scenario_1()
    return problem.states(problem.times)


@cache
def _bounds(level: float) -> np.ndarray:
    problem, clean = scenario_1(), _clean_1()
    dataset = one_trajectory(problem, clean)
    return smallest_errors(
        problem, setting(problem, dataset, told(problem, level * clean.mean(0), dataset), LAWS, clean)
    )


def measure_scenario_1(row: str, _: str, seed: int) -> Measurement:
    """Return one discovery, beside what all laws of one term each could have told."""
    noise, _, variant = row.partition(", ")
    problem, clean, level = scenario_1(), _clean_1(), float(noise)
    sd = level * clean.mean(0)
    dataset = one_trajectory(problem, noisy(clean, sd, seed))
    data = prepared(dataset, estimated_noise(dataset))
    options, shuffled = FEWER.get(variant, (SelectOptions(), False))
    found = discover(problem.system, data, LAWS, seed, options=options, shuffled=shuffled)
    figures, words = compared(problem, data, LAWS, found)
    if figures["exact"]:
        figures |= _errors(found, _bounds(level))
    if not variant:
        laws = short_laws(problem, setting(problem, dataset, told(problem, sd, dataset), LAWS, clean))
        figures["oracle"] = laws.truth is not None and int(np.argmin(laws.fits.chi_square)) == laws.truth
    return Measurement(figures, found.seconds, words)


def _errors(found: Discovery, bounds: np.ndarray) -> dict[str, float | int | bool | None]:
    """Return the errors of both coefficients in units of their smallest possible sd, and how many intervals cover."""
    figures: dict[str, float | int | bool | None] = {"covered": 0}
    for (hole, truth), bound in zip({"predation": 0.9, "growth": 0.8}.items(), bounds.tolist(), strict=True):
        (term,) = found.choice.missing[hole]
        interval = term.coefficient.interval95
        figures[f"error_{hole}"] = (term.coefficient.value - truth) / bound
        figures["covered"] = int(figures["covered"] or 0) + bool(
            interval is not None and interval[0] <= truth <= interval[1]
        )
    return figures


def _ratio(_: str, runs: Sequence[Run]) -> str:
    errors = [run["figures"][name] for run in runs for name in _ERRORS if name in run["figures"]]
    return f"{np.sqrt(np.mean(np.square(errors))):.2f}" if errors else "–"


def _coverage(_: str, runs: Sequence[Run]) -> str:
    inside = [run["figures"]["covered"] for run in runs if "covered" in run["figures"]]
    return f"{sum(inside)} of {2 * len(inside)}" if inside else "–"


_ERRORS = ("error_predation", "error_growth")

SCENARIO_1 = Case(
    title="Lotka-Volterra, scenario 1: 31 rows, both interactions missing, 23 terms for each",
    rows=(*LEVELS, *(f"{level}, {variant}" for variant in FEWER for level in LEVELS[:3])),
    measure=measure_scenario_1,
    columns=(
        constant("published", dict(zip(LEVELS, ("75 %", "72 %", "58 %", "29 %", "18 %"), strict=True))),
        constant("to reach", dict(zip(LEVELS, ("100 %", "100 %", "99 %", "95 %", "80 %"), strict=True))),
        EXACT,
        share("oracle", "oracle", lambda run: "oracle" in run["figures"] or not run["row"].count(",")),
        share("truth among choice and rivals", "among"),
        share("correct ones accepted", "accepted", succeeded("exact")),
        Column("rms error / Cramer-Rao bound", _ratio),
        Column("95 % intervals that cover", _coverage),
        SECONDS,
    ),
    seeds=tuple(range(1000, 1100)),
    seconds=60.0,
    note=(
        "The row is the noise sd as a fraction of each species' mean. Published: the reference recipe of the first "
        "scenario. The oracle fits all 529 laws of one term each, from the true states and with the true noise sd, "
        "and takes the best. Without exhaustive seeds, short laws are no longer all compared: the search begins with "
        "what the regressors find in the network's samples, or, shuffled, where the learnt values stand at the wrong "
        "points. Alone, proposals are refitted and ranked, and the search makes no moves at all."
    ),
)


def measure_scenario_2(row: str, _: str, seed: int) -> Measurement:
    """Return one discovery where the predator is rarely seen and its death rate is not known."""
    rng = np.random.default_rng([seed, 2])
    problem = _problem(
        np.linspace(0.0, 6.0, 61), {"value": float(rng.uniform(0.6, 4.0)), "bounds": (0.0, 5.0)}
    )
    clean = problem.states(problem.times)
    values = noisy(clean, float(row) * clean.mean(0), seed)
    values[np.arange(len(values)) % PREDATOR_EVERY != 0, 1] = np.nan
    dataset = one_trajectory(problem, values)
    data = prepared(dataset, estimated_noise(dataset))
    found = discover(problem.system, data, LAWS, seed)
    figures, words = compared(problem, data, LAWS, found)
    error = abs(found.choice.parameters["delta"].estimate.value / DEATH_RATE - 1.0)
    figures |= {"death_rate_error": error, "both": bool(figures["exact"]) and error <= 0.03}
    return Measurement(figures, found.seconds, words)


SCENARIO_2 = Case(
    title="Lotka-Volterra, scenario 2: the predator seen 6 times in 61, its death rate unknown",
    rows=("0.005", "0.025"),
    measure=measure_scenario_2,
    columns=(
        constant("to reach", {"0.005": "20 of 20", "0.025": "18 of 20"}),
        share("exactly the true terms, death rate within 3 %", "both"),
        EXACT,
        share("truth among choice and rivals", "among"),
        share("accepted", "accepted"),
        SECONDS,
    ),
    seeds=tuple(range(1000, 1020)),
    seconds=120.0,
    note="The death rate starts anywhere between 0.6 and 4; the truth is 1.8.",
)
