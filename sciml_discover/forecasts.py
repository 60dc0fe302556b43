"""Models solved again for judging: the law by scipy's LSODA, the trained equation, and where they go on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

import numpy as np

from sciml_discover.base import lazy_import
from sciml_discover.controls import ControlSignal, control_signal
from sciml_discover.errors import SolveError
from sciml_discover.expressions import parse_expression, symbol
from sciml_discover.integrate import solve_reference
from sciml_discover.residual_samples import dense_times
from sciml_discover.solve import solve_times
from sciml_discover.system import Parameter
from sciml_discover.training import TrainingResult, trained_ude
from sciml_discover.trajectories import fitted_rows

if TYPE_CHECKING:
    import sympy

    from sciml_discover.laws import Law
    from sciml_discover.noise import Noise
    from sciml_discover.observation import Observation
    from sciml_discover.readers import PreparedData
    from sciml_discover.system import System
    from sciml_discover.systems import KnownSystem
    from sciml_discover.trajectories import Dataset, Trajectory
else:
    sympy = lazy_import("sympy")

DENSE_POINTS = 300
"""Points of a curve for plotting."""

START_STEP = 1e-3
"""Step of central differences for an initial state without a standard deviation, as a fraction of its size."""
SMALLEST_START = 1e-4
"""Smallest size of an initial state for that, as a fraction of the largest value of the state along its trajectory."""
LEAST_SEEN = 1e-6
"""Of the largest singular value: combinations of initial states that the first rows show less are not fitted."""


class AbstractModel(ABC):
    """Something that can be solved over any times from any initial state.

    Attributes:
        system: its states, controls and observables.
        initial: fitted initial states of the training trajectories, shape ``(trajectories, states)``.
        starts: times of the initial states.
        note: how the model was made.
    """

    system: System
    initial: np.ndarray
    starts: tuple[float, ...]
    note: str

    @abstractmethod
    def solve(
        self,
        initial: np.ndarray,
        start: float,
        times: np.ndarray,
        controls: ControlSignal | None = None,
    ) -> np.ndarray | None:
        """Return states ``(times, states)`` from a state at ``start``; None if the solver failed."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the states."""
        return self.system.state_names

    def path(
        self, trajectory: int, times: np.ndarray, controls: ControlSignal | None = None
    ) -> np.ndarray | None:
        """Return the fitted trajectory at times not before its start."""
        return self.solve(self.initial[trajectory], self.starts[trajectory], times, controls)

    def spread(
        self,
        trajectory: int,  # noqa: ARG002 - for those who know
        times: np.ndarray,  # noqa: ARG002
        transform: Transform,  # noqa: ARG002
        controls: ControlSignal | None = None,  # noqa: ARG002
    ) -> np.ndarray | None:
        """Return the standard deviation of the transformed fitted trajectory, where the model knows it."""
        return None

    @property
    def own_covariance(self) -> np.ndarray:
        """Covariance of the model's own numbers, shape ``(numbers, numbers)``; of none where it is not known."""
        return np.zeros((0, 0))

    def solve_moved(
        self,
        moved: np.ndarray,  # noqa: ARG002 - for those who have numbers
        initial: np.ndarray,
        start: float,
        times: np.ndarray,
        controls: ControlSignal | None = None,
    ) -> np.ndarray | None:
        """Return what `solve` does, with the numbers of `own_covariance` moved by so much."""
        return self.solve(initial, start, times, controls)


Transform = Callable[[np.ndarray], np.ndarray]


