"""What training hands on: plain numbers, texts and arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Event:
    """Something that went otherwise than planned during training."""

    stage: str
    """``"multiple_shooting x adam"`` and the like."""
    iteration: int
    """Iterations since the start of training."""
    text: str
    """What happened, for a person."""

    def __str__(self) -> str:
        return f"{self.stage}, iteration {self.iteration}: {self.text}"


@dataclass(frozen=True)
class History:
    """What happened during training, one row per recorded iteration of the best start."""

    stage: tuple[str, ...]
    """``"multiple_shooting x adam"`` and the like, per row."""
    iteration: np.ndarray
    """Iterations since the start of training, shape ``(rows,)``."""
    loss: np.ndarray
    """Value of the stage's objective, shape ``(rows,)``; comparable within a stage only."""
    events: tuple[Event, ...] = ()
    """What went otherwise than planned, in order."""


@dataclass(frozen=True)
class Survivors:
    """The starts that training carried to its end, best first."""

    start: np.ndarray
    """Number of each among all starts, from zero, shape ``(survivors,)``."""
    theta: np.ndarray
    """Free parameters' coordinates, then all networks' weights, shape ``(survivors, n_theta)``."""
    score: np.ndarray
    """Chi-square of the re-solved trajectories plus the prior, shape ``(survivors,)``; infinite where unsolved."""


@dataclass(frozen=True)
class TrainedNetwork:
    """The network that fills one hole, as plain numbers."""

    inputs: tuple[str, ...]
    hidden: tuple[int, ...]
    input_center: np.ndarray
    input_scale: np.ndarray
    output_scale: float
    weights: np.ndarray


@dataclass(frozen=True)
class TrainingResult:
    """A trained universal differential equation.

    ``chi_square`` is of the RE-SOLVED trajectory on the training rows.
    """

    status: str
    """``"converged"``, ``"iteration_limit"`` or ``"diverged"``."""
    message: str
    loss: float
    chi_square: float
    n_observed: int
    parameters: dict[str, float]
    networks: dict[str, TrainedNetwork]
    initial_states: np.ndarray
    """Shape ``(trajectories, states)``."""
    covariance: np.ndarray
    """Of ``theta`` (free parameters' coordinates, then all networks' weights) at the best start, prior included."""
    survivors: Survivors
    history: History
    notes: tuple[str, ...]
