"""What every objective is made from: the rows of a dataset as padded tensors, and the state of a fit."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from sciml_discover.base import lazy_import
from sciml_discover.noise import Noise, smooth_observables
from sciml_discover.trajectories import Dataset

if TYPE_CHECKING:
    import torch

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
        columns: position of each observable among the states.
        lognormal: per observable, whether values are logarithms, shape ``(observables,)``.
        scale: typical size of each state, shape ``(states,)``.
        slope_scale: typical size of each state's time derivative, shape ``(states,)``.
        tolerance: per state, what counts as a small error: its noise sd, or a hundredth of its scale if hidden.
        positive: per state, whether it stays above zero.
        smooth_states: law-free states at the rows, hidden ones constant, shape ``(J, L, states)``.
        smooth_slopes: their time derivatives, same shape; NaN for hidden states.
        lengths: number of real rows of each trajectory.
    """

    times: torch.Tensor
    values: torch.Tensor
    weights: torch.Tensor
    columns: list[int]
    lognormal: torch.Tensor
    scale: torch.Tensor
    slope_scale: torch.Tensor
    tolerance: torch.Tensor
    positive: torch.Tensor
    smooth_states: torch.Tensor
    smooth_slopes: torch.Tensor
    lengths: tuple[int, ...]

    @property
    def intervals(self) -> torch.Tensor:
        """Lengths of the intervals between rows, shape ``(J, L - 1)``."""
        return self.times[:, 1:] - self.times[:, :-1]

    @property
    def n_observed(self) -> int:
        """Number of values that were really measured."""
        return int((self.weights > 0).sum())

    def residual(self, states: torch.Tensor) -> torch.Tensor:
        """Return (model - data) / sd at rows, zero where nothing was seen, shape ``(..., J, L, observables)``."""
        seen = states[..., self.columns]
        model = torch.where(self.lognormal, torch.log(seen.clamp_min(1e-300)), seen)
        return (model - self.values) * self.weights

    def residual_slope(self, states: torch.Tensor) -> torch.Tensor:
        """Return the derivative of each residual by its own state, same shape as the residual."""
        seen = states[..., self.columns]
        slope = torch.where(self.lognormal, 1.0 / seen.clamp_min(1e-300), torch.ones_like(seen))
        return slope * self.weights

    def keep_positive(self, states: torch.Tensor) -> torch.Tensor:
        """Return states, those that must be positive kept above a thousandth of their scale."""
        return torch.where(self.positive, torch.maximum(states, 1e-3 * self.scale), states)


def make_rows(system: System, dataset: Dataset, noise: Noise, device: torch.device | str = "cpu") -> Rows:
    """Return the rows of a dataset as tensors, with law-free states and slopes."""
    names, dimension = system.state_names, system.dimension
    columns = [names.index(name) for name in dataset.observables]
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
        tolerance[position] = noise.sd[column] * (scale[position] if noise.lognormal[column] else 1.0)

    def tensor(array: np.ndarray | list[bool]) -> torch.Tensor:
        return torch.as_tensor(np.asarray(array), device=device)

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
