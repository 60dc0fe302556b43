"""What is known of the laws holds for all that come out of a search: the choice, its rivals and the front."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from sciml_discover.constraints import HoleOptions, LawOptions
from sciml_discover.laws import Law
from sciml_discover.library import LibraryOptions
from sciml_discover.ranking import RankedLaws
from sciml_discover.search import SearchOptions
from sciml_discover.selection import SelectOptions, select
from sciml_discover.system import System
from tests.problems import Problem, propose, untrained

DEGREE2 = LibraryOptions(polynomial_degree=2)
WIDE = SelectOptions(
    rival_delta=1e5, rivals=6, exhaustive=100, search=SearchOptions(rounds=4, parents=2, moves=5, widen=1)
)
"""However far behind, what was fitted is a rival; and a search that is soon over."""

STATES = {"x": {"positive": True}, "y": {"positive": True}}
RATES = {"a": {"value": 1.3, "fixed": True}, "d": {"value": 0.9, "fixed": True}}
TIMES = np.arange(0.0, 6.01, 0.3)

EATEN = Problem(
    name="what is eaten feeds",
    system=System.from_text(
        states=STATES,
        parameters={**RATES, "e": {"value": 0.6, "bounds": (0.0, 2.0)}},
        missing={"eaten": ["x", "y"]},
        equations={"x": "a*x - eaten", "y": "e*eaten - d*y"},
    ),
    laws={"eaten": "0.9*x*y"},
    initial=np.array([[3.0, 1.0]]),
    times=(TIMES,),
)
"""One hole with both signs, and a free share of it."""

LURED = Problem(
    name="lured predators",
    system=System.from_text(
        states=STATES,
        parameters=RATES,
        missing={"loss": ["x", "y"], "gain": ["x", "y"]},
        equations={"x": "a*x - loss", "y": "gain - d*y"},
    ),
    laws={"loss": "0.9*x*y - 0.3*x", "gain": "0.8*x*y + 0.3*x"},
    initial=np.array([[3.0, 1.0], [1.0, 2.0]]),
    times=(TIMES, TIMES),
)
"""Two holes with the same terms, one of them with another sign in each."""

TRUE = {"loss": {"x", "x*y"}, "gain": {"x", "x*y"}}


def found(
    problem: Problem,
    options: SelectOptions = WIDE,
    shared: tuple[tuple[str, ...], ...] = (),
    **holes: dict[str, Any],
) -> RankedLaws:
    """Return the ranking under constraints, from proposals that know nothing."""
    own = {name: HoleOptions(**known) for name, known in holes.items()}
    return select(
        problem.system,
        problem.data(0.01),
        untrained(problem),
        propose(problem, DEGREE2, {hole: {"1": 0.1, "x": 0.1} for hole in problem.laws}),
        options,
        laws=LawOptions(library=DEGREE2, shared=shared, holes=own),
    )


@pytest.fixture(scope="module")
def free() -> RankedLaws:
    """The ranking without constraints."""
    return found(LURED)


HARDLY_SEEN = replace(
    EATEN,
    system=System.from_text(
        states=STATES,
        parameters=RATES,
        missing={"eaten": ["x", "y"]},
        equations={"x": "a*x - eaten", "y": "0.6*eaten - d*y"},
    ),
    unseen=tuple((0, row, 1) for row in range(1, len(TIMES)) if row not in (10, 16, 20)),
)
"""Where all short laws are fitted, because the trained trajectory says little of the predators."""


@pytest.mark.parametrize(
    ("most_terms", "known"),
    [(5, {"required": ("y**2",), "forbidden": ("x",)}), (1, {"forbidden": ("x",)})],
)
def test_so_it_is_where_all_short_laws_are_fitted(most_terms: int, known: dict[str, Any]) -> None:
    options = WIDE.model_copy(update={"most_terms": most_terms, "search": SearchOptions(rounds=0, width=0)})
    ranked = found(HARDLY_SEEN, options, eaten=known)
    laws = [law["eaten"] for law in structures(ranked)]
    assert any("x*y" in law for law in laws)
    for law in laws:
        assert law >= set(known.get("required", ()))
        assert "x" not in law
        assert len(law) <= most_terms


def numbers(law: Law) -> dict[str, dict[str, float]]:
    return {
        hole: {term.term: term.coefficient.value for term in terms} for hole, terms in law.missing.items()
    }


def structures(ranked: RankedLaws) -> list[dict[str, set[str]]]:
    return [{hole: set(terms) for hole, terms in numbers(law).items()} for law in ranked.laws]


def in_all(ranked: RankedLaws) -> list[dict[str, dict[str, float]]]:
    """Return the numbers of all laws that are shown, of which there are several, most of them rivals."""
    assert ranked.n_rivals >= 4
    assert len(ranked.laws) > ranked.n_rivals
    assert all(np.isfinite(law.criterion) for law in ranked.laws)
    return [numbers(law) for law in ranked.laws]


def test_a_hole_with_both_signs_has_one_law_and_the_share_is_found() -> None:
    law = found(EATEN, SelectOptions(exhaustive=100, search=SearchOptions(rounds=2))).laws[0]
    [term] = law.missing["eaten"]
    assert term.term == "x*y"
    share = law.parameters["e"].estimate
    for estimate, truth in ((term.coefficient, 0.9), (share, 0.6)):
        assert estimate.stderr is not None
        assert estimate.stderr < 0.02
        assert abs(estimate.value - truth) < 4 * estimate.stderr
    assert law.n_parameters == 4


def test_holes_that_share_terms_have_the_same_in_every_law_and_own_numbers(free: RankedLaws) -> None:
    ranked = found(LURED, shared=(("loss", "gain"),))
    for law in in_all(ranked):
        assert set(law["loss"]) == set(law["gain"])
        assert all(law["loss"][term] != law["gain"][term] for term in law["loss"])
    assert numbers(ranked.laws[0]) == {
        "loss": {"x": pytest.approx(-0.3, abs=0.1), "x*y": pytest.approx(0.9, abs=0.1)},
        "gain": {"x": pytest.approx(0.3, abs=0.1), "x*y": pytest.approx(0.8, abs=0.1)},
    }
    # It is a constraint: without it, laws are otherwise.
    assert any(set(law["loss"]) != set(law["gain"]) for law in in_all(free))


def test_a_free_share_of_a_hole_with_numbers_of_its_own_is_called_undetermined() -> None:
    shares = System.from_text(
        states=STATES,
        parameters={**RATES, "e": {"value": 0.6, "bounds": (0.0, 2.0)}},
        missing={"loss": ["x", "y"], "gain": ["x", "y"]},
        equations={"x": "a*x - loss", "y": "e*gain - d*y"},
    )
    problem = replace(LURED, system=shares)
    ranked = found(problem, shared=(("loss", "gain"),))
    law = ranked.laws[0]
    assert structures(ranked)[0] == TRUE
    assert not law.parameters["e"].identifiable
    assert "e is not determined by the data" in ranked.identifiability
    assert all(term.coefficient.stderr is None for term in law.missing["gain"])
    assert all(term.coefficient.stderr is not None for term in law.missing["loss"])
    # What the data do determine is the product.
    for term, truth in (("x*y", 0.48), ("x", 0.18)):
        product = law.parameters["e"].estimate.value * numbers(law)["gain"][term]
        assert product == pytest.approx(truth, abs=0.06)


def test_a_required_term_is_in_every_law_and_a_forbidden_one_in_none_even_if_it_is_true(
    free: RankedLaws,
) -> None:
    ranked = found(LURED, gain={"required": ("y**2",)}, loss={"forbidden": ("x*y", "1")})
    laws = in_all(ranked)
    for law in laws:
        assert "y**2" in law["gain"]
        assert not {"x*y", "1"} & set(law["loss"])
    assert any("x*y" in law["gain"] for law in laws)
    assert ranked.laws[0].chi_square > 3 * ranked.laws[0].n_observed
    # They are constraints: without them, laws are otherwise.
    assert "x*y" in in_all(free)[0]["loss"]
    assert any("y**2" not in law["gain"] for law in in_all(free))


def test_what_is_known_of_one_of_two_holes_that_share_terms_is_known_of_both() -> None:
    own = {"required": ("y",), "forbidden": ("1",)}
    for law in in_all(found(LURED, shared=(("loss", "gain"),), gain=own)):
        assert "y" in law["loss"]
        assert "1" not in law["loss"]
        assert set(law["loss"]) == set(law["gain"])


def test_terms_have_the_sign_that_they_must_have_in_every_law(free: RankedLaws) -> None:
    known = {
        "loss": {"positive": ("x*y", "y**2", "y"), "negative": ("x", "1")},
        "gain": {"positive": ("x*y", "x"), "negative": ("y**2", "y")},
    }

    def wrong(law: dict[str, dict[str, float]]) -> list[str]:
        return [
            f"{number} {term} in {hole}"
            for hole, signs in known.items()
            for term, number in law[hole].items()
            if (term in signs["positive"] and number <= 0) or (term in signs["negative"] and number >= 0)
        ]

    ranked = found(LURED, **known)
    assert not any(wrong(law) for law in in_all(ranked))
    assert structures(ranked)[0] == TRUE
    # It is a constraint: without it, there are others.
    assert any(wrong(law) for law in in_all(free))


def test_a_law_whose_fit_needs_a_forbidden_sign_is_not_ranked(free: RankedLaws) -> None:
    refused = found(LURED, loss={"positive": ("x",)})
    for law in in_all(refused):
        assert law["loss"].get("x", 1.0) > 0
    assert structures(free)[0] == TRUE
    assert TRUE not in structures(refused)
    # What is left fits worse, or has to say it with more terms.
    assert refused.laws[0].criterion > free.laws[0].criterion + 6


def test_a_shared_term_that_a_free_parameter_carries_in_one_hole_is_found_in_the_other() -> None:
    system = System.from_text(
        states=STATES,
        parameters={**RATES, "a": {"value": 1.3, "bounds": (0.0, 5.0)}},
        missing={"loss": ["x", "y"], "gain": ["x", "y"]},
        equations={"x": "a*x - loss", "y": "gain - d*y"},
    )
    ranked = found(replace(LURED, system=system), shared=(("loss", "gain"),))
    assert "x in loss is carried by the free parameter a already: merged into it" in ranked.identifiability
    assert structures(ranked)[0] == {"loss": {"x*y"}, "gain": {"x", "x*y"}}
    for law in structures(ranked):
        assert law["loss"] == law["gain"] - {"x"}
    # What stands in the hole at the truth is in the parameter.
    estimate = ranked.laws[0].parameters["a"].estimate
    assert estimate.value == pytest.approx(1.6, abs=0.1)
    assert ranked.laws[0].n_parameters == 1 + 3 + 4
