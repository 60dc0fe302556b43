"""Numbers that are not linear in a law, found through the equation: exponents, rates inside terms, far parameters."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sciml_discover.constraints import LawOptions
from sciml_discover.laws import Law
from sciml_discover.library import InnerOptions, LibraryOptions, build_library
from sciml_discover.ranking import RankedLaws
from sciml_discover.regressors import HoleSupports, RegressOptions, Supports, regress
from sciml_discover.residual_samples import sample_residual
from sciml_discover.search import SearchOptions
from sciml_discover.selection import SelectOptions, select
from sciml_discover.system import System
from sciml_discover.training import Survivors, TrainOptions, train
from tests.problems import Problem, propose, untrained

HILL = Problem(
    name="cooperative uptake",
    system=System.from_text(
        states={"s": {"positive": True}}, missing={"uptake": ["s"]}, equations={"s": "0.1 - uptake"}
    ),
    laws={"uptake": "1.2*s**2.5/(0.8**2.5 + s**2.5)"},
    initial=np.array([[3.0], [1.2]]),
    times=(np.linspace(0.0, 6.0, 41),) * 2,
)
"""An uptake that saturates and starts slowly, with an exponent that is no whole number."""

FEEDBACK = Problem(
    name="negative feedback",
    system=System.from_text(states=["x"], missing={"gain": ["x"]}, equations={"x": "gain - 0.2*x"}),
    laws={"gain": "2*exp(-0.7*x)"},
    initial=np.array([[0.2], [4.0]]),
    times=(np.linspace(0.0, 6.0, 31),) * 2,
)
"""A production that its product slows down."""


def with_templates(*templates: str, **inner: InnerOptions) -> LibraryOptions:
    return LibraryOptions(polynomial_degree=2, templates=templates, inner=inner)


def only_a_constant(problem: Problem, library: LibraryOptions) -> Supports:
    """Return proposals that know neither the term nor where its numbers are."""
    [hole] = problem.system.missing
    candidates = build_library(hole.inputs, library)
    constant = np.zeros((1, len(candidates)))
    constant[0, candidates.texts.index("1")] = 1.0
    inner = np.ones((1, len(candidates.inner)))
    return Supports(
        (
            HoleSupports(
                hole.name, hole.inputs, candidates.texts, constant, constant, inner, np.ones(1), ("hand",)
            ),
        )
    )


def found(problem: Problem, library: LibraryOptions, noise: float) -> RankedLaws:
    return select(
        problem.system,
        problem.data(noise),
        untrained(problem),
        only_a_constant(problem, library),
        SelectOptions(),
        laws=LawOptions(library=library),
    )


def errors(law: Law, term: str, truth: dict[str, float]) -> dict[str, float]:
    """Return how far the numbers of a law with one term are from the truth, in standard errors.

    The coefficient is called by the term.
    """
    [[only]] = law.missing.values()
    assert only.term == term
    estimates = {term: only.coefficient, **only.inner}
    assert set(estimates) == set(truth)
    scores = {}
    for name, estimate in estimates.items():
        assert estimate.stderr is not None
        assert estimate.stderr < 0.1 * abs(truth[name])
        scores[name] = (estimate.value - truth[name]) / estimate.stderr
    return scores


def test_an_exponent_and_a_constant_inside_a_term_are_found() -> None:
    exponent = InnerOptions(bounds=(1.0, 5.0))
    library = with_templates("input/(K + input)", "input**n/(K**n + input**n)", K=InnerOptions(), n=exponent)
    ranked = found(HILL, library, 0.01)
    term = "s**n/(K**n + s**n)"
    scores = errors(ranked.laws[0], term, {term: 1.2, "K": 0.8, "n": 2.5})
    assert max(abs(score) for score in scores.values()) < 4
    assert ranked.laws[0].n_parameters == 3 + 2
    assert ranked.laws[0].chi_square < 1.5 * ranked.laws[0].n_observed
    # Without an exponent, the same saturation is no rival.
    rivals = ranked.laws[1 : 1 + ranked.n_rivals]
    assert not any([part.term for part in law.missing["uptake"]] == ["s/(K + s)"] for law in rivals)


def test_a_law_that_needs_long_to_come_down_is_not_dropped_on_the_way() -> None:
    # After twelve steps, exponent and constant are still far off, and chi-square is large.
    problem = replace(HILL, times=(np.linspace(0.0, 6.0, 31),) * 2)
    library = with_templates(
        "input/(K + input)", "input**n/(K**n + input**n)", K=InnerOptions(), n=InnerOptions()
    )
    law = select(
        problem.system,
        problem.data(0.03),
        untrained(problem),
        only_a_constant(problem, library),
        SelectOptions(),
        laws=LawOptions(library=library),
    ).laws[0]
    assert [term.term for term in law.missing["uptake"]] == ["s**n/(K**n + s**n)"]
    assert law.chi_square < 1.5 * law.n_observed


def test_a_rate_inside_an_exponential_is_found() -> None:
    library = with_templates("exp(-k*input)", "input/(K + input)", k=InnerOptions(), K=InnerOptions())
    law = found(FEEDBACK, library, 0.01).laws[0]
    scores = errors(law, "exp(-k*x)", {"exp(-k*x)": 2.0, "k": 0.7})
    assert max(abs(score) for score in scores.values()) < 4
    assert law.n_parameters == 2 + 2
    # Coefficient and rate hang together, and the covariance says so.
    joint = law.covariance[0, 1] / np.sqrt(law.covariance[0, 0] * law.covariance[1, 1])
    assert joint > 0.5


def test_the_error_of_a_rate_is_what_it_scatters_by() -> None:
    library = LibraryOptions(
        polynomial_degree=0, constant=False, extra=("exp(-k*x)",), inner={"k": InnerOptions()}
    )
    marks, inner = np.ones((1, 1)), np.ones((1, 1))
    proposed = HoleSupports("gain", ("x",), ("exp(-k*x)",), marks, marks, inner, np.ones(1), ("hand",))
    scores = []
    for seed in range(8):
        law = select(
            FEEDBACK.system,
            FEEDBACK.data(0.02, seed),
            untrained(FEEDBACK),
            Supports((proposed,)),
            SelectOptions(exhaustive=0, search=SearchOptions(width=0, rounds=0)),
            laws=LawOptions(library=library),
        ).laws[0]
        scores.append(errors(law, "exp(-k*x)", {"exp(-k*x)": 2.0, "k": 0.7})["k"])
    # The scatter of eight normal numbers is within this range in 999 of 1000 cases.
    assert 0.3 < np.sqrt(np.mean(np.square(scores))) < 1.87


def driven(stated: float) -> Problem:
    """Return a decay that is driven with the frequency 2, where the system states another one."""
    system = System.from_text(
        states=["x"],
        parameters={"w": stated},
        missing={"decay": ["x"]},
        equations={"x": "sin(w*t) - decay"},
    )
    return Problem("driven", system, {"decay": "0.5*x"}, np.array([[1.0]]), (np.arange(0.0, 10.01, 0.25),))


def with_starts(stated: float, trained: float, *ends: float) -> Law:
    """Return the law found from the frequency that the system states, the best trained one, and other starts' ends."""
    problem, library = driven(stated), LibraryOptions(polynomial_degree=2)
    before = untrained(problem)
    theta = np.zeros((len(ends), before.survivors.theta.shape[1]))
    # Without bounds, the coordinate of a parameter is a multiple of its stated value.
    theta[:, 0] = np.array(ends) / stated
    handed_on = replace(
        before,
        parameters={"w": trained},
        survivors=Survivors(np.arange(len(ends)), theta, np.ones(len(ends))),
    )
    return select(
        problem.system,
        driven(2.0).data(0.05),
        handed_on,
        propose(problem, library, {"decay": {"x": 0.3}}, {"decay": {"1": 0.1}}),
        SelectOptions(),
        laws=LawOptions(library=library),
    ).laws[0]


