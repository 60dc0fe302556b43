"""Continuity as a penalty: every method of solving it against the dense least-squares problem, written out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from sciml_discover.linear_algebra import (
    ContinuityProblem,
    Method,
    arrow,
    cheapest,
    data_factor,
    marginal_precision,
    solve_continuity,
)
from sciml_discover.linear_algebra.bordered import solve_bordered
from sciml_discover.linear_algebra.chain import NodeSolver
from sciml_discover.linear_algebra.dual import solve_dual
from sciml_discover.linear_algebra.matrix_free import conjugate_gradients, solve_matrix_free
from sciml_discover.objectives import DirectCollocation
from sciml_discover.objectives.direct_collocation import CollocationObjective
from sciml_discover.objectives.problem import FitState
from tests.problems import (
    DOSED,
    EXCHANGE,
    FORCED,
    LOTKA_VOLTERRA,
    PROBLEMS,
    Problem,
    network_ude,
    random_theta,
)

BATCH = 2
DAMPING = torch.tensor([1e-6, 0.3]).double()
WEIGHT = 3.0


def objective(
    problem: Problem, hidden: tuple[int, ...] = (4, 3)
) -> tuple[CollocationObjective, torch.Tensor]:
    """A collocation problem and unknowns that satisfy nothing."""
    ude, rows = network_ude(problem.system, hidden), problem.rows(0.02)
    built = DirectCollocation(continuity=WEIGHT, stages=2).build(ude, rows, 1).first_round(2)
    assert isinstance(built, CollocationObjective)
    states = rows.smooth_states.expand(BATCH, *rows.smooth_states.shape)
    unknowns = built.start(FitState(states, random_theta(ude, BATCH)))
    noise = 0.05 * np.random.default_rng(3).standard_normal(tuple(unknowns.shape))
    noise[:, unknowns.shape[1] - ude.n_theta :] = 0.0
    return built, unknowns + torch.as_tensor(noise)


def continuity(problem: Problem, hidden: tuple[int, ...] = (4, 3)) -> ContinuityProblem:
    built, unknowns = objective(problem, hidden)
    return built.linearize(unknowns).problem()


def dense(problem: ContinuityProblem) -> tuple[torch.Tensor, torch.Tensor]:
    """Matrix and gradient of all unknowns, nodes first, row by row."""
    batch, count, intervals, dimension = problem.scaled.shape
    nodes = count * (intervals + 1) * dimension
    columns = problem.forcing.columns
    forcing = problem.forcing.dense(slice(0, intervals))
    own = problem.own.expand(problem.scaled.shape)
    matrix = torch.zeros(batch, nodes + columns, nodes + columns).double()
    gradient = torch.zeros(batch, nodes + columns).double()

    def place(j: int, i: int) -> slice:
        begin = (j * (intervals + 1) + i) * dimension
        return slice(begin, begin + dimension)

    for j in range(count):
        for i in range(intervals + 1):
            matrix[:, place(j, i), place(j, i)] += problem.data[:, j, i]
            gradient[:, place(j, i)] += problem.data_gradient[:, j, i]
        for i in range(intervals):
            rows = torch.zeros(batch, dimension, nodes + columns).double()
            rows[:, :, place(j, i + 1)] = torch.diag_embed(own[:, j, i])
            rows[:, :, place(j, i)] = -problem.begin[:, j, i]
            rows[:, :, nodes:] = -forcing[:, j, i]
            matrix += problem.weight * rows.transpose(1, 2) @ rows
            gradient += problem.weight * (rows.transpose(1, 2) @ problem.scaled[:, j, i, :, None])[..., 0]
    matrix[:, nodes:, nodes:] += torch.diag_embed(problem.precision)
    gradient[:, nodes:] += problem.prior_gradient
    return matrix, gradient


def marginal(matrix: torch.Tensor, kept: int) -> torch.Tensor:
    """What is left for the last unknowns once the first are eliminated."""
    first = matrix.shape[-1] - kept
    inner = torch.linalg.solve(matrix[:, :first, :first], matrix[:, :first, first:])
    return matrix[:, first:, first:] - matrix[:, first:, :first] @ inner


def exact_step(problem: ContinuityProblem, damping: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The damped step by one dense solve; the damping of ``theta`` is relative to what is left for it."""
    matrix, gradient = dense(problem)
    columns = problem.forcing.columns
    nodes = matrix.shape[-1] - columns
    scale = problem.node_damping.expand(problem.data_gradient.shape).flatten(1)
    matrix[:, :nodes, :nodes] += torch.diag_embed(damping[:, None] * scale)
    left = torch.diagonal(marginal(matrix, columns), dim1=1, dim2=2)
    matrix[:, nodes:, nodes:] += torch.diag_embed(damping[:, None] * left)
    step = -torch.linalg.solve(matrix, gradient[..., None])[..., 0]
    return step[:, :nodes].reshape(problem.data_gradient.shape), step[:, nodes:]


def close(found: torch.Tensor, exact: torch.Tensor, accuracy: float = 1e-6) -> None:
    torch.testing.assert_close(found, exact, rtol=accuracy, atol=accuracy * float(exact.abs().max()))


