"""What every objective is made from: the rows of a dataset as padded tensors, and the state of a fit."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from sciml_discover.base import lazy_import
from sciml_discover.controls import ControlLines, Inputs, no_controls, training_lines
from sciml_discover.noise import Noise, smooth_observables
from sciml_discover.trajectories import Dataset

if TYPE_CHECKING:
    import torch

    from sciml_discover.observation import Observation
    from sciml_discover.system import System
else:
    torch = lazy_import("torch")


@dataclass(frozen=True)
class Rows:
    """Training rows of ``J`` trajectories, padded to the ``L`` rows of the longest.

    Padded rows repeat the last time, so that their intervals have length zero and nothing happens in them.

    Attributes:
        times: shape ``(J, L)``.
        values: on the scale on which noise is additive, zero where nothing was seen, ``(J, L, observables)``.
        weights: one over the noise sd, zero where nothing was seen, same shape.
        columns: position among the states of each observable that is a state as it is; None for the others.
        lognormal: per observable, whether values are logarithms, shape ``(observables,)``.
        scale: typical size of each state, shape ``(states,)``.
        slope_scale: typical size of each state's time derivative, shape ``(states,)``.
        tolerance: per state, what counts as a small error: its noise sd, or a hundredth of its scale if hidden.
        positive: per state, whether it stays above zero.
        smooth_states: law-free states at the rows, those that no observable is constant, shape ``(J, L, states)``.
        smooth_slopes: their time derivatives, same shape; NaN for states that no observable is.
        lengths: number of real rows of each trajectory.
        observation: what each observable is of the states.
        controls: measured inputs at the rows, shape ``(J, L, controls)``; None for a system without any.
        control_lines: the same between the rows, shape ``(J, L - 1)``; None for a system without any.
    """

    times: torch.Tensor
    values: torch.Tensor
    weights: torch.Tensor
    columns: tuple[int | None, ...]
    lognormal: torch.Tensor
    scale: torch.Tensor
    slope_scale: torch.Tensor
    tolerance: torch.Tensor
    positive: torch.Tensor
    smooth_states: torch.Tensor
    smooth_slopes: torch.Tensor
    lengths: tuple[int, ...]
    observation: Observation
    controls: torch.Tensor | None = None
    control_lines: ControlLines | None = None

    @property
    def intervals(self) -> torch.Tensor:
        """Lengths of the intervals between rows, shape ``(J, L - 1)``."""
        return self.times[:, 1:] - self.times[:, :-1]

    @property
    def n_observed(self) -> int:
        """Number of values that were really measured."""
        return int((self.weights > 0).sum())

    @property
    def n_observables(self) -> int:
        """Number of observables."""
        return len(self.columns)

    @property
    def sees_every_state(self) -> bool:
        """Whether each state is an observable as it is."""
        return set(self.columns) >= set(range(len(self.scale)))

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
        return self.observation.evaluate(self.times, states, self.controls)

    def residual(self, states: torch.Tensor) -> torch.Tensor:
        """Return (model - data) / sd at rows, zero where nothing was seen, shape ``(..., J, L, observables)``."""
        return self._residual(self.observe(states))

    def linearize(self, states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the residual and its derivative by the states at the row, ``(..., J, L, observables, states)``."""
        direct = self.observation.direct
        if direct is None:
            seen, by_state = self.observation.linearize(self.times, states, self.controls)
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

    def keep_positive(self, states: torch.Tensor) -> torch.Tensor:
        """Return states, those that must be positive kept above a thousandth of their scale."""
        return torch.where(self.positive, torch.maximum(states, 1e-3 * self.scale), states)


def make_rows(system: System, dataset: Dataset, noise: Noise, device: torch.device | str = "cpu") -> Rows:
    """Return the rows of a dataset as tensors, with law-free states and slopes."""
    dimension = system.dimension
    observation = system.observation(dataset.observables)
    columns = observation.columns
    count, longest = len(dataset.trajectories), max(len(item.times) for item in dataset.trajectories)
    n_seen = len(columns)
    times = np.zeros((count, longest))
    values = np.zeros((count, longest, n_seen))
    weights = np.zeros((count, longest, n_seen))
    states = np.ones((count, longest, dimension))
    slopes = np.full((count, longest, dimension), np.nan)
    smoothers = smooth_observables(dataset, noise.lognormal)
    for j, trajectory in enumerate(dataset.trajectories):
        rows = len(trajectory.times)
        times[j, :rows], times[j, rows:] = trajectory.times, trajectory.times[-1]
        seen = np.isfinite(trajectory.values)
        values[j, :rows] = np.where(seen, noise.transform(trajectory.values), 0.0)
        weights[j, :rows] = np.where(seen, 1.0 / noise.sd, 0.0)
        for column, (position, smoother) in enumerate(zip(columns, smoothers, strict=True)):
            if position is None:
                continue  # of an expression of several states nobody knows what each of them was
            smooth = smoother.value(j, times[j])
            slope = smoother.derivative(j, times[j])
            if noise.lognormal[column]:
                smooth = np.exp(smooth)
                slope = slope * smooth
            states[j, :, position], slopes[j, :, position] = smooth, slope
    scale = np.ones(dimension)
    slope_scale = np.ones(dimension)
    for position, state in enumerate(system.states):
        if position in columns:
            column = columns.index(position)
            seen = np.concatenate([item.values[:, column] for item in dataset.trajectories])
            scale[position] = np.sqrt(np.nanmean(seen**2))
            slope_scale[position] = np.sqrt(np.mean(slopes[:, :, position] ** 2))
        else:
            start = 1.0 if state.initial is None else state.initial
            scale[position] = state.scale or abs(start) or 1.0
            slope_scale[position] = scale[position] / max(float(np.ptp(times)), 1e-300)
            states[:, :, position] = start
    tolerance = 1e-2 * scale
    for column, position in enumerate(columns):
        if position is not None:
            tolerance[position] = noise.sd[column] * (scale[position] if noise.lognormal[column] else 1.0)

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
        lognormal=tensor(list(noise.lognormal)),
        scale=tensor(scale),
        slope_scale=tensor(np.maximum(slope_scale, 1e-12)),
        tolerance=tensor(tolerance),
        positive=tensor([state.positive for state in system.states]),
        smooth_states=tensor(states),
        smooth_slopes=tensor(slopes),
        lengths=tuple(len(item.times) for item in dataset.trajectories),
        observation=observation,
        controls=None if controls is None else tensor(controls),
        control_lines=lines,
    )
    return replace(rows, smooth_states=rows.keep_positive(rows.smooth_states))


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
