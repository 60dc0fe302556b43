"""Schedules of training: which objective is minimised by which optimizer, one after the other."""

from __future__ import annotations

from typing import Literal

import pydantic

from sciml_discover.base import Options
from sciml_discover.objectives import (
    DerivativeMatching,
    DirectCollocation,
    MultipleShooting,
    ObjectiveOptions,
)
from sciml_discover.optimizers import Adam, GaussNewton, Lbfgs, OptimizerOptions

Preset = Literal["auto", "direct_collocation", "multiple_shooting", "single_shooting"]
"""Names of schedules; see `stages_of`."""


class TrainStage(Options):
    """One objective minimised by one optimizer."""

    objective: ObjectiveOptions
    """What is minimised."""
    optimizer: OptimizerOptions
    """How it is minimised."""

    @pydantic.model_validator(mode="after")
    def _options_mean_something(self) -> TrainStage:
        if isinstance(self.objective, MultipleShooting) and self.optimizer.order == 2:
            names = self.objective.only_of_first_order
            if names:
                raise ValueError(
                    f"{', '.join(names)} of multiple_shooting beside {self.optimizer.kind}, which solves the "
                    "segments in a way of its own; remove it, or use adam or lbfgs"
                )
        return self


def stages_of(preset: Preset) -> tuple[TrainStage, ...]:
    """Return the schedule of a preset.

    * ``"auto"`` is the schedule that suits the data: today that of ``"direct_collocation"``.
    * ``"direct_collocation"``: a warm start without solves, then direct collocation, whose
      weak first rounds have hardly any local minima, by Gauss-Newton.
    * ``"multiple_shooting"``: the classical ladder of first-order methods. The same kind of warm start, then
      multiple shooting by Adam, then by L-BFGS over a growing horizon.
    * ``"single_shooting"``: the whole series as one segment, by Adam and then by L-BFGS. What most people try first,
      and there to compare with: it is slow, and where a trajectory leads far it ends in local minima.
    """
    if preset == "single_shooting":
        return (
            TrainStage(
                objective=MultipleShooting(segment_length="all"),
                optimizer=Adam(iterations=100, learning_rate=0.03),
            ),
            TrainStage(objective=MultipleShooting(segment_length="all"), optimizer=Lbfgs(iterations=100)),
        )
    if preset == "multiple_shooting":
        matching = TrainStage(objective=DerivativeMatching(), optimizer=Lbfgs(iterations=150))
        shooting = (
            TrainStage(
                objective=MultipleShooting(segment_length=2, rounds=1),
                optimizer=Adam(iterations=40, learning_rate=0.003),
            ),
            TrainStage(
                objective=MultipleShooting(segment_length=2, horizon=(0.5, 1.0), rounds=3),
                optimizer=Lbfgs(iterations=150),
            ),
        )
        return (matching, *shooting)
    matching = TrainStage(
        objective=DerivativeMatching(), optimizer=GaussNewton(iterations=100, tolerance=0.5)
    )
    collocation = TrainStage(
        objective=DirectCollocation(), optimizer=GaussNewton(iterations=100, tolerance=0.2)
    )
    return (matching, collocation)
