"""Training: learns the missing term, the same each time, and says what it cannot know."""

from __future__ import annotations

from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch

from sciml_discover import payload
from sciml_discover.base import Progress
from sciml_discover.errors import InputError, SolveError
from sciml_discover.objectives import DerivativeMatching, MultipleShooting
from sciml_discover.objectives.multiple_shooting import ShootingObjective
from sciml_discover.objectives.problem import Rows
from sciml_discover.optimizers import Adam, GaussNewton, Lbfgs
from sciml_discover.presets import Preset, TrainStage, stages_of
from sciml_discover.residual_samples import dense_times, sample_residual
from sciml_discover.solve import solve_times
from sciml_discover.system import System
from sciml_discover.training import (
    NetworkOptions,
    TrainOptions,
    network_shapes,
    train,
    trained_ude,
)
from sciml_discover.ude import UDE
from sciml_discover.unknown_inputs import estimate_states
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
        stages=(
            TrainStage(objective=MultipleShooting(segment_length=1), optimizer=GaussNewton(iterations=2)),
        ),
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
    assert len(trained.history.loss) == len(trained.history.iteration) == len(trained.history.stage) == 40
    # Adam's iterations are told of in tens, so that the device need not be waited for.
    assert [event.step for event in seen] == [10, 20, *range(21, 41)]
    assert {event.total for event in seen} == {40}
    lbfgs = np.array(trained.history.stage) == names[1]
    assert trained.history.loss[lbfgs][-1] < trained.history.loss[0]
    assert trained.chi_square < 0.2 * start.chi_square


def test_no_stage_can_do_harm() -> None:
    good = TrainStage(objective=MultipleShooting(segment_length=1), optimizer=GaussNewton(iterations=10))
    bad = TrainStage(objective=DerivativeMatching(), optimizer=Adam(iterations=3, learning_rate=2.0))
    data = LOGISTIC.data()
    network = NetworkOptions(hidden=(3,))
    options = TrainOptions(starts=1, network=network, stages=(good,))
    one = train(LOGISTIC.system, data, options, seed=0)
    # Nobody may ask for this order, for the matching comes last.
    two = train(LOGISTIC.system, data, options.model_copy(update={"stages": (good, bad)}), seed=0)
    assert np.array_equal(one.networks["crowding"].weights, two.networks["crowding"].weights)
    assert one.chi_square == two.chi_square
    assert two.notes == ("derivative_matching x adam: 1 of 1 starts went back to where they were",)


SPRING = Problem(
    name="spring",
    system=System.from_text(
        states=["x", "v"],
        missing={"spring": ["x"]},
        equations={"x": "v", "v": "-0.2*v - spring"},
        observables=["x"],
    ),
    laws={"spring": "x + 0.5*x**3"},
    initial=np.array([[1.5, 0.0]]),
    times=(np.arange(0.0, 8.01, 0.2),),
)
"""The position is seen, the velocity is not."""


def test_hidden_states_start_from_what_the_known_physics_says() -> None:
    rows = SPRING.rows(0.01)
    estimated = estimate_states(SPRING.system, rows)
    assert torch.isnan(rows.smooth_slopes[..., 1]).all()
    assert torch.isfinite(estimated.smooth_slopes).all()
    hidden = estimated.smooth_states[0, :, 1].numpy()
    truth = SPRING.states(0, SPRING.times[0])[:, 1]
    assert np.sqrt(np.mean((hidden - truth) ** 2)) < 0.15 * truth.std()


def test_a_spring_is_learnt_from_positions_alone() -> None:
    trained = train(SPRING.system, SPRING.data(0.01), TrainOptions(starts=2), seed=0)
    assert trained.status == "converged"
    [hole] = sample_residual(SPRING.system, SPRING.data(0.01), trained).holes
    x = hole.points[:, 0]
    truth = x + 0.5 * x**3
    assert np.linalg.norm(hole.values - truth) < 0.1 * np.linalg.norm(truth)
    # The band is honest: it is about as wide as the errors are large.
    assert np.mean(np.abs(hole.values - truth) < 3.0 * hole.sd) > 0.9
    assert np.median(hole.sd) < 0.1 * truth.std()


