"""Plain pysindy on measured states: a small grid, chosen by re-simulation of the rows it was fitted to."""

from __future__ import annotations

import time
import warnings
from typing import Any

import numpy as np
from scipy.integrate import solve_ivp

THRESHOLDS, RIDGE = (0.02, 0.05, 0.1), 0.05

SECONDS = 4.0
"""A simulation may take."""


class Equations:
    """A fitted pysindy model as functions of one state."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def rhs(self, _: float, state: np.ndarray, __: np.ndarray) -> np.ndarray:
        """Return the derivative of every state."""
        return self._model.predict(np.asarray(state)[None])[0]


def best_of_grid(
    times: np.ndarray, values: np.ndarray, level: tuple[float, float]
) -> tuple[Any | None, float]:
    """Return the best equations of the grid, None if none could be simulated, and the seconds it took.

    Args:
        times: of the rows.
        values: shape ``(rows, states)``.
        level: relative noise, which the smoothing splines are told, and the fraction of dropped rows.
    """
    import pysindy as ps

    begun = time.perf_counter()
    best: tuple[float, Any] = (-np.inf, None)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        for derivative in _derivatives(times, values, *level):
            for library in (
                ps.PolynomialLibrary(2),
                ps.PolynomialLibrary(3),
                ps.ConcatLibrary([ps.PolynomialLibrary(2), ps.FourierLibrary(1)]),
            ):
                for threshold in THRESHOLDS:
                    model = ps.SINDy(
                        feature_library=library,
                        optimizer=ps.STLSQ(threshold=threshold, alpha=RIDGE),
                        differentiation_method=derivative,
                    )
                    try:
                        model.fit(values, t=times)
                    except (ValueError, np.linalg.LinAlgError):
                        continue
                    score = _score(Equations(model), times, values)
                    if score > best[0]:
                        best = (score, Equations(model))
    return best[1], time.perf_counter() - begun


def _derivatives(times: np.ndarray, values: np.ndarray, noise: float, drop: float) -> list[Any]:
    import pysindy as ps

    if not noise:
        return [ps.FiniteDifference(order=2)]
    square = len(times) * (noise * np.abs(values).mean()) ** 2
    found = [ps.SINDyDerivative(kind="spline", s=factor * square, order=3) for factor in (0.5, 1.0)]
    if not drop:
        found.append(ps.SmoothedFiniteDifference(smoother_kws={"window_length": 15}))
    return found


class _TooLong(Exception):
    pass


def _score(equations: Equations, times: np.ndarray, values: np.ndarray) -> float:
    """Return R2 of the re-simulated rows, minus infinity where that fails or takes too long."""
    end, nothing = time.perf_counter() + SECONDS, np.zeros(0)

    def slope(now: float, state: np.ndarray) -> np.ndarray:
        if time.perf_counter() > end:
            raise _TooLong
        return equations.rhs(now, state, nothing)

    try:
        solved = solve_ivp(
            slope, (times[0], times[-1]), values[0], t_eval=times, method="LSODA", rtol=1e-6, atol=1e-8
        )
    except (_TooLong, ValueError):
        return -np.inf
    found = solved.y.T
    if not solved.success or found.shape != values.shape or not np.isfinite(found).all():
        return -np.inf
    return float(1.0 - ((values - found) ** 2).sum() / ((values - values.mean(0)) ** 2).sum())
