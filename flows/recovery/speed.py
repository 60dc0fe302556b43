"""How fast all short laws are refitted, and whether the right ones survive."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
from scipy.integrate import solve_ivp
from scipy.optimize import least_squares

from flows.benchmarks.measurement import Measurement
from flows.benchmarks.problems import noisy, one_trajectory
from flows.recovery.case import Case, Column, Run, median
from flows.recovery.oracle import NO_PARAMETERS, Setting, begun, every_short_law, setting, short_laws, told
from flows.recovery.scenarios import LAWS, scenario_1
from sciml_discover.base import nobody_watches
from sciml_discover.callables import NumpySystem
from sciml_discover.criterion import Criterion
from sciml_discover.refit import Fits
from sciml_discover.search import Judge, LawSearch, SearchOptions
from sciml_discover.selection import SelectOptions

BEST, ALIKE, NOISE = 20, 0.05, 0.01
"""Laws that are checked with scipy, the difference of chi-square that is allowed, and noise over mean."""


def measure_speed(row: str, _: str, seed: int) -> Measurement:
    """Refit all laws of one term each as the search does, then all to the end, then the best with scipy."""
    if row != "529 laws":
        raise ValueError(f"there is no row {row!r}")
    problem = scenario_1()
    clean = problem.states(problem.times)
    sd = NOISE * clean.mean(0)
    dataset = one_trajectory(problem, noisy(clean, sd, seed))
    noise = told(problem, sd, dataset)
    place = setting(problem, dataset, noise, LAWS, clean)
    counts = np.array([len(clean)] * 2)
    criterion = Criterion(counts, 2, place.constraints.n_terms, noise)

    judge = Judge(criterion, place.libraries, place.constraints)
    candidates = every_short_law(place)
    search = LawSearch(
        refitter=place.refitter,
        judge=judge,
        options=SearchOptions(rounds=0),
        delta=SelectOptions().rival_delta,
        starts=NO_PARAMETERS[:0],
        watch=nobody_watches,
    )
    clock = time.perf_counter()
    pool = search.run(begun(place, candidates))
    seconds = time.perf_counter() - clock
    every = short_laws(problem, place).fits
    best = np.argsort(every.chi_square, kind="stable")[:BEST]
    kept = dict(zip(pool.candidates.keys, pool.chi_square.tolist(), strict=True))
    ours = [kept.get(every.candidates.keys[i]) for i in best]
    theirs = [_by_scipy(place, every, int(i), dataset.trajectories[0].values, sd) for i in best]
    agree = [own is not None and (own < other + ALIKE) for own, other in zip(ours, theirs, strict=True)]
    figures = {
        "laws": len(candidates),
        "survivors": len(kept),
        "dropped": sum(own is None for own in ours),
        "agree": sum(agree),
        "search": seconds,
    }
    words = {
        "ours": [None if own is None else round(own, 3) for own in ours],
        "scipy": np.round(theirs, 3).tolist(),
    }
    return Measurement(figures, {"search": seconds}, words)


def _by_scipy(place: Setting, fits: Fits, law: int, values: np.ndarray, sd: np.ndarray) -> float:
    """Return chi-square of one law, refitted by scipy from where the batch ended, one solve per evaluation."""
    chosen = [
        place.libraries[hole].expressions[int(np.argmax(fits.candidates.supports[hole][law]))]
        for hole in range(2)
    ]
    terms = NumpySystem(chosen, ("x", "y"), ())
    nothing = np.zeros(0)
    start = np.array(
        [*(fits.candidates.coefficients[hole][law].sum() for hole in range(2)), *fits.states[law, 0, 0]]
    )
    times = place.rows.times[0].numpy()

    def residual(numbers: np.ndarray) -> np.ndarray:
        first, second, *initial = numbers

        def slope(_: float, state: np.ndarray) -> list[float]:
            one, two = terms.rhs(0.0, state, nothing)
            return [1.3 * state[0] - first * one, second * two - 1.8 * state[1]]

        with np.errstate(all="ignore"):
            solved = solve_ivp(slope, (times[0], times[-1]), initial, t_eval=times, rtol=1e-9, atol=1e-11)
        if not solved.success:
            return np.full(values.size, 1e3)
        return ((solved.y.T - values) / sd).ravel()

    found = least_squares(residual, start, x_scale=np.maximum(np.abs(start), 1e-3), xtol=1e-10, ftol=1e-10)
    return float(2.0 * found.cost)


def _of(title: str, name: str) -> Column:
    def text(_: str, runs: Sequence[Run]) -> str:
        return f"{sum(run['figures'].get(name, 0) for run in runs)} of {BEST * len(runs)}"

    return Column(title, text)


SPEED = Case(
    title="Speed: all laws of one term each of scenario 1, refitted through the ODE",
    rows=("529 laws",),
    measure=measure_speed,
    columns=(
        Column("to reach", lambda *_: "5 s, aim 1 s"),
        median("seconds", "search"),
        median("refitted to the end", "survivors"),
        _of(f"the {BEST} best dropped", "dropped"),
        _of(f"the {BEST} best within {ALIKE} of scipy's chi-square", "agree"),
    ),
    seeds=(1000, 1001, 1002),
    seconds=300.0,
    note=(
        "As the search does it: a lower bound of all laws, then those that could be of interest to the end. The "
        "best are those of a refit of all laws without dropping any; scipy's `least_squares` through `solve_ivp` starts"
        " where that ended. Noise sd 1 % of the mean, told."
    ),
)