class LawModel(AbstractModel):
    """A closed-form law with its joint covariance.

    Every fitted number is a parameter of the filled system, so that its uncertainty can be carried through the
    solution by central differences.
    """

    def __init__(
        self,
        system: System,
        values: np.ndarray,
        initial: np.ndarray,
        free: list[int] | None = None,
        covariance: np.ndarray | None = None,
    ) -> None:
        self._values, self._free, self._covariance = values, free or [], covariance
        self.system = system
        self.initial = initial
        self.note = ""

    @classmethod
    def of(cls, system: System, law: Law, data: PreparedData) -> LawModel:
        """Return the model of a law that was fitted to the training rows."""
        laws, numbers = {}, []
        prefix = "number"
        taken = (*system.state_names, *system.parameter_names, *system.control_names)
        while any(name.startswith(prefix) for name in taken):
            prefix += "_"

        def number(value: float) -> sympy.Symbol:
            numbers.append(Parameter(f"{prefix}{len(numbers)}", value))
            return symbol(numbers[-1].name)

        # In the order of the covariance: in each hole all coefficients, then all inner parameters.
        for hole in system.missing:
            terms = law.missing[hole.name]
            coefficients = [number(term.coefficient.value) for term in terms]
            parts = []
            for coefficient, term in zip(coefficients, terms, strict=True):
                inner = {symbol(name): number(estimate.value) for name, estimate in term.inner.items()}
                names = [*hole.inputs, *term.inner]
                expression = parse_expression(term.term, names, where="law", exponents=term.inner)
                parts.append(coefficient * cast("sympy.Expr", expression.xreplace(inner)))
            laws[hole.name] = sympy.Add(*parts)
        filled = system.fill(laws, tuple(numbers))
        values = [law.parameters[name].estimate.value for name in system.parameter_names]
        values += [parameter.value for parameter in numbers]
        free = [i for i, parameter in enumerate(system.parameters) if not parameter.fixed]
        free += range(len(system.parameters), len(values))
        model = cls(filled, np.array(values), law.initial_states, free, law.covariance)
        model.starts = data.train.start_times
        return model

    def driven(self, inputs: Mapping[str, sympy.Expr]) -> LawModel:
        """Return this model with expressions in the time in place of the controls."""
        other = LawModel(self.system.drive(inputs), self._values, self.initial, self._free, self._covariance)
        other.starts, other.note = self.starts, self.note
        return other

    def solve(
        self,
        initial: np.ndarray,
        start: float,
        times: np.ndarray,
        controls: ControlSignal | None = None,
    ) -> np.ndarray | None:
        """Return states by scipy's LSODA with the analytic Jacobian; None if it failed."""
        return self._solve(self._values, initial, start, times, controls)

    def _solve(
        self,
        values: np.ndarray,
        initial: np.ndarray,
        start: float,
        times: np.ndarray,
        controls: ControlSignal | None,
    ) -> np.ndarray | None:
        try:
            return solve_reference(self.system, values, initial, times, start=start, controls=controls)
        except SolveError:
            return None

    def spread(
        self,
        trajectory: int,
        times: np.ndarray,
        transform: Transform,
        controls: ControlSignal | None = None,
    ) -> np.ndarray | None:
        """Return the standard deviation of the transformed trajectory, from the law's joint covariance.

        None where there is no covariance, where the data leave a number undetermined, or where a neighbouring
        solution does not exist.
        """
        if self._covariance is None:
            return None
        dimension, n_free = len(self.names), len(self._free)
        own = [n_free + trajectory * dimension + k for k in range(dimension)]
        index = [*range(n_free), *own]
        covariance = self._covariance[np.ix_(index, index)]
        deviations = np.sqrt(np.diag(covariance))
        if not np.isfinite(deviations).all():
            return None
        start = (self.initial[trajectory], self.starts[trajectory])
        slopes = _slopes(self, _steps(deviations), *start, times, transform, controls)
        return None if slopes is None else _deviations(slopes, covariance)

    @property
    def own_covariance(self) -> np.ndarray:
        """Covariance of the fitted numbers; of none where there is none, or where the data leave one undetermined."""
        if self._covariance is None:
            return np.zeros((0, 0))
        own = self._covariance[: len(self._free), : len(self._free)]
        return own if np.isfinite(own).all() else np.zeros((0, 0))

    def solve_moved(
        self,
        moved: np.ndarray,
        initial: np.ndarray,
        start: float,
        times: np.ndarray,
        controls: ControlSignal | None = None,
    ) -> np.ndarray | None:
        """Return what `solve` does, with the numbers of `own_covariance` moved by so much."""
        values = self._values.copy()
        values[self._free[: len(moved)]] += moved
        return self._solve(values, initial, start, times, controls)


