"""The choice: the truth among its rivals, with errors that mean something."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sciml_discover.base import Progress
from sciml_discover.checkpoint import fingerprint
from sciml_discover.constraints import LawOptions
from sciml_discover.errors import SolveError
from sciml_discover.expressions import parse_expression
from sciml_discover.laws import Law
from sciml_discover.library import LibraryOptions
from sciml_discover.noise import Noise
from sciml_discover.readers import PreparedData
from sciml_discover.search import SearchOptions
from sciml_discover.selection import RankedLaws, SelectOptions, select
from sciml_discover.simplify import equations_with_numbers, same_structure
from sciml_discover.system import System
from sciml_discover.validation import ValidateOptions, validate
from tests.problems import (
    DOSED_LONG,
    EXCHANGE,
    FORCED,
    LOGISTIC,
    LOTKA_VOLTERRA,
    Problem,
    propose,
    untrained,
    value,
)

DEGREE2 = LibraryOptions(polynomial_degree=2)
PROPOSED_ONLY = SelectOptions(exhaustive=0, search=SearchOptions(width=0, rounds=0))
"""Ranks what is proposed; `test_search` looks at where the search goes from there."""
PREDATION = [
    {"x*y": 0.8},
    {"x*y": 0.8, "x": 0.1},
    {"x**2": 0.3, "x": 0.2},
    {"x*y": 0.8, "y**2": 0.1, "1": 0.1},
]
GROWTH = [{"x*y": 0.7}, {"x*y": 0.7, "y": 0.1}, {"y**2": 0.5}, {"x*y": 0.7, "x": 0.1, "1": 0.1}]
LAWS = [{"predation": one, "growth": two} for one, two in zip(PREDATION, GROWTH, strict=True)]


@pytest.fixture(scope="module")
def ranked() -> RankedLaws:
    return select(
        LOTKA_VOLTERRA.system,
        LOTKA_VOLTERRA.data(0.01, seed=3),
        untrained(LOTKA_VOLTERRA),
        propose(LOTKA_VOLTERRA, DEGREE2, *LAWS),
        PROPOSED_ONLY.model_copy(update={"rival_delta": 15.0}),
        laws=LawOptions(library=DEGREE2),
    )


def coefficients(law: Law) -> dict[str, float]:
    return {
        f"{hole}: {term.term}": term.coefficient.value
        for hole, terms in law.missing.items()
        for term in terms
    }


def test_the_true_law_is_chosen(ranked: RankedLaws) -> None:
    choice = ranked.laws[0]
    assert set(coefficients(choice)) == {"predation: x*y", "growth: x*y"}
    exact = equations_with_numbers(LOTKA_VOLTERRA.filled, {}, {"alpha": 1.3, "delta": 1.8})
    found = {
        name: parse_expression(text, ["x", "y"], where="law") for name, text in choice.equations_full.items()
    }
    assert same_structure(found, exact)
    assert choice.delta == 0
    assert choice.complexity == 2
    assert choice.n_parameters == 4
    assert choice.n_observed == 42
    assert choice.status == "converged"
    assert choice.source == "hand"


def test_intervals_hold_the_truth_and_are_not_wider_than_they_must(ranked: RankedLaws) -> None:
    choice = ranked.laws[0]
    for hole, truth in (("predation", 0.9), ("growth", 0.8)):
        estimate = choice.missing[hole][0].coefficient
        assert estimate.stderr is not None
        assert estimate.interval95 is not None
        low, high = estimate.interval95
        assert high - low == pytest.approx(2 * 1.96 * estimate.stderr, rel=1e-3)
        # Four standard errors: this is one draw of the noise.
        assert abs(estimate.value - truth) < 4 * estimate.stderr
        assert estimate.stderr < 0.02
    np.testing.assert_allclose(choice.initial_states, LOTKA_VOLTERRA.initial, rtol=0.05)


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    inside, scores = 0, []
    for seed in range(10):
        law = select(
            LOGISTIC.system,
            LOGISTIC.data(0.02, seed),
            untrained(LOGISTIC),
            propose(LOGISTIC, DEGREE2, {"crowding": {"n**2": 0.1}}),
            PROPOSED_ONLY,
            laws=LawOptions(library=DEGREE2),
        ).laws[0]
        estimate = law.missing["crowding"][0].coefficient
        assert estimate.stderr is not None
        scores.append((estimate.value - 0.08) / estimate.stderr)
        inside += abs(scores[-1]) < 1.96
    assert inside >= 7
    assert 0.5 < np.std(scores) < 1.7


def test_no_rival_fits_worse_with_more_terms(ranked: RankedLaws) -> None:
    assert ranked.n_rivals >= 1
    for number, law in enumerate(ranked.laws):
        for shorter in ranked.laws:
            assert not (shorter.complexity < law.complexity and shorter.chi_square <= law.chi_square), number
    rivals = ranked.laws[1 : 1 + ranked.n_rivals]
    assert all(0 <= law.delta <= 15 for law in rivals)
    assert [law.delta for law in rivals] == sorted(law.delta for law in rivals)
    assert ranked.compared >= 16
    assert ranked.tried < ranked.compared
    assert len(ranked.front_complexity) == len(ranked.front_chi_square)
    assert np.isfinite(ranked.front_chi_square).all()


def test_every_term_has_the_probability_that_all_laws_give_it(ranked: RankedLaws) -> None:
    for law in ranked.laws:
        for hole, terms in law.missing.items():
            for term in terms:
                assert term.inclusion is not None
                assert 0.0 <= term.inclusion <= 1.0
                assert ranked.inclusion[hole].get(term.term, 0.0) in (term.inclusion, 0.0)
    # The laws that are shown are the probable ones of those that were refitted: their weights say it again.
    weights = np.exp(-0.5 * np.array([law.delta for law in ranked.laws]))
    for hole, shares in ranked.inclusion.items():
        assert list(shares.values()) == sorted(shares.values(), reverse=True)
        for term, share in shares.items():
            has = np.array([any(own.term == term for own in law.missing[hole]) for law in ranked.laws])
            assert share == pytest.approx(float(weights @ has / weights.sum()), abs=0.1)
        assert shares["x*y"] > 0.5


def test_text_and_numbers_of_a_law_agree(ranked: RankedLaws) -> None:
    for law in ranked.laws:
        for hole, terms in law.missing.items():
            full = parse_expression(law.expressions_full[hole], ["x", "y"], where="law")
            point = {"x": 0.7, "y": 1.3}
            exact = sum(
                term.coefficient.value * value(parse_expression(term.term, ["x", "y"], where="law"), point)
                for term in terms
            )
            assert value(full, point) == pytest.approx(exact, rel=1e-12)
            shown = parse_expression(law.expressions[hole], ["x", "y"], where="law")
            assert set(shown.as_coefficients_dict()) == set(full.as_coefficients_dict())
            assert len(law.expressions[hole]) <= len(law.expressions_full[hole])
        size = law.complexity + 2
        assert law.covariance.shape == (size, size)


def test_the_same_law_written_twice_is_merged_and_named() -> None:
    system = System.from_text(
        states={"n": {"positive": True}},
        parameters={"r": {"value": 0.6, "bounds": (0.0, 2.0)}},
        missing={"crowding": ["n"]},
        equations={"n": "r*n - crowding"},
    )
    problem = replace(
        LOGISTIC, system=replace(system, parameters=(replace(system.parameters[0], value=0.8),))
    )
    found = select(
        system,
        problem.data(0.01),
        replace(untrained(problem), parameters={"r": 0.6}),
        propose(problem, DEGREE2, {"crowding": {"n**2": 0.1, "n": 0.2}}, {"crowding": {"n**2": 0.1}}),
        PROPOSED_ONLY,
        laws=LawOptions(library=DEGREE2),
    )
    assert found.tried == 1
    assert "n in crowding is carried by the free parameter r already: merged into it" in found.identifiability
    choice = found.laws[0]
    estimate = choice.parameters["r"].estimate
    assert estimate.stderr is not None
    assert choice.parameters["r"].identifiable
    assert abs(estimate.value - 0.8) < 4 * estimate.stderr
    assert choice.n_parameters == 3


def test_what_the_data_cannot_tell_apart_is_named() -> None:
    # After its transient, this trajectory stays where n and n**2 are all but proportional.
    problem = replace(LOGISTIC, initial=np.array([[9.6]]))
    found = select(
        problem.system,
        problem.data(0.002),
        untrained(problem),
        propose(problem, DEGREE2, {"crowding": {"n": 0.1, "n**2": 0.07}}),
        PROPOSED_ONLY,
        laws=LawOptions(library=DEGREE2),
    )
    assert any(
        "n in crowding and n**2 in crowding are hardly separable" in text for text in found.identifiability
    )


def test_an_estimated_noise_is_stated_and_scales_the_errors() -> None:
    data = LOGISTIC.data(0.02)
    sd = 0.5 * data.noise.sd
    found = []
    for estimated in (False, True):
        noise = Noise(("n",), (False,), sd, estimated, False, np.array([20.0 if estimated else np.inf]))
        found.append(
            select(
                LOGISTIC.system,
                replace(data, noise=noise),
                untrained(LOGISTIC),
                propose(LOGISTIC, DEGREE2, {"crowding": {"n**2": 0.1}}),
                PROPOSED_ONLY,
                laws=LawOptions(library=DEGREE2),
            )
        )
    given, estimated = (ranked.laws[0].missing["crowding"][0].coefficient.stderr for ranked in found)
    assert given is not None
    assert estimated is not None
    assert 1.4 < estimated / given < 2.8
    assert not found[0].identifiability
    assert found[1].identifiability[0].startswith("noise sd re-estimated once with the best law")


def test_a_law_in_the_time_and_one_with_a_hidden_state() -> None:
    library = LibraryOptions(polynomial_degree=1, functions=("sin",))
    forced = select(
        FORCED.system,
        FORCED.data(0.005),
        untrained(FORCED),
        propose(FORCED, library, {"push": {"sin(t)": 0.8}}, {"push": {"t": 0.1, "1": 0.2}}),
        PROPOSED_ONLY,
        laws=LawOptions(library=library),
    ).laws[0]
    assert coefficients(forced) == {"push: sin(t)": pytest.approx(1.0, abs=0.03)}
    hidden = select(
        EXCHANGE.system,
        EXCHANGE.data(0.002),
        untrained(EXCHANGE),
        propose(EXCHANGE, DEGREE2, {"flow": {"a*b": 0.6}, "drive": {"c*t": 0.1}}),
        PROPOSED_ONLY,
        laws=LawOptions(library=DEGREE2),
    ).laws[0]
    assert set(coefficients(hidden)) == {"flow: a*b", "drive: c*t"}
    # The law of the drive is wrong, so this only has to be near.
    assert coefficients(hidden)["flow: a*b"] == pytest.approx(0.7, rel=0.3)
    np.testing.assert_allclose(hidden.initial_states, EXCHANGE.initial, atol=0.3)


def test_a_law_in_a_control_is_found_through_an_expression() -> None:
    law = select(
        DOSED_LONG.system,
        DOSED_LONG.data(0.01),
        untrained(DOSED_LONG),
        propose(
            DOSED_LONG,
            DEGREE2,
            {"uptake": {"a*light": 0.5}},
            {"uptake": {"a": 0.5}},
            {"uptake": {"a*light": 0.5, "light": 0.1}},
        ),
        PROPOSED_ONLY,
        laws=LawOptions(library=DEGREE2),
    ).laws[0]
    assert coefficients(law) == {"uptake: a*light": pytest.approx(0.6, rel=0.02)}
    assert law.parameters["k"].estimate.value == pytest.approx(0.5, rel=0.05)
    np.testing.assert_allclose(law.initial_states, DOSED_LONG.initial, atol=0.05)
    assert law.status == "converged"
    found = parse_expression(law.equations_full["a"], ["a", "dose", "light"], where="test")
    assert value(found, {"a": 2.0, "dose": 3.0, "light": 0.5}) == pytest.approx(3.0 - 0.6, rel=0.02)


def test_nothing_that_can_be_solved_is_an_error() -> None:
    system = System.from_text(states=["n"], missing={"h": ["n"]}, equations={"n": "h + log(-1 - n**2)"})
    problem = Problem("nowhere", system, {"h": "n"}, np.ones((1, 1)), LOGISTIC.times)
    short = replace(LOGISTIC, times=(np.arange(5.0),))
    data = short.data()
    trained = replace(untrained(LOGISTIC), parameters={})
    trained = replace(trained, networks={"h": trained.networks["crowding"]})
    with pytest.raises(SolveError, match="no law that the constraints allow has a value along"):
        select(
            system,
            PreparedData(data.train, None, data.noise, "none", "", ()),
            trained,
            propose(problem, DEGREE2, {"h": {"n": 1.0}}),
            PROPOSED_ONLY,
            laws=LawOptions(library=DEGREE2),
        )


def test_where_no_law_is_near_the_noise_the_best_approximation_is_found() -> None:
    # Hyperbolic growth without noise, and only polynomials to say it with.
    problem = replace(LOGISTIC, laws={"crowding": "0.9*n**2/(1 + 0.4*n + n**2)"})
    data = problem.data(1e-7)
    ranked = select(
        problem.system,
        data,
        untrained(problem),
        propose(problem, DEGREE2, {"crowding": {"n": 0.2}}),
        SelectOptions(),
        laws=LawOptions(library=DEGREE2),
    )
    choice = ranked.laws[0]
    assert any("approximates them best" in note for note in ranked.identifiability)
    # Chi-square is still that against the noise.
    assert choice.chi_square > 1000 * choice.n_observed
    report = validate(problem.system, data, untrained(problem), ranked, ValidateOptions())
    assert report.status == "rejected"
    assert report.law.train is not None
    assert report.law.train.unexplained < 0.01
    np.testing.assert_allclose(report.law.train.chi_square, choice.chi_square, rtol=0.05)


class StoppedError(Exception):
    """Somebody stopped the search."""


def stopped_and_gone_on(
    folder: Path, at: int, arguments: tuple[Any, ...], laws: LawOptions
) -> tuple[RankedLaws, list[str]]:
    """Return what a search gives that was stopped before one of its rounds of moves, and what it told afterwards."""
    rounds, told = [0], []

    def stop(event: Progress) -> None:
        rounds[0] += event.message == "moves"
        if rounds[0] == at:
            raise StoppedError

    with pytest.raises(StoppedError):
        select(*arguments, laws=laws, watch=stop, checkpoint=folder, checkpoint_seconds=0.0)
    ranked = select(
        *arguments,
        laws=laws,
        watch=lambda event: told.append(event.message),
        checkpoint=folder,
        checkpoint_seconds=0.0,
    )
    return ranked, told


@pytest.mark.parametrize("at", [1, 2])
def test_a_search_that_was_stopped_goes_on_to_the_same_result(tmp_path: Path, at: int) -> None:
    laws = LawOptions(library=DEGREE2)
    arguments = (
        LOTKA_VOLTERRA.system,
        LOTKA_VOLTERRA.data(0.01, seed=3),
        untrained(LOTKA_VOLTERRA),
        propose(LOTKA_VOLTERRA, DEGREE2, {"predation": {"x": 0.5}, "growth": {"y": 0.5}}),
        SelectOptions(exhaustive=0, search=SearchOptions(width=0)),
    )
    ranked, told = stopped_and_gone_on(tmp_path, at, arguments, laws)
    assert told[0] == "going on from a checkpoint"
    assert "bound 1 of 3" not in told[:2]
    assert fingerprint(ranked) == fingerprint(select(*arguments, laws=laws))
    # It is the checkpoint of this work and of no other.
    told.clear()
    other = (*arguments[:-1], PROPOSED_ONLY)
    select(*other, laws=laws, watch=lambda event: told.append(event.message), checkpoint=tmp_path)
    assert "going on from a checkpoint" not in told


def test_a_search_for_an_approximation_goes_on_too(tmp_path: Path) -> None:
    problem = replace(LOGISTIC, laws={"crowding": "0.9*n**2/(1 + 0.4*n + n**2)"})
    laws = LawOptions(library=DEGREE2)
    arguments = (
        problem.system,
        problem.data(1e-7),
        untrained(problem),
        propose(problem, DEGREE2, {"crowding": {"n": 0.2}}),
        SelectOptions(),
    )
    seen: list[str] = []
    whole = select(*arguments, laws=laws, watch=lambda event: seen.append(event.message))
    ranked, told = stopped_and_gone_on(tmp_path, seen.count("moves"), arguments, laws)
    assert told.count("going on from a checkpoint") == 2
    assert fingerprint(ranked) == fingerprint(whole)
