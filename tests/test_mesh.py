"""Meshes of direct collocation: nodes between rows, and splitting where the method needs it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sciml_discover.integrate import integrate_batch
from sciml_discover.objectives.direct_collocation import Closing, CollocationObjective, DirectCollocation
from sciml_discover.objectives.mesh import Mesh, recall_mesh, row_mesh
from sciml_discover.objectives.problem import FitState, Rows
from sciml_discover.optimizers import GaussNewton
from sciml_discover.optimizers.driver import begin, end_of_round, minimise_round, next_round
from tests.problems import DOSED, EXCHANGE, Problem, network_ude, random_theta


class Linear:
    """``x' = rate x``, with nothing to be learnt."""

    def __init__(self, rate: float) -> None:
        self._rate = rate

    def prior_precision(self, batch: int) -> torch.Tensor:
        return torch.zeros(batch, 0, dtype=torch.float64)

    def rhs(self, time, state, theta, controls=None):  # noqa: ARG002
        return self._rate * state

    def linearize(self, time, state, theta, controls=None):  # noqa: ARG002
        unit = torch.eye(state.shape[-1], dtype=state.dtype)
        by_state = self._rate * unit.expand(*state.shape, -1)
        return self._rate * state, by_state, state.new_zeros(*state.shape, 0)

    def take(self, index: torch.Tensor) -> Linear:  # noqa: ARG002
        return self


def pieces_of(rows: Rows, seed: int = 0) -> torch.Tensor:
    pieces = torch.as_tensor(np.random.default_rng(seed).integers(1, 4, rows.intervals.shape))
    return torch.where(rows.intervals > 0, pieces, 1)


def problem_rows(problem: Problem = EXCHANGE) -> Rows:
    rows = problem.rows(0.02)
    assert len(set(rows.lengths)) > 1, "the test needs trajectories of unequal length"
    assert bool((rows.weights[0, : rows.lengths[0]] == 0).any()), "the test needs missing values"
    return rows


def test_rows_stay_where_they_are_however_intervals_are_split() -> None:
    rows = problem_rows()
    once = row_mesh(rows).split(pieces_of(rows))
    mesh = once.split(torch.full_like(once.start, 2, dtype=torch.int64))
    assert mesh.positions is not None
    assert mesh.parents is not None
    nodes = torch.cat([mesh.start, (mesh.start + mesh.length)[:, -1:]], dim=1)
    torch.testing.assert_close(mesh.at_rows(nodes[None])[0], rows.times)
    torch.testing.assert_close(mesh.start[:, 1:], (mesh.start + mesh.length)[:, :-1])
    for j, parents in enumerate(mesh.parents):
        inside = mesh.length[j] > 0
        assert (rows.times[j, parents] <= mesh.start[j] + 1e-12)[inside].all()
        assert (rows.times[j, parents + 1] >= (mesh.start + mesh.length)[j] - 1e-12)[inside].all()
    # What is a straight line in time stays one.
    line = torch.stack([rows.times, 2.0 - rows.times], dim=-1)
    torch.testing.assert_close(mesh.between_rows(line, rows.times), torch.stack([nodes, 2.0 - nodes], dim=-1))
    again = recall_mesh(mesh.memory, rows)
    assert torch.equal(again.start, mesh.start)
    assert torch.equal(again.positions, mesh.positions)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("problem", [EXCHANGE, DOSED], ids=lambda problem: problem.name)
def test_a_split_objective_differentiates_like_its_loss(problem: Problem) -> None:
    rows = problem_rows(problem)
    ude = network_ude(problem.system, (2,))
    mesh = row_mesh(rows).split(pieces_of(rows))
    options = DirectCollocation(stages=2)
    objective = CollocationObjective(options, ude, rows, mesh, Closing(0.5))
    states = rows.smooth_states.expand(2, *rows.smooth_states.shape)
    unknowns = objective.start(FitState(states, random_theta(ude, 2)))
    torch.testing.assert_close(objective.finish(unknowns).states, states)
    torch.testing.assert_close(objective.linearize(unknowns).cost, objective.loss(unknowns))
    # At the minimum of a quadratic model half of the first-order change is left, in nodes that no row sees, too.
    step, change = objective.linearize(unknowns).solve(torch.full((2,), 1e-13, dtype=torch.float64))
    at = unknowns.clone().requires_grad_()
    objective.loss(at).sum().backward()
    assert at.grad is not None
    torch.testing.assert_close((at.grad * step).sum(1), 2.0 * change, rtol=1e-5, atol=0.0)


