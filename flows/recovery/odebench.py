"""The systems of ODEBench (data/odebench): one term hidden, or everything."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import count, permutations

import numpy as np
import sympy

from flows.benchmarks.measurement import CannotRun, Measurement
from flows.benchmarks.problems import (
    TrainingProblem,
    estimated_noise,
    noisy,
    one_trajectory,
    prepared,
)
from flows.benchmarks.processes import ROOT
from flows.recovery.case import SECONDS, Case, Run, constant, share
from flows.recovery.discovery import compared, discover, true_positions
from flows.recovery.oracle import setting, short_laws, told
from sciml_discover.callables import NumpySystem
from sciml_discover.constraints import build_libraries
from sciml_discover.errors import SolveError
from sciml_discover.expressions import parse_expression, symbol, to_text
from sciml_discover.identifiability import CANCEL, INSEPARABLE
from sciml_discover.laws import Law
from sciml_discover.library import InnerOptions, LibraryOptions
from sciml_discover.ranking import RankedLaws
from sciml_discover.regressors import RegressOptions
from sciml_discover.system import System
from sciml_discover.trajectories import Dataset, Trajectory

FILE = ROOT / "data" / "odebench" / "systems.json"

LAWS = RegressOptions(
    library=LibraryOptions(
        polynomial_degree=3,
        functions=("sin", "cos", "exp"),
        templates=(
            "sin(input)*other",
            "cos(input)*other",
            "exp(input)*other",
            "input/(K + input)",
            "input**2/(K**2 + input**2)",
        ),
        inner={"K": InnerOptions()},
    )
)
"""One library for all systems."""

HALF_ROWS, HALF_END = 200, 10.0
"""Rows of the half-known systems, and their last time."""

LEVELS = {"1e-4": 1e-4, "1 %": 0.01, "5 %": 0.05}
"""Noise sd, as a fraction of each state's sd."""

MOST_SLOPES = 300_000
"""Slopes that a solution may take, a hundred times what true ones need, before it counts as none."""

UNDECIDED = 10.0
"""A law that is this close to the truth, without noise, cannot be told from it."""

WHOLE_ROWS = 512

DROPPED: Mapping[str, tuple[float, float]] = {
    "clean": (0.0, 0.0),
    "5 %": (0.05, 0.0),
    "5 %, half of the points dropped": (0.05, 0.5),
}
"""Relative noise of each value, and the fraction of rows that is dropped."""


@dataclass(frozen=True)
class Entry:
    """One system of the benchmark.

    Attributes:
        equations: the right-hand side of each state.
        initial: two initial values, shape ``(2, states)``.
        end: the last time.
    """

    equations: tuple[sympy.Expr, ...]
    initial: np.ndarray
    end: float

    @property
    def names(self) -> tuple[str, ...]:
        """Of the states."""
        return tuple(f"x_{number}" for number in range(len(self.equations)))


@cache
def entries() -> dict[str, Entry]:
    """Return the systems by id.

    Raises:
        CannotRun: the file is not there, as in an installation without the repository.
    """
    if not FILE.exists():
        raise CannotRun(f"{FILE} is not there: run this in a checkout of the repository")
    found = {}
    for one in json.loads(FILE.read_text()):
        names = [f"x_{number}" for number in range(one["dim"])]
        equations = tuple(
            parse_expression(text, names, where=f"{FILE.name}, {one['id']}") for text in one["rhs"]
        )
        found[str(one["id"])] = Entry(equations, np.array(one["initial"], dtype=float), float(one["t_end"]))
    return found


def identifiers() -> tuple[str, ...]:
    """Return the ids of all systems."""
    return tuple(entries())


