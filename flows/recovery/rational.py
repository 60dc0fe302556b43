"""Rational laws, whose constants stand inside their terms."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
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
    return {
        "Michaelis-Menten": TrainingProblem(
            decay, {"uptake": "1.2*s/(0.7 + s)"}, np.array([4.0]), np.linspace(0.0, 6.0, 61), 0.0, {}
        ),
        **{
            name: TrainingProblem(
                system,
                {"rate": "1.0*s/(0.8 + s)"},
                np.array([INOCULUM, 5.0]),
                np.linspace(0.0, 6.0, 61),
                0.0,
                {},
            )
            for name, system in {
                "Monod, only the substrate measured": culture,
                "the same, first biomass known": known_culture,
            }.items()
        },
        "Hill, n = 2": TrainingProblem(
            gene,
            {"activation": "3.0*p**2/(1.44 + p**2)"},
            np.array([0.3]),
            np.linspace(0.0, 10.0, 61),
            0.0,
            {},
        ),
    }


TRUE_NUMBERS = {
    "Michaelis-Menten": (1.2, 0.7),
    "Monod, only the substrate measured": (1.0, 0.8),
    "the same, first biomass known": (1.0, 0.8),
    "Hill, n = 2": (3.0, 1.2),
}
"""Largest rate, and the constant inside."""


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


RATIONAL = Case(
    title="Rational laws with the constant inside unknown, 1 % noise",
    rows=tuple(TRUE_NUMBERS),
    measure=measure_rational,
    columns=(
        constant("to reach", dict.fromkeys(TRUE_NUMBERS, "18 of 20, 5 %")),
        EXACT,
        Column("error of rate and constant, median", _error),
        share("truth among choice and rivals", "among"),
        share("accepted", "accepted"),
        SECONDS,
    ),
    seeds=tuple(range(1000, 1020)),
    seconds=120.0,
    note="61 rows. Candidates: polynomials to degree 3, `input/(K + input)`, `input**2/(K**2 + input**2)`.",
)