def _steps(deviations: np.ndarray) -> np.ndarray:
    """Return steps of central differences for numbers with these standard deviations."""
    return np.where(deviations > 0.0, 1e-2 * deviations, 1e-8)


def _slopes(
    model: AbstractModel,
    steps: np.ndarray,
    initial: np.ndarray,
    start: float,
    times: np.ndarray,
    transform: Transform,
    controls: ControlSignal | None,
) -> np.ndarray | None:
    """Return how a transformed trajectory changes with what it depends on, by central differences.

    Args:
        model: to be solved.
        steps: of its own numbers and then of its initial state, shape ``(numbers,)``; zero for what does not move.
        initial: state at ``start``.
        start: time of that.
        times: of the rows.
        transform: of states at these times into ``(rows, observables)``.
        controls: of the trajectory.

    Returns:
        Shape ``(rows, observables, numbers)``; None if a neighbouring solution does not exist.
    """
    own, columns = len(steps) - len(initial), []
    for place, step in enumerate(steps):
        moved = np.zeros_like(steps)
        moved[place] = step
        ends = [
            model.solve_moved(sign * moved[:own], initial + sign * moved[own:], start, times, controls)
            for sign in (1.0, -1.0)
        ]
        if ends[0] is None or ends[1] is None:
            return None
        columns.append((transform(ends[0]) - transform(ends[1])) / (2.0 * step or 1.0))
    return np.stack(columns, axis=-1)