CART = Problem(
    name="cart",
    system=System.from_text(
        states=["x", "v"],
        parameters={"stiffness": {"value": 2.0, "bounds": (0.1, 20.0)}},
        missing={"friction": ["v"]},
        equations={"x": "v", "v": "-stiffness*x - friction"},
    ),
    laws={"friction": "0.3*v + 0.1*v**3"},
    initial=np.array([[1.5, 0.0]]),
    times=(np.arange(0.0, 10.01, 0.2),),
)
"""A parameter that the data determine beside the hole: friction knows the velocity only."""


@pytest.mark.parametrize("factor", [3.0, 1.0 / 3.0])
def test_a_parameter_moves_to_its_value_from_far_away(factor: float) -> None:
    [stiffness] = CART.system.parameters
    start = replace(stiffness, value=factor * stiffness.value)
    trained = train(
        replace(CART.system, parameters=(start,)), CART.data(0.01), TrainOptions(starts=2), seed=0
    )
    assert trained.parameters["stiffness"] == pytest.approx(stiffness.value, rel=0.05)
    assert not [note for note in trained.notes if "identifiable" in note]


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
    notes = [note for note in trained.notes if "identifiable" in note]
    for name, note in zip(("r", "offset"), notes, strict=True):
        assert note.startswith(f"{name} is not identifiable beside hole crowding")


GAUSS_NEWTON = GaussNewton(iterations=25, tolerance=0.1)

RELAXING = Problem(
    name="relaxing",
    # What is known explodes in half a unit of time; what is missing holds it.
    system=System.from_text(states=["x"], missing={"hold": ["x"]}, equations={"x": "x**2 + hold"}),
    laws={"hold": "1 - x - x**2"},
    initial=np.array([[2.0]]),
    times=(np.arange(0.0, 3.01, 0.15),),
)


def staged(*stages: TrainStage, starts: int = 2, keep: float = 1.0) -> TrainOptions:
    return TrainOptions(starts=starts, keep=keep, network=NetworkOptions(hidden=(3,)), stages=stages)


def test_segments_are_shortened_where_no_start_can_be_solved() -> None:
    whole = TrainStage(objective=MultipleShooting(segment_length="all"), optimizer=GAUSS_NEWTON)
    trained = train(RELAXING.system, RELAXING.data(), staged(whole), seed=0)
    assert (trained.status, trained.notes) == ("converged", ())
    assert trained.chi_square < 2 * trained.n_observed
    assert any("2 of 2 starts stalled" in event.text for event in trained.history.events)
    assert [event.text for event in trained.history.events if "trying" in event.text] == [
        "no start could be re-solved; trying again with segment_length 1 instead of all"
    ]
    names = list(dict.fromkeys(trained.history.stage))
    assert names == [
        "multiple_shooting x gauss_newton",
        "multiple_shooting x gauss_newton, backed off",
    ]


class Stop(Exception):
    """Somebody stopped the training."""


def test_a_stage_that_backed_off_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    whole = TrainStage(objective=MultipleShooting(segment_length="all"), optimizer=GaussNewton(iterations=3))
    # The first way needs no more than its end; the second is stopped in its second round.
    given = {"system": RELAXING.system, "data": RELAXING.data(), "options": staged(whole), "seed": 0}
    seen: list[Progress] = []
    uninterrupted = train(**given, watch=seen.append)
    cautious = [number for number, event in enumerate(seen) if event.message.endswith("backed off")]
    assert len(cautious) == 4 * 3

    calls = count()

    def stop(_: Progress) -> None:
        if next(calls) >= cautious[5]:
            raise Stop

    with pytest.raises(Stop):
        train(**given, watch=stop, checkpoint=tmp_path, checkpoint_seconds=0.0)
    again: list[Progress] = []
    resumed = train(**given, watch=again.append, checkpoint=tmp_path)
    assert again[0].message == "going on from a checkpoint"
    assert len(again) - 1 == len(seen) - cautious[5]
    assert payload.encode(resumed) == payload.encode(uninterrupted)