@pytest.mark.parametrize("method", ["bordered", "dual"])
@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem.name)
def test_steps_are_those_of_the_dense_problem(problem: Problem, method: Method) -> None:
    posed = continuity(problem)
    nodes, theta = solve_continuity(posed, DAMPING, method)
    exact_nodes, exact_theta = exact_step(posed, DAMPING)
    close(theta, exact_theta)
    close(nodes, exact_nodes)


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem.name)
def test_matrix_free_steps_are_those_of_the_dense_problem(problem: Problem) -> None:
    posed = continuity(problem)
    nodes, theta = solve_matrix_free(posed, DAMPING, accuracy=0.0, most=200)
    exact_nodes, exact_theta = exact_step(posed, DAMPING)
    close(theta, exact_theta)
    close(nodes, exact_nodes)


@pytest.mark.parametrize("problem", [EXCHANGE, DOSED, LOTKA_VOLTERRA], ids=lambda problem: problem.name)
def test_matrix_free_steps_do_not_depend_on_the_sample(problem: Problem) -> None:
    posed = continuity(problem)
    # Without damping of theta the sample serves as a preconditioner alone.
    nothing = torch.zeros(BATCH).double()
    _, exact = exact_step(posed, nothing)
    few = solve_matrix_free(posed, nothing, accuracy=0.0, most=400, sampled=6)[1]
    close(few, exact, 1e-4)
    # One iteration too few intervals cannot do.
    assert (solve_matrix_free(posed, nothing, most=1, sampled=6)[1] - exact).abs().max() > 1e-3


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem.name)
@pytest.mark.parametrize("at_once", [1, 600])
def test_pieces_make_no_difference(problem: Problem, at_once: int) -> None:
    posed = continuity(problem)
    whole, pieces = solve_bordered(posed, DAMPING), solve_bordered(posed, DAMPING, at_once)
    close(pieces[0], whole[0])
    close(pieces[1], whole[1])
    close(arrow(posed, at_once).fisher(), arrow(posed).fisher())
    close(marginal_precision(posed, at_once), marginal_precision(posed))


@pytest.mark.parametrize("problem", [LOTKA_VOLTERRA, FORCED, DOSED], ids=lambda problem: problem.name)
def test_what_is_left_for_theta(problem: Problem) -> None:
    posed = continuity(problem)
    matrix, _ = dense(posed)
    columns = posed.forcing.columns
    exact = marginal(matrix, columns)
    close(marginal_precision(posed), exact)
    said = data_factor(posed)
    close(said.transpose(1, 2) @ said + torch.diag_embed(posed.precision), exact)
    # The arrow keeps the first node of each trajectory.
    left = arrow(posed)
    count, dimension = posed.scaled.shape[1], posed.scaled.shape[3]
    per = posed.data.shape[2] * dimension
    first = [j * per + k for j in range(count) for k in range(dimension)]
    nodes = matrix.shape[-1] - columns
    others = [index for index in range(nodes) if index not in first]
    order = [*others, *range(nodes, nodes + columns), *first]
    close(left.fisher(), marginal(matrix[:, order][:, :, order], columns + len(first)))


def test_promised_change_is_that_of_the_quadratic_model() -> None:
    posed = continuity(EXCHANGE)
    matrix, gradient = dense(posed)
    nodes, theta = exact_step(posed, DAMPING)
    step = torch.cat([nodes.flatten(1), theta], dim=1)
    exact = (gradient * step).sum(1) + 0.5 * (step[:, None] @ matrix @ step[..., None])[:, 0, 0]
    close(posed.predicted_change(nodes, theta, posed.forcing.forward(theta)), exact)


@pytest.mark.parametrize("problem", [EXCHANGE, DOSED, LOTKA_VOLTERRA], ids=lambda problem: problem.name)
def test_the_forcing_is_one_matrix(problem: Problem) -> None:
    posed = continuity(problem)
    forcing = posed.forcing
    whole = forcing.dense(slice(0, forcing.shape[2]))
    generator = np.random.default_rng(0)
    theta = torch.as_tensor(generator.standard_normal((BATCH, forcing.columns)))
    rows = torch.as_tensor(generator.standard_normal(tuple(forcing.shape)))
    close(forcing.forward(theta), (whole @ theta[:, None, None, :, None])[..., 0], 1e-12)
    close(forcing.backward(rows), (whole * rows[..., None]).sum((1, 2, 3)), 1e-12)
    close(forcing.dense(slice(1, 3)), whole[:, :, 1:3], 1e-12)


def test_the_forcing_is_the_derivative_of_the_ends() -> None:
    built, unknowns = objective(EXCHANGE)
    here = built.linearize(unknowns)
    posed = here.problem()
    direction = torch.as_tensor(np.random.default_rng(1).standard_normal((BATCH, posed.forcing.columns)))
    size, found = 1e-6, []
    for sign in (1.0, -1.0):
        moved = unknowns.clone()
        moved[:, -direction.shape[1] :] += sign * size * direction
        defect = built.linearize(moved).defect.flatten(3)[..., None]
        error = (here.inverse @ defect)[..., 0].reshape(here.defect.shape)[..., -1, :]
        found.append(error * posed.own)
    close(posed.forcing.forward(direction), (found[1] - found[0]) / (2.0 * size), 1e-6)