def test_polynomials_carry_states_to_a_finer_mesh_exactly() -> None:
    rows = problem_rows()
    options = DirectCollocation(stages=3)
    coarse = CollocationObjective(options, Linear(0.0), rows, row_mesh(rows))
    fine = CollocationObjective(options, Linear(0.0), rows, coarse.mesh.split(pieces_of(rows)))

    def cubic(objective: CollocationObjective) -> torch.Tensor:
        mesh: Mesh = objective.mesh
        ends = torch.cat([mesh.start, (mesh.start + mesh.length)[:, -1:]], dim=1)
        inner = mesh.start[..., None] + mesh.length[..., None] * objective._fractions[:-1]
        dimension = len(rows.scale)
        curve = [(time**3 - time)[..., None].expand(*time.shape, dimension) for time in (ends, inner)]
        return torch.cat([item.flatten() for item in curve])[None]

    torch.testing.assert_close(fine.carry(coarse, cubic(coarse)), cubic(fine), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(("rate", "split"), [(0.5, False), (60.0, True), (-60.0, False)])
def test_an_interval_in_which_something_grows_fast_is_split(rate: float, split: bool) -> None:
    rows = problem_rows()
    objective = CollocationObjective(
        DirectCollocation(most_intervals=30.0), Linear(rate), rows, row_mesh(rows)
    )
    state = FitState(rows.smooth_states[None], torch.zeros(1, 0, dtype=torch.float64))
    suited = objective.suited_to(state)
    assert (suited is not objective) == split
    if split:
        # No longer does the method damp what grows.
        assert float(suited.mesh.length.max()) * rate <= 1.5 + 1e-9
    never = CollocationObjective(DirectCollocation(refinements=0), Linear(rate), rows, row_mesh(rows))
    assert never.suited_to(state) is never


def test_splitting_makes_a_steep_solution_accurate() -> None:
    rows = problem_rows()
    rate = 6.0 / float(rows.intervals.max())
    errors = []
    begin_state = torch.ones(1, len(rows.scale), dtype=torch.float64)
    exact = integrate_batch(lambda _, at: -rate * at, torch.zeros(1), rows.intervals[:1, 0], begin_state, 400)
    for count in (1, 2, 4):
        mesh = row_mesh(rows).split(torch.where(rows.intervals > 0, count, 1))
        objective = CollocationObjective(DirectCollocation(), Linear(-rate), rows, mesh)
        # The stages follow from the first node alone: a linear system, solved by marching.
        node = begin_state[0, 0].item()
        eye = torch.eye(3, dtype=torch.float64)
        for k in range(count):
            ones = torch.ones(3, dtype=torch.float64)
            node = float(torch.linalg.solve(eye + rate * objective._stepped[0, k], ones * node)[-1])
        errors.append(abs(node - float(exact[0, 0])))
    assert errors[1] < 0.2 * errors[0]
    assert errors[2] < 0.2 * errors[1]


def test_a_fit_goes_on_from_the_memory_of_a_refined_round(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sciml_discover.objectives.direct_collocation.INACCURATE", 1e-9)
    ude, rows = network_ude(EXCHANGE.system, (2,)), problem_rows()
    objective = DirectCollocation(rounds=2, refinements=2).build(ude, rows, 1)
    states = rows.smooth_states.expand(2, *rows.smooth_states.shape)
    split = objective._in(objective.closing, objective.mesh.split(pieces_of(rows)))
    optimizer = GaussNewton(iterations=5)
    position = begin(optimizer, split, split.start(FitState(states, random_theta(ude, 2))))
    while position.objective.memory["refined"] == 0:
        following = next_round(optimizer, end_of_round(optimizer, position))
        assert following is not None
        position = following
    assert isinstance(position.objective, CollocationObjective)
    assert position.objective.mesh.intervals > split.mesh.intervals
    recalled = objective.recall({name: item.clone() for name, item in position.objective.memory.items()})
    one = end_of_round(optimizer, position).state.unknowns
    two = minimise_round(optimizer, recalled, position.state.unknowns).unknowns
    assert torch.equal(one, two)