class Failing(MultipleShooting):
    """Shooting that fails unless it takes so many steps."""

    fewest: int
    error: str = "LinAlgError"

    def build(self, ude: UDE, rows: Rows, steps: int) -> ShootingObjective:
        # With one step nothing is solved: only the rounds are counted.
        if 1 < steps < self.fewest:
            kinds = {
                "LinAlgError": torch.linalg.LinAlgError,  # pyright: ignore[reportPrivateImportUsage]
                "SolveError": SolveError,
                "FloatingPointError": FloatingPointError,
                "OverflowError": OverflowError,
                "TypeError": TypeError,
            }
            raise kinds[self.error](f"{steps} steps are too few\nat all")
        return super().build(ude, rows, steps)


def test_steps_are_doubled_where_nothing_else_helps() -> None:
    data = RELAXING.data()
    good = TrainStage(objective=MultipleShooting(segment_length=1), optimizer=GAUSS_NEWTON)
    steps = 2  # what is chosen for these rows
    failing = TrainStage(objective=Failing(segment_length=1, fewest=2 * steps), optimizer=GAUSS_NEWTON)
    trained = train(RELAXING.system, data, staged(failing), seed=0)
    assert trained.status == "converged"
    assert [str(event) for event in trained.history.events if "trying" in event.text] == [
        "multiple_shooting x gauss_newton, iteration 0: "
        "2 steps are too few; trying again with twice the integration steps"
    ]
    assert trained.chi_square == pytest.approx(
        train(RELAXING.system, data, staged(good), seed=0).chi_square, rel=0.05
    )


@pytest.mark.parametrize("error", ["LinAlgError", "SolveError", "FloatingPointError", "OverflowError"])
def test_a_stage_that_fails_in_every_way_is_left_out(error: str) -> None:
    good = TrainStage(objective=MultipleShooting(segment_length=1), optimizer=GaussNewton(iterations=4))
    failing = TrainStage(
        objective=Failing(segment_length=4, fewest=10**9, error=error), optimizer=Adam(iterations=3)
    )
    data = RELAXING.data()
    alone = train(RELAXING.system, data, staged(good), seed=0)
    trained = train(RELAXING.system, data, staged(good, failing), seed=0)
    assert trained.status == alone.status
    assert np.array_equal(trained.survivors.theta, alone.survivors.theta)
    events = trained.history.events[len(alone.history.events) :]
    assert [event.text.split("; ")[1] for event in events] == [
        "trying again with segment_length 1 instead of 4",
        "trying again with twice the integration steps",
        "there is nothing else to try",
    ]
    assert trained.notes[-1].startswith(
        "multiple_shooting x adam, backed off left out after a numerical failure"
    )


def test_mistakes_in_the_program_are_not_taken_for_failures_of_numerics() -> None:
    failing = TrainStage(
        objective=Failing(segment_length=4, fewest=10**9, error="TypeError"), optimizer=Adam(iterations=3)
    )
    with pytest.raises(TypeError, match="too few"):
        train(RELAXING.system, RELAXING.data(), staged(failing), seed=0)


def test_a_stage_that_makes_every_start_worse_is_tried_again_and_left_without_harm() -> None:
    good = TrainStage(objective=MultipleShooting(segment_length=1), optimizer=GAUSS_NEWTON)
    wild = TrainStage(
        objective=MultipleShooting(segment_length=4), optimizer=Adam(iterations=4, learning_rate=3.0)
    )
    data = LOGISTIC.data(0.02)
    one = train(LOGISTIC.system, data, staged(good), seed=0)
    two = train(LOGISTIC.system, data, staged(good, wild), seed=0)
    assert np.array_equal(one.survivors.theta, two.survivors.theta)
    assert one.status == two.status == "converged"
    texts = [event.text for event in two.history.events if event.text.startswith("every")]
    assert texts == [
        "every start came out worse; trying again with segment_length 1 instead of 4",
        "every start came out worse; trying again with twice the integration steps",
        "every start came out worse; there is nothing else to try",
    ]


