"""The recipe that everybody uses, in diffrax: ``python -m flows.peers.diffrax_recipe SEED NOISE``.

Single shooting from the first row, 5000 steps of Adam, 1000 of L-BFGS, then sparse regression on what the
network says (Rackauckas et al. 2020, arXiv:2001.04385).
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

import numpy as np

from flows.peers.tutorial import ALPHA, DELTA, TIMES, learnt_error, noisy_rows

ADAM_STEPS, LBFGS_STEPS = 5000, 1000


def main(arguments: Sequence[str]) -> None:
    """Fit once and print seconds, error and the equations found."""
    seed, noise = int(arguments[0]), float(arguments[1])
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")
    clock = time.perf_counter
    begun = clock()
    import diffrax
    import equinox
    import jax
    import jax.numpy as jnp
    import optax

    jax.config.update("jax_enable_x64", True)
    rows, _ = noisy_rows(noise, seed)
    data, times = jnp.asarray(rows), jnp.asarray(TIMES)
    network = equinox.nn.MLP(2, 2, 5, 3, activation=lambda x: jnp.exp(-x * x), key=jax.random.PRNGKey(seed))
    weights, static = equinox.partition(network, equinox.is_array)

    def field(_: Any, u: Any, w: Any) -> Any:
        return jnp.array([ALPHA * u[0], -DELTA * u[1]]) + equinox.combine(w, static)(u)

    def solve(w: Any, at: Any) -> Any:
        return diffrax.diffeqsolve(
            diffrax.ODETerm(field), diffrax.Tsit5(), at[0], at[-1], 0.05, data[0], args=w,
            saveat=diffrax.SaveAt(ts=at), stepsize_controller=diffrax.PIDController(1e-6, 1e-6),
            max_steps=4096, throw=False,
        ).ys  # fmt: skip

    def loss(w: Any) -> Any:
        return jnp.mean((solve(w, times) - data) ** 2)

    adam, lbfgs = optax.adam(1e-2), optax.lbfgs()
    value_and_grad = optax.value_and_grad_from_state(loss)

    @jax.jit
    def adam_step(w: Any, state: Any) -> Any:
        value, gradient = jax.value_and_grad(loss)(w)
        update, state = adam.update(gradient, state)
        return optax.apply_updates(w, update), state, value

    @jax.jit
    def lbfgs_step(w: Any, state: Any) -> Any:
        value, gradient = value_and_grad(w, state=state)
        update, state = lbfgs.update(gradient, state, w, value=value, grad=gradient, value_fn=loss)
        return optax.apply_updates(w, update), state, value

    seconds = {"imports": clock() - begun}
    for name, method, step, steps in (
        ("adam", adam, adam_step, ADAM_STEPS),
        ("lbfgs", lbfgs, lbfgs_step, LBFGS_STEPS),
    ):
        begun = clock()
        state = method.init(weights)
        for _ in range(steps):
            weights, state, _ = step(weights, state)
        jax.block_until_ready(weights)
        seconds[name] = clock() - begun
    seconds["train"] = seconds["adam"] + seconds["lbfgs"]

    begun = clock()
    states = np.asarray(solve(weights, jnp.arange(0.0, 5.001, 0.125)))
    learnt = np.asarray(jax.vmap(equinox.combine(weights, static))(jnp.asarray(states)))
    figures = {
        "loss": float(loss(weights)),
        "learnt_error": learnt_error(states, learnt),
        "equations": _sparse_equations(states, learnt),
    }
    seconds["regress"] = clock() - begun
    sys.stdout.write(json.dumps({"figures": figures, "seconds": seconds}) + "\n")


def _sparse_equations(states: np.ndarray, learnt: np.ndarray) -> list[dict[str, float]]:
    """Return the terms of each learnt component by thresholded least squares."""
    import pysindy

    library = pysindy.PolynomialLibrary(degree=4)
    columns = np.asarray(library.fit_transform(states))
    regression = pysindy.STLSQ(threshold=0.1, alpha=1e-3, normalize_columns=False)
    regression.fit(columns, learnt)
    names = library.get_feature_names(["x", "y"])
    return [
        {name: round(float(value), 4) for name, value in zip(names, row, strict=True) if value}
        for row in np.asarray(regression.coef_)
    ]


if __name__ == "__main__":
    main(sys.argv[1:])
