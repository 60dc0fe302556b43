"""Initial values that are given: every fit begins there."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from sciml_discover.base import nobody_watches
from sciml_discover.forecasts import LawModel, forecast
from sciml_discover.library import LibraryOptions, build_library
from sciml_discover.objectives.direct_collocation import DirectCollocation
from sciml_discover.objectives.multiple_shooting import MultipleShooting
from sciml_discover.objectives.problem import make_rows
from sciml_discover.optimizers.gauss_newton import GaussNewton
from sciml_discover.readers import PreparedData
from sciml_discover.refit import Fits, Refitter
from sciml_discover.system import System, Variable
from sciml_discover.training import NetworkOptions, TrainOptions, TrainStage, train
from sciml_discover.trajectories import HoldoutOptions, split_holdout
from sciml_discover.ude import ParameterMap
from tests.problems import EXCHANGE, LOTKA_VOLTERRA, Problem, candidates_of

DEGREE2 = LibraryOptions(polynomial_degree=2)


def knowing(problem: Problem, **starts: float) -> Problem:
    """Return the problem with some initial values given."""

    def given(state: Variable) -> Variable:
        return replace(state, initial=starts.get(state.name))

    return replace(
        problem, system=replace(problem.system, states=tuple(given(state) for state in problem.system.states))
    )


def test_rows_have_a_further_column_for_a_known_initial_value() -> None:
    plain, known = EXCHANGE.rows(), knowing(EXCHANGE, b=0.7, c=0.2).rows()
    assert (known.n_observables, known.n_columns) == (2, 4)
    assert plain.n_columns == plain.n_observables == 2
    assert known.columns == plain.columns
    assert not known.sees_every_state
    assert known.n_observed == plain.n_observed
    assert known.counts.tolist() == plain.counts.tolist()
    assert (known.weights[:, 1:, 2:] == 0).all()
    np.testing.assert_allclose(known.values[:, 0, 2:], [[0.7, 0.2]] * 3)
    residual = known.residual(known.smooth_states)
    assert residual[:, 0, 2].abs().max() == 0.0  # what nobody sees begins where it is known to
    heavier = known.weighted(np.array([2.0, 3.0]))
    factor = torch.tensor([2.0, 3.0], dtype=torch.float64)
    torch.testing.assert_close(heavier.weights[..., :2], known.weights[..., :2] * factor)
    assert (heavier.weights[..., 2:] == known.weights[..., 2:]).all()


def test_exact_rows_do_not_move_a_known_initial_value() -> None:
    problem = knowing(LOTKA_VOLTERRA, x=3.2)
    rows = make_rows(problem.system, problem.dataset(), problem.noise(1e-7))
    assert (rows.weights[:, 0, 2] >= 10.0 * rows.weights[:, 0, 0] * (1 - 1e-12)).all()
    assert rows.smooth_states[0, 0, 0].item() == 3.2
    assert rows.keep_positive(torch.zeros_like(rows.smooth_states))[0, 0, 0].item() == 3.2


def test_a_zero_is_a_known_initial_value_too() -> None:
    rows = knowing(EXCHANGE, b=0.0).rows()
    assert (rows.weights[:, 0, 2] > 1e3).all()
    assert np.isfinite(rows.weights.numpy()).all()


def test_laws_are_refitted_from_known_initial_values() -> None:
    known = knowing(LOTKA_VOLTERRA, x=3.2)
    ends = []
    for problem in (LOTKA_VOLTERRA, known):
        libraries = [build_library(item.inputs, DEGREE2) for item in problem.system.missing]
        rows = problem.rows(0.05)
        refitter = Refitter(problem.system, libraries, rows, 2)
        candidates = candidates_of(problem, DEGREE2, {"predation": {"x*y": 0.5}, "growth": {"x*y": 1.5}})
        start = Fits.begin(candidates, rows.smooth_states, ParameterMap(problem.system).initial(1))
        ends.append(refitter.refit(start, nobody_watches))
    free, held = ends
    assert held.converged[0]
    assert held.states[0, 0, 0, 0].item() == pytest.approx(3.2, rel=1e-5)
    assert abs(free.states[0, 0, 0, 0].item() / 3.2 - 1.0) > 1e-4
    assert held.misfit.shape == free.misfit.shape == (1, 2)
    # Only the measured values count, and a freer fit meets them better.
    assert free.chi_square[0] < held.chi_square[0] < free.chi_square[0] + 20.0


@pytest.mark.parametrize(
    "objective",
    [MultipleShooting(segment_length=1), MultipleShooting(segment_length=3), DirectCollocation()],
    ids=lambda item: f"{item.kind} {getattr(item, 'segment_length', '')}".strip(),
)
def test_training_begins_there(objective: MultipleShooting | DirectCollocation) -> None:
    problem = knowing(LOTKA_VOLTERRA, x=3.2)
    stage = TrainStage(objective=objective, optimizer=GaussNewton(iterations=40))
    options = TrainOptions(starts=1, network=NetworkOptions(hidden=(3,)), stages=(stage,))
    trained = train(problem.system, problem.data(0.05), options, seed=0)
    assert trained.initial_states[0, 0] == pytest.approx(3.2, rel=1e-3)
    assert trained.n_observed == problem.dataset().n_observed


def test_a_held_out_trajectory_begins_there_whatever_its_rows_say() -> None:
    one, start = LOTKA_VOLTERRA.times[0], LOTKA_VOLTERRA.initial[0]
    twins = replace(LOTKA_VOLTERRA, initial=np.array([start, start]), times=(one, one))
    x, y = start.tolist()
    for starts, expected in (({"x": x}, 0.0), ({"x": x, "y": y}, 0.0), ({}, 0.05)):
        problem = knowing(twins, **starts)
        dataset = problem.dataset()
        dataset.trajectories[1].values[:, 0] *= 1.3
        rows, held = split_holdout(dataset, HoldoutOptions(trajectories=("site 1",)))
        data = PreparedData(rows, held, problem.noise(0.01), "trajectory", "", ())
        model = LawModel(problem.filled, problem.parameters, problem.initial[:1])
        model.starts = (0.0,)
        found = forecast(model, data).holdout
        assert found is not None
        error = abs(found[0][0, 0] / x - 1.0)
        assert error <= 1e-12 if expected == 0.0 else error > expected


def test_what_is_known_is_no_free_number() -> None:
    system = System.from_text(
        states={"x": {"initial": 1.0}, "y": {}}, missing={"h": ["x"]}, equations={"x": "h", "y": "-y"}
    )
    assert system.held == (0,)
    assert system.observation(["y"]).columns == (1,)
    assert system.observation(["y"], starts=True).columns == (1, 0)


def test_a_given_initial_value_that_the_first_row_contradicts_is_named() -> None:
    true = float(LOTKA_VOLTERRA.initial[0, 0])
    schedule = TrainOptions(
        starts=1,
        network=NetworkOptions(hidden=(3,)),
        stages=(TrainStage(objective=DirectCollocation(rounds=1), optimizer=GaussNewton(iterations=2)),),
    )

    def said(initial: float) -> list[str]:
        problem = knowing(LOTKA_VOLTERRA, x=initial)
        notes = train(problem.system, problem.data(0.01), schedule, seed=0).notes
        return [note for note in notes if "begin" in note]

    assert said(true) == []
    [note] = said(2.0 * true)
    assert note.startswith(f"x is given to begin at {2.0 * true:g}, and a first row is ")