def frequency_is_right(law: Law) -> bool:
    frequency = law.parameters["w"].estimate
    assert frequency.stderr is not None
    return abs(frequency.value - 2.0) < 4 * frequency.stderr


def test_a_parameter_is_found_from_whichever_start_of_the_training_ended_near_it() -> None:
    far = 6.0
    lost = with_starts(far, far, far)
    assert not frequency_is_right(lost)
    assert lost.chi_square > 10 * lost.n_observed
    saved = with_starts(far, far, far, 2.3)
    assert frequency_is_right(saved)
    assert saved.chi_square < 2 * saved.n_observed
    assert [term.term for term in saved.missing["decay"]] == ["x"]
    decay = saved.missing["decay"][0].coefficient
    assert decay.stderr is not None
    assert abs(decay.value - 0.5) < 4 * decay.stderr


@pytest.mark.parametrize(("stated", "trained"), [(2.2, 6.0), (6.0, 2.2)])
def test_a_parameter_is_found_from_what_the_system_states_and_from_what_was_trained(
    stated: float, trained: float
) -> None:
    law = with_starts(stated, trained, 6.0)
    assert frequency_is_right(law)
    assert [term.term for term in law.missing["decay"]] == ["x"]


def test_starts_that_lead_nowhere_do_no_harm() -> None:
    alone, beside = with_starts(2.2, 2.2, 2.2), with_starts(2.2, 2.2, 2.2, 11.0, 0.4, 5.0)
    assert beside.chi_square == pytest.approx(alone.chi_square, rel=1e-4)
    assert beside.parameters["w"].estimate.value == pytest.approx(
        alone.parameters["w"].estimate.value, rel=1e-4
    )


def test_terms_that_are_all_but_the_same_are_no_reason_to_warn() -> None:
    # Saturating and falling exponentials at many starts: every warning is an error in these tests.
    library = with_templates("exp(-k*input)", "input/(K + input)", k=InnerOptions(), K=InnerOptions())
    data = FEEDBACK.data(0.01, seed=1)
    trained = train(FEEDBACK.system, data, TrainOptions(), seed=0)
    samples = sample_residual(FEEDBACK.system, data, trained)
    [hole] = regress(FEEDBACK.system, samples, RegressOptions(library=library), seed=0).holes
    assert "frols" in {name for source in hole.sources for name in source.split("+")}
