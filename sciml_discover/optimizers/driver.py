"""Minimising without stopping in between: all iterations of a round, all rounds of an objective."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sciml_discover.objectives.abstract import AbstractObjective
from sciml_discover.optimizers.abstract import AbstractOptimizer, AbstractState

if TYPE_CHECKING:
    import torch

Report = Callable[[AbstractState], None]
"""Called with the state after each iteration."""


def unreported(_: AbstractState) -> None:
    """Drop a report: the default of every ``report`` argument."""


@dataclass(frozen=True)
class Position:
    """Where a minimisation stands: the round of the objective that it is in, and the optimizer's state."""

    objective: AbstractObjective
    state: AbstractState


def begin(optimizer: AbstractOptimizer, objective: AbstractObjective, unknowns: torch.Tensor) -> Position:
    """Return the position before the first iteration of the first round, from unknowns ``(B, n)``."""
    first = objective.first_round(optimizer.order)
    return Position(first, optimizer.begin(first, unknowns))


def next_round(optimizer: AbstractOptimizer, position: Position) -> Position | None:
    """Return the position at the begin of the next round; None if the last one is over or no iterations are left."""
    if bool(position.state.spent):
        return None
    before = position.state.unknowns
    upcoming = position.objective.next_round(before)
    if upcoming is None:
        return None
    unknowns = upcoming.carry(position.objective, before)
    if unknowns is before:
        return Position(upcoming, optimizer.next_round(upcoming, position.state))
    # What an optimizer remembers does not fit other unknowns.
    return Position(upcoming, optimizer.begin(upcoming, unknowns))


def end_of_round(optimizer: AbstractOptimizer, position: Position, report: Report = unreported) -> Position:
    """Return the position after the last iteration of its round; ``report`` is called after each."""
    objective, state = position.objective, position.state
    while not bool(state.done):
        state = optimizer.step(objective, state)
        report(state)
    return Position(objective, state)


def minimise(
    optimizer: AbstractOptimizer,
    objective: AbstractObjective,
    unknowns: torch.Tensor,
    report: Report = unreported,
) -> Position:
    """Return the position at the end of the last round.

    Args:
        optimizer: how to minimise.
        objective: what to minimise.
        unknowns: where to begin, shape ``(B, n)``; they are left alone.
        report: called after each iteration.
    """
    position = end_of_round(optimizer, begin(optimizer, objective, unknowns), report)
    while (upcoming := next_round(optimizer, position)) is not None:
        position = end_of_round(optimizer, upcoming, report)
    return position


def minimise_round(
    optimizer: AbstractOptimizer,
    objective: AbstractObjective,
    unknowns: torch.Tensor,
    report: Report = unreported,
) -> AbstractState:
    """Return the state at the end of one round alone, that which ``objective`` is in; see `minimise`."""
    first = Position(objective, optimizer.begin(objective, unknowns))
    return end_of_round(optimizer, first, report).state
