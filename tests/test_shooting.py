"""Multiple shooting for first-order methods: solvers, gradients, horizon, length of the segments."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pydantic
import pytest
import torch

from sciml_discover.errors import InputError
from sciml_discover.library import Library, LibraryTerm
from sciml_discover.masked_libraries import MaskedLibraries
from sciml_discover.objectives import MultipleShooting
from sciml_discover.objectives.multiple_shooting import ShootingObjective, automatic_length
from sciml_discover.objectives.problem import FitState
from sciml_discover.optimizers import Adam, Lbfgs
from sciml_discover.optimizers.driver import minimise
from sciml_discover.system import System
from sciml_discover.ude import UDE
from tests.problems import (
    DOSED,
    EXCHANGE,
    FORCED,
    LOGISTIC,
    LOTKA_VOLTERRA,
    Problem,
    network_ude,
    random_theta,
)

PROBLEMS = (EXCHANGE, DOSED)
"""One with trajectories of unequal length and unequal intervals, one with controls that jump and bend."""

TIGHT = {"bosh3": {"rtol": 1e-7, "atol": 1e-5}, "dopri5": {"rtol": 1e-10, "atol": 1e-8}, "rk4": {}}


def made(
    problem: Problem, options: Mapping[str, Any], steps: int = 2
) -> tuple[ShootingObjective, torch.Tensor]:
    """Return an objective and unknowns of two members at which segments do not meet."""
    ude, rows = network_ude(problem.system, (3,)), problem.rows(0.02)
    objective = MultipleShooting.model_validate({"continuity": 0.7, "segment_length": 3, **options}).build(
        ude, rows, steps
    )
    states = rows.smooth_states.expand(2, *rows.smooth_states.shape)
    unknowns = objective.start(FitState(states, random_theta(ude, 2)))
    noise = 0.05 * np.random.default_rng(3).standard_normal(tuple(unknowns.shape))
    return objective, unknowns + torch.as_tensor(noise)


def loss_and_gradient(
    objective: ShootingObjective, unknowns: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    at = unknowns.clone().requires_grad_()
    loss = objective.loss(at)
    loss.sum().backward()
    assert at.grad is not None
    return loss.detach(), at.grad


def directions(unknowns: torch.Tensor) -> torch.Tensor:
    """Return directions in which all unknowns change, shape ``(directions, n)``."""
    return torch.as_tensor(np.random.default_rng(7).standard_normal((6, unknowns.shape[1])))


def finite_differences(objective: ShootingObjective, unknowns: torch.Tensor) -> torch.Tensor:
    """Return the slope along directions by central differences, shape ``(B, directions)``."""
    with torch.no_grad():
        slopes = [
            (objective.loss(unknowns + 1e-5 * step) - objective.loss(unknowns - 1e-5 * step)) / 2e-5
            for step in directions(unknowns)
        ]
    return torch.stack(slopes, dim=1)


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem.name)
@pytest.mark.parametrize("solver", ["bosh3", "dopri5"])
def test_adaptive_solvers_agree_with_many_fixed_steps(problem: Problem, solver: str) -> None:
    fine, unknowns = made(problem, {}, steps=64)
    adaptive, _ = made(problem, {"solver": solver, **TIGHT[solver]})
    exact, exact_gradient = loss_and_gradient(fine, unknowns)
    loss, gradient = loss_and_gradient(adaptive, unknowns)
    torch.testing.assert_close(loss, exact, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(
        gradient, exact_gradient, rtol=1e-4, atol=1e-4 * float(exact_gradient.abs().max())
    )
    # The steps follow the tolerance: what is asked for is what is got.
    loose, _ = made(problem, {"solver": solver, "rtol": 1e-2, "atol": 1.0})
    rough = loose.loss(unknowns)
    assert ((rough - exact).abs() > 10 * (loss - exact).abs()).all()
    assert ((rough - exact).abs() < 0.1 * exact).all()


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem.name)
@pytest.mark.parametrize("solver", ["rk4", "bosh3", "dopri5"])
@pytest.mark.parametrize("gradient", ["direct", "adjoint"])
def test_gradients_are_those_of_finite_differences(problem: Problem, solver: str, gradient: str) -> None:
    # The adjoint equation is solved by steps of its own, so that only fine ones agree.
    steps = 16 if gradient == "adjoint" else 2
    options = {"solver": solver, "gradient": gradient, **TIGHT[solver]}
    if solver != "rk4":
        options["segment_length"] = 1
    objective, unknowns = made(problem, options, steps=steps)
    loss, found = loss_and_gradient(objective, unknowns)
    direct, _ = loss_and_gradient(made(problem, {**options, "gradient": "direct"}, steps)[0], unknowns)
    torch.testing.assert_close(loss, direct, rtol=1e-12, atol=0)
    differences = finite_differences(objective, unknowns)
    scale = float(differences.abs().max())
    along = found @ directions(unknowns).T
    torch.testing.assert_close(along / scale, differences / scale, rtol=0, atol=2e-5)


def test_tolerances_are_those_of_each_state() -> None:
    # The same system, one state counted in millionths: the answer must not depend on that.
    large = System.from_text(
        states=["x", "y"], missing={"h": ["x"]}, equations={"x": "1e6*y", "y": "h - 0.5*y"}
    )
    small = System.from_text(states=["x", "y"], missing={"h": ["x"]}, equations={"x": "y", "y": "h - 0.5*y"})
    losses = []
    for system, unit, law in ((large, 1e6, "-4e-6*x"), (small, 1.0, "-4*x")):
        problem = Problem(
            "spring", system, {"h": law}, np.array([[1.0 * unit, 0.0]]), (np.arange(0.0, 5.1, 0.5),)
        )
        ude = UDE(system, MaskedLibraries([Library(("x",), [LibraryTerm("x")])], [(0,)], [np.ones((1, 1))]))
        objective = MultipleShooting(segment_length="all", solver="dopri5", rtol=1e-12, atol=1e-2).build(
            ude, problem.rows(0.01), 1
        )
        states = objective.rows.smooth_states[None]
        theta = torch.tensor([[-4.0 / unit]]).double()
        losses.append(float(objective.loss(objective.start(FitState(states, theta)))))
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


EXPLODING = System.from_text(states=["n"], missing={"h": ["n"]}, equations={"n": "h*n**2"})


@pytest.mark.parametrize("gradient", ["direct", "adjoint"])
def test_a_member_that_runs_away_does_not_disturb_the_others(gradient: str) -> None:
    problem = Problem("exploding", EXPLODING, {"h": "-n"}, np.array([[1.0]]), (np.arange(0.0, 1.6, 0.5),))
    rows = problem.rows(0.01)
    ude = UDE(EXPLODING, MaskedLibraries([Library(("n",), [LibraryTerm("n")])], [(0,)], [np.ones((3, 1))]))
    options = MultipleShooting(segment_length=2, solver="dopri5", rtol=1e-5, atol=1e-3, gradient=gradient)  # pyright: ignore[reportArgumentType]
    objective = options.build(ude, rows, 1)
    states = rows.smooth_states.expand(3, *rows.smooth_states.shape)
    # The second member reaches infinity within its first interval.
    unknowns = objective.start(FitState(states, torch.tensor([[-1.0], [50.0], [-0.8]]).double()))
    loss, found = loss_and_gradient(objective, unknowns)
    assert torch.isnan(loss[1])
    index = torch.tensor([0, 2])
    healthy, theirs = loss_and_gradient(objective.take(index), unknowns[index])
    # As exact as the tolerances ask for: until it was given up, the steps were those of the worst.
    torch.testing.assert_close(loss[index], healthy, rtol=2e-3, atol=1e-6)
    torch.testing.assert_close(found[index], theirs, rtol=1e-2, atol=1e-3 * float(theirs.abs().max()))
    optimizer = Adam(iterations=2) if gradient == "direct" else Lbfgs(iterations=1)
    end = minimise(optimizer, objective, unknowns).state
    assert torch.isfinite(end.unknowns).all()
    assert (end.lost > 0).tolist() == [False, True, False]


def test_an_adjoint_equation_that_runs_away_is_told_by_its_gradient() -> None:
    # Backwards in time a quick decay explodes, though forwards nothing is easier.
    system = System.from_text(states=["n"], missing={"h": ["n"]}, equations={"n": "-h"})
    problem = Problem("decay", system, {"h": "n"}, np.array([[1.0]]), (np.array([0.0, 1.0, 2.0]),))
    ude = UDE(system, MaskedLibraries([Library(("n",), [LibraryTerm("n")])], [(0,)], [np.ones((2, 1))]))
    options = MultipleShooting(segment_length=1, solver="dopri5", gradient="adjoint")
    objective = options.build(ude, problem.rows(0.01), 1)
    states = objective.rows.smooth_states.expand(2, -1, -1, -1)
    unknowns = objective.start(FitState(states, torch.tensor([[1.0], [1e3]]).double()))
    loss, found = loss_and_gradient(objective, unknowns)
    assert torch.isfinite(loss).all()
    assert torch.isfinite(found[0]).all()
    assert torch.isnan(found[1]).any()


HORIZON = MultipleShooting(segment_length=3, horizon=(0.3, 0.6, 1.0), rounds=3)


def horizon_rounds(objective: ShootingObjective, unknowns: torch.Tensor) -> list[ShootingObjective]:
    stage: ShootingObjective | None = objective.first_round(1)
    found = []
    while stage is not None:
        found.append(stage)
        stage = stage.next_round(unknowns)
    assert len(found) == objective.rounds_of(1)
    return found


def test_the_horizon_grows_before_continuity_does() -> None:
    objective, unknowns = made(EXCHANGE, {**HORIZON.model_dump(), "continuity": 0.7})
    rounds = horizon_rounds(objective, unknowns)
    memories = [stage.memory for stage in rounds]
    assert [float(memory["horizon"]) for memory in memories] == [0.3, 0.6, 1.0, 1.0, 1.0]
    weights = [float(memory["weight"]) for memory in memories]
    np.testing.assert_allclose(weights, [0.7, 0.7, 0.7, 7.0, 70.0])
    assert ["multipliers" in memory for memory in memories] == [False] * 3 + [True] * 2
    for stage in rounds:
        again = objective.recall(stage.memory)
        assert torch.equal(again.loss(unknowns), stage.loss(unknowns))
        torch.testing.assert_close(
            stage.take(torch.tensor([1])).loss(unknowns[[1]]), stage.loss(unknowns)[[1]]
        )
    # The third round is the first one without a horizon.
    plain = MultipleShooting(segment_length=3, continuity=0.7)
    whole = plain.build(objective.ude, objective.rows, 2).first_round(1)
    assert torch.equal(rounds[2].loss(unknowns), whole.loss(unknowns))
    # Second-order methods have rounds of their own.
    assert objective.rounds_of(2) == whole.rounds_of(2)
    assert torch.equal(
        objective.first_round(2).linearize(unknowns).cost, whole.first_round(2).linearize(unknowns).cost
    )
    single, start = made(EXCHANGE, {"horizon": (0.5, 1.0), "segment_length": "all"})
    assert [float(stage.memory["horizon"]) for stage in horizon_rounds(single, start)] == [0.5, 1.0]


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem.name)
@pytest.mark.parametrize("length", [1, 3, "all"])
def test_rows_beyond_the_horizon_count_for_nothing(problem: Problem, length: int | str) -> None:
    objective, unknowns = made(problem, {"segment_length": length, "horizon": (0.45, 1.0)})
    near, far = horizon_rounds(objective, unknowns)[:2]
    rows, k = objective.rows, objective.segment_length
    seen = [int(np.ceil(0.45 * (n - 1))) for n in rows.lengths]
    _, gradient = loss_and_gradient(near, unknowns)
    size = unknowns.shape[1] - objective.ude.n_theta
    by_node = gradient[:, :size].reshape(2, len(seen), objective.segments, -1)
    _, whole = loss_and_gradient(far, unknowns)
    assert (whole[:, :size].reshape(by_node.shape)[:, 0] != 0).any(-1).all()
    for j, last in enumerate(seen):
        for s in range(objective.segments):
            assert bool((by_node[:, j, s] != 0).any()) == (s * k <= last and s * k < max(seen)), (j, s)
    # The same as a series that ends there.
    if k != 3:
        ends = Problem(
            "cut",
            problem.system,
            problem.laws,
            problem.initial,
            tuple(times[: last + 1] for times, last in zip(problem.times, seen, strict=True)),
            tuple(item for item in problem.unseen if item[1] <= seen[item[0]]),
            tuple(item[: last + 1] for item, last in zip(problem.controls, seen, strict=False)),
        )
        changed = replace(rows, values=rows.values.clone())
        for j, last in enumerate(seen):
            changed.values[j, last + 1 :] += 1e3
        moved = MultipleShooting.model_validate(objective.options.model_dump()).build(
            objective.ude, changed, 2
        )
        assert torch.equal(moved.first_round(1).loss(unknowns), near.loss(unknowns))
        assert ends.dataset().n_observed < problem.dataset().n_observed


def test_a_growing_horizon_finds_what_single_shooting_does_not() -> None:
    # Far ahead an oscillation says nothing about its frequency: single shooting has a local minimum per period.
    system = System.from_text(
        states=["x", "v"],
        parameters={"w": {"value": 1.0, "bounds": (0.2, 5.0)}, "k": {"value": 0.0, "fixed": True}},
        missing={"h": ["x"]},
        equations={"x": "v", "v": "-w**2*x + k*h"},
    )
    truth = replace(
        FORCED, system=system.__class__.from_text(
            states=["x", "v"],
            parameters={"w": {"value": 2.0, "fixed": True}, "k": {"value": 0.0, "fixed": True}},
            missing={"h": ["x"]},
            equations={"x": "v", "v": "-w**2*x + k*h"},
        ), laws={"h": "x"}, initial=np.array([[1.0, 0.0]]), times=(np.arange(0.0, 12.01, 0.5),),
    )  # fmt: skip
    rows = truth.rows(0.01)
    ude = UDE(system, MaskedLibraries([Library(("x",), [LibraryTerm("x")])], [(0,)], [np.ones((1, 1))]))
    theta = torch.cat([ude.parameters.initial(1), torch.zeros(1, 1).double()], dim=1)
    found = {}
    for name, horizon in (("at once", (1.0,)), ("step by step", (0.2, 0.5, 1.0))):
        objective = MultipleShooting(segment_length="all", horizon=horizon).build(ude, rows, 1)
        start = objective.start(FitState(rows.smooth_states[None], theta))
        end = minimise(Lbfgs(iterations=36), objective, start).state.unknowns
        coordinates = objective.finish(end).theta[:, : ude.n_free]
        found[name] = float(ude.parameters.physical(coordinates)[0, 0])
    assert found["step by step"] == pytest.approx(2.0, rel=0.01)
    assert abs(found["at once"] - 2.0) > 0.2


@pytest.mark.parametrize("horizon", [(), (0.5,), (0.5, 0.5, 1.0), (1.0, 0.5), (0.0, 1.0), (0.5, 1.5)])
def test_a_horizon_grows_to_the_end(horizon: tuple[float, ...]) -> None:
    with pytest.raises(pydantic.ValidationError):
        MultipleShooting(horizon=horizon)


def wave(cycles: float, count: int) -> Problem:
    """Return a harmonic oscillation of so many periods."""
    system = System.from_text(states=["x", "v"], missing={"h": ["x"]}, equations={"x": "v", "v": "h"})
    rate = 2.0 * np.pi * cycles
    return Problem(
        "wave", system, {"h": f"-{rate**2}*x"}, np.array([[1.0, 0.0]]), (np.linspace(0.0, 1.0, count),)
    )


@pytest.mark.parametrize(
    ("cycles", "count", "expected"),
    [(0.25, 41, 8), (1.0, 41, 8), (2.5, 41, 4), (5.0, 81, 4), (5.0, 21, 1)],
)
def test_automatic_segments_are_a_fifth_of_the_series_or_a_quarter_of_a_period(
    cycles: float, count: int, expected: int
) -> None:
    found = automatic_length(wave(cycles, count).rows(0.001))
    assert abs(found - expected) <= (expected >= 4)


def test_segments_longer_than_the_series_are_a_mistake() -> None:
    rows, ude = LOGISTIC.rows(), network_ude(LOGISTIC.system)
    with pytest.raises(InputError, match=r"found segment_length = 50; expected at most 24 intervals"):
        MultipleShooting(segment_length=50).build(ude, rows, 1)
    assert MultipleShooting(segment_length=24).build(ude, rows, 1).segments == 1
    assert MultipleShooting(segment_length="all").build(ude, rows, 1).segments == 1
    assert 1 <= MultipleShooting().build(ude, LOTKA_VOLTERRA.rows(), 1).segment_length <= 4


def test_jumps_count_in_units_of_the_noise_where_they_are() -> None:
    objective, unknowns = made(EXCHANGE, {"segment_length": 1})
    rows = objective.rows
    noisy = rows.tolerance_at_rows.clone()
    noisy[0, 3] *= 10.0
    other = MultipleShooting(segment_length=1, continuity=0.7).build(
        objective.ude, replace(rows, tolerance_at_rows=noisy), 2
    )
    nodes, theta = objective._split(unknowns)
    _, end = objective._solve(nodes, theta)
    before, after = objective._defect(nodes, end), other._defect(nodes, end)
    torch.testing.assert_close(after[:, 0, 2], before[:, 0, 2] / 10.0)
    after[:, 0, 2] = before[:, 0, 2]
    assert torch.equal(after, before)
