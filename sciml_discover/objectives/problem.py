"""What every objective is made from: the rows of a dataset as padded tensors, and the state of a fit."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from sciml_discover.base import lazy_import
from sciml_discover.controls import ControlLines, Inputs, no_controls, training_lines
from sciml_discover.noise import Noise
from sciml_discover.smoothers import AbstractSmoother, fit_smoother, fit_smoother_per_value
from sciml_discover.trajectories import Dataset

if TYPE_CHECKING:
    import torch

    from sciml_discover.observation import Observation
    from sciml_discover.system import System
else:
    torch = lazy_import("torch")

HELD = 1e-4
"""How exactly a trajectory begins where its initial value is given, relative to that value."""
HELD_IN_NOISE = 0.1
"""The same in units of the noise, where that is smaller."""

WILD = 0.1
"""Share of a state's way, up and down, in which its slopes may be larger than what counts as typical."""


@dataclass(frozen=True)
class Rows:
    """Training rows of ``J`` trajectories, padded to the ``L`` rows of the longest.

    Padded rows repeat the last time, so that their intervals have length zero and nothing happens in them.

    Attributes:
        times: shape ``(J, L)``.
        values: on the scale on which noise is additive, zero where nothing was seen, ``(J, L, columns)``: those of the
            observables, then those of the states whose initial value is given, which have values in the first row only.
        weights: one over the noise sd, zero where nothing was seen, same shape.
        columns: position among the states of each observable that is a state as it is; None for the others.
        lognormal: per column, whether values are logarithms, shape ``(columns,)``.
        scale: typical size of each state, shape ``(states,)``.
        slope_scale: typical size of each state's time derivative, shape ``(states,)``.
        slope_scale_at_rows: the same at every row, larger where rows are so close that noise alone makes large slopes,
            shape ``(J, L, states)``.
        tolerance: per state, what counts as a small error: its noise sd (the median, where every value has its own), or
            a hundredth of its scale if hidden.
        tolerance_at_rows: the same at every row, where noise depends on the value, shape ``(J, L, states)``.
        per_value: whether noise is in proportion to each value.
        positive: per state, whether it stays above zero.
        smooth_states: law-free states at the rows, those that no observable is constant, shape ``(J, L, states)``.
        smooth_slopes: their time derivatives, same shape; NaN for states that no observable is.
        lengths: number of real rows of each trajectory.
        observation: what each observable is of the states.
        controls: measured inputs at the rows, shape ``(J, L, controls)``; None for a system without any.
        control_lines: the same between the rows, shape ``(J, L - 1)``; None for a system without any.
        extra: number of further states, after those of the system, that no observable knows of.
    """

    times: torch.Tensor
    values: torch.Tensor
    weights: torch.Tensor
    columns: tuple[int | None, ...]
    lognormal: torch.Tensor
    scale: torch.Tensor
    slope_scale: torch.Tensor
    slope_scale_at_rows: torch.Tensor
    tolerance: torch.Tensor
    tolerance_at_rows: torch.Tensor
    per_value: bool
    positive: torch.Tensor
    smooth_states: torch.Tensor
    smooth_slopes: torch.Tensor
    lengths: tuple[int, ...]
    observation: Observation
    controls: torch.Tensor | None = None
    control_lines: ControlLines | None = None
    extra: int = 0

    @property
    def intervals(self) -> torch.Tensor:
        """Lengths of the intervals between rows, shape ``(J, L - 1)``."""
        return self.times[:, 1:] - self.times[:, :-1]

    @property
    def n_observed(self) -> int:
        """Number of values that were really measured."""
        return int(self.counts.sum())

    @property
    def real(self) -> torch.Tensor:
        """Which of all rows are no padding, shape ``(J * L,)``; see `signals`."""
        lengths = torch.tensor(self.lengths, device=self.times.device)
        rows = torch.arange(self.times.shape[1], device=self.times.device)
        return (rows < lengths[:, None]).flatten()

    @property
    def counts(self) -> torch.Tensor:
        """Number of values of each observable that were really measured, shape ``(observables,)``."""
        return (self.weights[..., : self.n_observables] > 0).sum((0, 1))

    @property
    def n_observables(self) -> int:
        """Number of observables."""
        return len(self.columns)

    @property
    def held(self) -> tuple[int, ...]:
        """Positions of the states whose initial value is given, in the order of their columns."""
        return tuple(
            position for position in self.observation.columns[self.n_observables :] if position is not None
        )

    @property
    def n_columns(self) -> int:
        """Number of residuals of each row: those of observables, then those of known initial values."""
        return self.weights.shape[-1]

    @property
    def sees_every_state(self) -> bool:
        """Whether each state is an observable as it is."""
        return set(self.columns) >= set(range(len(self.scale)))

    @property
    def flat_controls(self) -> torch.Tensor | None:
        """The controls of all rows, shape ``(J * L, controls)``; None for a system without controls."""
        return None if self.controls is None else self.controls.flatten(0, 1)

    def signals(self, states: torch.Tensor) -> torch.Tensor:
        """Return what holes may depend on at all rows: states, the time, controls, shape ``(J * L, signals)``.

        Args:
            states: at the rows, shape ``(J, L, d)``.
        """
        columns = [states.flatten(0, 1), self.times.flatten()[:, None]]
        if self.flat_controls is not None:
            columns.append(self.flat_controls)
        return torch.cat(columns, dim=1)

    def inputs(self, intervals: int | slice = slice(None), count: int | None = None) -> Inputs:
        """Return the controls as a function of the time in some intervals of every trajectory.

        Args:
            intervals: which of the ``L - 1`` intervals between rows.
            count: intervals per trajectory that are wanted, if there may be fewer; empty ones are appended.

        Returns:
            A function of times of shape ``(J * intervals,)`` that gives ``(J * intervals, controls)``, or None for a
            system without controls.
        """
        if self.control_lines is None:
            return no_controls

        def pick(item: torch.Tensor) -> torch.Tensor:
            some = item[:, intervals]
            if isinstance(intervals, int):
                return some
            if count is not None and some.shape[1] < count:
                some = torch.cat([some, *[some[:, -1:]] * (count - some.shape[1])], dim=1)
            return some.flatten(0, 1)

        return self.control_lines.map(pick)

    def observe(self, states: torch.Tensor) -> torch.Tensor:
        """Return the observables of states at the rows, shape ``(..., J, L, observables)``."""
        return self.observation.evaluate(self.times, self._own(states), self.controls)

    def _own(self, states: torch.Tensor) -> torch.Tensor:
        """Return the states that the observables know of."""
        return states[..., : states.shape[-1] - self.extra] if self.extra else states

    def residual(self, states: torch.Tensor) -> torch.Tensor:
        """Return (model - data) / sd at rows, zero where nothing was seen, shape ``(..., J, L, columns)``."""
        return self._residual(self.observe(states))

    def misfit(self, states: torch.Tensor) -> torch.Tensor:
        """Return the squared residuals of each observable, known initial values left out, ``(..., observables)``."""
        return self.residual(states)[..., : self.n_observables].square().sum((-3, -2))

    def misfit_of_starts(self, states: torch.Tensor) -> torch.Tensor:
        """Return the squared residuals of all known initial values together, shape ``(...)``."""
        first = states[..., 0, list(self.held)]
        residual = (first - self.values[:, 0, self.n_observables :]) * self.weights[
            :, 0, self.n_observables :
        ]
        return residual.square().sum((-2, -1))

    def linearize(self, states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the residual and its derivative by the states at the row, ``(..., J, L, observables, states)``."""
        direct = self.observation.direct
        if direct is None:
            seen, by_state = self.observation.linearize(self.times, self._own(states), self.controls)
            if self.extra:
                by_state = torch.cat([by_state, by_state.new_zeros(*seen.shape, self.extra)], dim=-1)
        else:
            seen = states[..., direct]
            unit = torch.eye(states.shape[-1], dtype=states.dtype, device=states.device)
            by_state = unit[direct].expand(*seen.shape, -1)
        return self._residual(seen), self._slope(seen)[..., None] * by_state

    def linearize_along(
        self, states: torch.Tensor, sensitivity: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the residual and its derivative by whatever the states were differentiated by.

        The same as `linearize` and the chain rule, without the product where every observable is a state.

        Args:
            states: shape ``(..., J, L, states)``.
            sensitivity: derivatives of the states, shape ``(..., J, L, states, n)``.

        Returns:
            The residual and its derivatives, shape ``(..., J, L, observables, n)``.
        """
        direct = self.observation.direct
        if direct is None:
            residual, by_state = self.linearize(states)
            return residual, by_state @ sensitivity
        seen = states[..., direct]
        return self._residual(seen), self._slope(seen)[..., None] * sensitivity[..., direct, :]

    def _residual(self, seen: torch.Tensor) -> torch.Tensor:
        model = torch.where(self.lognormal, torch.log(seen.clamp_min(1e-300)), seen)
        return (model - self.values) * self.weights

    def _slope(self, seen: torch.Tensor) -> torch.Tensor:
        """Return the derivative of each residual by its own observable, same shape as the residual."""
        slope = torch.where(self.lognormal, 1.0 / seen.clamp_min(1e-300), torch.ones_like(seen))
        return slope * self.weights

    def weighted(self, factor: np.ndarray) -> Rows:
        """Return the rows with other weights; known initial values stay as they are.

        Args:
            factor: of the weights, shape ``(observables,)``.
        """
        return replace(self, weights=self.weights * self._of_columns(factor))

    def _of_columns(self, factor: np.ndarray) -> torch.Tensor:
        """Return a factor for each observable as one for each column, shape ``(columns,)``."""
        ones = np.ones(self.n_columns - self.n_observables)
        return torch.as_tensor(np.concatenate([factor, ones]), device=self.weights.device)

    def sure_of_starts(self, factor: np.ndarray) -> Rows:
        """Return the rows with a larger weight of the first value of each observable in every trajectory.

        Args:
            factor: of the weights, shape ``(observables,)``.
        """
        seen = self.weights > 0
        first = seen & (seen.cumsum(1) == 1)
        larger = self.weights * self._of_columns(factor)
        return replace(self, weights=torch.where(first, larger, self.weights))

    def keep_positive(self, states: torch.Tensor) -> torch.Tensor:
        """Return states ``(..., J, L, states)``, those that must be positive kept above a thousandth of their scale.

        Where noise is so small that even smaller values can be told, they are kept above their noise. States whose
        initial value is given begin there.
        """
        smallest = torch.minimum(1e-3 * self.scale, self.tolerance_at_rows)
        kept = torch.where(self.positive, torch.maximum(states, smallest), states)
        for column, position in enumerate(self.held, self.n_observables):
            # What is known of the start is known better.
            kept[..., 0, position] = self.values[:, 0, column]
        return kept


def make_rows(
    system: System,
    dataset: Dataset,
    noise: Noise,
    device: torch.device | str = "cpu",
    smoother: AbstractSmoother | None = None,
) -> Rows:
    """Return the rows of a dataset as tensors, with law-free states and slopes.

    Args:
        system: says where the observables stand among the states.
        dataset: the rows.
        noise: of the rows.
        device: where the tensors live.
        smoother: makes states and slopes; `Automatic` unless given.
    """
    dimension = system.dimension
    observation = system.observation(dataset.observables, starts=True)
    columns = observation.columns[: len(dataset.observables)]
    count, longest = len(dataset.trajectories), max(len(item.times) for item in dataset.trajectories)
    n_seen = len(columns)
    times = np.zeros((count, longest))
    values = np.zeros((count, longest, n_seen + len(system.held)))
    weights = np.zeros(values.shape)
    states = np.ones((count, longest, dimension))
    slopes = np.full((count, longest, dimension), np.nan)
    for j, trajectory in enumerate(dataset.trajectories):
        rows = len(trajectory.times)
        times[j, :rows], times[j, rows:] = trajectory.times, trajectory.times[-1]
        seen = np.isfinite(trajectory.values)
        values[j, :rows, :n_seen] = np.where(seen, noise.transform(trajectory.values), 0.0)
        weights[j, :rows, :n_seen] = np.where(seen, 1.0 / noise.sd_of(trajectory.values), 0.0)
    lengths = tuple(len(item.times) for item in dataset.trajectories)
    per_value = noise.floors is not None
    # Of an expression of several states nobody knows what each of them was.
    seen_as = [column for column, position in enumerate(columns) if position is not None]
    positions = [position for position in columns if position is not None]
    states[:, :, positions], slopes[:, :, positions] = _smooth(
        times,
        values[:, :, seen_as],
        weights[:, :, seen_as],
        lengths,
        np.array(noise.lognormal)[seen_as],
        per_value,
        smoother,
    )
    scale = np.ones(dimension)
    slope_scale = np.ones(dimension)
    slope_at_rows = np.zeros(states.shape)
    intervals = [shorter_intervals(item.times) for item in dataset.trajectories]
    for position, state in enumerate(system.states):
        if position in columns:
            column = columns.index(position)
            seen = np.concatenate([item.values[:, column] for item in dataset.trajectories])
            scale[position] = np.sqrt(np.nanmean(seen**2))
            real = np.concatenate([slopes[j, :rows, position] for j, rows in enumerate(lengths)])
            slope_scale[position], change = typical_slope(real, np.concatenate(intervals))
            for j, interval in enumerate(intervals):
                slope_at_rows[j, : lengths[j], position] = change / interval
        else:
            start = 1.0 if state.initial is None else state.initial
            scale[position] = state.scale or abs(start) or 1.0
            slope_scale[position] = scale[position] / max(float(np.ptp(times)), 1e-300)
            states[:, :, position] = start
    slope_scale = np.maximum(slope_scale, 1e-12)
    for column, position in enumerate(system.held, n_seen):
        values[:, 0, column] = states[:, 0, position] = system.states[position].initial
    tolerance = 1e-2 * scale
    typical = noise.typical_sd(np.concatenate([item.values for item in dataset.trajectories]))
    at_rows = np.broadcast_to(tolerance, states.shape).copy()
    for column, position in enumerate(columns):
        if position is None:
            continue
        tolerance[position] = typical[column] * (scale[position] if noise.lognormal[column] else 1.0)
        # Where noise is in proportion to the value, the smooth one says how large it is, or would have been.
        smooth = np.abs(states[:, :, position])
        if noise.lognormal[column]:
            at_rows[:, :, position] = noise.sd[column] * np.maximum(smooth, 1e-6 * scale[position])
        elif noise.floors is not None:
            at_rows[:, :, position] = np.fmax(noise.sd[column] * smooth, noise.floors[column])
        else:
            at_rows[:, :, position] = tolerance[position]

    for column, position in enumerate(system.held, n_seen):
        exactly = HELD * (abs(values[0, 0, column]) or scale[position])
        weights[:, 0, column] = 1.0 / np.minimum(exactly, HELD_IN_NOISE * at_rows[:, 0, position])

    def tensor(array: np.ndarray | list[bool]) -> torch.Tensor:
        return torch.as_tensor(np.asarray(array), device=device)

    controls, lines = None, None
    if system.controls:
        controls = np.zeros((count, longest, len(system.controls)))
        for j, trajectory in enumerate(dataset.trajectories):
            rows = len(trajectory.times)
            controls[j, :rows], controls[j, rows:] = trajectory.controls, trajectory.controls[-1]
        lines = training_lines(system.controls, dataset, times).map(lambda item: item.to(device))
    rows = Rows(
        times=tensor(times),
        values=tensor(values),
        weights=tensor(weights),
        columns=columns,
        lognormal=tensor([*noise.lognormal, *[False] * len(system.held)]),
        scale=tensor(scale),
        slope_scale=tensor(slope_scale),
        slope_scale_at_rows=tensor(np.maximum(slope_at_rows, slope_scale)),
        tolerance=tensor(tolerance),
        tolerance_at_rows=tensor(at_rows),
        per_value=per_value,
        positive=tensor([state.positive for state in system.states]),
        smooth_states=tensor(states),
        smooth_slopes=tensor(slopes),
        lengths=lengths,
        observation=observation,
        controls=None if controls is None else tensor(controls),
        control_lines=lines,
    )
    return replace(rows, smooth_states=rows.keep_positive(rows.smooth_states))


def smooth_again(rows: Rows, smoother: AbstractSmoother) -> Rows:
    """Return rows whose law-free states and slopes come from another smoother; all scales stay as they are."""
    times, values, weights, lognormal = (
        item.cpu().numpy() for item in (rows.times, rows.values, rows.weights, rows.lognormal)
    )
    seen = [column for column, position in enumerate(rows.columns) if position is not None]
    positions = [position for position in rows.columns if position is not None]
    smooth, slope = _smooth(
        times,
        values[:, :, seen],
        weights[:, :, seen],
        rows.lengths,
        lognormal[seen],
        rows.per_value,
        smoother,
    )
    states, slopes = rows.smooth_states.clone(), rows.smooth_slopes.clone()
    states[:, :, positions] = torch.as_tensor(smooth, device=states.device)
    slopes[:, :, positions] = torch.as_tensor(slope, device=slopes.device)
    return replace(rows, smooth_states=rows.keep_positive(states), smooth_slopes=slopes)


def shorter_intervals(times: np.ndarray) -> np.ndarray:
    """Return the shorter one of the intervals beside each row, shape ``(rows,)``.

    Where a row ends a burst and a long rest begins, its slope belongs to the burst.
    """
    steps = np.diff(times)
    return np.minimum(np.append(steps[:1], steps), np.append(steps, steps[-1:]))


def typical_slope(slopes: np.ndarray, intervals: np.ndarray) -> tuple[float, float]:
    """Return the typical size of slopes, and of the change from row to row.

    Between rows that nearly coincide the noise alone makes slopes that are wild, though they lead nowhere. So slopes
    are cut where the steepest parts add up to a tenth of the state's way up and down, before their root mean square
    is taken.

    Args:
        slopes: at rows, shape ``(rows,)``.
        intervals: how long each row stands for, same shape.
    """
    size = np.abs(slopes)
    order = np.argsort(-size, kind="stable")
    way = np.cumsum((size * intervals)[order])
    steepest = size[order[min(int(np.searchsorted(way, WILD * way[-1])), len(order) - 1)]]
    cut = np.minimum(size, steepest)
    return float(np.sqrt(np.mean(cut**2))), float(np.sqrt(np.mean((cut * intervals) ** 2)))


def _smooth(
    times: np.ndarray,
    values: np.ndarray,
    weights: np.ndarray,
    lengths: tuple[int, ...],
    lognormal: np.ndarray,
    per_value: bool,
    smoother: AbstractSmoother | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return law-free observables at padded rows and their time derivatives, shape ``(J, L, observables)``."""
    smooth, slopes = np.zeros_like(values), np.zeros_like(values)
    series = [times[j, :rows] for j, rows in enumerate(lengths)]
    for column, is_lognormal in enumerate(lognormal):
        weight = [weights[j, :rows, column] for j, rows in enumerate(lengths)]
        measured = [
            np.where(item > 0, values[j, : len(item), column], np.nan) for j, item in enumerate(weight)
        ]
        if per_value:
            sds = [1.0 / np.where(item > 0, item, np.inf) for item in weight]
            curves = fit_smoother_per_value(series, measured, sds, smoother)
        else:
            curves = fit_smoother(series, measured, smoother)
        for j, at in enumerate(times):
            value, slope = curves.value(j, at), curves.derivative(j, at)
            if is_lognormal:
                value = np.exp(value)
                slope = slope * value
            smooth[j, :, column], slopes[j, :, column] = value, slope
    return smooth, slopes


@dataclass(frozen=True)
class FitState:
    """Where a fit stands, in the terms that all objectives share.

    Attributes:
        states: states at the rows, shape ``(B, J, L, states)``.
        theta: unknowns of the equation, shape ``(B, n_theta)``.
    """

    states: torch.Tensor
    theta: torch.Tensor

    def take(self, index: torch.Tensor) -> FitState:
        """Return the chosen members of the batch."""
        return FitState(self.states[index], self.theta[index])
