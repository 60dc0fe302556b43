"""Three missing terms with hundreds of candidates each, in a network of three reactions."""

from __future__ import annotations

from functools import cache

import numpy as np

from flows.benchmarks.measurement import Measurement
from flows.benchmarks.problems import TrainingProblem
from flows.recovery.case import EXACT, SECONDS, Case, constant, median, share
from flows.recovery.known import dataset_of, measure
from sciml_discover.library import LibraryOptions
from sciml_discover.regressors import RegressOptions
from sciml_discover.system import System

LAWS = RegressOptions(library=LibraryOptions(polynomial_degree=9))
"""220 monomials of three species for each hole."""

STARTS = np.array([[1.5, 0.6, 0.3], [0.4, 1.4, 0.8], [2.2, 0.3, 1.2]])


@cache
def reactions() -> TrainingProblem:
    """Return an autocatalytic species ``b``, its feed ``a`` and its predator ``c``.

    ``a`` flows in and out; ``a + 2 b -> 3 b``; ``b + c -> 2 c``; ``b`` and ``c`` decay. Inflow and decay are known,
    all reactions are missing.
    """
    system = System.from_text(
        states={name: {"positive": True} for name in "abc"},
        parameters={
            name: {"value": value, "fixed": True}
            for name, value in {"inflow": 1.0, "outflow": 0.1, "decay_b": 0.6, "decay_c": 0.4}.items()
        },
        missing={"consumption": list("abc"), "balance": list("abc"), "growth": list("abc")},
        equations={
            "a": "inflow - outflow*a - consumption",
            "b": "balance - decay_b*b",
            "c": "growth - decay_c*c",
        },
    )
    laws = {"consumption": "a*b**2", "balance": "a*b**2 - 0.7*b*c", "growth": "0.7*b*c"}
    return TrainingProblem(system, laws, STARTS[0], np.linspace(0.0, 12.0, 61), 0.0, {})


def measure_three_holes(row: str, _: str, seed: int) -> Measurement:
    """Return one discovery from three trajectories."""
    problem = reactions()
    return measure(problem, dataset_of(problem, STARTS, float(row), seed), LAWS, seed)[0]


THREE_HOLES = Case(
    title="A network of three reactions: three missing terms, 220 candidates for each",
    rows=("0.01",),
    measure=measure_three_holes,
    columns=(
        constant("to reach", {"0.01": "16 of 20"}),
        EXACT,
        share("truth among choice and rivals", "among"),
        share("accepted", "accepted"),
        median("laws tried", "tried"),
        SECONDS,
    ),
    seeds=tuple(range(1000, 1020)),
    seconds=600.0,
    note=(
        "Three trajectories of 61 rows. The row is the noise sd as a fraction of each species' sd. True terms: "
        "`a*b**2`; `a*b**2` and `b*c`; `b*c`."
    ),
)
