"""Batched thresholding against pysindy, one problem at a time."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.random import RandomState
from pysindy import STLSQ, EnsembleOptimizer

from sciml_discover.regressors.thresholding import Problems, misfits, threshold, threshold_path

KINDS = ("independent", "vanishing", "nearly equal", "powers", "mixed", "equal")


def problem(kind: str, seed: int, samples: int, terms: int) -> tuple[np.ndarray, np.ndarray]:
    """Return columns and a sparse target with noise."""
    rng = np.random.default_rng(seed)
    columns = rng.standard_normal((samples, terms))
    match kind:
        case "vanishing":
            columns[:, terms // 2] = 0.0
        case "nearly equal":
            columns[:, -1] = columns[:, 0] + 1e-4 * rng.standard_normal(samples)
        case "powers":
            columns = np.vander(np.linspace(0.5, 2.0, samples), terms)
        case "mixed":
            columns = columns @ rng.standard_normal((terms, terms))
        case "equal":
            columns[:, -1] = columns[:, 0]
    truth = rng.standard_normal(terms) * (rng.random(terms) < 0.4)
    return columns, columns @ truth + 0.1 * rng.standard_normal(samples)


def of_pysindy(
    columns: np.ndarray, target: np.ndarray, optimizer: STLSQ, bags: int, seed: int, **options: Any
) -> np.ndarray:
    """Return the supports of pysindy's ensemble, whose draws come from numpy's global generator."""
    np.random.seed(seed)  # noqa: NPY002
    ensemble = EnsembleOptimizer(optimizer, n_models=bags, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ensemble.fit(columns, target[:, None])
    return np.array([coefficients[0] != 0 for coefficients in ensemble.coef_list])


def levels(columns: np.ndarray, target: np.ndarray, count: int = 6) -> np.ndarray:
    """Return thresholds from almost none to one that removes everything."""
    full = np.linalg.lstsq(columns * np.ones(1), target, rcond=None)[0]
    return np.abs(full).max() * np.append(np.geomspace(1e-3, 1.2, count - 1), 1e6)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    kind=st.sampled_from(KINDS),
    seed=st.integers(0, 10_000),
    samples=st.integers(3, 90),
    terms=st.integers(2, 20),
    ridge=st.sampled_from([0.0, 1e-8, 1e-3, 0.05]),
    normalise=st.booleans(),
    most=st.sampled_from([1, 2, 20]),
)
def test_bootstraps_give_the_supports_of_pysindy(
    kind: str, seed: int, samples: int, terms: int, ridge: float, normalise: bool, most: int
) -> None:
    if kind == "vanishing":
        # Divided by its norm, or solved for without a ridge, pysindy makes rounding errors of such a column.
        ridge, normalise = max(ridge, 1e-8), False
    columns, target = problem(kind, seed, samples, terms)
    bags = 4
    generator = RandomState(seed)
    rows = np.stack([generator.choice(range(samples), samples, replace=True) for _ in range(bags)])
    thresholds = levels(columns, target)
    targets = np.tile(target, (bags, 1))
    ours = threshold(
        Problems(columns, targets, rows, normalise=normalise), np.array([ridge]), thresholds, iterations=most
    )[0]
    for number, level in enumerate(thresholds):
        optimizer = STLSQ(threshold=level, alpha=ridge, max_iter=most, normalize_columns=normalise)
        theirs = of_pysindy(columns, target, optimizer, bags, seed, bagging=True)
        np.testing.assert_array_equal(ours[:, number], theirs)
    assert not ours[:, -1].any()


def test_leaving_out_terms_gives_the_supports_of_pysindy() -> None:
    columns, target = problem("mixed", 3, 60, 10)
    bags, drop = 8, 4
    generator = RandomState(5)
    allowed = np.zeros((bags, 10), dtype=bool)
    for mask in allowed:
        mask[generator.choice(range(10), 10 - drop, replace=False)] = True
    thresholds = levels(columns, target)
    ours = threshold(
        Problems(columns, np.tile(target, (bags, 1)), allowed=allowed), np.array([1e-3]), thresholds
    )[0]
    for number, level in enumerate(thresholds):
        optimizer = STLSQ(threshold=level, alpha=1e-3)
        theirs = of_pysindy(
            columns, target, optimizer, bags, 5, library_ensemble=True, n_candidates_to_drop=drop
        )
        np.testing.assert_array_equal(ours[:, number], theirs)


def test_a_coefficient_as_large_as_the_threshold_stays() -> None:
    found = threshold(Problems(np.eye(3), np.array([[4.0, 2.0, 1.0]])), np.zeros(1), np.array([2.0, 4.0]))
    np.testing.assert_array_equal(found[0, 0], [[True, True, False], [True, False, False]])


def test_ridges_and_problems_have_thresholds_of_their_own() -> None:
    columns, target = problem("mixed", 1, 50, 8)
    targets = np.stack([target, columns[:, 0] - 2.0 * columns[:, 3]])
    ridges = np.array([1e-6, 0.1])
    thresholds = np.random.default_rng(0).uniform(0.1, 2.0, (2, 2, 3))
    found = threshold(Problems(columns, targets), ridges, thresholds)
    assert found.shape == (2, 2, 3, 8)
    for r, p, t in np.ndindex(2, 2, 3):
        alone = STLSQ(threshold=float(thresholds[r, p, t]), alpha=float(ridges[r]))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            alone.fit(columns, targets[p][:, None])
        np.testing.assert_array_equal(found[r, p, t], alone.coef_[0] != 0)


def test_rows_are_asked_only_where_rounding_could_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    usual = Problems.ridge

    def counted(self: Problems, number: int, mask: np.ndarray, strength: float) -> np.ndarray:
        asked.append(number)
        return usual(self, number, mask, strength)

    monkeypatch.setattr(Problems, "ridge", counted)
    columns, target = problem("independent", 0, 80, 10)
    good = Problems(columns, np.tile(target, (3, 1)))
    threshold(good, np.array([1e-6]), levels(columns, target))
    assert not asked
    # A threshold that a coefficient meets exactly.
    tie = abs(good.ridge(0, np.ones(10, dtype=bool), 1e-6)[4])
    asked.clear()
    threshold(Problems(columns, target[None]), np.array([1e-6]), np.array([tie]))
    assert asked
    asked.clear()
    columns, target = problem("equal", 0, 80, 10)
    threshold(Problems(columns, target[None]), np.array([0.0]), np.array([1e-3]))
    assert asked


@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize("drawn", [False, True])
def test_misfits_are_those_of_least_squares(drawn: bool, normalise: bool) -> None:
    columns, target = problem("mixed", 2, 40, 6)
    rng = np.random.default_rng(0)
    targets = target + rng.standard_normal((3, 40))
    rows = rng.integers(40, size=(3, 40)) if drawn else None
    masks = rng.random((3, 5, 6)) < 0.5
    masks[0, 0] = False
    found = misfits(Problems(columns, targets, rows, normalise=normalise), masks)
    for p, s in np.ndindex(3, 5):
        seen = slice(None) if rows is None else rows[p]
        chosen = columns[seen][:, masks[p, s]]
        left = targets[p][seen] - chosen @ np.linalg.lstsq(chosen, targets[p][seen], rcond=None)[0]
        assert found[p, s] == pytest.approx(left @ left, rel=1e-6)


def test_the_path_ends_with_the_largest_ridge_coefficient() -> None:
    columns, target = problem("mixed", 4, 40, 5)
    path = threshold_path(columns, target, np.array([1e-3, 1.0]), 7)
    assert path.shape == (2, 7)
    for ridge, row in zip((1e-3, 1.0), path, strict=True):
        full = np.linalg.solve(columns.T @ columns + ridge * np.eye(5), columns.T @ target)
        assert row[-1] == pytest.approx(np.abs(full).max())
        assert row[0] == pytest.approx(1e-3 * row[-1])
