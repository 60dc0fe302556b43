"""Models solved again: where they go on from, and how sure they are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sciml_discover.forecasts import (
    DENSE_POINTS,
    AbstractModel,
    LawModel,
    UdeModel,
    dense_grid,
    forecast,
    scored_holdout,
    truth_path,
)
from sciml_discover.integrate import solve_reference
from sciml_discover.noise import Noise
from sciml_discover.readers import PreparedData
from sciml_discover.systems import get_system
from sciml_discover.trajectories import Dataset, HoldoutOptions, Trajectory, fitted_rows, split_holdout
from tests.problems import DOSED, EXCHANGE, FORCED, LOGISTIC, LOTKA_VOLTERRA, Problem, untrained


def split(problem: Problem, options: HoldoutOptions, relative: float = 0.0) -> PreparedData:
    train, held = split_holdout(problem.dataset(relative), options)
    kind = "trajectory" if options.trajectories else "time"
    return PreparedData(train, held, problem.noise(relative or 0.01), kind, "", ())


def exact_model(problem: Problem, data: PreparedData, initial: np.ndarray | None = None) -> LawModel:
    start = problem.initial[: len(data.train.trajectories)] if initial is None else initial
    model = LawModel(problem.filled, problem.parameters, start)
    model.starts = tuple(float(item.times[0]) for item in data.train.trajectories)
    return model


TWINS = replace(
    LOTKA_VOLTERRA,
    initial=np.array([[3.0, 1.5], [1.0, 1.0]]),
    times=(np.arange(0, 4.01, 0.25), np.arange(0, 4.01, 0.2)),
)


def test_held_out_by_time_the_trajectory_goes_on() -> None:
    data = split(LOTKA_VOLTERRA, HoldoutOptions(rows=6))
    found = forecast(exact_model(LOTKA_VOLTERRA, data), data)
    assert data.holdout is not None
    assert found.train is not None
    assert found.holdout is not None
    np.testing.assert_allclose(found.train[0], data.train.trajectories[0].values, rtol=1e-7)
    np.testing.assert_allclose(found.holdout[0], data.holdout.trajectories[0].values, rtol=1e-6)
    assert scored_holdout(data) is data.holdout


def test_held_out_by_trajectory_only_the_start_is_fitted() -> None:
    data = split(TWINS, HoldoutOptions(trajectories=("site 1",)))
    found = forecast(exact_model(TWINS, data), data)
    assert data.holdout is not None
    assert found.holdout is not None
    held = data.holdout.trajectories[0]
    np.testing.assert_allclose(found.holdout[0], held.values, rtol=1e-3)
    scored = scored_holdout(data)
    assert scored is not None
    first = fitted_rows(held.times)
    assert first == len(held.times) // 4 == 5
    assert np.isnan(scored.trajectories[0].values[:first]).all()
    assert np.isfinite(scored.trajectories[0].values[first:]).all()
    assert np.isfinite(held.values).all()  # the rows themselves are left alone
    assert fitted_rows(np.arange(4.0)) == 2


def test_the_start_is_fitted_to_rows_with_gaps() -> None:
    data = split(TWINS, HoldoutOptions(trajectories=("site 1",)))
    assert data.holdout is not None
    data.holdout.trajectories[0].values[0] = np.nan
    data.holdout.trajectories[0].values[2, 1] = np.nan
    found = forecast(exact_model(TWINS, data), data)
    assert found.holdout is not None
    np.testing.assert_allclose(found.holdout[0], TWINS.states(1, TWINS.times[1]), rtol=1e-2)


def test_hidden_states_are_solved_and_not_shown() -> None:
    data = EXCHANGE.data(0.0)
    found = forecast(exact_model(EXCHANGE, data), data)
    assert found.train is not None
    for j, item in enumerate(data.train.trajectories):
        assert found.train[j].shape == item.values.shape
        seen = np.isfinite(item.values)
        np.testing.assert_allclose(found.train[j][seen], item.values[seen], rtol=1e-7)


def test_what_cannot_be_solved_is_said() -> None:
    data = split(LOGISTIC, HoldoutOptions(rows=4))
    model = exact_model(LOGISTIC, data, np.array([[-5.0]]))  # to minus infinity in finite time
    found = forecast(model, data)
    assert found.train is None
    assert found.holdout is None
    assert "could not be solved over all training rows" in found.note
    assert "could not be solved over all hold-out rows" in found.note
    assert list(dense_grid(model, data)) == []


def test_spread_is_that_of_many_draws() -> None:
    k_sd, x_sd = 0.02, 0.05
    covariance = np.array([[k_sd**2, 0.5 * k_sd * x_sd], [0.5 * k_sd * x_sd, x_sd**2]])
    model = LawModel(FORCED.filled, FORCED.parameters, FORCED.initial, [0], covariance)
    model.starts = (0.0,)
    times = np.array([0.0, 1.0, 3.0])
    found = model.spread(0, times, lambda states: states)
    assert found is not None
    draws = np.random.default_rng(0).multivariate_normal([0.5, 1.0], covariance, 20_000)
    k, x0 = draws.T[:, :, None]
    exact = (k * np.sin(times) - np.cos(times)) / (1 + k**2) + (x0 + 1 / (1 + k**2)) * np.exp(-k * times)
    np.testing.assert_allclose(found[:, 0], exact.std(axis=0), rtol=0.03)
    logs = model.spread(0, times, np.log)
    assert logs is not None
    np.testing.assert_allclose(logs[:, 0], found[:, 0] / FORCED.states(0, times)[:, 0], rtol=1e-3)


def test_an_undetermined_number_has_no_spread() -> None:
    model = LawModel(FORCED.filled, FORCED.parameters, FORCED.initial, [0], np.diag([np.inf, 1e-4]))
    model.starts = (0.0,)
    assert model.spread(0, np.array([0.0, 1.0]), lambda states: states) is None
    assert (
        LawModel(FORCED.filled, FORCED.parameters, FORCED.initial).spread(0, np.zeros(1), lambda s: s) is None
    )


class Growth(AbstractModel):
    """Limited growth, solved exactly; its rate may be uncertain."""

    def __init__(self, data: PreparedData, rate: float = 1.0, rate_sd: float = 0.0) -> None:
        self.system, self.initial, self.note = LOGISTIC.system, np.array([[0.3]]), ""
        self.starts, self._rate, self._rate_sd = data.train.start_times, rate, rate_sd

    @property
    def own_covariance(self) -> np.ndarray:
        return np.array([[self._rate_sd**2]])

    def solve(
        self, initial: np.ndarray, start: float, times: np.ndarray, controls: object = None
    ) -> np.ndarray:
        return self.solve_moved(np.zeros(1), initial, start, times, controls)

    def solve_moved(
        self,
        moved: np.ndarray,
        initial: np.ndarray,
        start: float,
        times: np.ndarray,
        controls: object = None,  # noqa: ARG002
    ) -> np.ndarray:
        grown = np.exp((self._rate + moved[0]) * (times - start))
        return (10.0 * initial * grown / (10.0 + initial * (grown - 1.0)))[:, None]


def grown(seed: int) -> PreparedData:
    """Two runs of limited growth with noise of 1 % of the capacity, the second held out."""
    rng, times = np.random.default_rng(seed), np.linspace(0.0, 8.0, 13)
    exact = 3.0 * np.exp(times) / (10.0 + 0.3 * (np.exp(times) - 1.0))
    runs = tuple(Trajectory(name, times, (exact + 0.1 * rng.standard_normal(13))[:, None]) for name in "ab")
    train, held = split_holdout(Dataset(("n",), runs), HoldoutOptions(trajectories=("b",)))
    noise = Noise(("n",), (False,), np.array([0.1]), False, False, np.array([np.inf]))
    return PreparedData(train, held, noise, "trajectory", "", ())


@pytest.mark.parametrize("rate_sd", [0.0, 0.02])
def test_a_start_that_was_fitted_to_noise_is_as_uncertain_as_that_makes_it(rate_sd: float) -> None:
    errors, spreads = [], []
    for seed in range(300):
        data = grown(seed)
        drawn = 1.0 + rate_sd * np.random.default_rng([seed, 1]).standard_normal()
        found = forecast(Growth(data, drawn, rate_sd), data)
        assert found.holdout is not None
        assert found.holdout_sd is not None
        times = np.linspace(0.0, 8.0, 13)
        errors.append(found.holdout[0] - 3.0 / (0.3 + 9.7 * np.exp(-times))[:, None])
        spreads.append(found.holdout_sd[0])
    # Where it grows fastest, more than the noise itself; the capacity is reached from any start.
    actual, told = np.std(errors, axis=0), np.median(spreads, axis=0)
    np.testing.assert_allclose(told, actual, rtol=0.3, atol=0.01)
    assert actual.max() > 2 * 0.1
    assert told[-1] < 0.1 * told.max()


def test_the_law_moves_the_start_of_a_held_out_trajectory() -> None:
    data, sd, step = split(TWINS, HoldoutOptions(trajectories=("site 1",)), 0.01), 0.03, 0.003
    covariance = np.zeros((3, 3))

    def predicted(moved: float = 0.0, variance: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
        covariance[0, 0] = variance
        values = TWINS.parameters.copy()
        values[0] += moved
        model = LawModel(TWINS.filled, values, TWINS.initial[:1], [0], covariance)
        model.starts = (0.0,)
        found = forecast(model, data)
        assert found.holdout is not None
        assert found.holdout_sd is not None
        return found.holdout[0], found.holdout_sd[0]

    plain, law = predicted()[1], predicted(variance=sd**2)[1]
    refitted = (predicted(moved=step)[0] - predicted(moved=-step)[0]) / (2.0 * step) * sd
    assert (plain > 0.0).all()
    np.testing.assert_allclose(np.sqrt(law**2 - plain**2), np.abs(refitted), rtol=0.05, atol=1e-3)
    # Not a word about the law where a number of it is not determined; the start counts all the same.
    np.testing.assert_allclose(predicted(variance=np.inf)[1], plain)


def test_a_known_start_is_certain() -> None:
    system = replace(TWINS.system, states=tuple(replace(state, initial=1.0) for state in TWINS.system.states))
    problem = replace(TWINS, system=system)
    data = split(problem, HoldoutOptions(trajectories=("site 1",)), 0.01)
    found = forecast(exact_model(problem, data), data)
    assert found.holdout_sd is not None
    assert not found.holdout_sd[0].any()


def test_the_trained_equation_is_solved_at_any_times() -> None:
    data = split(FORCED, HoldoutOptions(rows=5))
    model = UdeModel(FORCED.system, untrained(FORCED), data)
    times = np.array([0.05, 0.05001, 2.0, 7.7])
    found = model.solve(np.array([1.0]), 0.0, times)
    assert found is not None
    # Networks near zero leave a decay.
    np.testing.assert_allclose(found[:, 0], np.exp(-0.5 * times), atol=0.06)
    far = model.solve(np.array([1.0]), 0.0, np.array([1e6]))
    assert far is None


def test_curves_reach_over_the_holdout() -> None:
    data = split(LOTKA_VOLTERRA, HoldoutOptions(rows=6))
    [(name, times, values)] = dense_grid(exact_model(LOTKA_VOLTERRA, data), data)
    assert name == "site 0"
    assert (times[0], times[-1], len(times)) == (0.0, 5.0, DENSE_POINTS)
    np.testing.assert_allclose(values[-1], LOTKA_VOLTERRA.states(0, np.array([0.0, 5.0]))[-1], rtol=1e-6)


def test_path_of_the_truth() -> None:
    found = truth_path(get_system("logistic"), np.array([0.0, 3.0]))
    assert found is not None
    assert found[1, 0] == pytest.approx(10.0 / (1.0 + 19.0 * np.exp(-2.4)))


@pytest.mark.parametrize("options", [HoldoutOptions(rows=1), HoldoutOptions(trajectories=("site 1",))])
def test_measured_inputs_go_on_into_the_holdout(options: HoldoutOptions) -> None:
    data = split(DOSED, options)
    found = forecast(exact_model(DOSED, data), data)
    assert data.holdout is not None
    assert found.train is not None
    assert found.holdout is not None
    for part, values in ((data.train, found.train), (data.holdout, found.holdout)):
        for item, value in zip(part.trajectories, values, strict=True):
            seen = np.isfinite(item.values)
            assert seen.any()
            # A start that was fitted to two rows is not exact.
            rtol = 1e-6 if options.rows else 0.02
            np.testing.assert_allclose(value[seen], item.values[seen], rtol=rtol)


def test_curves_of_expressions_use_the_inputs_between_the_rows() -> None:
    data = split(DOSED, HoldoutOptions(rows=1))
    (name, times, values), _ = dense_grid(exact_model(DOSED, data), data)
    states, signal = DOSED.states(0, times), DOSED.signal(0)
    assert signal is not None
    dose = signal.at(times)[:, 0]
    a, b = states.T
    exact = np.column_stack([a, 2 * b + 0.3 * a * b + 0.1 * dose + 0.05 * times])
    assert (name, times[-1]) == ("site 0", 3.7)
    np.testing.assert_allclose(values, exact, rtol=1e-7)


def test_spread_of_an_expression() -> None:
    sd = 0.02
    model = LawModel(DOSED.filled, DOSED.parameters, DOSED.initial, [0], np.diag([sd**2, 0, 0, 0, 0]))
    model.starts = (0.0, 1.0)
    data = split(DOSED, HoldoutOptions(rows=1))
    found = forecast(model, data)
    assert found.holdout_sd is not None
    assert data.holdout is not None
    signal, times = DOSED.signal(0), DOSED.times[0][-1:]
    ends = []
    for k in (0.5 + 0.01, 0.5 - 0.01):
        states = solve_reference(
            DOSED.filled, np.array([k, 2.0]), DOSED.initial[0], times, start=0.0, controls=signal
        )
        ends.append(DOSED.system.observation().values(times, states, DOSED.controls[0][-1:]))
    np.testing.assert_allclose(
        found.holdout_sd[0], np.abs(ends[0] - ends[1]) / 0.02 * sd, rtol=1e-2, atol=1e-9
    )


def test_the_trained_equation_is_driven_too() -> None:
    data = split(DOSED, HoldoutOptions(rows=1))
    model = UdeModel(DOSED.system, untrained(DOSED), data)
    signal = DOSED.signal(0)
    times = np.array([0.0, 0.45, 2.0, 3.7])
    found = model.solve(np.array([1.5, 0.4]), 0.0, times, signal)
    assert found is not None
    # Networks near zero leave the sum of the doses: 2 from 0.4 to 1.1, 1 from 2.4 to 2.5, 1 and 3 after that.
    network = found[:, 0] - (1.5 + np.array([0.0, 0.1, 1.4, 1.4 + 0.1 + 0.5 + 2.1]))
    assert np.abs(network).max() < 0.4
    assert (
        model.solve(np.array([1.5, 0.4]), 0.0, np.array([5.0]), signal) is None
    )  # no control is known there