def test_starts_that_leave_the_domain_of_the_equations_return() -> None:
    # Neither logarithm nor root exists below zero, where these steps are too long not to lead.
    problem = Problem(
        name="logarithm",
        system=System.from_text(
            states=["x"], missing={"pull": ["x"]}, equations={"x": "pull - log(x) - sqrt(x)"}
        ),
        laws={"pull": "sqrt(x) - x"},
        initial=np.array([[0.2]]),
        times=(np.arange(0.0, 2.01, 0.2),),
    )
    stage = TrainStage(
        objective=MultipleShooting(segment_length=2), optimizer=Adam(iterations=30, learning_rate=0.5)
    )
    trained = train(problem.system, problem.data(0.01), staged(stage, starts=3), seed=0)
    assert trained.status in ("iteration_limit", "converged")
    assert np.isfinite(trained.chi_square)
    assert np.isfinite(trained.survivors.theta).all()
    found = [event.text for event in trained.history.events if "not finite" in event.text]
    assert found
    assert all(text.endswith("returned to their best point") for text in found)
    assert all(text.split(" starts")[0] in ("1 of 3", "2 of 3", "3 of 3") for text in found)


def test_weak_starts_leave_and_the_best_is_the_same() -> None:
    shooting = TrainStage(objective=MultipleShooting(segment_length=1), optimizer=GAUSS_NEWTON)
    matching = TrainStage(objective=DerivativeMatching(), optimizer=GAUSS_NEWTON)
    data = LOGISTIC.data(0.02)
    all_starts = train(LOGISTIC.system, data, staged(matching, shooting, starts=5), seed=0)
    assert len(all_starts.survivors.start) == 5
    assert sorted(all_starts.survivors.start.tolist()) == [0, 1, 2, 3, 4]
    assert all_starts.message.endswith("best of 5 starts")
    few = train(LOGISTIC.system, data, staged(matching, shooting, starts=5, keep=0.6), seed=0)
    dropped = [event.text for event in few.history.events if "dropped" in event.text]
    assert dropped == [
        "2 of 5 starts were dropped as the weakest",
        "1 of 3 starts were dropped as the weakest",
    ]
    assert few.message.endswith("best of 5 starts, 2 of them carried to the end")
    for trained in (all_starts, few):
        survivors = trained.survivors
        assert (np.diff(survivors.score) >= 0).all()
        assert survivors.theta.shape[0] == len(survivors.start) == len(survivors.score)
        weights = np.concatenate([network.weights for network in trained.networks.values()])
        assert np.array_equal(survivors.theta[0, -len(weights) :], weights)
        assert trained.loss == survivors.score[0] / trained.n_observed
        assert np.isfinite(trained.history.loss).all()
    assert few.chi_square < 1.5 * all_starts.chi_square
    alone = train(LOGISTIC.system, data, staged(matching, shooting, starts=5, keep=0.01), seed=0)
    assert len(alone.survivors.start) == 2


def test_an_equation_that_runs_away_is_said_to_diverge() -> None:
    system = System.from_text(states=["n"], missing={"h": ["n"]}, equations={"n": "h + 1e3*n**3"})
    stage = TrainStage(objective=MultipleShooting(segment_length=1), optimizer=GaussNewton(iterations=2))
    options = TrainOptions(starts=1, network=NetworkOptions(hidden=(2,)), stages=(stage,))
    trained = train(system, replace(LOGISTIC, times=(LOGISTIC.times[0][::12],)).data(), options, seed=0)
    assert trained.status == "diverged"
    assert trained.message.startswith("no start could be re-solved")
    assert not np.isfinite(trained.chi_square)
    assert [event.text for event in trained.history.events if "re-solved" in event.text] == [
        "no start could be re-solved; trying again with twice the integration steps",
        "no start could be re-solved; there is nothing else to try",
    ]
    assert any("1 of 1 starts not finite" in event.text for event in trained.history.events)


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
        EXCHANGE.system.hole_influence, [[True, False], [True, False], [False, True]]
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