@pytest.mark.parametrize("method", ["bordered", "dual", "matrix-free"])
def test_a_member_that_is_not_finite_does_not_disturb_the_others(method: Method) -> None:
    built, unknowns = objective(DOSED)
    broken = unknowns.clone()
    broken[1] = torch.nan
    step, _ = built.linearize(broken).solve(DAMPING, method)
    whole, _ = built.linearize(unknowns).solve(DAMPING, method)
    close(step[:1], whole[:1], 1e-9)
    assert not torch.isfinite(step[1]).all()


def test_nodes_are_solved_for_as_by_the_dense_matrix() -> None:
    posed = continuity(LOTKA_VOLTERRA)
    diagonal, upper = posed.node_blocks(DAMPING)
    # So many nodes that they are not solved for by one dense matrix.
    long = replace(
        posed, **{name: torch.cat([getattr(posed, name)] * 4, dim=2) for name in ("data", "data_gradient")}
    ).data
    diagonal = torch.cat([diagonal] * 4, dim=2) + long
    upper = torch.cat([upper, upper[:, :, :1]] * 4, dim=2)[:, :, :-1]
    right = torch.as_tensor(np.random.default_rng(0).standard_normal((*diagonal.shape[:4], 2)))
    found = NodeSolver(diagonal, upper).solve(right)
    back = diagonal @ found
    back[:, :, :-1] += upper @ found[:, :, 1:]
    back[:, :, 1:] += upper.transpose(-1, -2) @ found[:, :, :-1]
    close(back, right, 1e-9)


def test_conjugate_gradients_end_when_nothing_is_gained() -> None:
    values = torch.logspace(0, 4, 100).double()[None]
    products = []

    def product(vector: torch.Tensor) -> torch.Tensor:
        products.append(vector)
        return values * vector

    right = torch.ones(1, 100).double()
    roughly = conjugate_gradients(product, lambda vector: vector, right, accuracy=0.1, most=1000)
    few = len(products)
    closely = conjugate_gradients(product, lambda vector: vector, right, accuracy=1e-12, most=1000)
    assert few < len(products) - few
    gained = [(x * right).sum() - 0.5 * (values * x * x).sum() for x in (roughly, closely)]
    assert 0.5 * gained[1] < gained[0] < gained[1]
    close(closely, right / values, 1e-3)


def test_wide_networks_on_few_points_are_solved_in_the_space_of_rows() -> None:
    assert cheapest(rows=300, points=300, columns=4417) == "dual"
    assert cheapest(rows=3000, points=3000, columns=92) == "bordered"
    assert cheapest(rows=3_000, points=3_000, columns=337) == "bordered"
    assert cheapest(rows=300_000, points=300_000, columns=4417) == "matrix-free"


@pytest.mark.parametrize("method", ["dual", "matrix-free"])
def test_other_methods_never_hold_the_matrix_of_the_weights(
    method: Method, monkeypatch: pytest.MonkeyPatch
) -> None:
    posed = continuity(LOTKA_VOLTERRA, hidden=(40, 40))
    columns = posed.forcing.columns
    largest = [0]
    product = torch.Tensor.__matmul__

    def watched(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        found = product(left, right)
        largest[0] = max(largest[0], found[0].numel())
        return found

    monkeypatch.setattr(torch.Tensor, "__matmul__", watched)
    solve_dual(posed, DAMPING) if method == "dual" else solve_matrix_free(posed, DAMPING)
    assert 0 < largest[0] < columns**2 / 10


def test_a_linearization_holds_nothing_by_weights() -> None:
    narrow, wide = (objective(LOTKA_VOLTERRA, (width, width))[0] for width in (2, 32))
    for built in (narrow, wide):
        states = built.rows.smooth_states[None]
        found = built.linearize(built.start(FitState(states, torch.zeros(1, sum(built.ude.widths)).double())))
        numbers = sum(part.numel() for part in vars(found).values() if isinstance(part, torch.Tensor))
        rest = numbers - found.theta.numel() - found.precision.numel()
        assert rest < 100 * built.rows.times.numel() * len(built.rows.scale)


@pytest.mark.parametrize("method", ["bordered", "dual", "matrix-free"])
def test_take_and_choose_keep_the_members_apart(method: Method) -> None:
    built, unknowns = objective(DOSED)
    here, there = built.linearize(unknowns), built.linearize(unknowns + 0.01)
    steps = [item.solve(DAMPING, method)[0] for item in (here, there)]
    alone = here.take(torch.tensor([1])).solve(DAMPING[1:], method)[0]
    close(alone, steps[0][1:], 1e-9)
    mixed = here.choose(torch.tensor([True, False]), there).solve(DAMPING, method)[0]
    close(mixed, torch.stack([steps[0][0], steps[1][1]]), 1e-9)
    assert here.choose(torch.tensor([True, True]), there) is here
