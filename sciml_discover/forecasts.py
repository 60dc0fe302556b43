"""Models solved again for judging: the law by scipy's LSODA, the trained equation, and where they go on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from sciml_discover.errors import SolveError
from sciml_discover.expressions import parse_expression
from sciml_discover.integrate import solve_reference
from sciml_discover.residual_samples import dense_times
from sciml_discover.solve import solve_times
from sciml_discover.system import Parameter
from sciml_discover.training import TrainingResult, trained_ude

if TYPE_CHECKING:
    from sciml_discover.laws import Law
    from sciml_discover.readers import PreparedData
    from sciml_discover.system import System
    from sciml_discover.systems import KnownSystem
    from sciml_discover.trajectories import Dataset

DENSE_POINTS = 300
"""Points of a curve for plotting."""


class AbstractModel(ABC):
    """Something that can be solved over any times from any initial state.

    Attributes:
        names: of the states.
        initial: fitted initial states of the training trajectories, shape ``(trajectories, states)``.
        starts: times of the initial states.
        note: how the model was made.
    """

    names: tuple[str, ...]
    initial: np.ndarray
    starts: tuple[float, ...]
    note: str

    @abstractmethod
    def solve(self, initial: np.ndarray, start: float, times: np.ndarray) -> np.ndarray | None:
        """Return states ``(times, states)`` from a state at ``start``; None if the solver failed."""

    def path(self, trajectory: int, times: np.ndarray) -> np.ndarray | None:
        """Return the fitted trajectory at times not before its start."""
        return self.solve(self.initial[trajectory], self.starts[trajectory], times)

    def spread(self, trajectory: int, times: np.ndarray, transform: Transform) -> np.ndarray | None:  # noqa: ARG002
        """Return the standard deviation of the transformed fitted trajectory, where the model knows it."""
        return None


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
        self._system, self._values, self._free, self._covariance = system, values, free or [], covariance
        self.names = system.state_names
        self.initial = initial
        self.note = ""

    @classmethod
    def of(cls, system: System, law: Law, data: PreparedData) -> LawModel:
        """Return the model of a law that was fitted to the training rows."""
        laws, coefficients = {}, []
        prefix = "coefficient"
        while any(name.startswith(prefix) for name in (*system.state_names, *system.parameter_names)):
            prefix += "_"
        for hole in system.missing:
            parts = []
            for term in law.missing[hole.name]:
                name = f"{prefix}{len(coefficients)}"
                coefficients.append(Parameter(name, term.coefficient.value))
                parts.append(f"{name}*({term.term})")
            names = [*hole.inputs, *(parameter.name for parameter in coefficients)]
            laws[hole.name] = parse_expression(" + ".join(parts) or "0", names, where="law")
        filled = system.fill(laws, tuple(coefficients))
        values = [law.parameters[name].estimate.value for name in system.parameter_names]
        values += [parameter.value for parameter in coefficients]
        free = [i for i, parameter in enumerate(system.parameters) if not parameter.fixed]
        free += range(len(system.parameters), len(values))
        model = cls(filled, np.array(values), law.initial_states, free, law.covariance)
        model.starts = data.train.start_times
        return model

    def solve(self, initial: np.ndarray, start: float, times: np.ndarray) -> np.ndarray | None:
        """Return states by scipy's LSODA with the analytic Jacobian; None if it failed."""
        return self._solve(self._values, initial, start, times)

    def _solve(
        self, values: np.ndarray, initial: np.ndarray, start: float, times: np.ndarray
    ) -> np.ndarray | None:
        try:
            return solve_reference(self._system, values, initial, times, start=start)
        except SolveError:
            return None

    def spread(self, trajectory: int, times: np.ndarray, transform: Transform) -> np.ndarray | None:
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
        columns = []
        for position, deviation in enumerate(deviations):
            if not np.isfinite(deviation):
                return None
            ends = []
            for sign in (1.0, -1.0):
                values, initial = self._values.copy(), self.initial[trajectory].copy()
                target, place = (
                    (values, self._free[position]) if position < n_free else (initial, position - n_free)
                )
                step = 1e-2 * deviation or 1e-8
                target[place] += sign * step
                ends.append(self._solve(values, initial, self.starts[trajectory], times))
            if ends[0] is None or ends[1] is None:
                return None
            columns.append((transform(ends[0]) - transform(ends[1])) / (2.0 * step))
        jacobian = np.stack(columns, axis=-1)
        variance = np.einsum("tki,ij,tkj->tk", jacobian, covariance, jacobian)
        return np.sqrt(np.maximum(variance, 0.0))