def hidden_term(equations: Sequence[sympy.Expr], names: Sequence[str]) -> tuple[int, sympy.Expr] | None:
    """Return the equation and the term that is hidden; None where every term is affine in the states.

    Among the terms, after ``sympy.expand``, that are not affine, the highest by: transcendental or rational above
    polynomial, then total degree, then number of the equation. Of equals, the one that is printed last.
    """
    states = [symbol(name) for name in names]
    ranked = []
    for number, equation in enumerate(equations):
        for term in sympy.Add.make_args(sympy.expand(equation)):
            plain = bool(term.is_polynomial(*states))
            degree = _degree(term)
            if not plain or degree > 1:
                ranked.append((not plain, degree, number, to_text(term), term))
    if not ranked:
        return None
    _, _, number, _, term = max(ranked, key=lambda one: one[:4])
    return number, term


def _degree(term: sympy.Expr) -> int:
    """Return the total degree of a term; a function counts as one factor, a denominator as much as a numerator."""
    if term.is_Number:
        return 0
    if isinstance(term, sympy.Mul):
        return sum(_degree(factor) for factor in term.args)
    if isinstance(term, sympy.Pow) and term.exp.is_Integer:
        return abs(int(term.exp)) * _degree(term.base)
    if isinstance(term, sympy.Add):
        return max(_degree(part) for part in term.args)
    return 1


@cache
def half_known(item: str) -> TrainingProblem | None:
    """Return a system with its hidden term as hole; None where there is nothing to hide."""
    entry = entries()[item]
    hidden = hidden_term(entry.equations, entry.names)
    if hidden is None:
        return None
    number, term = hidden
    equations = {
        name: to_text(sympy.expand(own)) for name, own in zip(entry.names, entry.equations, strict=True)
    }
    equations[f"x_{number}"] = to_text(sympy.expand(entry.equations[number]) - term + symbol("hidden"))
    system = System.from_text(
        states=list(entry.names), missing={"hidden": list(entry.names)}, equations=equations
    )
    return TrainingProblem(
        system,
        {"hidden": to_text(term)},
        entry.initial[0],
        np.linspace(0.0, HALF_END, HALF_ROWS),
        0.0,
        {},
    )


def identifiable(problem: TrainingProblem, clean: np.ndarray, sd: np.ndarray) -> bool | None:
    """Return whether no other law of the library that is as short fits the noise-free truth within `UNDECIDED`.

    As short is one term with no more constants inside. None if the true law is not in the library.
    """
    dataset = one_trajectory(problem, clean)
    place = setting(problem, dataset, told(problem, sd, dataset), LAWS, clean)
    laws = short_laws(problem, place)
    if laws.truth is None:
        return None
    numbers = laws.fits.candidates.n_inner(place.libraries)
    others = numbers <= numbers[laws.truth]
    others[laws.truth] = False
    return bool((laws.fits.chi_square[others] >= UNDECIDED).all())


@cache
def in_library(item: str) -> bool:
    """Return whether the hidden term of a system is in the library."""
    problem = half_known(item)
    return problem is not None and (
        true_positions(problem.system, problem.laws, build_libraries(problem.system, LAWS)) is not None
    )


_IDENTIFIABLE: dict[tuple[str, str], bool | None] = {}
"""Of systems and noise levels; it is the same for all seeds."""


def measure_half_known(row: str, item: str, seed: int) -> Measurement:
    """Return one discovery of a hidden term.

    Raises:
        CannotRun: nothing is hidden in this system.
    """
    problem = half_known(item)
    if problem is None:
        raise CannotRun("every term is affine in the states")
    clean = problem.states(problem.times)
    sd = LEVELS[row] * clean.std(0)
    inside = in_library(item)
    if inside and (item, row) not in _IDENTIFIABLE:
        _IDENTIFIABLE[item, row] = identifiable(problem, clean, sd)
    decided = bool(_IDENTIFIABLE[item, row]) if inside else False
    about = {"inside": inside, "identifiable": decided}
    dataset = one_trajectory(problem, noisy(clean, sd, seed))
    data = prepared(dataset, estimated_noise(dataset))
    try:
        found = discover(problem.system, data, LAWS, seed)
    except SolveError as error:
        return Measurement({**about, "refused": True}, {}, {}, f"SolveError: {error}"[:200])
    figures, words = compared(problem, data, LAWS, found)
    warned = not figures["accepted"] or bool(figures["rivals"]) or imitates(found.ranked)
    figures |= {**about, "warned": warned}
    return Measurement(figures, found.seconds, {**words, "truth": problem.laws["hidden"]})