def _deviations(slopes: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """Return the standard deviations of values ``(rows, observables)`` that change with numbers by these slopes."""
    variance = np.einsum("tki,ij,tkj->tk", slopes, covariance, slopes)
    return np.sqrt(np.maximum(variance, 0.0))


class UdeModel(AbstractModel):
    """The trained universal differential equation, solved by fixed steps."""

    def __init__(self, system: System, trained: TrainingResult, data: PreparedData) -> None:
        self._ude, self._theta = trained_ude(system, trained)
        self.system = system
        self.initial = trained.initial_states
        self.starts = data.train.start_times
        self.note = "the trained networks in the holes"
        gaps = np.concatenate([np.diff(item.times) for item in data.train.trajectories])
        # Irregular rows have tiny gaps that say nothing about how fast the system moves: the median does.
        self._longest = float(np.median(gaps)) / 8.0

    def solve(
        self,
        initial: np.ndarray,
        start: float,
        times: np.ndarray,
        controls: ControlSignal | None = None,
    ) -> np.ndarray | None:
        """Return states by Runge-Kutta steps no longer than an eighth of the median training interval."""
        grid = np.unique(np.append(times, start))
        if controls is not None:
            # No step over a row, where a control may jump.
            rows = controls.times[(controls.times > grid[0]) & (controls.times < grid[-1])]
            grid = np.unique(np.concatenate([grid, rows]))
        parts = np.maximum(np.ceil(np.diff(grid) / self._longest).astype(int), 1)
        if parts.sum() > 20_000:
            return None
        fine = np.concatenate(
            [
                low + (high - low) * np.arange(count) / count
                for low, high, count in zip(grid, grid[1:], parts, strict=False)
            ]
            + [grid[-1:]]
        )
        try:
            solved = solve_times(self._ude, self._theta, initial, fine, steps=1, controls=controls)
        except SolveError:
            return None
        found = solved[np.searchsorted(fine, times)]
        return found if np.isfinite(found).all() else None


@dataclass(frozen=True)
class Forecast:
    """Observables of a model at the rows of a dataset, per trajectory; None where it could not be solved."""

    train: list[np.ndarray] | None
    holdout: list[np.ndarray] | None
    holdout_sd: list[np.ndarray] | None
    note: str


def forecast(model: AbstractModel, data: PreparedData) -> Forecast:
    """Return a model's observables at training and hold-out rows."""
    observation = model.system.observation(data.train.observables)
    train = []
    for j, item in enumerate(data.train.trajectories):
        states = model.path(j, item.times, control_signal(model.system.controls, item))
        train.append(None if states is None else observation.values(item.times, states, item.controls))
    train_found = [values for values in train if values is not None]
    note = model.note
    if len(train_found) < len(train):
        note = f"{note}; could not be solved over all training rows".lstrip("; ")
    holdout: list[np.ndarray] | None = None
    holdout_sd: list[np.ndarray] | None = None
    if data.holdout is not None:
        holdout, spreads = [], []
        names = [item.name for item in data.train.trajectories]
        for item in data.holdout.trajectories:
            if data.kind_of_holdout == "time":
                j = names.index(item.name)
                signal = control_signal(model.system.controls, data.train.trajectories[j], item)
                states = model.path(j, item.times, signal)
                spread = model.spread(j, item.times, _transform(observation, item, data.noise), signal)
            else:
                states, spread = _continue_from_first_quarter(model, item, data)
            if states is None:
                note = f"{note}; could not be solved over all hold-out rows".lstrip("; ")
                holdout = None
                break
            values = observation.values(item.times, states, item.controls)
            holdout.append(values)
            spreads.append(spread if spread is not None else np.zeros_like(values))
        holdout_sd = spreads if holdout is not None else None
    solved = len(train_found) == len(train)
    return Forecast(train_found if solved else None, holdout, holdout_sd, note)


def _transform(observation: Observation, rows: Trajectory, noise: Noise) -> Transform:
    """Return what turns states at rows into observables on the scale on which the noise is additive."""
    return lambda states: noise.transform(observation.values(rows.times, states, rows.controls))


def scored_holdout(data: PreparedData) -> Dataset | None:
    """Return the hold-out rows that count: without those that the initial state of a trajectory was fitted to."""
    if data.holdout is None or data.kind_of_holdout != "trajectory":
        return data.holdout
    kept = []
    for item in data.holdout.trajectories:
        values = item.values.copy()
        values[: fitted_rows(item.times)] = np.nan
        kept.append(replace(item, values=values))
    return replace(data.holdout, trajectories=tuple(kept))


def _continue_from_first_quarter(
    model: AbstractModel, rows: Trajectory, data: PreparedData
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Fit the initial state of a new trajectory to its first quarter and return states at all of its rows.

    What is known of initial states holds for it too. Beside the states stands how far the observables at these rows
    may be off, see `_spread_from`.
    """
    from scipy.optimize import least_squares

    times, values = rows.times, rows.values
    observation = model.system.observation(data.train.observables)
    signal = control_signal(model.system.controls, rows)
    first = fitted_rows(times)
    transform = _transform(observation, rows.rows(slice(first)), data.noise)
    guess = model.initial.mean(axis=0).copy()
    for column, position in enumerate(observation.columns):
        if position is None:
            continue
        seen = np.flatnonzero(np.isfinite(values[:first, column]))
        if len(seen):
            guess[position] = values[seen[0], column]
    held = model.system.held
    for position in held:
        guess[position] = model.system.states[position].initial
    free = [position for position in range(len(guess)) if position not in held]
    scale = np.maximum(np.abs(guess), 1e-6)
    target, sd = data.noise.transform(values[:first]), data.noise.sd_of(values[:first])

    def begin(scaled: np.ndarray) -> np.ndarray:
        state = guess.copy()
        state[free] = scaled * scale[free]
        return state

    def residual(scaled: np.ndarray) -> np.ndarray:
        states = model.solve(begin(scaled), float(times[0]), times[:first], signal)
        if states is None:
            return np.full(target.size, 1e6)
        error = (transform(states) - target) / sd
        # Nothing was seen: no error. No prediction, such as the logarithm of a negative value: a large one.
        return np.where(np.isfinite(target), np.nan_to_num(error, nan=1e6), 0.0).ravel()

    if free:
        guess = begin(least_squares(residual, (guess / scale)[free], x_scale=1.0).x)
    states = model.solve(guess, float(times[0]), times, signal)
    if states is None:
        return None, None
    # A state that begins near zero says nothing about how far it can be moved.
    size = np.maximum(np.abs(guess), SMALLEST_START * np.abs(states).max(axis=0))
    size = np.where(np.isin(np.arange(len(guess)), held), 0.0, np.maximum(size, 1e-6))
    return states, _spread_from(model, guess, size, rows, data)


def _spread_from(
    model: AbstractModel, initial: np.ndarray, size: np.ndarray, rows: Trajectory, data: PreparedData
) -> np.ndarray | None:
    """Return the standard deviation of a trajectory whose initial state was fitted to its first quarter.

    The noise of these rows moves the state, and so do errors of the law, which was not fitted to them: along with each
    number of the law goes the state that then fits best. To first order, on the scale on which the noise is additive.

    Args:
        model: that was solved.
        initial: the fitted state.
        size: of each state, shape ``(states,)``; zero where it is known.
        rows: of the trajectory.
        data: the noise, and what was observed.

    Returns:
        Shape ``(rows, observables)``; None if a neighbouring solution does not exist.
    """
    law, first = model.own_covariance, fitted_rows(rows.times)
    own = len(law)
    steps = np.append(_steps(np.sqrt(np.diag(law))), START_STEP * size)
    transform = _transform(model.system.observation(data.train.observables), rows, data.noise)
    signal = control_signal(model.system.controls, rows)
    slopes = _slopes(model, steps, initial, float(rows.times[0]), rows.times, transform, signal)
    if slopes is None or not np.isfinite(slopes).all():
        return None
    measured = rows.values[:first]
    fitted = (slopes[:first] / data.noise.sd_of(measured)[..., None])[np.isfinite(measured)]
    # How the fitted state follows errors of the measured values, in units of the noise.
    follows = size[:, None] * np.linalg.pinv(fitted[:, own:] * size, rcond=LEAST_SEEN)
    together = np.concatenate([np.eye(own), -follows @ fitted[:, :own]])
    covariance = together @ law @ together.T
    covariance[own:, own:] += follows @ follows.T
    return _deviations(slopes, covariance)


def dense_grid(model: AbstractModel, data: PreparedData) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Yield name, times and observables of every training trajectory, hold-out times included, for plotting."""
    observation = model.system.observation(data.train.observables)
    later = {}
    if data.holdout is not None and data.kind_of_holdout == "time":
        later = {item.name: (item,) for item in data.holdout.trajectories}
    for j, item in enumerate(data.train.trajectories):
        parts = (item, *later.get(item.name, ()))
        signal = control_signal(model.system.controls, *parts)
        times = np.linspace(float(item.times[0]), float(parts[-1].times[-1]), DENSE_POINTS)
        states = model.path(j, times, signal)
        if states is None:
            # Show as much as there is: up to the end of the training rows.
            times = dense_times(item.times)
            states = model.path(j, times, signal)
        if states is not None:
            controls = None if signal is None else signal.at(times)
            yield item.name, times, observation.values(times, states, controls)


def truth_path(truth: KnownSystem, times: np.ndarray) -> np.ndarray | None:
    """Return the exact states of a known system at times, from its start at the first of them."""
    try:
        return solve_reference(truth.driven, truth.parameter_values, truth.initial_values, times)
    except SolveError:
        return None
