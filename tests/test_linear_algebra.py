"""Structured solves against dense ones of the same matrix, written out."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sciml_discover.linear_algebra import ArrowNormal, DenseNormal, TridiagonalNormal, condense

B, J, S, D, Q = 3, 2, 4, 2, 3
DAMPING = torch.tensor([0.0, 0.1, 2.0]).double()


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.as_tensor(np.random.default_rng(seed).standard_normal(shape))


def dense_step(matrix: torch.Tensor, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The damped step and the promised change, by numpy."""
    steps, changes = [], []
    for full, slope, damping in zip(matrix.numpy(), gradient.numpy(), DAMPING.numpy(), strict=True):
        step = -np.linalg.solve(full + damping * np.diag(np.diag(full)), slope)
        steps.append(step)
        changes.append(slope @ step + 0.5 * step @ full @ step)
    return torch.as_tensor(np.array(steps)), torch.as_tensor(np.array(changes))


def arrow(singular: bool = False) -> tuple[ArrowNormal, torch.Tensor, torch.Tensor]:
    """The structure, its dense matrix (theta first) and its dense gradient."""
    jacobian, residual = normal(B, J, 7, D + Q), normal(B, J, 7, seed=1)
    precision, theta = normal(B, Q, seed=2).square(), normal(B, Q, seed=3)
    if singular:
        jacobian[..., D + 1] = 0.0
        precision[:, 1] = 0.0
    rows = torch.zeros(B, J * 7, Q + J * D).double()
    for j in range(J):
        rows[:, 7 * j : 7 * j + 7, :Q] = jacobian[:, j, :, D:]
        rows[:, 7 * j : 7 * j + 7, Q + D * j : Q + D * j + D] = jacobian[:, j, :, :D]
    matrix = rows.transpose(1, 2) @ rows
    matrix[:, :Q, :Q] += torch.diag_embed(precision)
    gradient = (rows.transpose(1, 2) @ residual.flatten(1)[..., None])[..., 0]
    gradient[:, :Q] += precision * theta
    return ArrowNormal.assemble(jacobian, residual, precision, theta), matrix, gradient


def test_arrow_solves_as_the_dense_matrix_does() -> None:
    structured, matrix, gradient = arrow()
    torch.testing.assert_close(structured.fisher(), matrix)
    own, shared = structured.solve(DAMPING)
    step, change = dense_step(matrix, gradient)
    torch.testing.assert_close(torch.cat([shared, own.flatten(1)], dim=1), step)
    torch.testing.assert_close(structured.predicted_change(own, shared), change)


def test_arrow_covariance_is_the_inverse() -> None:
    structured, matrix, _ = arrow()
    torch.testing.assert_close(structured.covariance(), torch.linalg.inv(matrix))


def test_covariance_is_infinite_where_the_data_say_nothing() -> None:
    structured, matrix, _ = arrow(singular=True)
    found = structured.covariance()
    kept = [0, 2, 3, 4, 5, 6]
    assert torch.isinf(found[:, 1, 1]).all()
    inverse = torch.linalg.inv(matrix[:, kept][:, :, kept])
    torch.testing.assert_close(found[:, kept][:, :, kept], inverse)


def test_covariance_is_infinite_for_both_of_two_numbers_that_only_their_sum_is_seen_of() -> None:
    jacobian = normal(1, 1, 9, 3)
    jacobian[..., 2] = jacobian[..., 1]
    zero = torch.zeros(1, 2).double()
    found = ArrowNormal.assemble(jacobian, normal(1, 1, 9), zero, zero).covariance()[0]
    # theta first: both of its numbers, and not the first node.
    assert torch.isinf(torch.diagonal(found)).tolist() == [True, True, False]


def test_covariance_of_a_member_that_is_not_finite_leaves_the_others_alone() -> None:
    structured, matrix, _ = arrow()
    structured.shared[1] = torch.nan
    found = structured.covariance()
    torch.testing.assert_close(found[[0, 2]], torch.linalg.inv(matrix[[0, 2]]))
    assert torch.isinf(torch.diagonal(found[1])).all()


def test_dense_normal() -> None:
    jacobian, residual = normal(B, 9, 4), normal(B, 9, seed=1)
    precision, unknowns = normal(B, 4, seed=2).square(), normal(B, 4, seed=3)
    structured = DenseNormal.assemble(jacobian, residual, precision, unknowns)
    matrix = jacobian.transpose(1, 2) @ jacobian + torch.diag_embed(precision)
    gradient = (jacobian.transpose(1, 2) @ residual[..., None])[..., 0] + precision * unknowns
    step, change = dense_step(matrix, gradient)
    found, promised = structured.solve(DAMPING)
    torch.testing.assert_close(found, step)
    torch.testing.assert_close(promised, change)


