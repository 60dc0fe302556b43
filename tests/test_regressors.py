"""Every regressor on samples whose law is known."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest

from sciml_discover.base import Progress
from sciml_discover.library import LibraryOptions, build_library
from sciml_discover.regressors import RegressOptions, RegressorOptions, regress
from sciml_discover.regressors.abstract import Regression
from sciml_discover.regressors.best_subset import BestSubset
from sciml_discover.residual_samples import HoleSamples, ResidualSamples
from tests.problems import EXCHANGE, LOTKA_VOLTERRA, REGRESSORS

LIBRARY = build_library(("x", "y"), LibraryOptions(polynomial_degree=3, functions=("sin",)))
TRUTHS = {
    "one term": {"x*y": 0.9},
    "two terms": {"x": -1.5, "x*y**2": 0.4},
    "three terms of unequal size": {"1": 20.0, "y**2": -3.0, "sin(x)": 4.0},
}


def regression(truth: dict[str, float], noise: float = 0.01) -> tuple[Regression, np.ndarray]:
    rng = np.random.default_rng(0)
    points = rng.uniform(0.2, 3.0, (200, 2))
    coefficients = np.array([truth.get(text, 0.0) for text in LIBRARY.texts])
    matrix = LIBRARY.matrix(points)
    values = matrix @ coefficients
    values = values + noise * values.std() * rng.standard_normal(200)
    return Regression.scaled(matrix, values, rng.uniform(0.5, 1.5, 200)), coefficients


def test_the_list_names_every_regressor() -> None:
    assert {type(item) for item in REGRESSORS} == set(get_args(get_args(RegressorOptions)[0]))


@pytest.mark.parametrize("regressor", REGRESSORS, ids=lambda item: item.kind)
@pytest.mark.parametrize("truth", TRUTHS.values(), ids=TRUTHS)
def test_proposes_the_truth(regressor: RegressorOptions, truth: dict[str, float]) -> None:
    problem, coefficients = regression(truth)
    found = regressor.supports(problem)
    assert all(support.dtype == bool and support.any() for support in found)
    assert len({support.tobytes() for support in found}) == len(found)
    assert any(np.array_equal(support, coefficients != 0) for support in found)
    fitted, residual = problem.fit(coefficients != 0)
    np.testing.assert_allclose(fitted, coefficients, rtol=0.02)
    assert residual < 0.02


@pytest.mark.parametrize("regressor", REGRESSORS, ids=lambda item: item.kind)
def test_a_column_that_is_not_finite_is_never_chosen(regressor: RegressorOptions) -> None:
    points = np.random.default_rng(0).uniform(-1.0, 1.0, (50, 1))
    library = build_library(
        ("x",), LibraryOptions(polynomial_degree=2, functions=("log",), extra=("x - x*1.0",))
    )
    problem = Regression.scaled(library.matrix(points), 2.0 * points[:, 0] ** 2, np.ones(50))
    bad = [library.texts.index("log(x)"), library.texts.index("0")]
    for support in regressor.supports(problem):
        assert not support[bad].any()
        assert np.isfinite(problem.fit(support)[0]).all()


def test_best_subset_is_the_best_of_each_size() -> None:
    problem, _ = regression(TRUTHS["two terms"], noise=0.3)
    found = BestSubset(largest=2, keep=1).supports(problem)
    assert [support.sum() for support in found] == [1, 2]
    count = len(LIBRARY)
    pairs = [np.isin(np.arange(count), (i, k)) for i in range(count) for k in range(i)]
    residuals = [problem.fit(pair)[1] for pair in pairs]
    assert np.array_equal(found[1], pairs[int(np.argmin(residuals))])


def test_weights_count() -> None:
    matrix, values = np.ones((3, 1)), np.array([1.0, 2.0, 6.0])
    fitted, _ = Regression.scaled(matrix, values, np.array([1.0, 1.0, 2.0])).fit(np.array([True]))
    assert fitted[0] == pytest.approx((1 + 2 + 12) / 4)


def samples(*names: str) -> ResidualSamples:
    points = np.random.default_rng(1).uniform(0.2, 3.0, (60, 2))
    return ResidualSamples(
        tuple(
            HoleSamples(
                name,
                ("x", "y"),
                ("a",) * 60,
                np.arange(60.0),
                points,
                points.prod(axis=1),
                np.full(60, 0.1),
                np.ones(60),
            )
            for name in names
        )
    )


def test_regress_asks_every_regressor_about_every_hole_and_keeps_no_doubles() -> None:
    seen: list[Progress] = []
    options = RegressOptions(library=LibraryOptions(polynomial_degree=2))
    found = regress(LOTKA_VOLTERRA.system, samples("predation", "growth"), options, watch=seen.append)
    assert [hole.hole for hole in found.holes] == ["predation", "growth"]
    assert [event.message for event in seen] == ["predation", "growth"]
    for hole in found.holes:
        assert len(np.unique(hole.supports, axis=0)) == len(hole.supports) == len(hole.sources)
        assert set(hole.sources) == {"stlsq", "best_subset"}
        assert ((hole.coefficients != 0) <= (hole.supports > 0)).all()
        best = hole.supports[hole.residuals.argmin()]
        truth = np.array([text == "x*y" for text in hole.terms])
        assert (best >= truth).all()
        row = int(np.flatnonzero((hole.supports == truth).all(axis=1))[0])
        assert hole.coefficients[row].sum() == pytest.approx(1.0)
        assert hole.residuals[row] < 1e-8


def test_every_hole_has_the_library_of_its_own_inputs() -> None:
    rng = np.random.default_rng(0)
    holes = tuple(
        HoleSamples(
            hole.name,
            hole.inputs,
            ("a",) * 40,
            np.arange(40.0),
            rng.uniform(0.1, 2, (40, 2)),
            np.arange(40.0),
            np.full(40, 0.1),
            np.ones(40),
        )
        for hole in EXCHANGE.system.missing
    )
    found = regress(EXCHANGE.system, ResidualSamples(holes), RegressOptions())
    assert "a*b" in found.holes[0].terms
    assert "c*t" in found.holes[1].terms
    assert not set(found.holes[0].terms) & {"c", "t"}
