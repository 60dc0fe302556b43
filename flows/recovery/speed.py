"""How fast all short laws are refitted through the ODE, and whether scipy finds the same."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.integrate import solve_ivp
from scipy.optimize import least_squares

from flows.benchmarks.measurement import Measurement
from flows.benchmarks.problems import noisy, one_trajectory
from flows.recovery.case import Case, Column, Run, median
from flows.recovery.oracle import Setting, setting, short_laws, told
from flows.recovery.scenarios import LAWS, scenario_1
from sciml_discover.callables import NumpySystem
from sciml_discover.refit import Fits

BEST, ALIKE, NOISE = 20, 0.05, 0.01
"""Laws that are checked with scipy, the difference of chi-square that is allowed, and noise over mean."""


def measure_speed(row: str, _: str, seed: int) -> Measurement:
    """Refit all laws of one term each, none dropped, and the best of them with scipy."""
    if row != "529 laws":
        raise ValueError(f"there is no row {row!r}")
    problem = scenario_1()
    clean = problem.states(problem.times)
    sd = NOISE * clean.mean(0)
    dataset = one_trajectory(problem, noisy(clean, sd, seed))
    place = setting(problem, dataset, told(problem, sd, dataset), LAWS, clean)
    laws = short_laws(problem, place)
    fits = laws.fits
    best = np.argsort(fits.chi_square, kind="stable")[:BEST]
    ours = fits.chi_square[best]
    theirs = [_by_scipy(place, fits, int(i), dataset.trajectories[0].values, sd) for i in best]
    agree = ours < np.array(theirs) + ALIKE
    figures = {
        "laws": len(fits.candidates),
        "settled": int(np.isfinite(fits.chi_square).sum()),
        "agree": int(agree.sum()),
        "refit": laws.seconds,
    }
    words = {"ours": np.round(ours, 3).tolist(), "scipy": np.round(theirs, 3).tolist()}
    return Measurement(figures, {"refit": laws.seconds}, words)


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


def _agreement(_: str, runs: Sequence[Run]) -> str:
    return f"{sum(run['figures'].get('agree', 0) for run in runs)} of {BEST * len(runs)}"


SPEED = Case(
    title="Speed: all laws of one term each of scenario 1, refitted through the ODE",
    rows=("529 laws",),
    measure=measure_speed,
    columns=(
        Column("to reach", lambda *_: "5 s, aim 1 s"),
        median("seconds", "refit"),
        median("continuous trajectories found", "settled"),
        Column(f"the {BEST} best within {ALIKE} of scipy's chi-square", _agreement),
    ),
    seeds=(1000, 1001, 1002),
    seconds=300.0,
    note=(
        "From the true states, through rounds of growing continuity, to continuous trajectories; no law is dropped on "
        "the way. scipy's `least_squares` through `solve_ivp` starts where that ended. Noise sd 1 % of the mean, told."
    ),
)
