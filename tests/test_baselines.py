"""Baselines: the known physics alone, and SINDy on the data."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sciml_discover.baselines import known_only, sindy_on_data
from sciml_discover.expressions import symbol
from sciml_discover.forecasts import AbstractModel, forecast
from sciml_discover.system import System
from tests.problems import DOSED, DOSED_LONG, EXCHANGE, LOGISTIC, LOTKA_VOLTERRA, Problem, untrained


def model(found: AbstractModel | str) -> AbstractModel:
    assert isinstance(found, AbstractModel), found
    return found


def test_known_physics_that_is_enough_is_found_to_be() -> None:
    system = System.from_text(
        states={"n": {"positive": True}},
        parameters={"r": 0.5, "s": {"value": 0.05, "bounds": (0.0, 1.0)}},
        missing={"extra": ["n"]},
        equations={"n": "r*n - s*n**2 + extra"},
    )
    data = LOGISTIC.data(0.005)
    trained = replace(untrained(LOGISTIC), parameters={"r": 0.5, "s": 0.05})
    found = model(known_only(system, data, trained))
    assert found.note == "holes empty, free parameters and initial states refitted"
    path = forecast(found, data).train
    assert path is not None
    residual = (path[0] - data.train.trajectories[0].values) / data.noise.sd
    assert np.sum(residual**2) < 45  # of 25 values
    np.testing.assert_allclose(found.initial, LOGISTIC.initial, atol=0.1)


def test_known_physics_that_is_not_enough_fits_badly() -> None:
    data = LOTKA_VOLTERRA.data(0.01)
    found = model(known_only(LOTKA_VOLTERRA.system, data, untrained(LOTKA_VOLTERRA)))
    path = forecast(found, data).train
    assert path is not None
    residual = (path[0] - data.train.trajectories[0].values) / data.noise.sd
    assert np.mean(residual**2) > 100


def test_sindy_finds_a_quadratic_law_in_dense_data() -> None:
    dense = replace(LOGISTIC, times=(np.arange(0.0, 12.01, 0.05),))
    found = model(sindy_on_data(dense.system, dense.data(1e-6)))
    assert found.note.endswith(" terms")
    path = found.path(0, np.array([6.0, 12.0]))
    assert path is not None
    np.testing.assert_allclose(path, dense.states(0, np.array([0.0, 6.0, 12.0]))[1:], rtol=0.02)


def test_sindy_leaves_out_rows_with_gaps_and_keeps_the_order_of_the_states() -> None:
    turned = Problem(
        "turned",
        replace(LOTKA_VOLTERRA.system, observables=("y", "x")),
        LOTKA_VOLTERRA.laws,
        LOTKA_VOLTERRA.initial,
        (np.arange(0.0, 5.01, 0.05),),
        unseen=((0, 0, 1), (0, 7, 0)),
    )
    found = model(sindy_on_data(turned.system, turned.data(1e-6)))
    assert found.names == ("x", "y")
    # The first complete row.
    np.testing.assert_allclose(found.initial[0], turned.states(0, turned.times[0])[1], rtol=1e-3)
    path = found.path(0, np.array([0.0, 2.0]))
    assert path is not None


@pytest.mark.parametrize(("problem", "reason"), [(EXCHANGE, "b not measured"), (DOSED, "b not measured")])
def test_sindy_says_why_it_cannot(problem: Problem, reason: str) -> None:
    assert sindy_on_data(problem.system, problem.data()) == f"not possible: {reason}"
    gaps = LOGISTIC.data()
    gaps.train.trajectories[0].values[2:] = np.nan
    assert sindy_on_data(LOGISTIC.system, gaps) == "not possible: no trajectory has three complete rows"


def test_sindy_may_use_the_controls() -> None:
    seen = replace(
        DOSED_LONG,
        system=replace(DOSED_LONG.system, observables=("a", "b"), observed={}),
        times=tuple(np.linspace(times[0], times[-1], 601) for times in DOSED_LONG.times),
        controls=tuple(
            np.column_stack([np.cos(t), 1.0 + 0.5 * np.sin(2 * t)])
            for t in (np.linspace(times[0], times[-1], 601) for times in DOSED_LONG.times)
        ),
    )
    data = seen.data(1e-6)
    found = model(sindy_on_data(seen.system, data))
    # The true terms, dose and a*light, are in its library.
    assert found.system.equations["a"].free_symbols >= {symbol("a"), symbol("dose"), symbol("light")}
    solved = forecast(found, data).train
    assert solved is not None
    np.testing.assert_allclose(solved[0][:, 0], data.train.trajectories[0].values[:, 0], atol=0.1)