class UdeModel(AbstractModel):
    """The trained universal differential equation, solved by fixed steps."""

    def __init__(self, system: System, trained: TrainingResult, data: PreparedData) -> None:
        self._ude, self._theta = trained_ude(system, trained)
        self.names = system.state_names
        self.initial = trained.initial_states
        self.starts = data.train.start_times
        self.note = "the trained networks in the holes"
        gaps = np.concatenate([np.diff(item.times) for item in data.train.trajectories])
        # Irregular rows have tiny gaps that say nothing about how fast the system moves: the median does.
        self._longest = float(np.median(gaps)) / 8.0

    def solve(self, initial: np.ndarray, start: float, times: np.ndarray) -> np.ndarray | None:
        """Return states by Runge-Kutta steps no longer than an eighth of the median training interval."""
        grid = np.unique(np.append(times, start))
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
        solved = solve_times(self._ude, self._theta, initial, fine, steps=1)
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
    columns = [model.names.index(name) for name in data.train.observables]

    def transform(states: np.ndarray) -> np.ndarray:
        return data.noise.transform(states[:, columns])

    train = [model.path(j, item.times) for j, item in enumerate(data.train.trajectories)]
    train_found = [states[:, columns] for states in train if states is not None]
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
                states, spread = model.path(j, item.times), model.spread(j, item.times, transform)
            else:
                states, spread = _continue_from_first_quarter(model, item.times, item.values, data), None
            if states is None:
                note = f"{note}; could not be solved over all hold-out rows".lstrip("; ")
                holdout = None
                break
            holdout.append(states[:, columns])
            spreads.append(spread if spread is not None else np.zeros((len(item.times), len(columns))))
        holdout_sd = spreads if holdout is not None else None
    solved = len(train_found) == len(train)
    return Forecast(train_found if solved else None, holdout, holdout_sd, note)


def fitted_rows(times: np.ndarray) -> int:
    """Return how many rows of a held-out trajectory go into its initial state: a quarter, at least two."""
    return max(2, len(times) // 4)


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
    model: AbstractModel, times: np.ndarray, values: np.ndarray, data: PreparedData
) -> np.ndarray | None:
    """Fit the initial state of a new trajectory to its first quarter and return states at all of its rows."""
    from scipy.optimize import least_squares

    columns = [model.names.index(name) for name in data.train.observables]
    first = fitted_rows(times)
    guess = model.initial.mean(axis=0).copy()
    for column, position in enumerate(columns):
        seen = np.flatnonzero(np.isfinite(values[:first, column]))
        if len(seen):
            guess[position] = values[seen[0], column]
    scale = np.maximum(np.abs(guess), 1e-6)
    target, sd = data.noise.transform(values[:first]), data.noise.sd_of(values[:first])

    def residual(scaled: np.ndarray) -> np.ndarray:
        states = model.solve(scaled * scale, float(times[0]), times[:first])
        if states is None:
            return np.full(target.size, 1e6)
        error = (data.noise.transform(states[:, columns]) - target) / sd
        # Nothing was seen: no error. No prediction, such as the logarithm of a negative value: a large one.
        return np.where(np.isfinite(target), np.nan_to_num(error, nan=1e6), 0.0).ravel()

    found = least_squares(residual, guess / scale, x_scale=1.0)
    return model.solve(found.x * scale, float(times[0]), times)


def dense_grid(model: AbstractModel, data: PreparedData) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Yield name, times and observables of every training trajectory, hold-out times included, for plotting."""
    columns = [model.names.index(name) for name in data.train.observables]
    ends = {}
    if data.holdout is not None and data.kind_of_holdout == "time":
        ends = {item.name: float(item.times[-1]) for item in data.holdout.trajectories}
    for j, item in enumerate(data.train.trajectories):
        end = ends.get(item.name, float(item.times[-1]))
        times = np.linspace(float(item.times[0]), end, DENSE_POINTS)
        states = model.path(j, times)
        if states is None:
            # Show as much as there is: up to the end of the training rows.
            times = dense_times(item.times)
            states = model.path(j, times)
        if states is not None:
            yield item.name, times, states[:, columns]


def truth_path(truth: KnownSystem, times: np.ndarray) -> np.ndarray | None:
    """Return the exact states of a known system at times, from its start at the first of them."""
    try:
        return solve_reference(truth.system, truth.parameter_values, truth.initial_values, times)
    except SolveError:
        return None
