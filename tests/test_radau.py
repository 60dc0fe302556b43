"""The Radau IIA method: its coefficients, its order conditions, and its order on a stiff problem."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sciml_discover.library import Library, LibraryTerm
from sciml_discover.masked_libraries import MaskedLibraries
from sciml_discover.objectives import DirectCollocation
from sciml_discover.objectives.direct_collocation import radau
from sciml_discover.objectives.problem import FitState
from sciml_discover.system import System
from sciml_discover.ude import UDE
from tests.problems import Problem

ROOT = 6.0**0.5


@pytest.mark.parametrize(
    ("stages", "matrix", "nodes"),
    [
        (1, [[1.0]], [1.0]),
        (2, [[5 / 12, -1 / 12], [3 / 4, 1 / 4]], [1 / 3, 1.0]),
        (
            3,
            [
                [(88 - 7 * ROOT) / 360, (296 - 169 * ROOT) / 1800, (-2 + 3 * ROOT) / 225],
                [(296 + 169 * ROOT) / 1800, (88 + 7 * ROOT) / 360, (-2 - 3 * ROOT) / 225],
                [(16 - ROOT) / 36, (16 + ROOT) / 36, 1 / 9],
            ],
            [(4 - ROOT) / 10, (4 + ROOT) / 10, 1.0],
        ),
    ],
)
def test_coefficients_are_those_of_the_books(
    stages: int, matrix: list[list[float]], nodes: list[float]
) -> None:
    # Hairer & Wanner 1996, tables 5.5 and 5.6.
    found, at = radau(stages)
    np.testing.assert_allclose(found, matrix, rtol=0, atol=1e-14)
    np.testing.assert_allclose(at, nodes, rtol=0, atol=1e-14)


@pytest.mark.parametrize("stages", [1, 2, 3, 4, 5])
def test_order_conditions(stages: int) -> None:
    matrix, nodes = radau(stages)
    weights = matrix[-1]  # stiffly accurate: the last stage is the end
    assert nodes[-1] == 1.0
    assert (np.diff(nodes) > 0).all()
    assert nodes[0] > 0
    for power in range(1, 2 * stages):  # B(2s - 1)
        np.testing.assert_allclose(weights @ nodes ** (power - 1), 1 / power, rtol=0, atol=1e-13)
    for power in range(1, stages + 1):  # C(s)
        np.testing.assert_allclose(matrix @ nodes ** (power - 1), nodes**power / power, rtol=0, atol=1e-13)
    # No more: the weights miss the next power.
    assert abs(weights @ nodes ** (2 * stages - 1) - 1 / (2 * stages)) > 1e-7
    # L-stable: nothing is left of what decays at once.
    stability = 1.0 - weights @ np.linalg.solve(matrix, np.ones(stages))
    assert abs(stability) < 1e-10


STIFF = 1e3


def solved(stages: int, count: int) -> float:
    """Return the error at the end of ``x' = a - x``, ``y' = 1000 (x - y)`` by collocation on ``count`` intervals."""
    system = System.from_text(
        states=["x", "y"], missing={"pull": ["x"]}, equations={"x": "-pull", "y": f"{STIFF}*(x - y)"}
    )
    times = np.linspace(0.0, 4.0, count + 1)
    # On the slow manifold y = x STIFF / (STIFF - 1), where the stiff part is silent.
    initial = np.array([[1.0, STIFF / (STIFF - 1.0)]])
    rows = Problem("stiff", system, {"pull": "x"}, initial, (times,)).rows(1e-3)
    filling = MaskedLibraries([Library(("x",), [LibraryTerm("x")])], [(0,)], [np.ones((1, 1))])
    objective = DirectCollocation(stages=stages, continuity=1.0).build(UDE(system, filling), rows, 1)
    theta = torch.ones(1, 1).double()
    unknowns = objective.start(FitState(rows.smooth_states[None], theta))
    nodes, _, _ = objective.split(unknowns)
    nodes[:, :, 0] = torch.as_tensor(initial)
    # The problem is linear: with the begin held, one Newton step on all conditions closes them.
    size = unknowns.shape[1] - 1
    free = torch.arange(system.dimension, size)

    def conditions(flat: torch.Tensor) -> torch.Tensor:
        nodes, inner, theta = objective.split(flat[None])
        stage = torch.cat([inner, nodes[:, :, 1:, None]], dim=3)
        slopes = objective.ude.rhs(objective._times, stage.flatten(1, 3), theta)
        return objective._defect(nodes, stage, slopes).flatten()

    for _ in range(2):
        jacobian = torch.func.jacrev(conditions)(unknowns[0])[:, free]
        unknowns[0, free] -= torch.linalg.solve(jacobian, conditions(unknowns[0]))
    defect = conditions(unknowns[0])
    assert defect.abs().max() < 1e-12
    end = objective.split(unknowns)[0][0, 0, -1]
    exact = np.exp(-4.0) * initial[0]
    return float((end - torch.as_tensor(exact)).abs().max())


@pytest.mark.parametrize(("stages", "count"), [(1, 64), (2, 8), (3, 4)])
def test_a_stiff_problem_converges_with_the_full_order(stages: int, count: int) -> None:
    coarse, fine = solved(stages, count), solved(stages, 2 * count)
    order = np.log2(coarse / fine)
    assert order == pytest.approx(2 * stages - 1, abs=0.35)
