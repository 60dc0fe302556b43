"""Rational laws, whose constants stand inside their terms."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache

import numpy as np

from flows.benchmarks.measurement import Measurement
from flows.benchmarks.problems import TrainingProblem
from flows.recovery.case import EXACT, SECONDS, Case, Column, Run, constant, share
from flows.recovery.known import dataset_of, measure
from sciml_discover.library import InnerOptions, LibraryOptions
from sciml_discover.regressors import RegressOptions
from sciml_discover.system import System

LAWS = RegressOptions(
    library=LibraryOptions(
        polynomial_degree=3,
        templates=("input/(K + input)", "input**2/(K**2 + input**2)"),
        inner={"K": InnerOptions()},
    )
)

INOCULUM = 0.2
"""Biomass at the first row, which nobody measures."""

NOISE = 0.01
"""Sd, as a fraction of the sd of what is measured."""


@cache
def problems() -> Mapping[str, TrainingProblem]:
    """Return the problems by the row of the table."""
    decay = System.from_text(
        states={"s": {"positive": True}},
        missing={"uptake": ["s"]},
        equations={"s": "-uptake"},
    )
    culture, known_culture = (
        System.from_text(
            states={"cells": {"positive": True, **start}, "s": {"positive": True}},
            parameters={"yield_": {"value": 0.5, "fixed": True}},
            missing={"rate": ["s"]},
            equations={"cells": "rate*cells", "s": "-rate*cells/yield_"},
            observables=["s"],
        )
        for start in ({}, {"initial": INOCULUM})
    )
    gene = System.from_text(
        states={"p": {"positive": True}},
        parameters={"basal": {"value": 0.2, "fixed": True}, "decay": {"value": 0.8, "fixed": True}},
        missing={"activation": ["p"]},
        equations={"p": "basal + activation - decay*p"},
    )
    systems = {
        "Michaelis-Menten": (decay, [4.0], 6.0),
        "Monod, only the substrate measured": (culture, [INOCULUM, 5.0], 6.0),
        "the same, first biomass known": (known_culture, [INOCULUM, 5.0], 6.0),
        "Hill, n = 2": (gene, [0.3], 10.0),
    }
    return {
        row: TrainingProblem(
            system, law(row, TRUE_NUMBERS[row]), np.array(start), np.linspace(0.0, end, 61), 0.0, {}
        )
        for row, (system, start, end) in systems.items()
    }


TRUE_NUMBERS = {
    "Michaelis-Menten": (1.2, 0.7),
    "Monod, only the substrate measured": (1.0, 0.8),
    "the same, first biomass known": (1.0, 0.8),
    "Hill, n = 2": (3.0, 1.2),
}
"""Largest rate, and the constant inside."""


def law(row: str, numbers: Sequence[float]) -> dict[str, str]:
    """Return what is missing in a row's problem, with a largest rate and a constant inside."""
    rate, inside = (repr(float(number)) for number in numbers)
    if row == "Hill, n = 2":
        return {"activation": f"{rate}*p**2/({inside}**2 + p**2)"}
    hole = "uptake" if row == "Michaelis-Menten" else "rate"
    return {hole: f"{rate}*s/({inside} + s)"}


@cache
def smallest_errors(row: str) -> np.ndarray:
    """Return the Cramer-Rao bounds of both numbers, relative; first states are unknown unless they are given."""
    problem = problems()[row]
    states = problem.system.state_names
    seen = [states.index(name) for name in problem.system.observables]
    truth = np.array([*TRUE_NUMBERS[row], *problem.initial])
    free = [0, 1, *(2 + position for position in range(len(states)) if position not in problem.system.held)]

    def rows(relative: np.ndarray) -> np.ndarray:
        numbers = truth * (1.0 + relative)
        one = replace(problem, laws=law(row, numbers[:2].tolist()), initial=numbers[2:])
        return one.states(problem.times)[:, seen]

    step = 1e-4
    slopes = [(rows(step * unit) - rows(-step * unit)) / (2 * step) for unit in np.eye(len(truth))[free]]
    sd = NOISE * rows(np.zeros(len(truth))).std(0)
    jacobian = np.stack([(slope / sd).ravel() for slope in slopes], axis=1)
    return np.sqrt(np.diag(np.linalg.inv(jacobian.T @ jacobian)))[:2]


def measure_rational(row: str, _: str, seed: int) -> Measurement:
    """Return one discovery, with the errors of both numbers where the structure is right."""
    problem = problems()[row]
    measured, found = measure(problem, dataset_of(problem, problem.initial[None], NOISE, seed), LAWS, seed)
    if measured.figures["exact"]:
        ((term,),) = found.choice.missing.values()
        (inside,) = term.inner.values()
        largest, constant_ = TRUE_NUMBERS[row]
        measured.figures["error_rate"] = abs(term.coefficient.value / largest - 1.0)
        measured.figures["error_inside"] = abs(inside.value / constant_ - 1.0)
    return measured


def _error(_: str, runs: Sequence[Run]) -> str:
    parts = []
    for name in ("error_rate", "error_inside"):
        values = [run["figures"][name] for run in runs if name in run["figures"]]
        parts.append(f"{100 * statistics.median(values):.2g} %" if values else "–")
    return ", ".join(parts)


MEDIAN_OF_NORMAL = 0.6745
"""Half of all errors are larger than this many standard deviations."""


def _smallest(row: str, _: Sequence[Run]) -> str:
    return ", ".join(f"{100 * MEDIAN_OF_NORMAL * bound:.2g} %" for bound in smallest_errors(row).tolist())


RATIONAL = Case(
    title="Rational laws with the constant inside unknown, 1 % noise",
    rows=tuple(TRUE_NUMBERS),
    measure=measure_rational,
    columns=(
        constant("to reach", dict.fromkeys(TRUE_NUMBERS, "18 of 20, 5 %")),
        EXACT,
        Column("error of rate and constant, median", _error),
        Column("smallest possible", _smallest),
        share("truth among choice and rivals", "among"),
        share("accepted", "accepted"),
        SECONDS,
    ),
    seeds=tuple(range(1000, 1020)),
    seconds=120.0,
    note=(
        "61 rows. Candidates: polynomials to degree 3, `input/(K + input)`, `input**2/(K**2 + input**2)`. Biomass that "
        "nobody measures is only known from the substrate that it takes; where its first value is known, fits begin "
        "there. Smallest possible: the median error of estimates that reach the Cramer-Rao bound."
    ),
)
