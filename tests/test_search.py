"""The search: from poor proposals to the law."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from sciml_discover.base import Progress, nobody_watches
from sciml_discover.constraints import HoleOptions, LawOptions, build_constraints
from sciml_discover.criterion import Criterion, misfit_p_value
from sciml_discover.expressions import parse_expression
from sciml_discover.judge import PLAUSIBLE, Judge
from sciml_discover.library import InnerOptions, LibraryOptions, build_library
from sciml_discover.objectives.problem import make_rows
from sciml_discover.refit import Fits, Refitter
from sciml_discover.regressors import BestSubset, HoleSupports, Implicit, RegressOptions, Supports, regress
from sciml_discover.residual_samples import HoleSamples, ResidualSamples
from sciml_discover.search import SearchOptions
from sciml_discover.selection import SelectOptions, select
from sciml_discover.system import System
from sciml_discover.ude import ParameterMap
from tests.problems import (
    LOGISTIC,
    LOTKA_VOLTERRA,
    Problem,
    candidates_of,
    propose,
    terms_of,
    untrained,
    value,
)

DEGREE3 = LibraryOptions(polynomial_degree=3)
POOR = [
    {"predation": {"x": 0.1}, "growth": {"1": 0.1}},
    {"predation": {"y**2": 0.1, "x**3": 0.1}, "growth": {"y": 0.1}},
]
MOVES_ONLY = SelectOptions(exhaustive=0, search=SearchOptions(width=0))


@pytest.mark.parametrize(
    "options",
    [
        MOVES_ONLY,
        SelectOptions(exhaustive=0, search=SearchOptions(rounds=0)),
        SelectOptions(exhaustive=100, search=SearchOptions(width=0, rounds=0)),
    ],
)
def test_the_law_is_found_though_nobody_proposes_it(options: SelectOptions) -> None:
    seen: list[Progress] = []
    found = select(
        LOTKA_VOLTERRA.system,
        LOTKA_VOLTERRA.data(0.005, seed=1),
        untrained(LOTKA_VOLTERRA),
        propose(LOTKA_VOLTERRA, DEGREE3, *POOR),
        options,
        laws=LawOptions(library=DEGREE3),
        watch=seen.append,
    )
    assert terms_of(found.laws[0]) == {"predation": ["x*y"], "growth": ["x*y"]}
    found_by = "move" if options is MOVES_ONLY else "hole by hole" if options.exhaustive else "search"
    assert found.laws[0].source == found_by
    assert found.compared > 20
    assert found.tried > 4
    assert any(event.message == "moves" for event in seen) == (options is MOVES_ONLY)


def test_without_moves_and_small_laws_only_proposals_compete() -> None:
    found = select(
        LOTKA_VOLTERRA.system,
        LOTKA_VOLTERRA.data(0.005, seed=1),
        untrained(LOTKA_VOLTERRA),
        propose(LOTKA_VOLTERRA, DEGREE3, *POOR),
        SelectOptions(exhaustive=0, search=SearchOptions(width=0, rounds=0)),
        laws=LawOptions(library=DEGREE3),
    )
    assert found.tried == 4
    assert terms_of(found.laws[0]) != {"predation": ["x*y"], "growth": ["x*y"]}


def test_a_rational_law_that_no_library_has_comes_from_the_regressors() -> None:
    system = System.from_text(
        states={"s": {"positive": True}}, missing={"uptake": ["s"]}, equations={"s": "0.2 - uptake"}
    )
    problem = Problem(
        "monod", system, {"uptake": "1.5*s/(0.4 + s)"}, np.array([[3.0]]), (np.linspace(0.0, 5.0, 51),)
    )
    points = np.linspace(0.05, 3.0, 60)[:, None]
    values = 1.5 * points[:, 0] / (0.45 + points[:, 0])
    samples = ResidualSamples(
        (
            HoleSamples(
                "uptake", ("s",), ("s",) * 60, points[:, 0], points, values, np.full(60, 0.03), np.ones(60)
            ),
        )
    )
    options = RegressOptions(library=DEGREE3, regressors=(BestSubset(), Implicit()))
    supports = regress(system, samples, options)
    law = select(
        system, problem.data(0.01), untrained(problem), supports, SelectOptions(), laws=options
    ).laws[0]
    [term] = law.missing["uptake"]
    assert term.inner
    assert len(term.inner) == 1
    found = law.expressions_full["uptake"]
    at = [value(parse_expression(found, ["s"], where="test"), {"s": float(s)}) for s in (0.1, 0.5, 2.5)]
    np.testing.assert_allclose(at, [1.5 * s / (0.4 + s) for s in (0.1, 0.5, 2.5)], rtol=0.05)


def test_a_saturating_law_is_found_with_its_constant() -> None:
    system = System.from_text(
        states={"s": {"positive": True}}, missing={"uptake": ["s"]}, equations={"s": "0.2 - uptake"}
    )
    problem = Problem(
        "monod", system, {"uptake": "1.5*s/(0.4 + s)"}, np.array([[3.0]]), (np.linspace(0.0, 5.0, 51),)
    )
    library = LibraryOptions(
        polynomial_degree=3,
        functions=("exp",),
        templates=("input/(K + input)", "input**2/(K**2 + input**2)"),
        inner={"K": InnerOptions()},
    )
    nothing = np.zeros((1, 2))
    marks = np.zeros((1, 7))
    marks[0, 1] = 1.0
    texts = ("1", "s", "s**2", "s**3", "exp(s)", "s/(K + s)", "s**2/(K**2 + s**2)")
    one = HoleSupports("uptake", ("s",), texts, marks, marks, nothing + 1.0, np.array([0.1]), ("hand",))
    law = select(
        system,
        problem.data(0.01),
        untrained(problem),
        Supports((one,)),
        SelectOptions(),
        laws=LawOptions(library=library),
    ).laws[0]
    [term] = law.missing["uptake"]
    assert term.term == "s/(K + s)"
    [inner] = term.inner.values()
    assert inner.stderr is not None
    assert abs(inner.value - 0.4) < 4 * inner.stderr
    assert inner.stderr < 0.1
    assert term.coefficient.value == pytest.approx(1.5, rel=0.1)
    assert law.n_parameters == 3
    assert law.covariance.shape == (3, 3)
    assert "K" not in law.expressions["uptake"]


def test_series_of_two_rows_are_searched_too() -> None:
    starts = np.random.default_rng(0).uniform(0.5, 2.5, (25, 2))
    pair = (np.array([0.0, 0.3]),) * 25
    problem = replace(LOTKA_VOLTERRA, initial=starts, times=pair)
    law = select(
        problem.system,
        problem.data(0.002),
        replace(untrained(LOTKA_VOLTERRA), initial_states=starts),
        propose(problem, DEGREE3, *POOR),
        SelectOptions(exhaustive=100),
        laws=LawOptions(library=DEGREE3),
    ).laws[0]
    assert terms_of(law) == {"predation": ["x*y"], "growth": ["x*y"]}


def test_a_law_with_a_forbidden_sign_is_never_chosen() -> None:
    for positive, negative, expected in ((("n**2",), (), True), ((), ("n**2",), False)):
        own = HoleOptions(positive=positive, negative=negative)
        law = select(
            LOGISTIC.system,
            LOGISTIC.data(0.01),
            untrained(LOGISTIC),
            propose(LOGISTIC, DEGREE3, {"crowding": {"n**2": 0.1}}, {"crowding": {"n": 0.1}}),
            SelectOptions(),
            laws=LawOptions(library=DEGREE3, holes={"crowding": own}),
        ).laws[0]
        assert (terms_of(law) == {"crowding": ["n**2"]}) is expected
        assert np.isfinite(law.criterion)
        for term in law.missing["crowding"]:
            assert term.term not in negative or term.coefficient.value < 0


def test_a_pattern_in_the_residuals_widens_the_search_as_their_size_does() -> None:
    data = LOTKA_VOLTERRA.data(0.01, seed=3)
    rows = make_rows(LOTKA_VOLTERRA.system, data.train, data.noise)
    law = {"predation": {"x*y": 0.9}, "growth": {"x*y": 0.8}}
    libraries = [build_library(hole.inputs, DEGREE3) for hole in LOTKA_VOLTERRA.system.missing]
    nothing = [np.zeros(len(library), dtype=bool) for library in libraries]
    constraints = build_constraints(LOTKA_VOLTERRA.system, libraries, LawOptions(library=DEGREE3), nothing, 5)
    criterion = Criterion(rows.counts.numpy(), 2, constraints.n_terms, data.noise)
    judge = Judge(LOTKA_VOLTERRA.system, data.train, criterion, libraries, constraints)
    start = Fits.begin(
        candidates_of(LOTKA_VOLTERRA, DEGREE3, law),
        rows.smooth_states,
        ParameterMap(LOTKA_VOLTERRA.system).initial(1),
    )
    fits = Refitter(LOTKA_VOLTERRA.system, libraries, rows, 4).refit(start, nobody_watches)
    assert judge.plausible(fits)
    # As small as noise, but slow: what a missing term leaves.
    wave = torch.sin(torch.linspace(0.0, 6.0, rows.times.shape[1], dtype=torch.float64))
    off = (rows.values + 1.2 * wave[:, None] / rows.weights)[None]
    pattern = replace(fits, states=off, misfit=rows.misfit(off).numpy())
    numbers = int(rows.counts.sum()) - 4
    assert misfit_p_value(pattern.misfit[0], criterion.counts, numbers, data.noise)[0] > PLAUSIBLE
    assert not judge.plausible(pattern)
    large = replace(fits, misfit=10.0 * np.full_like(fits.misfit, numbers))
    assert not judge.plausible(large)


def test_the_search_is_widened_only_where_the_best_law_does_not_hold() -> None:
    def tried(library: LibraryOptions, widen: int) -> int:
        search = SearchOptions(width=0, parents=1, moves=1, rounds=4, widen=widen)
        return select(
            LOTKA_VOLTERRA.system,
            LOTKA_VOLTERRA.data(0.005, seed=1),
            untrained(LOTKA_VOLTERRA),
            propose(LOTKA_VOLTERRA, library, {"predation": {"x": 0.1}, "growth": {"y": 0.1}}),
            SelectOptions(exhaustive=0, search=search),
            laws=LawOptions(library=library),
        ).tried

    too_small = LibraryOptions(polynomial_degree=1, functions=("sin",))
    enough = LibraryOptions(polynomial_degree=2)
    assert tried(too_small, 3) > tried(too_small, 1)
    assert tried(enough, 3) == tried(enough, 1)
