"""What is said of a choice that the data do not settle: numbers that hang together, terms that cancel or go along."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

from sciml_discover.constraints import LawOptions
from sciml_discover.identifiability import (
    CANCEL,
    COLLINEAR,
    INSEPARABLE,
    cancellations,
    collinear_terms,
    correlations,
    exchangeable,
)
from sciml_discover.laws import Law
from sciml_discover.library import Library, LibraryOptions, LibraryTerm
from sciml_discover.ranking import RankedLaws
from sciml_discover.readers import PreparedData
from sciml_discover.refit import Candidates
from sciml_discover.search import SearchOptions
from sciml_discover.selection import SelectOptions, select
from sciml_discover.system import System
from tests.artifacts import SmallRun
from tests.problems import LOGISTIC, LOTKA_VOLTERRA, Problem, propose, untrained

SYSTEM = System.from_text(
    states=["x", "y"], missing={"f": ["x"], "g": ["y"]}, equations={"x": "f", "y": "g - y"}
)
LIBRARIES = [Library((name,), [LibraryTerm(name), LibraryTerm(f"{name}**2")]) for name in ("x", "y")]
DEGREE2 = LibraryOptions(polynomial_degree=2)
PROPOSED_ONLY = SelectOptions(exhaustive=0, search=SearchOptions(width=0, rounds=0))


def named(f: tuple[float, float], g: tuple[float, float]) -> list[str]:
    rows = np.linspace(0.9, 1.1, 21)
    # States, then the time.
    signals = torch.as_tensor(np.column_stack([rows, rows, np.arange(21.0)]))
    coefficients = tuple(np.array([own]) for own in (f, g))
    candidates = Candidates(
        tuple(own != 0 for own in coefficients), coefficients, (np.zeros((1, 0)),) * 2, ("hand",)
    )
    return cancellations(SYSTEM, LIBRARIES, signals, candidates)


def test_terms_that_undo_each_other_are_named_with_their_hole() -> None:
    [sentence] = named((10.0, -10.0), (10.0, 10.0))
    assert sentence.startswith(f"the terms of f {CANCEL} to ")
    share = float(sentence.split(" to ")[1].split(" %")[0])
    rows = np.linspace(0.9, 1.1, 21)
    exact = np.sqrt(np.mean((rows - rows**2) ** 2) / np.mean(rows**4))
    np.testing.assert_allclose(share, 100.0 * exact, rtol=0.05)


def test_two_terms_that_undo_each_other_beside_a_third_are_named() -> None:
    library = Library(("x",), [LibraryTerm(text) for text in ("x", "x**2", "x**3", "1")])
    system = System.from_text(states=["x"], missing={"f": ["x"]}, equations={"x": "f"})
    rows = np.linspace(0.9, 1.1, 21)
    signals = torch.as_tensor(np.column_stack([rows, np.arange(21.0)]))

    def said(*coefficients: float) -> list[str]:
        values = np.array([coefficients])
        candidates = Candidates((values != 0,), (values,), (np.zeros((1, 0)),), ("hand",))
        return cancellations(system, [library], signals, candidates)

    [sentence] = said(10.0, 0.0, -10.0, 30.0)
    assert sentence.startswith(f"x and x**3 of f {CANCEL} to ")
    assert said(10.0, 0.0, 10.0, 30.0) == []
    # Where all of them cancel, that is what is said.
    assert said(10.0, 0.0, -20.0, 10.0)[0].startswith(f"the terms of f {CANCEL} to ")


def test_single_terms_and_empty_holes_cancel_nothing() -> None:
    assert named((1e-3, 0.0), (0.0, 0.0)) == []
    assert named((10.0, -5.0), (1.0, 0.0)) == []


def alike(low: float, high: float, *, allowed: tuple[bool, ...] = (True,) * 4) -> list[str]:
    terms = [LibraryTerm(text) for text in ("1", "x", "x**3", "sin(x)")]
    library = Library(("x",), terms)
    system = System.from_text(states=["x"], missing={"f": ["x"]}, equations={"x": "f - x"})
    rows = np.linspace(low, high, 41)
    support = np.array([[False, True, False, False]])
    candidates = Candidates((support,), (support * 1.5,), (np.zeros((1, 0)),), ("hand",))
    signals = torch.as_tensor(np.column_stack([rows, np.arange(41.0)]))
    return collinear_terms(system, [library], [np.array(allowed)], signals, candidates)


def test_terms_that_go_along_with_one_of_the_choice_are_named() -> None:
    [sentence] = alike(0.98, 1.02)
    assert sentence.startswith(
        "x in f is collinear, over the region that the data visit, with sin(x), 1, x**3 (cosine up to 0.99"
    )
    assert alike(0.0, 3.0) == []
    # For small x the sine is x, and the cube is something else.
    [sentence] = alike(-0.1, 0.1)
    assert "with sin(x) (cosine" in sentence
    assert alike(-0.1, 0.1, allowed=(True, True, True, False)) == []


def with_terms(law: Law, delta: float = 0.0, **holes: Sequence[str]) -> Law:
    """Return a law with other terms in its holes, all with the coefficient that the first one has."""
    missing = {
        hole: tuple(replace(law.missing[hole][0], term=text, inner={}) for text in texts)
        for hole, texts in holes.items()
    }
    return replace(law, missing={**law.missing, **missing}, delta=delta)


def with_covariance(law: Law, entries: Mapping[tuple[int, int], float]) -> Law:
    """Return a law whose covariance is the identity but for some entries, given once each."""
    covariance = np.eye(9)
    for (row, column), value in entries.items():
        covariance[row, column] = covariance[column, row] = value
    return replace(law, covariance=covariance)


def structure(law: Law) -> list[tuple[str, str]]:
    return [(hole, term.term) for hole, terms in law.missing.items() for term in terms]


@pytest.fixture
def law(run_artifacts: SmallRun) -> Law:
    """A law of the parameter alpha and one term in each of two holes: three numbers, then the initial states."""
    return with_terms(run_artifacts.laws.laws[0], predation=("hare*lynx",), growth=("hare*lynx",))


def test_two_terms_for_the_same_place_are_named_with_their_hole_and_the_gap(law: Law) -> None:
    choice = with_terms(law, predation=("x", "x*y"), growth=("y",))
    rival = with_terms(law, 3.84, predation=("x*y", "x**2"), growth=("y",))
    assert exchangeable([choice, rival]) == [
        "x and x**2 in predation cannot be told apart on these data (criterion +3.8)"
    ]


@pytest.mark.parametrize(
    "other",
    [
        ("x*y", "x"),  # the same terms
        ("x",),  # one less
        ("x", "x*y", "y"),  # one more
        ("y", "y**2"),  # both differ
        ("x", "y", "y**2"),  # two for one
    ],
)
def test_laws_that_differ_otherwise_say_nothing_of_single_terms(law: Law, other: tuple[str, ...]) -> None:
    choice = with_terms(law, predation=("x", "x*y"))
    assert exchangeable([choice, with_terms(law, 1.0, predation=other)]) == []
    assert exchangeable([choice]) == []


def test_each_exchange_is_named_once_by_the_nearest_rival_and_only_beside_the_choice(law: Law) -> None:
    choice = with_terms(law, predation=("x",), growth=("y",))
    rivals = [
        with_terms(law, 1.0, predation=("y",), growth=("y",)),
        with_terms(law, 2.0, predation=("y",), growth=("x",)),
        with_terms(law, 3.0, predation=("x*y",), growth=("x", "y")),
    ]
    assert exchangeable([choice, *rivals]) == [
        "x and y in predation cannot be told apart on these data (criterion +1.0)",
        "y and x in growth cannot be told apart on these data (criterion +2.0)",
        "x and x*y in predation cannot be told apart on these data (criterion +3.0)",
    ]


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_numbers_are_hardly_separable_above_the_threshold_only(
    run_artifacts: SmallRun, law: Law, sign: float
) -> None:
    system = run_artifacts.system
    above, below = sign * (COLLINEAR + 0.005), sign * (COLLINEAR - 0.005)
    # The standard deviation of alpha is ten, so its covariances are large whatever the correlation.
    near = with_covariance(law, {(0, 0): 100.0, (0, 1): 10.0 * above, (1, 2): 0.5, (0, 2): 10.0 * below})
    assert correlations(system, near) == [
        f"alpha and hare*lynx in predation {INSEPARABLE} (correlation {above:.3f})"
    ]
    assert correlations(system, with_covariance(law, {(0, 1): below, (0, 2): below, (1, 2): below})) == []


def test_initial_states_are_not_numbers_of_the_law(run_artifacts: SmallRun, law: Law) -> None:
    tangled = with_covariance(law, {(0, 3): 0.999, (3, 4): 0.999, (4, 4): np.inf})
    assert correlations(run_artifacts.system, tangled) == []


def test_a_number_without_a_variance_is_not_determined_and_in_no_pair(
    run_artifacts: SmallRun, law: Law
) -> None:
    free = with_covariance(law, {(1, 1): np.inf, (0, 1): 1.0, (1, 2): 1.0, (0, 2): 0.99})
    assert correlations(run_artifacts.system, free) == [
        "hare*lynx in predation is not determined by the data",
        "alpha and hare*lynx in growth are hardly separable (correlation 0.990)",
    ]


def test_parameters_inside_terms_are_named_with_their_term(run_artifacts: SmallRun, law: Law) -> None:
    [term] = law.missing["predation"]
    inner = replace(term, term="hare/(K + hare)", inner={"K": term.coefficient})
    saturating = replace(law, missing={**law.missing, "predation": (inner,)})
    # The numbers of a hole stand together: alpha, coefficient and K of the predation, coefficient of the growth.
    uncertain = with_covariance(saturating, {(1, 2): 0.995, (3, 3): np.inf})
    assert correlations(run_artifacts.system, uncertain) == [
        "hare*lynx in growth is not determined by the data",
        "hare/(K + hare) in predation and K in hare/(K + hare) in predation are hardly separable "
        "(correlation 0.995)",
    ]


def resting(noise: float, **changes: float) -> RankedLaws:
    """Return the ranking of two laws of a population near its capacity, where a line looks like a parabola.

    The rows are exact, so that the gap between the laws only depends on the noise that is told.
    """
    problem = replace(LOGISTIC, initial=np.array([[9.0]]))
    return select(
        problem.system,
        PreparedData(problem.dataset(), None, problem.noise(noise), "none", "", ()),
        untrained(problem),
        propose(problem, DEGREE2, {"crowding": {"n": 0.8}}, {"crowding": {"n**2": 0.08}}),
        PROPOSED_ONLY.model_copy(update=changes),
        laws=LawOptions(library=DEGREE2),
    )


def test_laws_are_rivals_up_to_six_unless_another_gap_is_asked_for() -> None:
    assert SelectOptions().rival_delta == 6.0
    known = resting(0.01, rival_delta=1e6)
    assert [structure(law) for law in known.laws[:2]] == [[("crowding", "n**2")], [("crowding", "n")]]

    def at(gap: float) -> float:
        """Return the noise for which the criterion of the two laws differs by so much."""
        return 0.01 * float(np.sqrt(known.laws[1].delta / gap))

    near, far = resting(at(5.5)), resting(at(6.5))
    assert near.n_rivals == 1
    assert near.laws[1].delta == pytest.approx(5.5, rel=0.01)
    assert (
        "n**2 and n in crowding cannot be told apart on these data (criterion +5.5)" in near.identifiability
    )
    assert far.n_rivals == 0
    assert not any("told apart" in text for text in far.identifiability)
    assert resting(at(6.5), rival_delta=7.0).n_rivals == 1
    assert resting(at(5.5), rival_delta=5.0).n_rivals == 0


def bounded(high: float) -> RankedLaws:
    """Return the ranking of logistic growth whose rate, truly 0.8, may not exceed a bound."""
    system = System.from_text(
        states={"n": {"positive": True}},
        parameters={"r": {"value": 0.4, "bounds": (0.0, high)}},
        missing={"crowding": ["n"]},
        equations={"n": "r*n - crowding"},
    )
    problem = Problem("bounded", system, LOGISTIC.laws, LOGISTIC.initial, LOGISTIC.times)
    return select(
        system,
        LOGISTIC.data(0.02),
        untrained(problem),
        propose(problem, DEGREE2, {"crowding": {"n**2": 0.04}}),
        PROPOSED_ONLY,
        laws=LawOptions(library=DEGREE2),
    )


def test_a_parameter_that_ran_into_its_bound_is_said_to_be_undetermined() -> None:
    sentence = "r is not determined by the data"
    stuck = bounded(0.7)
    assert sentence in stuck.identifiability
    assert not stuck.laws[0].parameters["r"].identifiable
    assert stuck.laws[0].parameters["r"].estimate.stderr is None
    free = bounded(2.0)
    assert sentence not in free.identifiability
    assert free.laws[0].parameters["r"].identifiable


PAIRS = [
    (one, two)
    for one in ({"x*y": 0.9}, {"x*y": 0.9, "x": 0.1}, {"x*y": 0.9, "y": 0.1}, {"x*y": 0.9, "x**2": 0.1})
    for two in ({"x*y": 0.8}, {"x*y": 0.8, "y": 0.1})
]


@cache
def ranking(rivals: int) -> RankedLaws:
    """Return the ranking of the true law and longer ones that contain it, however far behind they are."""
    return select(
        LOTKA_VOLTERRA.system,
        LOTKA_VOLTERRA.data(0.02),
        untrained(LOTKA_VOLTERRA),
        propose(LOTKA_VOLTERRA, DEGREE2, *({"predation": one, "growth": two} for one, two in PAIRS)),
        PROPOSED_ONLY.model_copy(update={"rivals": rivals, "rival_delta": 1000.0}),
        laws=LawOptions(library=DEGREE2),
    )


@pytest.mark.parametrize("most", [0, 1, 2])
def test_no_more_rivals_than_asked_for_the_nearest_first(most: int) -> None:
    everything = ranking(SelectOptions().rivals)
    gaps = [law.delta for law in everything.laws[: 1 + everything.n_rivals]]
    assert gaps == sorted(gaps)
    assert everything.n_rivals > most
    few = ranking(most)
    assert few.n_rivals == most
    shown = [structure(law) for law in few.laws]
    assert shown[: 1 + most] == [structure(law) for law in everything.laws[: 1 + most]]
    # What comes after the rivals is the front: the best of each other length.
    sizes, behind = [law.complexity for law in few.laws], [law.complexity for law in few.laws[1 + most :]]
    assert len(set(behind)) == len(behind)
    assert not set(behind) & set(sizes[: 1 + most])


def test_twelve_rivals_are_shown_unless_asked_otherwise() -> None:
    assert SelectOptions().rivals == 12
