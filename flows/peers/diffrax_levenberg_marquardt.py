"""What a skilled user gets from diffrax: ``python -m flows.peers.diffrax_levenberg_marquardt SEED NOISE``.

optimistix's Levenberg-Marquardt on the residuals of single intervals that start at the data, then on the whole
series with its initial state. The second call in the same process finds everything compiled.
"""

# pyright: reportMissingImports=false
# The packages come with the extra "peers", which nothing else needs.
from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from typing import Any

from flows.peers.tutorial import ALPHA, DELTA, TIMES, learnt_error, noisy_rows

PRIOR = 0.3
"""Strength of the Gaussian prior on the weights."""


def main(arguments: Sequence[str]) -> None:
    """Fit once, fit again, and print seconds and error."""
    seed, noise = int(arguments[0]), float(arguments[1])
    begun = time.perf_counter()
    fit = _prepare(seed, noise)
    seconds = {"imports": time.perf_counter() - begun}
    figures: dict[str, Any] = {}
    for name in ("train", "train_again"):
        begun = time.perf_counter()
        figures = fit()
        seconds[name] = time.perf_counter() - begun
    sys.stdout.write(json.dumps({"figures": figures, "seconds": seconds}) + "\n")


def _prepare(seed: int, noise: float) -> Any:
    """Import what takes long and return the fit, a function without arguments that returns figures."""
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")
    import diffrax
    import equinox
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optimistix
    from jax.flatten_util import ravel_pytree

    jax.config.update("jax_enable_x64", True)
    rows, sd = (jnp.asarray(item) for item in noisy_rows(noise, seed))
    times, scale = jnp.asarray(TIMES), jnp.abs(rows).max(axis=0)
    network = equinox.nn.MLP(2, 2, 5, 2, activation=jnp.tanh, key=jax.random.PRNGKey(seed))
    weights, static = equinox.partition(network, equinox.is_array)
    flat, restore = ravel_pytree(weights)

    def holes(w: Any, u: Any) -> Any:
        return equinox.combine(restore(w), static)(u / scale)

    def field(_: Any, u: Any, w: Any) -> Any:
        return jnp.array([ALPHA * u[0], -DELTA * u[1]]) + holes(w, u)

    def solve(w: Any, start: Any, at: Any) -> Any:
        return diffrax.diffeqsolve(
            diffrax.ODETerm(field), diffrax.Tsit5(), at[0], at[-1], 0.05, start, args=w,
            saveat=diffrax.SaveAt(ts=at), stepsize_controller=diffrax.PIDController(1e-6, 1e-6),
            max_steps=512, throw=False, adjoint=diffrax.ForwardMode(),
        ).ys  # fmt: skip

    def intervals(w: Any, _: Any) -> Any:
        ends = jax.vmap(lambda start: solve(w, start, times[:2])[-1])(rows[:-1])
        return ((ends - rows[1:]) / sd).ravel(), PRIOR * w

    def whole_series(unknowns: Any, _: Any) -> Any:
        w, start = unknowns
        return ((solve(w, start, times) - rows) / sd).ravel(), PRIOR * w

    def minimise(residual: Any, start: Any) -> Any:
        method = optimistix.LevenbergMarquardt(rtol=1e-4, atol=1e-6)
        return optimistix.least_squares(
            residual, method, start, options={"jac": "fwd"}, max_steps=300, throw=False
        )

    def fit() -> dict[str, Any]:
        first = minimise(intervals, flat)
        second = minimise(whole_series, (first.value, rows[0]))
        w, start = jax.block_until_ready(second.value)
        states = solve(w, start, times)
        learnt = jax.vmap(lambda u: holes(w, u))(states)
        steps = [int(solution.stats["num_steps"]) for solution in (first, second)]
        return {"learnt_error": learnt_error(np.asarray(states), np.asarray(learnt)), "steps": steps}

    return fit


if __name__ == "__main__":
    main(sys.argv[1:])
