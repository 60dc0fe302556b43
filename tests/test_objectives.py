"""Objectives against least-squares problems written out row by row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import get_args

import numpy as np
import pytest
import sympy
import torch

from sciml_discover.integrate import integrate_batch, solve_reference
from sciml_discover.noise import NoiseOptions, measure_noise
from sciml_discover.objectives import DerivativeMatching, MultipleShooting, ObjectiveOptions
from sciml_discover.objectives.abstract import AbstractObjective
from sciml_discover.objectives.derivative_matching import DenseLinearization
from sciml_discover.objectives.direct_collocation import CollocationObjective
from sciml_discover.objectives.multiple_shooting import (
    ConstrainedShooting,
    PenalisedShooting,
    ShootingObjective,
)
from sciml_discover.objectives.problem import FitState, Rows, make_rows, typical_slope
from sciml_discover.smoothers import LocalPolynomial
from sciml_discover.systems import get_system
from sciml_discover.trajectories import Dataset, Trajectory
from sciml_discover.ude import UDE
from tests.problems import (
    DOSED,
    EXCHANGE,
    FORCED,
    LOTKA_VOLTERRA,
    OBJECTIVES,
    Problem,
    network_ude,
    random_theta,
)

STEPS = 2


@dataclass(frozen=True)
class Shooting:
    """A shooting problem, and the same one as plain loops over trajectories, segments and rows."""

    ude: UDE
    rows: Rows
    objective: ShootingObjective
    unknowns: torch.Tensor

    @classmethod
    def make(cls, problem: Problem, segment_length: int | str, lognormal: bool = False) -> Shooting:
        batch, jump = 2, 0.05
        ude, rows = network_ude(problem.system, (2,)), problem.rows(0.02, lognormal=lognormal)
        options = MultipleShooting.model_validate({"segment_length": segment_length, "continuity": 0.7})
        objective = options.build(ude, rows, STEPS)
        state = FitState(
            rows.smooth_states.expand(batch, *rows.smooth_states.shape), random_theta(ude, batch)
        )
        unknowns = objective.start(state)
        noise = np.random.default_rng(3).standard_normal(tuple(unknowns.shape))
        noise[:, unknowns.shape[1] - ude.n_theta :] = 0.0
        return cls(ude, rows, objective, unknowns + jump * torch.as_tensor(noise))

    def loops(self, flat: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return residuals of what was measured, and jumps in units of the tolerance, shapes ``(B, ...)``."""
        rows, k = self.rows, self.objective.segment_length
        count, longest = rows.times.shape
        segments = -(-(longest - 1) // k)
        dimension = self.ude.system.dimension
        nodes = flat[:, : count * segments * dimension].reshape(-1, count, segments, dimension)
        theta = flat[:, count * segments * dimension :]
        residuals, jumps = [], []
        for j in range(count):
            for s in range(segments):
                state = nodes[:, j, s]
                for row in range(s * k, min((s + 1) * k, longest - 1)):
                    residuals.append(self._residual(j, row, state))
                    begin, end = rows.times[j, row], rows.times[j, row + 1]
                    controls = self._controls(j, row)
                    state = integrate_batch(
                        lambda time, at: self.ude.rhs(time, at, theta, controls(time)),  # noqa: B023
                        begin[None],
                        (end - begin)[None],
                        state[:, None],
                        STEPS,
                    )[:, 0]
                if s < segments - 1:
                    jumps.append((state - nodes[:, j, s + 1]) / rows.tolerance_at_rows[j, (s + 1) * k])
                else:
                    residuals.append(self._residual(j, longest - 1, state))
        return torch.cat(residuals, 1), torch.cat(jumps, 1) if jumps else flat.new_zeros(len(flat), 0)

    def _controls(self, j: int, row: int) -> Callable[[torch.Tensor], torch.Tensor | None]:
        """Return the controls between a row and the next: a held one is what it was at the row, to the end."""
        rows = self.rows
        if rows.controls is None:
            return lambda time: None  # noqa: ARG005
        begin, end = rows.times[j, row], rows.times[j, row + 1]
        here, there = rows.controls[j, row], rows.controls[j, row + 1]
        held = torch.tensor([control.interpolation == "hold" for control in self.ude.system.controls])

        def controls(time: torch.Tensor) -> torch.Tensor:
            share = (time - begin) / (end - begin).clamp_min(1e-300)
            return torch.where(held, here, here + share[..., None] * (there - here))

        return controls

    def _residual(self, j: int, row: int, state: torch.Tensor) -> torch.Tensor:
        system = self.ude.system
        given = [] if self.rows.controls is None else self.rows.controls[j, row].tolist()
        known = dict(zip(system.control_names, given, strict=True)) | {"t": float(self.rows.times[j, row])}
        known |= {item.name: item.value for item in system.parameters}
        known |= dict(zip(system.state_names, state.unbind(-1), strict=True))
        seen = [
            sympy.lambdify(list(known), system.observed.get(name, sympy.Symbol(name)), "math")(**known)
            for name in system.observables
        ]
        model = torch.stack(seen, dim=-1)
        model = torch.where(self.rows.lognormal, torch.log(model), model)
        return (model - self.rows.values[j, row]) * self.rows.weights[j, row]

    def dense(self, flat: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return residuals and jumps of one member, and their exact Jacobians.

        Every row gets its own copy of the unknowns, so that one backward sweep makes the whole Jacobian.
        """
        residual, jump = self.loops(flat[None])
        both = residual.shape[1] + jump.shape[1]
        copies = flat.expand(both, -1).clone().requires_grad_()
        torch.cat(self.loops(copies), 1).diagonal().sum().backward()
        assert copies.grad is not None
        by_residual, by_jump = copies.grad.split([residual.shape[1], jump.shape[1]])
        return residual[0], jump[0], by_residual, by_jump

    def damped(self, matrix: torch.Tensor, damping: torch.Tensor) -> torch.Tensor:
        """Return a normal matrix, damped by what the data say of each node, and of theta once the nodes follow."""
        size = len(matrix) - self.ude.n_theta
        result = matrix + damping * torch.diag(torch.diag(matrix))
        nodes, border = result[:size, :size], matrix[:size, size:]
        schur = matrix[size:, size:] - border.T @ torch.linalg.solve(nodes, border)
        result[size:, size:] = matrix[size:, size:] + damping * torch.diag(torch.diag(schur))
        return result

    def prior(self, flat: torch.Tensor) -> torch.Tensor:
        """Return the precision of the prior of every unknown of one member."""
        precision = self.ude.prior_precision(1)[0]
        return torch.cat([flat.new_zeros(len(flat) - len(precision)), precision])

    def cost(self, flat: torch.Tensor, weight: float, shift: torch.Tensor | float = 0.0) -> torch.Tensor:
        """Return half the squares of one member, jumps included with a weight."""
        residual, jump = self.loops(flat[None])
        total = residual.square().sum() + (self.prior(flat) * flat.square()).sum()
        return 0.5 * (total + weight * (jump + shift).square().sum())


def second_order_rounds(objective: AbstractObjective, unknowns: torch.Tensor) -> list[AbstractObjective]:
    """Return the objective in all rounds that a second-order method goes through, if it stays where it is."""
    stage: AbstractObjective | None = objective.first_round(2)
    rounds = []
    while stage is not None:
        rounds.append(stage)
        stage = stage.next_round(unknowns)
    # Collocation stops once nothing is left to split or to close.
    exactly = not isinstance(objective, CollocationObjective)
    assert len(rounds) == objective.rounds_of(2) if exactly else 0 < len(rounds) <= objective.rounds_of(2)
    return rounds


CASES = [
    (EXCHANGE, 1),
    (EXCHANGE, 3),
    (EXCHANGE, "all"),
    (LOTKA_VOLTERRA, 7),
    (LOTKA_VOLTERRA, 1, True),
    (FORCED, 1),
    (DOSED, 1),
    (DOSED, 3),
    (DOSED, "all"),
    (DOSED, 1, True),
]
"""Problem, length of the segments, and whether logarithms are compared.

Seven intervals divide into three and three and one; twenty into seven, seven and six.
"""


@pytest.fixture(params=CASES, ids=lambda case: "-".join(str(getattr(item, "name", item)) for item in case))
def shooting(request: pytest.FixtureRequest) -> Shooting:
    return Shooting.make(*request.param)


def test_the_list_names_every_objective() -> None:
    assert {type(item) for item in OBJECTIVES} == set(get_args(get_args(ObjectiveOptions)[0]))


def test_rows_count_what_was_measured() -> None:
    rows = EXCHANGE.rows(0.02)
    assert rows.n_observed == EXCHANGE.dataset(0.02).n_observed == 2 * (8 + 4 + 5) - 5
    assert rows.lengths == (8, 4, 5)
    assert rows.real.reshape(rows.times.shape).sum(1).tolist() == [8, 4, 5]
    measured = (rows.weights[..., : rows.n_observables] > 0).any(-1).flatten()
    assert not (measured & ~rows.real).any()
    assert (rows.intervals[1, 3:] == 0).all()
    assert torch.isfinite(rows.smooth_states).all()
    # The hidden state.
    assert torch.isnan(rows.smooth_slopes[..., 1]).all()
    states = torch.as_tensor(np.random.default_rng(0).uniform(1, 2, (8, 3)))
    padded = rows.smooth_states.clone()
    padded[1, 4:] = 1e6
    assert torch.equal(rows.residual(padded)[1], rows.residual(rows.smooth_states)[1])
    assert rows.residual(states.expand(3, 8, 3))[0, 2, 0] == 0


def test_rows_linearize_what_is_observed() -> None:
    for problem, lognormal in ((DOSED, False), (DOSED, True), (EXCHANGE, False)):
        rows = problem.rows(0.02, lognormal=lognormal)
        shape = (2, *rows.smooth_states.shape)
        states = torch.as_tensor(np.random.default_rng(0).uniform(1, 2, shape))
        residual, by_state = rows.linearize(states)
        torch.testing.assert_close(residual, rows.residual(states))
        exact = torch.autograd.functional.jacobian(lambda x: rows.residual(x).sum((0, 1, 2)), states)  # noqa: B023
        torch.testing.assert_close(by_state, exact.movedim(0, -2))
        along = torch.as_tensor(np.random.default_rng(1).standard_normal((*shape, 4)))
        again, chained = rows.linearize_along(states, along)
        torch.testing.assert_close(again, residual)
        torch.testing.assert_close(chained, by_state @ along)
    assert not DOSED.rows().sees_every_state
    assert LOTKA_VOLTERRA.rows().sees_every_state


def test_penalised_rounds_are_the_loops(shooting: Shooting) -> None:
    *penalised, last = second_order_rounds(shooting.objective, shooting.unknowns)
    if shooting.objective.segments == 1:
        assert not penalised
        return
    damping = torch.tensor([0.0, 0.1]).double()
    for power, stage in enumerate(penalised):
        weight = 0.7 * 30.0**power
        linearized = stage.linearize(shooting.unknowns)
        assert isinstance(linearized, PenalisedShooting)
        steps, changes = linearized.solve(damping)
        normal = linearized.normal
        gradient = torch.cat([normal.node_gradient.flatten(1), normal.shared_gradient], dim=1)
        for b, flat in enumerate(shooting.unknowns):
            residual, jump, by_residual, by_jump = shooting.dense(flat)
            prior = shooting.prior(flat)
            exact = by_residual.T @ residual + weight * by_jump.T @ jump + prior * flat
            torch.testing.assert_close(linearized.cost[b], shooting.cost(flat, weight))
            torch.testing.assert_close(gradient[b], exact)
            matrix = by_residual.T @ by_residual + weight * by_jump.T @ by_jump + torch.diag(prior)
            damped = shooting.damped(matrix, damping[b])
            step = -torch.linalg.solve(damped, exact)
            # The matrix is ill conditioned, and the promise is what matters.
            promised = exact @ step + 0.5 * step @ matrix @ step
            torch.testing.assert_close(changes[b], promised, rtol=1e-6, atol=1e-8)
            size = step.abs().max()
            torch.testing.assert_close(steps[b] / size, step / size, rtol=1e-4, atol=1e-5)
    assert last.linearize(shooting.unknowns).infeasibility.min() > 0


def test_the_last_round_solves_the_constrained_problem(shooting: Shooting) -> None:
    linearized = second_order_rounds(shooting.objective, shooting.unknowns)[-1].linearize(shooting.unknowns)
    assert isinstance(linearized, ConstrainedShooting)
    steps, changes = linearized.solve(torch.zeros(2).double())
    for b, flat in enumerate(shooting.unknowns):
        residual, jump, by_residual, by_jump = shooting.dense(flat)
        prior = shooting.prior(flat)
        torch.testing.assert_close(linearized.chi_square[b], residual.square().sum())
        torch.testing.assert_close(linearized.cost[b], shooting.cost(flat, 0.0))
        torch.testing.assert_close(linearized.infeasibility[b], jump.abs().sum())
        # The step closes the linearised jumps, and nothing that does so too has a smaller linearised cost.
        torch.testing.assert_close(by_jump @ steps[b], -jump, rtol=1e-6, atol=1e-6)
        matrix = by_residual.T @ by_residual + torch.diag(prior)
        gradient = by_residual.T @ residual + prior * flat
        slope = gradient + matrix @ steps[b]
        if len(jump):
            *_, rows = torch.linalg.svd(by_jump)
            slope = rows[len(jump) :] @ slope  # along directions that keep the jumps closed
        assert slope.abs().max() < 1e-6 * gradient.abs().max()
        promised = gradient @ steps[b] + 0.5 * steps[b] @ matrix @ steps[b]
        torch.testing.assert_close(changes[b], promised, rtol=1e-6, atol=1e-6)


def test_covariance_is_that_of_the_continuous_trajectories() -> None:
    shooting = Shooting.make(EXCHANGE, 1)
    finished = shooting.objective.finish(shooting.unknowns)
    single = MultipleShooting(segment_length="all").build(shooting.ude, shooting.rows, STEPS)
    flat = single.start(FitState(finished.states, finished.theta))[0]
    other = Shooting(shooting.ude, shooting.rows, single, flat[None])
    _, _, by_residual, _ = other.dense(flat)
    fisher = by_residual.T @ by_residual + torch.diag(other.prior(flat))
    found = single.covariance(flat[None])[0]
    # The initial states of three trajectories come first in the unknowns, theta in the covariance.
    order = [*range(9, len(flat)), *range(9)]
    scale = torch.diag(fisher).sqrt()[order]
    product = (found * scale[:, None] * scale) @ (fisher[order][:, order] / scale[:, None] / scale)
    torch.testing.assert_close(product, torch.eye(len(flat)).double(), rtol=1e-5, atol=1e-5)


def test_loss_is_the_first_penalised_round_by_another_solver(shooting: Shooting) -> None:
    objective = shooting.objective
    flat = shooting.unknowns.clone().requires_grad_()
    loss = objective.loss(flat)
    loss.sum().backward()
    assert flat.grad is not None
    weight = 0.7 if objective.segments > 1 else 0.0
    for b in range(2):
        at = shooting.unknowns[b]
        # torchdiffeq's rk4 is the 3/8 rule: the same order, another error.
        torch.testing.assert_close(loss[b], shooting.cost(at, weight), rtol=2e-3, atol=1e-6)
        exact = torch.autograd.functional.jacobian(lambda x: shooting.cost(x, weight), at)
        assert (flat.grad[b] - exact).abs().max() < 2e-3 * exact.abs().max()


def test_loss_after_a_round_is_the_augmented_lagrangian() -> None:
    shooting = Shooting.make(EXCHANGE, 3)
    objective = shooting.objective
    assert objective.rounds_of(1) == 3
    first = objective.first_round(1)
    following = first.next_round(shooting.unknowns)
    assert following is not None
    moved = shooting.unknowns + 0.01
    loss = following.loss(moved)
    for b in range(2):
        _, jump = shooting.loops(shooting.unknowns[[b]])
        shift = 0.7 * jump / 7.0  # multipliers over the weight that has grown
        torch.testing.assert_close(loss[b], shooting.cost(moved[b], 7.0, shift), rtol=1e-3, atol=1e-6)
        # The round before is what it was.
        torch.testing.assert_close(first.loss(moved)[b], shooting.cost(moved[b], 0.7), rtol=1e-3, atol=1e-6)
    last = following.next_round(shooting.unknowns)
    assert last is not None
    assert last.next_round(shooting.unknowns) is None
    torch.testing.assert_close(
        last.memory["multipliers"], following.memory["multipliers"] * 11.0, rtol=1e-6, atol=1e-9
    )
    # Each member has multipliers of its own.
    other = last.take(torch.tensor([1]))
    torch.testing.assert_close(other.loss(moved[[1]]), last.loss(moved)[[1]])


def test_nothing_to_tie_means_one_round() -> None:
    single = Shooting.make(FORCED, "all").objective
    assert (single.rounds_of(1), single.rounds_of(2)) == (1, 1)
    assert single.first_round(2).next_round(Shooting.make(FORCED, "all").unknowns) is None


def test_start_and_finish_of_a_continuous_trajectory() -> None:
    for length in (1, 3, "all"):
        shooting = Shooting.make(EXCHANGE, "all")
        path = shooting.objective.finish(shooting.unknowns)
        other = Shooting.make(EXCHANGE, length).objective
        unknowns = other.start(path)
        torch.testing.assert_close(other.finish(unknowns).states, path.states)
        assert torch.equal(other.finish(unknowns).theta, path.theta)
        assert other.linearize(unknowns).worst_defect.max() < 1e-8
        if length == 1:
            torch.testing.assert_close(other.finish_nodes(unknowns).states, path.states)
    with pytest.raises(ValueError, match="expected single intervals"):
        Shooting.make(EXCHANGE, 3).objective.finish_nodes(Shooting.make(EXCHANGE, 3).unknowns)


def names(options: ObjectiveOptions) -> str:
    return f"{options.kind}-{getattr(options, 'segment_length', '')}"


@pytest.mark.parametrize("options", OBJECTIVES, ids=names)
def test_take_and_choose_keep_the_members_apart(options: ObjectiveOptions) -> None:
    ude, rows = network_ude(LOTKA_VOLTERRA.system), LOTKA_VOLTERRA.rows()
    objective = options.build(ude, rows, 2)
    states = rows.smooth_states.expand(3, *rows.smooth_states.shape)
    unknowns = objective.start(FitState(states, random_theta(ude, 3)))
    index, damping = torch.tensor([2, 0]), torch.full((3,), 0.1).double()
    rounds = second_order_rounds(objective, unknowns)
    for stage in rounds:
        whole = stage.linearize(unknowns)
        part = stage.take(index).linearize(unknowns[index])
        torch.testing.assert_close(part.cost, whole.cost[index])
        torch.testing.assert_close(part.solve(damping[index])[0], whole.solve(damping)[0][index])
        torch.testing.assert_close(whole.take(index).solve(damping[index])[0], whole.solve(damping)[0][index])
        other = stage.linearize(unknowns + 0.1)
        mixed = whole.choose(torch.tensor([True, False, True]), other)
        torch.testing.assert_close(mixed.cost, torch.stack([whole.cost[0], other.cost[1], whole.cost[2]]))
        torch.testing.assert_close(mixed.solve(damping)[0][1], other.solve(damping)[0][1])
    # A member that is not finite does not disturb the others.
    broken = unknowns.clone()
    broken[1] = torch.nan
    for stage in rounds:
        step, _ = stage.linearize(broken).solve(damping)
        torch.testing.assert_close(step[index], stage.linearize(unknowns).solve(damping)[0][index])
        assert not torch.isfinite(step[1]).all()


@pytest.mark.parametrize("options", OBJECTIVES, ids=names)
def test_gradients_and_promises_are_those_of_finite_differences(
    options: ObjectiveOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    ude, rows = network_ude(FORCED.system, (2,)), FORCED.rows(0.02)
    built = options.build(ude, rows, 2)
    states = rows.smooth_states.expand(2, *rows.smooth_states.shape)
    unknowns = built.start(FitState(states, random_theta(ude, 2)))
    unknowns = unknowns + 0.02 * torch.as_tensor(
        np.random.default_rng(0).standard_normal(tuple(unknowns.shape))
    )
    objective = built.first_round(1)
    if isinstance(objective, CollocationObjective):
        # Its gradient is that on the level of the point: the matrices that make the level count as constants.
        nodes, inner, theta = objective.split(unknowns)
        stages = torch.cat([inner, nodes[:, :, 1:, None]], dim=3).flatten(1, 3)
        level = objective._inverse(ude.linearize(objective._times, stages, theta, objective._inputs)[1])
        monkeypatch.setattr(objective, "_inverse", lambda _: level)
    at = unknowns.clone().requires_grad_()
    objective.loss(at).sum().backward()
    assert at.grad is not None
    for seed in range(4):
        along = torch.as_tensor(np.random.default_rng(seed).standard_normal(unknowns.shape[1]))
        with torch.no_grad():
            slope = (objective.loss(unknowns + 1e-6 * along) - objective.loss(unknowns - 1e-6 * along)) / 2e-6
        torch.testing.assert_close(at.grad @ along, slope, rtol=1e-5, atol=1e-4 * float(slope.abs().max()))
    # An undamped step promises twice as much, at its begin, as it gives in the end.
    for stage in second_order_rounds(built, unknowns):
        current = stage.linearize(unknowns)
        if isinstance(current, ConstrainedShooting):
            continue  # promises a merit, not a cost
        step, change = current.solve(torch.zeros(2).double())
        small = 1e-5
        there = stage.linearize(unknowns + small * step).cost_seen_from(current)
        back = stage.linearize(unknowns - small * step).cost_seen_from(current)
        torch.testing.assert_close((there - back) / (2 * small), 2.0 * change, rtol=1e-3, atol=1e-3)


def test_derivative_matching_is_a_regression_of_slopes() -> None:
    ude, rows = network_ude(LOTKA_VOLTERRA.system), LOTKA_VOLTERRA.rows()
    options = DerivativeMatching(accuracy=0.1)
    objective = options.build(ude, rows, 1)
    theta = objective.start(FitState(rows.smooth_states[None], random_theta(ude, 2)))

    def cost(flat: torch.Tensor) -> torch.Tensor:
        slopes = ude.rhs(rows.times[0], rows.smooth_states[0][None], flat[None])[0]
        mismatch = (slopes - rows.smooth_slopes[0]) / (0.1 * rows.slope_scale)
        return 0.5 * mismatch.square().sum() + 0.5 * (ude.prior_precision(1)[0] * flat.square()).sum()

    linearized = objective.linearize(theta)
    assert isinstance(linearized, DenseLinearization)
    for b in range(2):
        torch.testing.assert_close(objective.loss(theta)[b], cost(theta[b]))
        torch.testing.assert_close(linearized.cost[b], cost(theta[b]))
        exact = torch.autograd.functional.jacobian(cost, theta[b])
        torch.testing.assert_close(linearized.normal.gradient[b], exact)


def test_derivative_matching_knows_the_controls() -> None:
    seen = replace(DOSED, system=replace(DOSED.system, observables=("a", "b"), observed={}))
    ude, rows = network_ude(seen.system), seen.rows()
    objective = DerivativeMatching(accuracy=0.1).build(ude, rows, 1)
    theta = random_theta(ude, 1)

    def cost(flat: torch.Tensor) -> torch.Tensor:
        total = 0.5 * (ude.prior_precision(1)[0] * flat.square()).sum()
        for j, trajectory in enumerate(seen.dataset().trajectories):
            own = slice(len(trajectory.times))
            controls = torch.as_tensor(trajectory.controls)
            slopes = ude.rhs(rows.times[j, own], rows.smooth_states[j, own][None], flat[None], controls)[0]
            mismatch = (slopes - rows.smooth_slopes[j, own]) / (0.1 * rows.slope_scale_at_rows[j, own])
            total = total + 0.5 * mismatch.square().sum()
        return total

    linearized = objective.linearize(theta)
    assert isinstance(linearized, DenseLinearization)
    torch.testing.assert_close(objective.loss(theta)[0], cost(theta[0]))
    torch.testing.assert_close(linearized.cost[0], cost(theta[0]))
    exact = torch.autograd.functional.jacobian(cost, theta[0])
    torch.testing.assert_close(linearized.normal.gradient[0], exact)


def test_derivative_matching_does_not_count_padded_rows() -> None:
    two = Problem(
        "two", LOTKA_VOLTERRA.system, LOTKA_VOLTERRA.laws, LOTKA_VOLTERRA.initial.repeat(2, 0),
        (np.arange(0, 3.01, 0.25), np.arange(0, 1.6, 0.25)),
    )  # fmt: skip
    ude, rows = network_ude(two.system), two.rows()
    theta = random_theta(ude, 1)
    objective = DerivativeMatching().build(ude, rows, 1)
    before = objective.loss(objective.start(FitState(rows.smooth_states[None], theta)))
    assert rows.lengths == (13, 7)
    rows.smooth_slopes[1, 7:] += 100.0
    torch.testing.assert_close(objective.loss(theta), before)
    rows.smooth_slopes[1, 6] += 100.0
    assert objective.loss(theta) > 2 * before


def test_derivative_matching_with_another_smoother() -> None:
    problem = LOTKA_VOLTERRA
    rows, ude = problem.rows(0.05), network_ude(problem.system, (2,))
    theirs = make_rows(problem.system, problem.dataset(0.05), problem.noise(0.05), smoother=LocalPolynomial())
    options = DerivativeMatching.model_validate({"smoother": {"kind": "local_polynomial"}})
    objective = options.build(ude, rows, STEPS)
    torch.testing.assert_close(objective.rows.smooth_states, theirs.smooth_states)
    torch.testing.assert_close(objective.rows.smooth_slopes, theirs.smooth_slopes)
    assert not torch.allclose(objective.rows.smooth_slopes, rows.smooth_slopes, rtol=1e-3)
    assert DerivativeMatching().build(ude, rows, STEPS).rows is rows


def test_rows_with_noise_per_value() -> None:
    problem = EXCHANGE
    data = problem.dataset(0.01)
    noise = measure_noise(data, NoiseOptions(value=0.02, floor=0.1))
    assert noise.floors is not None
    rows = make_rows(problem.system, data, noise)
    assert rows.tolerance_at_rows.shape == rows.smooth_states.shape
    for j, item in enumerate(data.trajectories):
        seen = np.isfinite(item.values)
        expected = np.where(seen, 1.0 / np.fmax(0.02 * np.abs(np.nan_to_num(item.values)), noise.floors), 0.0)
        np.testing.assert_allclose(rows.weights[j, : len(expected)].numpy(), expected)
        at_rows = rows.tolerance_at_rows[j, : len(expected)].numpy()
        np.testing.assert_allclose(
            at_rows[:, [int(position or 0) for position in rows.columns]][seen],
            1.0 / expected[seen],
            rtol=0.2,
        )
    values = np.concatenate([item.values for item in data.trajectories])
    for column, position in enumerate(rows.columns):
        assert float(rows.tolerance[position]) == pytest.approx(noise.typical_sd(values)[column])
    (hidden,) = set(range(problem.system.dimension)) - set(rows.columns)
    assert (rows.tolerance_at_rows[..., hidden] == 0.01 * rows.scale[hidden]).all()


def test_wild_slopes_at_rows_that_nearly_coincide_do_not_say_what_is_typical() -> None:
    times = np.linspace(0.0, 20.0, 200)
    slopes = np.cos(times)
    usual, change = typical_slope(slopes, np.gradient(times))
    assert usual == pytest.approx(np.sqrt(np.mean(slopes**2)), rel=0.05)
    assert change == pytest.approx(usual * 20.0 / 199, rel=1e-6)
    # Every tenth row twice, a millionth apart, with a slope that noise has made.
    twice = np.sort(np.append(times, times[::10] + 1e-6))
    intervals = np.gradient(twice)
    wild = np.where(np.arange(len(twice)) % 11 == 0, 300.0, np.cos(twice))
    intervals[::11] = 1e-6
    assert typical_slope(wild, intervals)[0] == pytest.approx(usual, rel=0.2)


@pytest.mark.parametrize("problem", [LOTKA_VOLTERRA, FORCED, EXCHANGE])
def test_typical_slopes_of_well_sampled_data_are_their_root_mean_square(problem: Problem) -> None:
    rows = problem.rows(0.01)
    for position in rows.columns:
        real = torch.cat([rows.smooth_slopes[j, :n, position] for j, n in enumerate(rows.lengths)])
        assert 0.8 < float(rows.slope_scale[position] / real.square().mean().sqrt()) <= 1.0


def test_slopes_of_a_stiff_system_at_log_spaced_rows() -> None:
    known = get_system("robertson")
    times = np.geomspace(1e-5, 1e5, 40)
    clean = solve_reference(known.system, known.parameter_values, known.initial_values, times, start=0.0)
    noisy = clean * (1.0 + 0.01 * np.random.default_rng(0).standard_normal(clean.shape))
    data = Dataset(tuple(known.equations), (Trajectory("a", times, noisy),))
    y1, y2, _ = clean.T
    for options in (NoiseOptions(kind="value"), NoiseOptions()):
        rows = make_rows(known.system, data, measure_noise(data, options))
        # The fastest slopes of all three are 0.04, early on or while y1 decays.
        assert (rows.slope_scale.numpy() < 0.04).all(), options
        assert (rows.slope_scale.numpy() > 0.005).all(), options
        exact = -0.04 * y1 + 1e4 * y2 * clean[:, 2]
        mismatch = (rows.smooth_slopes[0, :, 0].numpy() - exact) / rows.slope_scale_at_rows[0, :, 0].numpy()
        assert np.abs(mismatch).max() < 1.0, options
