"""Candidate laws and their refit through the ODE."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from sciml_discover.base import Progress, nobody_watches
from sciml_discover.library import InnerParameter, Library, LibraryOptions, LibraryTerm, build_library
from sciml_discover.noise import NoiseOptions, measure_noise
from sciml_discover.objectives.multiple_shooting import ConstrainedShooting
from sciml_discover.objectives.problem import make_rows
from sciml_discover.optimizers.gauss_newton import LARGEST_DEFECT
from sciml_discover.refit import Candidates, Fits, Refitter
from sciml_discover.system import System
from sciml_discover.trajectories import Dataset, Trajectory
from sciml_discover.ude import ParameterMap
from tests.problems import FORCED, LOTKA_VOLTERRA, Problem, candidates_of

DEGREE2 = LibraryOptions(polynomial_degree=2)


def begin(problem: Problem, *laws: dict[str, dict[str, float]], noise: float = 0.01) -> tuple[Refitter, Fits]:
    candidates = candidates_of(problem, DEGREE2, *laws)
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
    assert {event.message for event in seen} == {"bound 1 of 3", "bound 2 of 3", "bound 3 of 3", "continuous"}
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


def test_bounds_rise_to_the_fit() -> None:
    refitter, start = begin(LOTKA_VOLTERRA, TRUE, WRONG)
    fits = refitter.refit(start, nobody_watches)
    finite = np.isfinite(fits.chi_square)
    assert finite.sum() >= 2
    bound, before = start, np.zeros(len(start.candidates))
    for number in range(refitter.rounds):
        bound = refitter.bound(bound, number, nobody_watches)
        assert (bound.chi_square[finite] <= 1.02 * fits.chi_square[finite] + 1.0).all()
        assert (bound.chi_square >= 0.98 * before - 1.0).all()
        before = bound.chi_square
    # The penalty counts: jumps are not free.
    assert np.median(before[finite] / fits.chi_square[finite]) > 0.9
    with pytest.raises(ValueError, match="round 3"):
        refitter.bound(start, 3, nobody_watches)


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
    candidates = candidates_of(problem, library, {"push": {"sin(t)": 0.5}})
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


def test_put_replaces_some_fits() -> None:
    _, start = begin(LOTKA_VOLTERRA, TRUE, WRONG)
    others = start.take(np.array([0, 1]))
    others = replace(others, misfit=np.array([[1.0], [2.0]]))
    mixed = start.put(np.array([2, 0]), others)
    assert len(mixed.candidates) == len(start.candidates)
    assert mixed.misfit[[2, 0], 0].tolist() == [1.0, 2.0]
    assert np.isinf(mixed.misfit[1:2]).all()
    np.testing.assert_array_equal(mixed.candidates.supports[0][2], start.candidates.supports[0][0])


def test_a_parameter_that_ran_to_its_bound_comes_back() -> None:
    [parameter] = FORCED.system.parameters
    system = replace(FORCED.system, parameters=(replace(parameter, value=1.0, bounds=(0.0, 4.0)),))
    library = LibraryOptions(polynomial_degree=1, functions=("sin",))
    rows = FORCED.rows(0.005)
    refitter = Refitter(system, [build_library(("t",), library)], rows, 2)
    candidates = candidates_of(FORCED, library, {"push": {"sin(t)": 0.5}})
    for lost in (-400.0, 400.0):
        start = Fits.begin(candidates, rows.smooth_states, torch.full((1, 1), lost, dtype=torch.float64))
        assert ParameterMap(system).slope(start.coordinates).abs().max() < 1e-12
        first = refitter.bound(start, 0, nobody_watches)
        assert first.coordinates.abs().max() <= 2.0
        fits = refitter.refit(start, nobody_watches)
        assert abs(ParameterMap(system).physical(fits.coordinates)[0, 0].item() - 0.5) < 0.03


def test_a_fit_whose_segments_do_not_meet_counts_as_failed() -> None:
    refitter, start = begin(LOTKA_VOLTERRA, WRONG)
    fits = refitter.close(start, nobody_watches, 1)
    assert np.isinf(fits.chi_square).all()
    assert not fits.converged.any()


def test_more_time_makes_no_fit_worse(monkeypatch: pytest.MonkeyPatch) -> None:
    refitter, start = begin(LOTKA_VOLTERRA, TRUE, WRONG)
    count = len(start.candidates)
    closed = replace(start, misfit=np.full((count, 2), 50.0))
    worse, better = np.full(2, np.inf), np.full(2, 10.0)
    again = replace(start.take(np.array([1, 0])), misfit=np.array([worse, better]))
    monkeypatch.setattr(refitter, "close", lambda *_: again)
    found = refitter.close_again(closed, np.array([1, 0]), closed, nobody_watches)
    assert found.chi_square.tolist() == [20.0, *[100.0] * (count - 1)]


def test_small_jumps_of_an_unstable_law_count_by_what_they_do() -> None:
    """Jumps of a thousandth of the noise, below what counts as closed, that growth makes a hundred times it."""
    system = System.from_text(states=["x"], missing={"f": ["x"]}, equations={"x": "f"})
    times, sd = np.linspace(0.0, 6.0, 61), 0.1
    values = np.exp(2.0 * times)[:, None]
    dataset = Dataset(("x",), (Trajectory("a", times, values, np.zeros((61, 0))),))
    noise = measure_noise(dataset, NoiseOptions(sd=sd))
    rows = make_rows(system, dataset, noise)
    library = build_library(("x",), LibraryOptions(polynomial_degree=1, constant=False))
    refitter = Refitter(system, [library], rows, 20)
    law = Candidates((np.array([[True]]),), (np.array([[2.0]]),), (np.zeros((1, 0)),), ("test",))
    for jump, met in ((0.0, True), (1e-3 * sd, False)):
        # Exact between the rows, but for one jump at the second one.
        after = times >= times[1]
        states = np.exp(2.0 * times) + np.where(after, jump * np.exp(2.0 * (times - times[1])), 0.0)
        objective, unknowns = refitter.problem(
            Fits.begin(law, torch.as_tensor(states)[None, :, None], torch.zeros(1, 0, dtype=torch.float64))
        )
        linearized = objective.linearize(unknowns)
        assert isinstance(linearized, ConstrainedShooting)
        assert (float(linearized.worst_defect[0]) < LARGEST_DEFECT) == met
        if not met:
            assert float(linearized.worst_defect[0]) > 10.0
            assert float(linearized.infeasibility[0]) < LARGEST_DEFECT


def saturating() -> tuple[Refitter, Fits, Library]:
    """Return fits of one law, not yet begun: a saturation whose constant starts at ten times the true one."""
    system = System.from_text(
        states={"s": {"positive": True}}, missing={"uptake": ["s"]}, equations={"s": "-uptake"}
    )
    problem = Problem(
        "monod", system, {"uptake": "1.5*s/(0.4 + s)"}, np.array([[3.0]]), (np.linspace(0.0, 4.0, 41),)
    )
    rows = problem.rows(0.005)
    term = LibraryTerm("s/(K + s)", (InnerParameter("K"),))
    library = Library(("s",), [LibraryTerm("s"), term]).for_data([rows.smooth_states.flatten(0, 1).numpy()])
    one = Candidates((np.array([[False, True]]),), (np.array([[0.0, 1.0]]),), (np.array([[5.0]]),), ("hand",))
    start = Fits.begin(one, rows.smooth_states, torch.zeros(1, 0).double())
    return Refitter(system, [library], rows, 2), start, library


def test_inner_parameters_are_refitted_too() -> None:
    refitter, start, library = saturating()
    fits = refitter.refit(start, nobody_watches)
    assert fits.converged[0]
    assert fits.chi_square[0] < 70  # of 41 values
    assert fits.candidates.inner[0][0, 0] == pytest.approx(0.4, rel=0.1)
    assert fits.candidates.coefficients[0][0, 1] == pytest.approx(1.5, rel=0.03)
    assert fits.candidates.n_inner([library]).tolist() == [1]


def test_only_late_fits_that_could_still_be_the_lowest_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    refitter, start, _ = saturating()
    # Of four: one that has ended, a slow one that is near it, a slow one far off, a fast one far off.
    values, paces = [[10.0, 15.0, 100.0, 1e3], [15.0, 12.0]], [[1.0, 0.99, 0.9, 0.3], [1.0, 1.0]]
    late = [[False, True, True, True], [False, False]]
    batches = []

    def scripted(_: object, unknowns: torch.Tensor, report: object) -> tuple[torch.Tensor, ...]:  # noqa: ARG001
        number = len(batches)
        batches.append(len(unknowns))
        value, pace = (torch.tensor(one[number], dtype=torch.float64) for one in (values, paces))
        return unknowns + number, value, pace, torch.tensor(late[number])

    monkeypatch.setattr("sciml_discover.refit._come_down", scripted)
    fits = refitter.bound(start.take(np.zeros(4, dtype=int)), refitter.rounds - 1, nobody_watches)
    assert batches == [4, 2]
    moved = fits.candidates.coefficients[0][:, 1] != start.candidates.coefficients[0][0, 1]
    assert moved.tolist() == [False, True, False, True]
