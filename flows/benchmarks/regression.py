"""Batched thresholding beside pysindy's ensembles, on the same bootstraps, in one process.

``python -m flows.benchmarks.regression BOOTSTRAPS THRESHOLDS SAMPLES SEED`` prints one JSON line.
"""

from __future__ import annotations

import json
import os
import sys
import time
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from flows.benchmarks.processes import PARENT
from flows.server_process import watch_parent
from sciml_discover.library import LibraryOptions, build_library
from sciml_discover.regressors.thresholding import Problems, threshold

DEGREE, RIDGE, NOISE = 3, 0.05, 0.02
"""Of the library's monomials in five inputs: 56 terms; pysindy's own ridge; noise relative to the target's sd."""

TRUTH = {"a*b": 1.0, "c": -2.0, "d**2*e": 0.5, "a**3": 0.8}


def problem(samples: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return 56 library terms along a quasi-periodic path, ``(samples, 56)``, and a sparse target with noise."""
    rng = np.random.default_rng(seed)
    times = np.linspace(0.0, 60.0, samples)
    phases = rng.uniform(0.0, 2.0 * np.pi, (5, 2))
    rates = np.sqrt([[2.0, 3.0], [5.0, 7.0], [11.0, 13.0], [17.0, 19.0], [23.0, 29.0]])
    points = np.sin(times[:, None, None] * rates + phases).sum(axis=2)
    library = build_library(tuple("abcde"), LibraryOptions(polynomial_degree=DEGREE))
    columns = library.matrix(points)
    clean = columns @ [TRUTH.get(text, 0.0) for text in library.texts]
    return columns, clean + NOISE * clean.std() * rng.standard_normal(samples)


def draws(samples: int, bootstraps: int, seed: int) -> np.ndarray:
    """Return the rows that pysindy draws after ``numpy.random.seed(seed)``, shape ``(bootstraps, samples)``."""
    generator = np.random.RandomState(seed)
    return np.stack([generator.choice(range(samples), samples, replace=True) for _ in range(bootstraps)])


def compare(bootstraps: int, thresholds: int, samples: int, seed: int) -> dict[str, Any]:
    """Return seconds of both, and how many supports agree; pysindy does the same work, one fit after the other."""
    from pysindy import STLSQ, EnsembleOptimizer

    columns, target = problem(samples, seed)
    largest = np.abs(np.linalg.lstsq(columns, target, rcond=None)[0]).max()
    levels = largest * np.geomspace(1e-3, 1.0, thresholds)

    def batch() -> tuple[np.ndarray, float]:
        begun = time.perf_counter()
        rows = draws(samples, bootstraps, seed)
        problems = Problems(columns, np.broadcast_to(target, rows.shape), rows)
        found = threshold(problems, np.array([RIDGE]), levels)[0]
        return found, time.perf_counter() - begun

    ours, first = batch()
    again = min(batch()[1] for _ in range(2))
    same, begun = 0, time.perf_counter()
    for number, level in enumerate(levels):
        np.random.seed(seed)  # noqa: NPY002 - pysindy draws from the global generator
        ensemble = EnsembleOptimizer(STLSQ(threshold=level, alpha=RIDGE), bagging=True, n_models=bootstraps)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a threshold that removes everything
            ensemble.fit(columns, target[:, None])
        theirs = np.array([coefficients[0] != 0 for coefficients in ensemble.coef_list])
        same += int((theirs == ours[:, number]).all(axis=1).sum())
    pysindy = time.perf_counter() - begun
    return {
        "figures": {
            "ratio": pysindy / first,
            "same_supports": same,
            "supports": bootstraps * thresholds,
            "terms": columns.shape[1],
        },
        "seconds": {"batched": first, "batched_again": again, "pysindy": pysindy},
    }


def main(arguments: Sequence[str]) -> None:
    """Compare once and print what was measured."""
    bootstraps, thresholds, samples, seed = map(int, arguments)
    sys.stdout.write(json.dumps(compare(bootstraps, thresholds, samples, seed)) + "\n")


if __name__ == "__main__":
    if os.environ.get(PARENT):
        watch_parent(int(os.environ[PARENT]))
    main(sys.argv[1:])
