"""The data and the truth of the Lotka-Volterra tutorial, as the peers see them."""

from __future__ import annotations

import numpy as np
from scipy.integrate import solve_ivp

ALPHA, BETA, GAMMA, DELTA = 1.3, 0.9, 0.8, 1.8
START = np.array([3.1461493970111687, 1.5370475785612603])
TIMES = np.arange(0.0, 5.001, 0.25)


def noisy_rows(noise: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows ``(times, 2)`` and the standard deviation of their noise ``(2,)``."""

    def truth(_: float, u: np.ndarray) -> list[float]:
        x, y = u
        return [ALPHA * x - BETA * x * y, GAMMA * x * y - DELTA * y]

    clean = solve_ivp(truth, (TIMES[0], TIMES[-1]), START, t_eval=TIMES, rtol=1e-12, atol=1e-12).y.T
    sd = noise * clean.mean(axis=0)
    return clean + sd * np.random.default_rng(seed).standard_normal(clean.shape), sd


def learnt_error(states: np.ndarray, learnt: np.ndarray) -> float:
    """Return the relative L2 error of both learnt terms, stacked, at states ``(points, 2)``."""
    product = states[:, 0] * states[:, 1]
    truth = np.column_stack([-BETA * product, GAMMA * product])
    return float(np.linalg.norm(learnt - truth) / np.linalg.norm(truth))
