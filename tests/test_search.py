"""Candidates and their refit through the ODE."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from sciml_discover.base import Progress, nobody_watches
from sciml_discover.library import LibraryOptions, build_library
from sciml_discover.regressors import HoleSupports, Supports
from sciml_discover.search import Candidates, Fits, Refitter, combine
from sciml_discover.ude import ParameterMap
from tests.problems import FORCED, LOTKA_VOLTERRA, Problem, propose

DEGREE2 = LibraryOptions(polynomial_degree=2)


def hole(name: str, supports: list[list[int]], residuals: list[float], source: str = "stlsq") -> HoleSupports:
    rows = np.array(supports, dtype=float)
    return HoleSupports(
        name, ("x",), ("1", "x", "x**2"), rows, 2.0 * rows, np.array(residuals), (source,) * len(rows)
    )


TWO = Supports(
    (
        hole("p", [[1, 0, 0], [0, 1, 0], [1, 1, 1]], [0.5, 0.01, 0.001]),
        hole("q", [[0, 0, 1], [0, 1, 1]], [0.01, 0.01], "best_subset"),
    )
)
NOTHING = [np.zeros(3, dtype=bool)] * 2


def test_combinations_come_by_promise() -> None:
    found = combine(TWO, NOTHING, most_terms=5, limit=100)
    assert len(found) == 6
    assert found.sources == ("stlsq+best_subset",) * 6
    scores = [
        np.log(residual + 0.01) + 0.1 * sum(support)
        for support, residual in (([1, 0, 0], 0.5), ([0, 1, 0], 0.01), ([1, 1, 1], 0.001))
    ]
    assert found.supports[0][0].tolist() == ([1, 0, 0], [0, 1, 0], [1, 1, 1])[int(np.argmin(scores))]
    # The second hole's proposals fit alike: the shorter one first.
    assert found.supports[1][0].tolist() == [0, 0, 1]
    assert found.complexity.tolist() == [
        int(one.sum() + two.sum()) for one, two in zip(*found.supports, strict=True)
    ]
    assert [support.tolist() for support in combine(TWO, NOTHING, 5, 2).supports[0]] == [
        row.tolist() for row in found.supports[0][:2]
    ]


def test_long_proposals_are_left_out_unless_all_are() -> None:
    found = combine(TWO, NOTHING, most_terms=1, limit=100)
    assert found.complexity.tolist() == [2, 2]
    long = Supports((hole("p", [[1, 1, 1], [1, 1, 0]], [0.1, 0.1]),))
    assert combine(long, NOTHING[:1], most_terms=1, limit=9).complexity.tolist() == [2]


def test_redundant_terms_are_taken_out_and_what_is_left_is_one_candidate() -> None:
    mask = np.array([False, True, False])
    found = combine(TWO, [NOTHING[0], mask], most_terms=5, limit=100)
    assert len(found) == 3
    assert (found.supports[1] == [0, 0, 1]).all()
    assert (found.coefficients[1] == [0, 0, 2]).all()


def begin(problem: Problem, *laws: dict[str, dict[str, float]], noise: float = 0.01) -> tuple[Refitter, Fits]:
    supports = propose(problem, DEGREE2, *laws)
    candidates = combine(supports, [np.zeros(len(item.terms), dtype=bool) for item in supports.holes], 9, 99)
    rows = problem.rows(noise)
    libraries = [build_library(item.inputs, DEGREE2) for item in problem.system.missing]
    coordinates = ParameterMap(problem.system).initial(1)
    refitter = Refitter(problem.system, libraries, rows, 2)
    return refitter, Fits.begin(candidates, rows.keep_positive(rows.smooth_states), coordinates)


TRUE = {"predation": {"x*y": 0.5}, "growth": {"x*y": 1.5}}
WRONG = {"predation": {"x": 0.5, "x**2": 0.2}, "growth": {"x": 1.0}}
LONG = {"predation": {"x*y": 0.5, "y**2": 0.1}, "growth": {"x*y": 1.5}}


def test_refits_reach_the_truth_from_poor_coefficients() -> None:
    refitter, start = begin(LOTKA_VOLTERRA, TRUE, WRONG, LONG)
    seen: list[Progress] = []
    fits = refitter.polish(refitter.refit(start, seen.append), nobody_watches)
    assert {event.message.split(",")[0] for event in seen} == {"refit"}
    assert len(fits.candidates) == 6
    texts = build_library(("x", "y"), DEGREE2).texts
    xy = np.array([text == "x*y" for text in texts])
    supports = fits.candidates.supports
    [true] = np.flatnonzero((supports[0] == xy).all(1) & (supports[1] == xy).all(1))
    assert fits.converged[true]
    assert fits.chi_square[true] < 70  # of 42 values
    assert np.abs(fits.candidates.coefficients[0][true][xy] - 0.9) < 0.02
    assert np.abs(fits.candidates.coefficients[1][true][xy] - 0.8) < 0.02
    # One more term cannot fit worse, and a wrong structure fits much worse.
    [longer] = np.flatnonzero(
        (supports[0].sum(1) == 2) & supports[0][:, xy][:, 0].astype(bool) & (supports[1] == xy).all(1)
    )
    assert fits.chi_square[longer] <= fits.chi_square[true] + 1e-3
    [wrong] = np.flatnonzero((supports[0][:, xy][:, 0] == 0) & (supports[1][:, xy][:, 0] == 0))
    assert fits.chi_square[wrong] > 20 * fits.chi_square[true]
    # The states are those of the fitted law.
    np.testing.assert_allclose(
        fits.states[true, 0].numpy(), LOTKA_VOLTERRA.states(0, LOTKA_VOLTERRA.times[0]), rtol=0.05, atol=0.02
    )


def test_the_first_look_is_a_lower_bound() -> None:
    refitter, start = begin(LOTKA_VOLTERRA, TRUE, WRONG)
    bound, fits = refitter.bound(start, nobody_watches), refitter.refit(start, nobody_watches)
    finite = np.isfinite(fits.chi_square)
    assert finite.any()
    assert (bound.chi_square[finite] <= fits.chi_square[finite] + 1.0).all()


def test_candidates_do_not_depend_on_their_company() -> None:
    refitter, start = begin(LOTKA_VOLTERRA, TRUE, WRONG, LONG)
    together = refitter.refit(start, nobody_watches)
    for row in np.flatnonzero(together.converged):
        alone = refitter.refit(start.take(np.array([row])), nobody_watches)
        np.testing.assert_allclose(alone.chi_square[0], together.chi_square[row], rtol=1e-3)


def test_noise_factors_weigh_the_fit_and_leave_the_misfit_in_its_unit() -> None:
    refitter, start = begin(LOTKA_VOLTERRA, TRUE)
    libraries = [build_library(item.inputs, DEGREE2) for item in LOTKA_VOLTERRA.system.missing]
    other = Refitter(LOTKA_VOLTERRA.system, libraries, LOTKA_VOLTERRA.rows(0.01), 2, np.array([2.0, 2.0]))
    one, two = refitter.refit(start, nobody_watches), other.refit(start, nobody_watches)
    np.testing.assert_allclose(two.misfit, one.misfit, rtol=1e-2)
    assert one.misfit.shape == (1, 2)


def test_free_parameters_are_refitted_too() -> None:
    system = replace(FORCED.system, parameters=(replace(FORCED.system.parameters[0], value=1.2),))
    problem = replace(FORCED, system=FORCED.system)
    library = LibraryOptions(polynomial_degree=1, functions=("sin",))
    supports = propose(problem, library, {"push": {"sin(t)": 0.5}})
    candidates = combine(supports, [np.zeros(3, dtype=bool)], 9, 9)
    rows = problem.rows(0.005)
    refitter = Refitter(system, [build_library(("t",), library)], rows, 2)
    start = Fits.begin(candidates, rows.smooth_states, ParameterMap(system).initial(1))
    fits = refitter.refit(start, nobody_watches)
    k = ParameterMap(system).physical(fits.coordinates)[0, 0].item()
    assert abs(k - 0.5) < 0.03
    assert np.abs(fits.candidates.coefficients[0][0, 2] - 1.0) < 0.05


def test_join_and_take_are_inverse() -> None:
    _, start = begin(LOTKA_VOLTERRA, TRUE, WRONG)
    parts = [start.take(np.array([row])) for row in range(len(start.candidates))]
    joined = Fits.join(parts)
    assert torch.equal(joined.states, start.states)
    assert joined.candidates.sources == start.candidates.sources
    for one, two in zip(joined.candidates.supports, start.candidates.supports, strict=True):
        np.testing.assert_array_equal(one, two)
    assert isinstance(joined.candidates, Candidates)


def test_a_fit_whose_segments_do_not_meet_counts_as_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    refitter, start = begin(LOTKA_VOLTERRA, WRONG)
    monkeypatch.setattr("sciml_discover.search.FIRST_ITERATIONS", 1)
    monkeypatch.setattr("sciml_discover.search.SEARCH_ITERATIONS", 1)
    fits = refitter.refit(start, nobody_watches)
    assert np.isinf(fits.chi_square).all()
    assert not fits.converged.any()