def imitates(ranked: RankedLaws) -> bool:
    """Return whether the choice is said to have terms that cancel, or that the data hardly separate.

    That is how terms look that together stand for a function which the library does not have. A term and a number
    inside it may be hard to separate in a true law too, and do not count.
    """
    terms = [f"{item.term} in {hole}" for hole, own in ranked.laws[0].missing.items() for item in own]
    pairs = tuple(f"{first} and {second} {INSEPARABLE}" for first, second in permutations(terms, 2))
    return any(CANCEL in sentence or sentence.startswith(pairs) for sentence in ranked.identifiability)


NOTE = (
    "First initial value, 200 rows on [0, 10]. Hidden is one term: among those that are not affine in the states the "
    "highest by kind (transcendental or rational over polynomial), total degree, equation. One library for all: "
    "polynomials to degree 3; sin, cos, exp and their products with a state; `input/(K + input)`; "
    "`input**2/(K**2 + input**2)`. Systems 9 and 24 have nothing to hide and are left out. Identifiable: no other law "
    "of one term with as few constants fits the noise-free truth within 10 of its chi-square at that noise. Warned: "
    "rejected, with rivals, or two of its terms named as cancelling each other or as hardly separable; how often "
    "that happens to a law that is right stands beside it."
)


def _inside(run: Run) -> bool:
    """Return whether a run's hidden term is in the library, also of runs that ended without a figure."""
    return in_library(run["item"])


def _identifiable(run: Run) -> bool:
    """Return whether it is identifiable; a run that ended before that was known counts as if it were."""
    return bool(run["figures"].get("identifiable", _inside(run)))


HALF_KNOWN = Case(
    title="Half-known: one hidden term in 19 systems of ODEBench",
    rows=tuple(LEVELS),
    measure=measure_half_known,
    columns=(
        constant("to reach", dict(zip(LEVELS, ("95 %", "90 %", "75 %"), strict=True))),
        share("exact, of the identifiable", "exact", _identifiable),
        share("exact, of all in the library", "exact", _inside),
        share("of those: truth among choice and rivals", "among", _inside),
        share("of those: accepted", "accepted", _inside),
        share(
            "not in the library: rejected or warned",
            "warned",
            lambda run: not _inside(run),
        ),
        share("of the exact: warned", "warned", lambda run: bool(run["figures"].get("exact"))),
        SECONDS,
    ),
    seeds=(1000, 1001, 1002),
    seconds=180.0,
    items=identifiers,
    note=NOTE,
)


