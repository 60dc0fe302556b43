"""Optimizers on least-squares problems whose answers are known."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch

from sciml_discover.objectives.problem import FitState
from sciml_discover.optimizers import Adam, GaussNewton, OptimizerOptions
from sciml_discover.optimizers.driver import Position, begin, end_of_round, minimise, next_round
from sciml_discover.optimizers.gauss_newton import GaussNewtonState
from tests.problems import FORCED, OBJECTIVES, OPTIMIZERS, LeastSquares, network_ude, random_theta

TARGETS = torch.tensor([1.0, -0.5, 2.0]).double()
START = torch.tensor([[-1.2, 1.0], [1.0, 1.0], [0.0, 0.0]]).double()


def ids(options: object) -> str:
    return str(getattr(options, "kind", options)) + str(getattr(options, "segment_length", ""))


def run(
    optimizer: OptimizerOptions, objective: LeastSquares, start: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
    seen: list[torch.Tensor] = []
    end = minimise(optimizer, objective, start, lambda state: seen.append(state.value.clone())).state
    return end.unknowns, end.converged, seen


def test_the_list_names_every_optimizer() -> None:
    assert {type(item) for item in OPTIMIZERS} == set(get_args(get_args(OptimizerOptions)[0]))


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=ids)
def test_finds_the_bottom_of_a_curved_valley(optimizer: OptimizerOptions) -> None:
    objective = LeastSquares(TARGETS)
    found, converged, seen = run(optimizer, objective, START)
    first_order = optimizer.kind == "adam"
    answer = torch.stack([TARGETS, TARGETS.square()], dim=1)
    torch.testing.assert_close(found, answer, rtol=0, atol=0.1 if first_order else 1e-5)
    assert (objective.loss(found) < (1e-2 if first_order else 1e-8) * objective.loss(START)).all()
    assert converged.tolist() == [not first_order] * 3
    assert len(seen) <= optimizer.iterations
    assert all(values.shape == (3,) for values in seen)
    # What is reported never rises.
    assert (torch.diff(torch.stack(seen), dim=0) <= 1e-12).all()


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=ids)
def test_members_do_not_know_of_each_other(optimizer: OptimizerOptions) -> None:
    quick = optimizer.model_copy(update={"iterations": 40})
    together, *_ = run(quick, LeastSquares(TARGETS), START)
    for b in range(3):
        alone, *_ = run(quick, LeastSquares(TARGETS[[b]]), START[[b]])
        torch.testing.assert_close(alone[0], together[b], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=ids)
@pytest.mark.parametrize("limit", [-torch.inf, 0.5], ids=["at once", "on its way"])
def test_a_member_that_is_not_a_number_does_not_disturb_the_others(
    optimizer: OptimizerOptions, limit: float
) -> None:
    quick = optimizer.model_copy(update={"iterations": 60})
    start = torch.zeros(3, 2).double()
    healthy, *_ = run(quick, LeastSquares(TARGETS), start)
    state = minimise(quick, LeastSquares(TARGETS, poisoned=(2,), limit=limit), start).state
    found, converged = state.unknowns, state.converged
    assert state.lost[2] > 0
    assert state.lost[:2].tolist() == [0, 0]
    torch.testing.assert_close(found[:2], healthy[:2], rtol=1e-9, atol=1e-9)
    assert torch.isfinite(found[2]).all()
    if limit == 0.5:
        # It goes on where there are numbers: towards its answer u = 2, up to the edge.
        objective = LeastSquares(TARGETS)
        assert objective.loss(found)[2] < 0.9 * objective.loss(start)[2]
        assert found[2, 0] <= 0.5
    else:
        assert found[2].tolist() == [0.0, 0.0]
        assert not converged[2]


def test_adam_returns_a_lost_member_to_its_best_point() -> None:
    optimizer, limit = Adam(iterations=300, learning_rate=0.05), 0.5
    objective = LeastSquares(TARGETS, poisoned=(2,), limit=limit)
    state = optimizer.begin(objective, torch.zeros(3, 2).double())
    lost, losses = [], []
    while not bool(state.done):
        following = optimizer.step(objective, state)
        lost.append(float(state.point[2, 0]) > limit)
        losses.append(float(following.value[2]))
        if lost[-1]:
            # One step of what momentum is left, from the best point.
            assert (following.point[2] - following.best[2]).abs().max() <= 2 * optimizer.learning_rate
        state = following
    first = lost.index(True)
    assert not all(lost[first : first + 30])
    # The least loss where there are numbers, 9/8, is at the edge: it went on towards it.
    assert losses[-1] - 1.125 < 0.5 * (losses[first] - 1.125)


def test_gauss_newton_spends_nothing_on_members_that_are_done() -> None:
    sizes: list[int] = []

    class Counting(LeastSquares):
        def linearize(self, unknowns: torch.Tensor):
            sizes.append(len(unknowns))
            return super().linearize(unknowns)

        def take(self, index: torch.Tensor) -> Counting:
            return Counting(self._targets[index])

    # The first member begins at its answer.
    start = torch.tensor([[1.0, 1.0], [1.0, 1.0], [0.0, 0.0]]).double()
    state = minimise(GaussNewton(tolerance=1e-12), Counting(TARGETS), start).state
    assert isinstance(state, GaussNewtonState)
    assert sizes[:2] == [3, 3]
    assert sizes[2] == 2
    assert sizes == sorted(sizes, reverse=True)
    assert len(state.alive) == 0
    assert state.converged.all()


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=ids)
@pytest.mark.parametrize("options", OBJECTIVES, ids=ids)
def test_a_fit_goes_on_from_the_memory_of_any_round(optimizer: OptimizerOptions, options) -> None:
    problem = replace(FORCED, times=(FORCED.times[0][:8],))
    ude, rows = network_ude(problem.system, (2,)), problem.rows(0.02)
    states = rows.smooth_states.expand(2, *rows.smooth_states.shape)
    objective = options.build(ude, rows, 2)
    start = objective.start(FitState(states, random_theta(ude, 2)))
    # At least two for each of seven rounds, where they share them.
    quick = optimizer.model_copy(update={"iterations": 14 if optimizer.order == 1 else 5})
    position: Position | None = begin(quick, objective, start)
    rounds, count, end = [], 0, None
    while position is not None:
        rounds.append(position.objective)
        end = end_of_round(quick, position)
        count = int(end.state.iteration) + (count if quick.order == 2 else 0)
        position = next_round(quick, end)
    assert count <= quick.most_iterations(objective.rounds_of(quick.order))
    assert end is not None
    # Rounds that close what is closed already are left out.
    most = objective.rounds_of(quick.order)
    assert len(rounds) == most or (
        options.kind == "direct_collocation" and options.rounds <= len(rounds) < most
    )
    assert rounds[-1].next_round(end.state.unknowns) is None
    for one in rounds:
        again = rounds[0].recall(one.memory)
        assert {name: value.tolist() for name, value in again.memory.items()} == {
            name: value.tolist() for name, value in one.memory.items()
        }
        assert torch.equal(again.loss(start), one.loss(start))
        assert torch.equal(again.linearize(start).cost, one.linearize(start).cost)
        assert type(again.linearize(start)) is type(one.linearize(start))
        index = torch.tensor([1])
        torch.testing.assert_close(one.take(index).loss(start[index]), one.loss(start)[index])


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=ids)
def test_the_start_is_left_alone(optimizer: OptimizerOptions) -> None:
    start = START.clone()
    run(optimizer.model_copy(update={"iterations": 5}), LeastSquares(TARGETS), start)
    assert torch.equal(start, START)


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=ids)
@pytest.mark.parametrize("options", OBJECTIVES, ids=ids)
def test_every_optimizer_reduces_every_objective(optimizer: OptimizerOptions, options) -> None:
    problem = replace(FORCED, times=(FORCED.times[0][:8],))
    ude, rows = network_ude(problem.system, (4,)), problem.rows(0.02)
    iterations = 12 if isinstance(optimizer, GaussNewton) else 30
    quick = optimizer.model_copy(update={"iterations": iterations})
    weights = ude.filling.initial_weights(2, np.random.default_rng(0))  # pyright: ignore[reportAttributeAccessIssue, reportCallIssue]
    theta = torch.cat([ude.parameters.initial(2), weights], dim=1)
    objective = options.build(ude, rows, 2)
    start = objective.start(FitState(rows.smooth_states.expand(2, *rows.smooth_states.shape), theta))
    end = minimise(quick, objective, start)
    # By what it had to minimise in the end.
    assert (end.objective.loss(end.state.unknowns) < 0.7 * end.objective.loss(start)).all()