def test_a_matrix_that_is_not_positive_makes_a_step_of_nothing_for_its_member_only() -> None:
    matrix = torch.stack([torch.eye(2), -torch.eye(2)]).double()
    found, _ = DenseNormal(matrix, torch.ones(2, 2).double()).solve(torch.zeros(2).double())
    assert found[0].tolist() == [-1.0, -1.0]
    assert torch.isnan(found[1]).all()


def chain(nodes: int) -> tuple[TridiagonalNormal, torch.Tensor, torch.Tensor]:
    """The structure, its dense matrix (nodes first) and its dense gradient."""
    size = J * nodes * D + Q
    # Rows that touch neighbours only, so that the matrix has the structure and is positive.
    rows = torch.zeros(B, J * nodes * 6, size).double()
    for j in range(J):
        for s in range(nodes):
            place, begin = (j * nodes + s) * 6, (j * nodes + s) * D
            width = D if s == nodes - 1 else 2 * D
            rows[:, place : place + 6, begin : begin + width] = normal(B, 6, width, seed=10 * j + s)
            rows[:, place : place + 6, -Q:] = normal(B, 6, Q, seed=100 + 10 * j + s)
    matrix, gradient = rows.transpose(1, 2) @ rows, normal(B, size, seed=5)
    own = matrix[:, :-Q, :-Q].reshape(B, J, nodes, D, J, nodes, D)
    blocks = [[own[:, j, s, :, j] for s in range(nodes)] for j in range(J)]
    structured = TridiagonalNormal(
        diagonal=torch.stack(
            [torch.stack([blocks[j][s][:, :, s] for s in range(nodes)], 1) for j in range(J)], 1
        ),
        upper=torch.stack(
            [
                torch.stack([blocks[j][s][:, :, s + 1] for s in range(nodes - 1)], 1)
                if nodes > 1
                else torch.zeros(B, 0, D, D).double()
                for j in range(J)
            ],
            1,
        ),
        border=matrix[:, :-Q, -Q:].reshape(B, J, nodes, D, Q),
        shared=matrix[:, -Q:, -Q:],
        node_gradient=gradient[:, :-Q].reshape(B, J, nodes, D),
        shared_gradient=gradient[:, -Q:],
        node_damping=normal(B, J, nodes, D, seed=6).square(),
    )
    return structured, matrix, gradient


@pytest.mark.parametrize("nodes", [1, 2, 3, 4, 7, 8])
def test_tridiagonal_solves_as_the_dense_matrix_does(nodes: int) -> None:
    structured, matrix, gradient = chain(nodes)
    found, shared, promised = structured.solve(DAMPING)
    # Nodes are damped by what was given, theta relative to its Schur complement.
    size = J * nodes * D
    damped = matrix.clone()
    damped[:, :size, :size] += torch.diag_embed(DAMPING[:, None] * structured.node_damping.flatten(1))
    eliminated = torch.linalg.solve(damped[:, :size, :size], damped[:, :size, size:])
    schur = matrix[:, size:, size:] - damped[:, size:, :size] @ eliminated
    damped[:, size:, size:] += torch.diag_embed(DAMPING[:, None] * schur.diagonal(dim1=1, dim2=2))
    step = -torch.linalg.solve(damped, gradient)
    torch.testing.assert_close(torch.cat([found.flatten(1), shared], dim=1), step)
    change = (gradient * step).sum(1) + 0.5 * (step * (matrix @ step[..., None])[..., 0]).sum(1)
    torch.testing.assert_close(promised, change)


def test_condensed_nodes_close_the_linearised_defects() -> None:
    sensitivity, defect = normal(B, J, S, D, D + Q), normal(B, J, S - 1, D, seed=1)
    nodes = condense(sensitivity, defect)
    unknown = normal(B, J, D + Q, seed=2)
    steps = (nodes.matrix @ unknown[:, :, None, :, None])[..., 0] + nodes.offset
    torch.testing.assert_close(steps[:, :, 0], unknown[..., :D])
    for s in range(S - 1):
        both = torch.cat([steps[:, :, s], unknown[..., D:]], dim=-1)
        end = (sensitivity[:, :, s] @ both[..., None])[..., 0]
        torch.testing.assert_close(end + defect[:, :, s], steps[:, :, s + 1])
