"""Every regressor on samples whose law is known."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pydantic
import pytest

from sciml_discover import payload, regressors
from sciml_discover.base import Progress
from sciml_discover.experiment import load_experiment
from sciml_discover.expressions import parse_expression, symbol
from sciml_discover.library import LibraryOptions, LibraryTerm, build_library
from sciml_discover.regressors import (
    Bagging,
    BestSubset,
    Frols,
    Implicit,
    RegressOptions,
    RegressorOptions,
    Ssr,
    Stlsq,
    Supports,
    regress,
)
from sciml_discover.regressors.abstract import Regression
from sciml_discover.regressors.bagging import _smooth
from sciml_discover.regressors.implicit import _Fit, _Fraction, _linear_fit, _Shape, _term
from sciml_discover.residual_samples import HoleSamples, ResidualSamples
from sciml_discover.stages import Bench, Inputs, stage_named
from tests.fakes import write_experiment
from tests.problems import EXCHANGE, LOTKA_VOLTERRA, REGRESSORS

LIBRARY = build_library(("x", "y"), LibraryOptions(polynomial_degree=3, functions=("sin",)))
TRUTHS = {
    "one term": {"x*y": 0.9},
    "two terms": {"x": -1.5, "x*y**2": 0.4},
    "three terms of unequal size": {"1": 20.0, "y**2": -3.0, "sin(x)": 4.0},
}


PROPOSING = tuple(item for item in REGRESSORS if not isinstance(item, Implicit))
WITH_CORRELATION = tuple(item for item in PROPOSING if isinstance(item, Stlsq | Ssr | BestSubset | Bagging))
"""Those that also see through strongly correlated terms; the others are greedy or shrink them."""


def names(term: LibraryTerm) -> list[str]:
    return [item.name for item in term.inner]


def starts(term: LibraryTerm) -> np.ndarray:
    return np.array([item.start for item in term.inner], dtype=float)


def name(item: RegressorOptions) -> str:
    choice = [
        str(value) for value in (getattr(item, key, "") for key in ("regularizer", "criterion")) if value
    ]
    return " ".join([item.kind, *choice])


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


@pytest.mark.parametrize("regressor", WITH_CORRELATION, ids=name)
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


@pytest.mark.parametrize("regressor", PROPOSING, ids=name)
def test_proposes_the_truth_among_independent_terms(regressor: RegressorOptions) -> None:
    rng = np.random.default_rng(1)
    truth = np.isin(np.arange(12), (2, 5, 9))
    matrix = rng.standard_normal((200, 12)) * np.geomspace(1e-3, 1e3, 12)
    values = (matrix / np.linalg.norm(matrix, axis=0))[:, truth] @ [1.0, -2.0, 1.5]
    noise = 0.02 * values.std() * rng.standard_normal(200)
    found = regressor.supports(Regression.scaled(matrix, values + noise, np.ones(200)))
    assert any(np.array_equal(support, truth) for support in found)


@pytest.mark.parametrize("regressor", PROPOSING, ids=name)
def test_orthogonal_terms_leave_in_the_order_of_their_size(regressor: RegressorOptions) -> None:
    columns = np.linalg.qr(np.random.default_rng(0).standard_normal((40, 6)))[0]
    order = np.array([3, 0, 5, 1, 4, 2])
    values = columns[:, order] @ np.array([5.0, 4.0, 3.0, 2.0, 1.0, 0.5])
    found = regressor.supports(Regression.scaled(columns, values, np.ones(40), np.full(40, 1e-3)))
    nested = [np.isin(np.arange(6), order[:size]) for size in range(1, 7)]
    assert any(np.array_equal(support, nested[1]) for support in found)
    if not isinstance(regressor, BestSubset | Bagging):
        for support in found:
            assert np.array_equal(support, nested[support.sum() - 1])


@pytest.mark.parametrize("regressor", PROPOSING, ids=name)
def test_terms_that_cannot_be_told_apart_or_a_term_that_is_zero_everywhere_stop_nobody(
    regressor: RegressorOptions,
) -> None:
    x = np.linspace(0.5, 2.0, 30)
    for matrix, values in (
        (np.column_stack([x, x, 2 * x, x**2]), x),
        (np.column_stack([x]), x),
        (np.column_stack([x, x**2]), np.zeros(30)),
        (np.zeros((30, 2)), x),
        (np.vander(x[:4], 8), x[:4]),
    ):
        problem = Regression.scaled(matrix, values, np.ones(len(values)))
        for support in regressor.supports(problem):
            assert support.shape == (matrix.shape[1],)
            assert support.any()
            assert np.isfinite(problem.fit(support)[0]).all()


@pytest.mark.parametrize("regressor", PROPOSING, ids=name)
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


def test_stlsq_without_a_ridge_never_chooses_a_column_that_vanishes() -> None:
    x = np.linspace(0.5, 2.0, 30)
    problem = Regression.scaled(np.column_stack([x, 0 * x, x**2]), x + x**2, np.ones(30))
    found = Stlsq(ridges=(0.0,)).supports(problem)
    assert found
    assert not any(support[1] for support in found)


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


def test_frols_takes_the_term_that_explains_most_next() -> None:
    problem, _ = regression(TRUTHS["two terms"], noise=0.3)
    found = Frols(largest=3).supports(problem)
    support = np.zeros(len(LIBRARY), dtype=bool)
    for step in found:
        added = [support | (np.arange(len(LIBRARY)) == i) for i in np.flatnonzero(~support)]
        support = added[int(np.argmin([problem.fit(one)[1] for one in added]))]
        np.testing.assert_array_equal(step, support)
    assert len(found) == 3


def test_ssr_by_residual_drops_the_term_whose_absence_costs_least() -> None:
    rng = np.random.default_rng(2)
    matrix = rng.standard_normal((50, 6)) @ rng.standard_normal((6, 6))
    problem = Regression.scaled(matrix, matrix @ rng.standard_normal(6), np.ones(50))
    found = Ssr(criterion="model_residual", ridge=0.0).supports(problem)
    support = np.ones(6, dtype=bool)
    for step in found[1:]:
        fewer = [support & (np.arange(6) != i) for i in np.flatnonzero(support)]
        support = fewer[int(np.argmin([problem.fit(one)[1] for one in fewer]))]
        np.testing.assert_array_equal(step, support)
    assert len(found) == 6


def test_bagging_counts_how_often_a_term_is_chosen() -> None:
    rng = np.random.default_rng(0)
    matrix = rng.standard_normal((100, 8))
    values = matrix @ np.array([0.0, 3.0, 0.0, 0.3, 0.0, 0.0, 0.0, 0.0])

    def inclusion(sd: float, seed: int = 0, **options: Any) -> np.ndarray:
        problem = Regression.scaled(matrix, values, np.ones(100), np.full(100, sd), seed)
        return Bagging(**options).inclusion(problem)

    sure, unsure = inclusion(0.01, drop=0.0), inclusion(3.0, drop=0.0)
    np.testing.assert_array_equal(sure, np.isin(np.arange(8), (1, 3)))
    assert unsure[1] > 0.9
    assert unsure[3] < 0.5
    assert ((unsure >= 0) & (unsure <= 1)).all()
    np.testing.assert_array_equal(inclusion(1.0), inclusion(1.0))
    assert (inclusion(1.0) != inclusion(1.0, seed=1)).any()
    assert (inclusion(1.0) != inclusion(1.0, rows=False)).any()
    assert (inclusion(1.0) != inclusion(1.0, knots=0)).any()
    # A term that only half of the bags may use can still be chosen by all of those.
    assert inclusion(0.01, drop=0.5)[1] == 1.0


def test_bagging_proposes_what_is_probable_and_what_is_common() -> None:
    problem, _ = regression(TRUTHS["two terms"], noise=0.1)
    likely = Bagging(probabilities=(0.5,), commonest=0)
    np.testing.assert_array_equal(likely.supports(problem), [likely.inclusion(problem) >= 0.5])
    common = Bagging(probabilities=(1.0,), commonest=3).supports(problem)
    assert 3 <= len(common) <= 4


def test_errors_of_a_learnt_term_are_drawn_smooth_and_of_unit_variance() -> None:
    curves = _smooth(np.random.default_rng(0), 4000, 61, 7)
    np.testing.assert_allclose(curves.var(axis=0), 1.0, rtol=0.15)
    near = np.mean(curves[:, 20] * curves[:, 21])
    assert near > 0.9
    assert abs(np.mean(curves[:, 0] * curves[:, 30])) < 0.1


TIMES = np.linspace(0.0, 1.0, 81)
LINE = (0.05 + 4.0 * TIMES)[:, None]
ORBIT = np.column_stack([1.5 + 1.2 * np.sin(7.0 * TIMES), 1.2 + np.cos(7.0 * TIMES)])


def of_law(
    law: Callable[..., np.ndarray], inputs: tuple[str, ...], points: np.ndarray, noise: float = 0.01
) -> HoleSamples:
    values = law(*points.T)
    sd = noise * np.abs(values).mean()
    error = sd * _smooth(np.random.default_rng(0), 1, len(values), 8)[0]
    count = len(values)
    return HoleSamples(
        "uptake",
        inputs,
        ("a",) * count,
        TIMES[:count],
        points,
        values + error,
        np.full(count, sd),
        np.ones(count),
    )


@pytest.mark.parametrize(
    ("law", "inputs", "points", "text", "start"),
    [
        (lambda x: 1.3 * x / (0.7 + x), ("x",), LINE, "x/(k1*x + 1)", [1 / 0.7]),
        (lambda x: 2 * x**2 / (1.5 + x**2), ("x",), LINE, "x**2/(k1*x**2 + 1)", [1 / 1.5]),
        (lambda x, y: 1.1 * x * y / (1 + 0.6 * x), ("x", "y"), ORBIT, "x*y/(k1*x + 1)", [0.6]),
        (lambda x: 5 * (x + 0.3 * x**2) / (1 + 2 * x), ("x",), LINE, "(k1*x**2 + x)/(k2*x + 1)", [0.3, 2.0]),
        (lambda k: k / (0.7 + k), ("k1",), LINE, "k1/(k1*k2 + 1)", [1 / 0.7]),
        (lambda x: 2 / x, ("x",), LINE + 1.0, "1/x", []),
    ],
    ids=["Michaelis-Menten", "Hill", "Holling", "numerator", "taken name", "no parameter"],
)  # fmt: skip
def test_implicit_proposes_rational_laws_with_their_parameters(
    law: Callable[..., np.ndarray], inputs: tuple[str, ...], points: np.ndarray, text: str, start: list[float]
) -> None:
    found = {term.text: term for term in Implicit().parametric_terms(of_law(law, inputs, points))}
    assert len(found) <= Implicit().keep
    np.testing.assert_allclose(starts(found[text]), start, rtol=0.15)
    for term in found.values():
        assert len(names(term)) == len(starts(term))
        assert not set(names(term)) & set(inputs)
        parse_expression(term.text, [*inputs, *names(term)], where="test")
    exact = Implicit().parametric_terms(of_law(law, inputs, points, noise=0.0))
    assert exact[0].text == text
    np.testing.assert_allclose(starts(exact[0]), start, rtol=1e-5)
    # A monomial that contributes nothing is no part of a proposal.
    assert all((np.abs(starts(term)) > 1e-5).all() and (np.abs(starts(term)) < 1e5).all() for term in exact)


def test_linear_fits_of_a_fraction_are_weighted_by_its_denominator() -> None:
    samples = of_law(lambda x: 1.3 * x / (0.7 + x), ("x",), LINE, noise=0.05)
    shape = _Shape(((1,),), ((0,), (1,)))
    fraction = _Fraction(shape, samples)
    once = fraction.solve(np.ones(len(samples.values)))
    fit = _linear_fit(shape, samples)
    assert fit is not None
    assert np.sum(fraction.residual(fit.unknowns) ** 2) < 0.999 * np.sum(fraction.residual(once) ** 2)


def test_thresholds_alone_find_a_rational_law_of_many_terms() -> None:
    found = Implicit(exhaustive=0).parametric_terms(
        of_law(lambda x: (x + 0.3 * x**2) / (1 + 2 * x), ("x",), LINE, noise=0.0)
    )
    assert found[0].text == "(k1*x**2 + x)/(k2*x + 1)"


def test_implicit_refuses_poles_and_fractions_that_cancel() -> None:
    below_and_above_the_pole = of_law(lambda x: x / (2.02 - x), ("x",), LINE, noise=0.0)
    for term in Implicit().parametric_terms(below_and_above_the_pole):
        below = parse_expression(term.text, ["x", *names(term)], where="test").as_numer_denom()[1]
        values = dict(zip(map(symbol, names(term)), starts(term).tolist(), strict=True))
        numbers = [float(below.subs({symbol("x"): x, **values})) for x in LINE[:, 0]]
        assert min(numbers) * max(numbers) > 0
    # x (1 + 0.5 x) / (1 + 0.5 x) is x.
    samples = of_law(lambda x: x, ("x",), LINE, noise=0.0)
    shape = _Shape(((1,), (2,)), ((0,), (1,)))
    fraction = _Fraction(shape, samples)
    cancels = _Fit.judged(shape, fraction, np.array([1.0, 0.5, 0.5]) * fraction.scale)
    stays = _Fit.judged(shape, fraction, np.array([1.0, 0.5, 0.9]) * fraction.scale)
    assert cancels is not None
    assert stays is not None
    assert _term(cancels, ("x",)) is None
    assert _term(stays, ("x",)) is not None


def test_a_term_of_nothing_has_no_rational_law() -> None:
    assert Implicit().parametric_terms(of_law(lambda x: 0.0 * x, ("x",), LINE, noise=0.0)) == []


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ([{"kind": "implicit"}], "add a regressor"),
        ([{"kind": "bagging"}, {"kind": "bagging", "bags": 5}], "'bagging' twice"),
        ([{"kind": "bagging", "rows": False, "knots": 0, "drop": 0.0}], "every bag is the same"),
        ([{"kind": "bagging", "probabilities": [0.5, 1.5]}], "at most 1"),
        ([{"kind": "bagging", "drop": 1.0}], "less than 1"),
        ([{"kind": "stlsq", "ridges": []}], "at least 1 item"),
        ([{"kind": "lasso", "smallest": 0.0}], "greater than 0"),
        ([{"kind": "sr3", "regularizer": "l3"}], "'l0' or 'l1'"),
        ([{"kind": "ssr", "criterion": "size"}], "'coefficient_value' or 'model_residual'"),
        ([{"kind": "implicit", "degree": 9}, {"kind": "frols"}], "less than or equal to 4"),
        ([], "at least 1 item"),
    ],
)
def test_bad_options_are_refused(options: list[dict[str, Any]], complaint: str) -> None:
    with pytest.raises(pydantic.ValidationError, match=complaint):
        RegressOptions.model_validate({"regressors": options})


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
        proposers = [source.split("+") for source in hole.sources]
        assert {name for own in proposers for name in own} <= {"frols", "bagging", "best_subset"}
        assert all(own == sorted(own, key=["frols", "bagging", "best_subset"].index) for own in proposers)
        assert proposers[0][0] == "frols"
        assert hole.inclusion.shape == (len(hole.terms),)
        assert hole.inclusion[hole.terms.index("x*y")] > 0.9
        assert hole.parametric == ()
        assert ((hole.coefficients != 0) <= (hole.supports > 0)).all()
        best = hole.supports[hole.residuals.argmin()]
        truth = np.array([text == "x*y" for text in hole.terms])
        assert (best >= truth).all()
        row = int(np.flatnonzero((hole.supports == truth).all(axis=1))[0])
        # Whoever proposes it is named, not only the first.
        assert {"frols", "best_subset"} <= set(proposers[row])
        assert hole.coefficients[row].sum() == pytest.approx(1.0)
        assert hole.residuals[row] < 1e-8


def test_regress_says_what_bagging_and_implicit_found_and_stores_it(tmp_path: Path) -> None:
    def found(*regressors: RegressorOptions, seed: int = 0) -> Supports:
        options = RegressOptions(library=LibraryOptions(polynomial_degree=2), regressors=regressors)
        return regress(LOTKA_VOLTERRA.system, samples("predation", "growth"), options, seed=seed)

    plain = found(Stlsq()).holes[0]
    assert plain.inclusion.shape == (0,)
    rational = found(Stlsq(), Implicit())
    assert rational.holes[0].parametric
    known, more = len(plain.terms), len(rational.holes[0].parametric)
    own = rational.holes[0]
    assert own.terms == (*plain.terms, *(term.text for term in own.parametric))
    np.testing.assert_array_equal(own.supports[:-more, :known], plain.supports)
    # Each rational law is proposed as a law of its own, fitted to the samples, its numbers where they were found.
    np.testing.assert_array_equal(own.supports[-more:], np.eye(known + more)[known:])
    assert own.sources[-more:] == ("implicit",) * more
    assert (own.residuals[-more:] < 0.5).all()
    values = np.concatenate([starts(term) for term in own.parametric])
    np.testing.assert_array_equal(own.inner, np.tile(values, (len(own.supports), 1)))
    payload.save(tmp_path / "supports", rational)
    again = payload.load(tmp_path / "supports", Supports)
    assert [term.text for term in again.holes[1].parametric] == [
        term.text for term in rational.holes[1].parametric
    ]
    few = Bagging(bags=7)
    np.testing.assert_array_equal(found(few).holes[0].inclusion, found(few).holes[0].inclusion)
    assert (found(few).holes[0].inclusion != found(few, seed=1).holes[0].inclusion).any()


def test_the_stage_draws_with_the_seed_of_the_experiment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    monkeypatch.setattr(regressors, "regress", lambda *_, seed, **__: seen.append(seed))
    loaded = load_experiment(write_experiment(tmp_path), ["seed=7"])
    stage_named("regress").work(Bench(loaded), Inputs(samples("predation", "growth")))
    assert seen == [7]


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


def test_of_a_term_with_several_starts_the_largest_contribution_stays() -> None:
    rng = np.random.default_rng(0)
    columns = np.stack([np.ones(50), 100.0 * rng.standard_normal(50)], axis=1)
    regression = Regression.scaled(columns, columns @ np.array([0.5, 0.1]), np.ones(50))
    # By coefficient the first would be the larger one, by contribution it is the second.
    found = regressors._sizes(regression, np.array([True, True]))
    assert found[1] > 10 * found[0]
