"""Where the learnt term is sampled, and with what weight."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sciml_discover.errors import SolveError
from sciml_discover.residual_samples import MOST_SAMPLES, PER_INTERVAL, dense_times, sample_residual
from sciml_discover.system import System
from tests.problems import DOSED, EXCHANGE, LOGISTIC, untrained


def test_dense_times_hold_every_row_and_divide_each_interval() -> None:
    rows = np.array([0.0, 1.0, 1.1, 4.0])
    found = dense_times(rows)
    assert len(found) == PER_INTERVAL * 3 + 1
    assert set(rows) <= set(found)
    np.testing.assert_allclose(found[:5], [0.0, 0.25, 0.5, 0.75, 1.0])
    assert (np.diff(found) > 0).all()


def test_long_series_are_not_divided_further() -> None:
    rows = np.arange(1000.0)
    np.testing.assert_array_equal(dense_times(rows), rows)
    assert len(dense_times(np.arange(150.0))) <= MOST_SAMPLES


def test_uncertain_regions_count_less() -> None:
    trained = untrained(LOGISTIC)
    [even] = sample_residual(LOGISTIC.system, LOGISTIC.data(), trained).holes
    covariance = np.zeros_like(trained.covariance)
    covariance[0, 0] = 1e4  # of one weight of the input: it matters far from the centre
    [uneven] = sample_residual(
        LOGISTIC.system, LOGISTIC.data(), replace(trained, covariance=covariance)
    ).holes
    assert uneven.weights.mean() == pytest.approx(1.0)
    assert even.weights.min() > 0.3
    assert uneven.weights.min() < 1e-3
    # An undetermined weight is no reason for weights that are not numbers.
    covariance[0, 0] = np.inf
    [unknown] = sample_residual(
        LOGISTIC.system, LOGISTIC.data(), replace(trained, covariance=covariance)
    ).holes
    assert np.isfinite(unknown.weights).all()


def test_samples_stop_where_the_equation_runs_away() -> None:
    system = System.from_text(states=["n"], missing={"h": ["n"]}, equations={"n": "n**3 + h"})
    problem = replace(LOGISTIC, system=LOGISTIC.system)
    trained = replace(untrained(LOGISTIC), parameters={})
    trained = replace(trained, networks={"h": trained.networks["crowding"]}, initial_states=np.array([[1.0]]))
    [hole] = sample_residual(system, problem.data(), trained).holes
    assert 0 < len(hole.times) < len(dense_times(LOGISTIC.times[0]))
    assert np.isfinite(hole.values).all()
    with pytest.raises(SolveError, match="runs away at once"):
        sample_residual(system, problem.data(), replace(trained, initial_states=np.array([[1e200]])))


def test_a_hidden_state_is_sampled_where_the_equation_puts_it() -> None:
    hole = sample_residual(EXCHANGE.system, EXCHANGE.data(), untrained(EXCHANGE)).holes[0]
    first = hole.times == 0.0
    np.testing.assert_allclose(hole.points[first], EXCHANGE.initial[[0, 2]][:, :2])


def test_a_control_is_sampled_as_it_was_measured() -> None:
    [hole] = sample_residual(DOSED.system, DOSED.data(), untrained(DOSED)).holes
    assert hole.inputs == ("light", "a")
    for j in range(2):
        own, signal = np.array(hole.trajectory) == f"site {j}", DOSED.signal(j)
        assert signal is not None
        np.testing.assert_allclose(hole.points[own, 0], signal.at(hole.times[own])[:, 1])
        np.testing.assert_allclose(hole.points[own][0, 1], DOSED.initial[j, 0])
