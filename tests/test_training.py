"""Training: learns the missing term, the same each time, and says what it cannot know."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from sciml_discover.base import Progress
from sciml_discover.objectives import DerivativeMatching, MultipleShooting
from sciml_discover.optimizers import Adam, GaussNewton, Lbfgs
from sciml_discover.residual_samples import dense_times, sample_residual
from sciml_discover.solve import solve_times
from sciml_discover.system import System
from sciml_discover.training import (
    NetworkOptions,
    TrainOptions,
    TrainStage,
    auto_stages,
    hole_influence,
    network_shapes,
    train,
    trained_ude,
)
from tests.problems import DOSED_LONG, EXCHANGE, FORCED, LOGISTIC, LOTKA_VOLTERRA, Problem, untrained

SMALL = TrainOptions(starts=2, network=NetworkOptions(hidden=(4,)))


def test_learns_the_missing_term_and_samples_it() -> None:
    data = LOGISTIC.data(0.005)
    trained = train(LOGISTIC.system, data, SMALL, seed=0)
    assert trained.status == "converged"
    assert trained.n_observed == 25
    assert 5 < trained.chi_square < 45
    assert trained.notes == ()
    np.testing.assert_allclose(trained.initial_states, LOGISTIC.initial, atol=0.1)

    [hole] = sample_residual(LOGISTIC.system, data, trained).holes
    assert (hole.hole, hole.inputs) == ("crowding", ("n",))
    np.testing.assert_array_equal(hole.times, dense_times(LOGISTIC.times[0]))
    assert set(hole.trajectory) == {"site 0"}
    truth = 0.08 * hole.points[:, 0] ** 2
    assert np.abs(hole.values - truth).max() < 0.03 * truth.max()
    np.testing.assert_allclose(hole.points[:, 0], LOGISTIC.states(0, hole.times)[:, 0], rtol=0.02)
    assert hole.weights.mean() == pytest.approx(1.0)
    assert (hole.weights > 0).all()


def test_the_same_seed_is_the_same_to_the_bit_and_threads_are_restored() -> None:
    before = torch.get_num_threads()
    options = TrainOptions(
        starts=2,
        network=NetworkOptions(hidden=(3,)),
        stages=(TrainStage(objective=DerivativeMatching(), optimizer=GaussNewton(iterations=5)),),
    )
    data = LOGISTIC.data()
    one, two, three = (train(LOGISTIC.system, data, options, seed=seed) for seed in (0, 0, 1))
    assert torch.get_num_threads() == before
    assert np.array_equal(one.networks["crowding"].weights, two.networks["crowding"].weights)
    assert np.array_equal(one.history.loss, two.history.loss)
    assert not np.array_equal(one.networks["crowding"].weights, three.networks["crowding"].weights)


def test_explicit_stages_run_in_order_and_reduce_the_loss() -> None:
    shooting = MultipleShooting(segment_length=4, rounds=2)
    stages = (
        TrainStage(objective=shooting, optimizer=Adam(iterations=20, learning_rate=0.03)),
        TrainStage(objective=shooting, optimizer=Lbfgs(iterations=20)),
    )
    seen: list[Progress] = []
    problem = replace(LOGISTIC, times=(LOGISTIC.times[0][::2],))
    data = problem.data(0.02)
    nothing = TrainOptions(starts=2, stages=(stages[0].model_copy(update={"optimizer": Adam(iterations=1)}),))
    start = train(problem.system, data, nothing, seed=0)
    trained = train(problem.system, data, TrainOptions(starts=2, stages=stages), seed=0, watch=seen.append)
    names = list(dict.fromkeys(trained.history.stage))
    assert names == ["multiple_shooting x adam", "multiple_shooting x lbfgs"]
    assert (
        len(trained.history.loss) == len(trained.history.iteration) == len(trained.history.stage) == len(seen)
    )
    assert [event.step for event in seen] == list(range(1, len(seen) + 1))
    assert {event.total for event in seen} == {40}
    lbfgs = np.array(trained.history.stage) == names[1]
    assert trained.history.loss[lbfgs][-1] < trained.history.loss[0]
    assert trained.chi_square < 0.2 * start.chi_square


def test_no_stage_can_do_harm() -> None:
    good = TrainStage(objective=MultipleShooting(segment_length=1), optimizer=GaussNewton(iterations=10))
    bad = TrainStage(objective=DerivativeMatching(), optimizer=Adam(iterations=3, learning_rate=2.0))
    data = LOGISTIC.data()
    network = NetworkOptions(hidden=(3,))
    one = train(LOGISTIC.system, data, TrainOptions(starts=1, network=network, stages=(good,)), seed=0)
    two = train(LOGISTIC.system, data, TrainOptions(starts=1, network=network, stages=(good, bad)), seed=0)
    assert np.array_equal(one.networks["crowding"].weights, two.networks["crowding"].weights)
    assert one.chi_square == two.chi_square
    assert two.notes == ("derivative_matching x adam: 1 of 1 starts went back to where they were",)


def test_a_hidden_state_has_no_derivative_to_match() -> None:
    stages = (
        TrainStage(objective=DerivativeMatching(), optimizer=Adam(iterations=3)),
        TrainStage(objective=MultipleShooting(segment_length=1), optimizer=GaussNewton(iterations=6)),
    )
    options = TrainOptions(starts=1, network=NetworkOptions(hidden=(2,)), stages=stages)
    data = EXCHANGE.data(0.02)
    trained = train(EXCHANGE.system, data, options, seed=0)
    assert trained.notes[0] == "derivative_matching x adam skipped: nobody measured the derivative of b"
    assert set(trained.history.stage) == {"multiple_shooting x gauss_newton"}
    assert trained.initial_states.shape == (3, 3)
    assert np.isfinite(trained.chi_square)
    assert [stage.objective.kind for stage in auto_stages(EXCHANGE.system, data)] == ["multiple_shooting"]
    assert auto_stages(FORCED.system, FORCED.data())[0].objective.kind == "derivative_matching"


def test_a_driven_system_is_trained_on_expressions() -> None:
    options = TrainOptions(starts=2, network=NetworkOptions(hidden=(4,)))
    data = DOSED_LONG.data(0.01)
    trained = train(DOSED_LONG.system, data, options, seed=0)
    assert trained.chi_square < 1.5 * trained.n_observed
    np.testing.assert_allclose(trained.initial_states, DOSED_LONG.initial, atol=0.1)
    [hole] = sample_residual(DOSED_LONG.system, data, trained).holes
    truth = 0.6 * hole.points.prod(axis=1)
    assert np.sqrt(np.mean((hole.values - truth) ** 2)) < 0.1 * truth.max()
    shape = network_shapes(DOSED_LONG.system, DOSED_LONG.rows(), options.network)[0]
    light = np.concatenate(
        [item[:, 1] for item in (*DOSED_LONG.controls, *[DOSED_LONG.controls[1][-1:]] * 16)]
    )
    assert shape.center[0] == pytest.approx(light.mean())
    assert shape.scale[0] == pytest.approx(light.std())


def test_notes_name_what_the_network_can_stand_in_for() -> None:
    system = System.from_text(
        states={"n": {"positive": True}},
        parameters={"r": {"value": 0.8}, "offset": {"value": 1.0, "bounds": (0.0, 3.0)}},
        missing={"crowding": ["n"]},
        equations={"n": "r*n + offset - crowding"},
    )
    trained = train(system, replace(LOGISTIC, system=LOGISTIC.system).data(), SMALL, seed=0)
    assert len(trained.notes) == 2
    for name, note in zip(("r", "offset"), trained.notes, strict=True):
        assert note.startswith(f"{name} is hardly determined beside the network")


def test_an_equation_that_runs_away_is_said_to_diverge() -> None:
    system = System.from_text(states=["n"], missing={"h": ["n"]}, equations={"n": "h + 1e3*n**3"})
    stage = TrainStage(objective=MultipleShooting(segment_length=1), optimizer=GaussNewton(iterations=2))
    options = TrainOptions(starts=2, network=NetworkOptions(hidden=(2,)), stages=(stage,))
    trained = train(system, LOGISTIC.data(), options, seed=0)
    assert trained.status == "diverged"
    assert not np.isfinite(trained.chi_square)


def test_a_trained_equation_comes_back_from_its_numbers() -> None:
    problem = replace(FORCED, system=FORCED.system)
    trained = untrained(problem)
    ude, theta = trained_ude(problem.system, trained)
    assert theta.shape == (1, ude.n_theta)
    assert ude.parameters.physical(theta[:, : ude.n_free]).tolist() == [[pytest.approx(0.5)]]
    times = np.linspace(0, 3, 13)
    # Networks near zero: the known physics alone, a decay.
    np.testing.assert_allclose(
        solve_times(ude, theta, problem.initial[0], times)[:, 0], np.exp(-0.5 * times), atol=0.05
    )


def test_networks_are_scaled_by_the_data_and_the_equations_they_stand_in() -> None:
    rows = EXCHANGE.rows()
    shapes = network_shapes(EXCHANGE.system, rows, NetworkOptions(hidden=(3,)))
    assert [shape.inputs for shape in shapes] == [(0, 1), (2, 3)]
    np.testing.assert_array_equal(
        hole_influence(EXCHANGE.system), [[True, False], [True, False], [False, True]]
    )
    assert shapes[1].output_scale == float(rows.slope_scale[2])
    assert shapes[0].output_scale == float(rows.slope_scale[:2].max())
    # The hidden state has no spread of its own: its scale stands in.
    assert shapes[0].scale[1] == float(rows.scale[1])
    np.testing.assert_allclose(shapes[0].center[0], rows.smooth_states[..., 0].mean())


def test_both_holes_of_two_equations_are_learnt() -> None:
    data = LOTKA_VOLTERRA.data(0.002)
    trained = train(LOTKA_VOLTERRA.system, data, TrainOptions(starts=1), seed=1)
    for hole, coefficient in zip(
        sample_residual(LOTKA_VOLTERRA.system, data, trained).holes, (0.9, 0.8), strict=True
    ):
        truth = coefficient * hole.points.prod(axis=1)
        assert np.abs(hole.values - truth).max() < 0.1 * truth.max(), hole.hole


@pytest.mark.parametrize("problem", [EXCHANGE, FORCED], ids=lambda problem: problem.name)
def test_samples_of_holes_with_few_inputs_and_several_trajectories(problem: Problem) -> None:
    samples = sample_residual(problem.system, problem.data(), untrained(problem))
    for hole, missing in zip(samples.holes, problem.system.missing, strict=True):
        assert hole.inputs == missing.inputs
        assert hole.points.shape == (len(hole.times), len(hole.inputs))
        assert list(dict.fromkeys(hole.trajectory)) == [f"site {j}" for j in range(len(problem.times))]
        if "t" in hole.inputs:
            np.testing.assert_array_equal(hole.points[:, hole.inputs.index("t")], hole.times)
