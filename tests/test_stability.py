"""Growth between rows: what collocation cannot see, and that training sees it."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import numpy as np
import pytest
import torch

from sciml_discover import training
from sciml_discover.objectives import DerivativeMatching, DirectCollocation
from sciml_discover.objectives.direct_collocation import CollocationObjective, radau
from sciml_discover.objectives.mesh import row_mesh
from sciml_discover.objectives.problem import FitState, make_rows
from sciml_discover.objectives.stability import EXPLOSIVE, explosive, growth
from sciml_discover.optimizers import GaussNewton
from sciml_discover.presets import TrainStage
from sciml_discover.system import System
from sciml_discover.training import TrainingResult, TrainOptions, train
from sciml_discover.ude import Dynamics, Slopes
from tests.problems import LOGISTIC, Problem

SLOW_MANIFOLD = Problem(
    name="slow manifold",
    system=System.from_text(
        states=["x", "y"], missing={"loss": ["x", "y"]}, equations={"x": "-x", "y": "1e4*x**2 - loss"}
    ),
    laws={"loss": "1e4*y"},
    initial=np.array([[1.0, 1.0]]),
    times=(np.linspace(0.0, 3.0, 16),),
)
"""Its states are never off ``y = x**2``: that the loss grows with ``y`` and not with ``x`` is not in the data."""

STAGES = (
    TrainStage(objective=DerivativeMatching(), optimizer=GaussNewton(iterations=100, tolerance=0.5)),
    TrainStage(
        objective=DirectCollocation(rounds=1, multiplier_rounds=0),
        optimizer=GaussNewton(iterations=1, damping=1e7),
    ),
)
"""Derivative matching, and then a stage that leaves nearly everything as it is."""


class Rates:
    """``x' = rate x``, one rate for each member."""

    def __init__(self, *rates: float) -> None:
        self._rates = torch.tensor(rates, dtype=torch.float64)[:, None, None]

    def slopes(self, time, state, theta, controls=None):  # noqa: ARG002
        unit = torch.eye(state.shape[-1], dtype=state.dtype)
        nothing = state.new_zeros(*state.shape, 0)
        by_state = (self._rates[..., None] * unit).expand(*state.shape, -1)
        return Slopes(self._rates * state, by_state, nothing, nothing)


@pytest.mark.parametrize("stages", [1, 2, 3, 5])
@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_radau_damps_fast_growth_like_fast_decay(stages: int, sign: float) -> None:
    matrix, step = radau(stages)[0], sign * 1e6
    ends = np.linalg.solve(np.eye(stages) - step * matrix, np.ones(stages))
    assert abs(ends[-1]) < 1e-4


def test_growth_is_that_of_the_fastest_growing_direction() -> None:
    generator = np.random.default_rng(0)
    values = np.array([[-2000.0, 3.0, 1.0], [-5.0, -1.0, -4.0], [1e-3, 0.0, -1e-3]])
    vectors = generator.normal(size=(3, 3, 3))
    by_state = torch.as_tensor(vectors @ (values[..., None] * np.linalg.inv(vectors)))
    found = growth(by_state, torch.tensor(2.0).double(), 1.0)
    np.testing.assert_allclose(found[:2], [6.0, -2.0], rtol=1e-8)
    assert float(found[2]) == 0.0, "too little to be worth computing"
    assert torch.isfinite(growth(torch.full((1, 2, 2), torch.nan), torch.tensor(1.0), 1.0)).all()


def test_what_explodes_is_judged_by_the_shorter_interval_beside_a_row() -> None:
    times = np.array([0.0, 1.0, 1.001, 2.0])
    rows = replace(LOGISTIC, times=(times,)).rows()
    fit = FitState(rows.smooth_states.expand(4, -1, -1, -1), torch.zeros(4, 0))
    rate = EXPLOSIVE / 0.999
    assert explosive(Rates(-1e9, 0.9 * rate, 1.1 * rate, torch.nan), rows, fit).tolist() == [  # pyright: ignore[reportArgumentType]
        False,
        False,
        True,
        False,
    ]
    # The first and the last row lie at long intervals, those of the burst at a short one.
    inner = replace(rows, times=rows.times[:, [1, 2]], smooth_states=rows.smooth_states[:, [1, 2]])
    fit = FitState(inner.smooth_states.expand(1, -1, -1, -1), torch.zeros(1, 0))
    assert not bool(explosive(Rates(1.1 * rate), inner, fit)[0])  # pyright: ignore[reportArgumentType]