@pytest.mark.parametrize(
    ("preset", "expected"),
    [
        ("auto", ["derivative_matching x gauss_newton", "direct_collocation x gauss_newton"]),
        ("direct_collocation", ["derivative_matching x gauss_newton", "direct_collocation x gauss_newton"]),
        (
            "multiple_shooting",
            ["derivative_matching x lbfgs", "multiple_shooting x adam", "multiple_shooting x lbfgs"],
        ),
        ("single_shooting", ["multiple_shooting x adam", "multiple_shooting x lbfgs"]),
    ],
)
def test_presets_are_schedules(preset: Preset, expected: list[str]) -> None:
    stages = stages_of(preset)
    assert [f"{stage.objective.kind} x {stage.optimizer.kind}" for stage in stages] == expected
    assert TrainOptions(stages=stages).stages == stages
    segments = {
        stage.objective.segment_length for stage in stages if isinstance(stage.objective, MultipleShooting)
    }
    assert ("all" in segments) == (preset == "single_shooting")


def test_the_classical_ladder_learns_both_holes() -> None:
    data = LOTKA_VOLTERRA.data(0.005)
    trained = train(LOTKA_VOLTERRA.system, data, TrainOptions(preset="multiple_shooting", starts=2), seed=0)
    assert list(dict.fromkeys(trained.history.stage)) == [
        "derivative_matching x lbfgs",
        "multiple_shooting x adam",
        "multiple_shooting x lbfgs",
    ]
    for hole, coefficient in zip(
        sample_residual(LOTKA_VOLTERRA.system, data, trained).holes, (0.9, 0.8), strict=True
    ):
        truth = coefficient * hole.points.prod(axis=1)
        assert np.linalg.norm(hole.values - truth) < 0.03 * np.linalg.norm(truth), hole.hole


def test_single_shooting_runs() -> None:
    # An equation that is stable whatever the network says at first; where it is not, this preset ends nowhere.
    problem = replace(FORCED, times=(FORCED.times[0][:5],))
    options = TrainOptions(preset="single_shooting", starts=1, network=NetworkOptions(hidden=(3,)))
    trained = train(problem.system, problem.data(0.02), options, seed=0)
    assert set(trained.history.stage) == {"multiple_shooting x adam", "multiple_shooting x lbfgs"}
    assert trained.chi_square < 3 * trained.n_observed


def test_stages_that_never_meet_the_equation_are_a_mistake() -> None:
    matching = TrainStage(objective=DerivativeMatching(), optimizer=Adam(iterations=3))
    shooting = TrainStage(objective=MultipleShooting(), optimizer=Adam(iterations=3))
    with pytest.raises(ValueError, match="never solves the equation; append"):
        TrainOptions(stages=(shooting, matching))
    assert TrainOptions(stages=(matching, shooting)).preset == "auto"
    with pytest.raises(ValueError, match=r"preset = 'single_shooting' beside stages; remove one"):
        TrainOptions(preset="single_shooting", stages=(shooting,))


def test_segments_longer_than_the_series_are_a_mistake_before_anything_is_computed() -> None:
    seen: list[Progress] = []
    stages = (
        TrainStage(objective=DerivativeMatching(), optimizer=Adam(iterations=3)),
        TrainStage(objective=MultipleShooting(segment_length=50), optimizer=Adam(iterations=3)),
    )
    with pytest.raises(InputError, match=r"\[train\] .*found segment_length = 50; expected at most 24"):
        train(LOGISTIC.system, LOGISTIC.data(), TrainOptions(stages=stages), seed=0, watch=seen.append)
    assert not seen


@pytest.mark.parametrize(
    "change", [{"horizon": (0.5, 1.0)}, {"solver": "dopri5"}, {"gradient": "adjoint"}, {"atol": 1e-3}]
)
def test_options_that_mean_nothing_to_an_optimizer_are_a_mistake(change: dict[str, object]) -> None:
    objective = MultipleShooting.model_validate(change)
    TrainStage(objective=objective, optimizer=Lbfgs())
    with pytest.raises(ValueError, match=f"{next(iter(change))} of multiple_shooting beside gauss_newton"):
        TrainStage(objective=objective, optimizer=GaussNewton())