def whole_rows(entry: Entry, row: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return times and measured values of a system, as the peer gets them too.

    Args:
        entry: the system.
        row: how noisy and how many.
        seed: of noise and of the rows that stay.
    """
    noise, drop = DROPPED[row]
    times = np.linspace(0.0, entry.end, WHOLE_ROWS)
    clean = true_path(entry, entry.initial[0], times)
    rng = np.random.default_rng(seed)
    values = clean * (1.0 + noise * rng.standard_normal(clean.shape))
    keep = np.sort(rng.choice(WHOLE_ROWS, int(WHOLE_ROWS * (1.0 - drop)), replace=False))
    return times[keep], values[keep]


def true_path(entry: Entry, start: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Return the true states at increasing times, shape ``(times, states)``."""
    functions = NumpySystem(list(entry.equations), entry.names, ())
    return _solved(functions, start, times)


class _TooSteep(Exception):
    """A solver takes ever smaller steps: towards a pole, or nowhere."""


def _solved(functions: NumpySystem, start: np.ndarray, times: np.ndarray) -> np.ndarray:
    from scipy.integrate import solve_ivp

    nothing, unsolved = np.zeros(0), np.full((len(times), len(start)), np.nan)
    asked = count()

    def slopes(time: float, state: np.ndarray) -> np.ndarray:
        if next(asked) == MOST_SLOPES:
            raise _TooSteep
        return functions.rhs(time, state, nothing)

    try:
        solved = solve_ivp(
            slopes, (times[0], times[-1]), start, t_eval=times, method="LSODA", rtol=1e-9, atol=1e-11
        )
    except (ValueError, _TooSteep):
        # pysindy does not take the infinities of a solution that runs away.
        return unsolved
    if not solved.success or solved.y.shape[1] != len(times):
        return unsolved
    return solved.y.T


def explained(truth: np.ndarray, found: np.ndarray) -> float:
    """Return R2 over all states, each weighted by its variance; minus infinity where there is no solution."""
    if not np.isfinite(found).all():
        return -np.inf
    return float(1.0 - ((truth - found) ** 2).sum() / ((truth - truth.mean(0)) ** 2).sum())


def measure_no_physics(row: str, item: str, seed: int) -> Measurement:
    """Return R2 of the choice from both initial values, or of plain pysindy."""
    entry = entries()[item]
    kind, _, peer = row.partition(" (")
    times, values = whole_rows(entry, kind, seed)
    if peer:
        from flows.peers.pysindy_grid import best_of_grid

        equations, seconds = best_of_grid(times, values, DROPPED[kind])
        figures = _both(entry, equations)
        return Measurement(figures, {"discovery": seconds}, {})
    system = System.from_text(
        states=list(entry.names),
        missing={f"f_{number}": list(entry.names) for number in range(len(entry.names))},
        equations={name: f"f_{number}" for number, name in enumerate(entry.names)},
    )
    dataset = Dataset(entry.names, (Trajectory("measured", times, values, np.zeros((len(times), 0))),))
    data = prepared(dataset, estimated_noise(dataset))
    found = discover(system, data, LAWS, seed)
    law = found.choice
    laws = {f"f_{number}": to_text(sympy.expand(own)) for number, own in enumerate(entry.equations)}
    figures = _both(entry, _functions(law, entry.names))
    figures |= {"accepted": found.report.status == "accepted"}
    return Measurement(figures, found.seconds, {"law": dict(law.expressions), "truth": laws})


def _functions(law: Law, names: Sequence[str]) -> NumpySystem:
    return NumpySystem(
        [parse_expression(law.equations_full[name], names, where="law") for name in names], tuple(names), ()
    )


def _both(entry: Entry, functions: NumpySystem | None) -> dict[str, float | int | bool | None]:
    """Return R2 from the first and from the second initial value, on all rows."""
    times = np.linspace(0.0, entry.end, WHOLE_ROWS)
    scores = [
        -np.inf
        if functions is None
        else explained(true_path(entry, start, times), _solved(functions, start, times))
        for start in entry.initial
    ]
    return {
        "r2_first": scores[0],
        "r2_second": scores[1],
        "first": scores[0] > 0.9,
        "second": scores[1] > 0.9,
    }


NO_PHYSICS = Case(
    title="No physics: the whole right-hand side of 21 systems of ODEBench",
    rows=tuple(f"{row}{peer}" for row in DROPPED for peer in ("", " (pysindy)")),
    measure=measure_no_physics,
    columns=(
        constant("to reach", {"clean": "21 and 18 of 21"}),
        share("R2 > 0.9 from the first initial value", "first"),
        share("from the second", "second"),
        share("accepted", "accepted", lambda run: "(" not in run["row"]),
        SECONDS,
    ),
    seeds=(1000,),
    seconds=600.0,
    items=identifiers,
    note=(
        "512 rows, noise relative to each value; the second initial value enters neither fit nor choice. The library "
        "is that of the half-known systems. Plain pysindy: STLSQ over a small grid of libraries, thresholds and "
        "smoothers, chosen by re-simulation of the rows. A run may take ten minutes."
    ),
)