def exploding(trained: TrainingResult, problem: Problem) -> int:
    rows = make_rows(problem.system, problem.dataset(1e-3), problem.noise(1e-3))
    ude, _ = training.trained_ude(problem.system, trained)
    theta = torch.as_tensor(trained.survivors.theta)
    smooth = rows.smooth_states.expand(len(theta), *rows.smooth_states.shape)
    return int(explosive(ude, rows, FitState(smooth, theta)).sum())


def test_starts_that_explode_beside_a_slow_manifold_are_drawn_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    data, options = SLOW_MANIFOLD.data(1e-3), TrainOptions(starts=6, stages=STAGES)
    stable = train(SLOW_MANIFOLD.system, data, options, seed=0)
    assert exploding(stable, SLOW_MANIFOLD) == 0
    assert any("starts explode between rows" in event.text for event in stable.history.events)
    monkeypatch.setattr(training, "REDRAWS", 0)
    assert exploding(train(SLOW_MANIFOLD.system, data, options, seed=0), SLOW_MANIFOLD) > 0


def test_only_starts_that_explode_are_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    options = TrainOptions(starts=3, stages=STAGES)
    before = train(LOGISTIC.system, LOGISTIC.data(), options, seed=0)
    assert not any("explode" in event.text for event in before.history.events)
    answers = iter([[False, True, True], [True, False, True], [False, False, True]])
    monkeypatch.setattr(training, "explosive", lambda *_: torch.tensor(next(answers)))
    after = train(LOGISTIC.system, LOGISTIC.data(), options, seed=0)
    assert [event.text for event in after.history.events if "explode" in event.text] == [
        "2 of 3 starts explode between rows; 1 of them were drawn anew",
        "1 of 3 starts explode between rows; 1 of them were drawn anew",
    ]
    one, two = (
        dict(zip(item.survivors.start, item.survivors.theta, strict=True)) for item in (before, after)
    )
    assert np.array_equal(one[0], two[0])
    assert not np.array_equal(one[1], two[1])
    assert not np.array_equal(one[2], two[2])


def test_states_that_solve_their_equations_better_have_the_smaller_discrepancy() -> None:
    rows = LOGISTIC.rows()
    exact = rows.smooth_states[0, :1] * torch.exp(0.1 * rows.times[0])[:, None]
    rates = torch.tensor([0.1, 0.1 + 1e-4, 0.2, 1e3]).double()
    ude = cast("Dynamics", _Members(rates))
    objective = CollocationObjective(DirectCollocation(), ude, rows, row_mesh(rows))
    unknowns = objective.start(FitState(exact.expand(4, 1, -1, -1).clone(), torch.zeros(4, 0).double()))
    nodes, inner, _ = objective.split(unknowns)
    fractions = torch.as_tensor(radau(3)[1][:-1])
    within = nodes[:, :, :-1, None] * torch.exp(0.1 * rows.intervals[..., None, None] * fractions[:, None])
    unknowns = torch.cat([nodes.flatten(1), within.expand(inner.shape).flatten(1)], dim=1)
    found = objective.discrepancy(unknowns)
    assert 0.0 <= float(found[0]) < 1e-8
    assert float(found[0]) < float(found[1]) < 1.0
    assert torch.isinf(found[2:]).all(), "open defects, and a growth that the intervals are too long for"


class _Members(Rates):
    """The same, as an objective wants it."""

    def __init__(self, rates: torch.Tensor) -> None:
        super().__init__(*rates.tolist())

    widths: tuple[int, ...] = ()
    factors = 0

    def prior_precision(self, batch: int) -> torch.Tensor:
        return torch.zeros(batch, 0, dtype=torch.float64)

    def take(self, index: torch.Tensor) -> _Members:
        return _Members(self._rates[index, 0, 0])
