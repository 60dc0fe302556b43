"""Adam."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

import pydantic

from sciml_discover.base import Iterations, lazy_import
from sciml_discover.optimizers.abstract import AbstractOptimizer, AbstractState

if TYPE_CHECKING:
    import torch

    from sciml_discover.objectives.abstract import AbstractObjective, Order
else:
    torch = lazy_import("torch")

FIRST_DECAY, SECOND_DECAY, SMALLEST = 0.9, 0.999, 1e-8
"""The constants that Kingma & Ba recommend."""


@dataclass(frozen=True)
class AdamState(AbstractState):
    """Where Adam stands; points and moments are in the objective's units.

    Attributes:
        unit: of each unknown, shape ``(n,)``.
        point: where the next gradient is taken, shape ``(B, n)``.
        best: where the least loss of this round was seen, or of the one before it, shape ``(B, n)``.
        momentum: running mean of the gradients, shape ``(B, n)``.
        energy: running mean of their squares, shape ``(B, n)``.
        rate: size of the next step, a scalar on the CPU.
    """

    unit: torch.Tensor
    point: torch.Tensor
    best: torch.Tensor
    momentum: torch.Tensor
    energy: torch.Tensor
    rate: torch.Tensor

    @property
    def unknowns(self) -> torch.Tensor:
        """The unknowns of least loss that were seen."""
        return self.best * self.unit


class Adam(AbstractOptimizer):
    """First-order steps with momentum (Kingma & Ba 2015, arXiv:1412.6980), one batch of problems at once."""

    order: ClassVar[Order] = 1
    # Nothing here asks the device for a number, so the iterations between two looks can queue up.
    report_every: ClassVar[int] = 10
    kind: Literal["adam"] = "adam"
    iterations: Iterations = 300
    """Number of gradient steps."""
    learning_rate: pydantic.PositiveFloat = 0.01
    """Step size, in units of the typical size of each unknown; falls to a tenth along a cosine."""

    def most_iterations(self, rounds: int) -> int:  # noqa: ARG002 - the rounds share them
        """Return the number of gradient steps, however many rounds share them."""
        return self.iterations

    def begin(self, objective: AbstractObjective, unknowns: torch.Tensor) -> AdamState:
        """Return the state before the first step: no momentum, nothing seen yet."""
        unit = objective.unit(unknowns)
        point = unknowns.detach() / unit
        return AdamState(
            value=torch.full_like(point[:, 0], torch.inf),
            converged=torch.zeros(len(point), dtype=torch.bool, device=point.device),
            lost=torch.zeros(len(point), dtype=torch.int64, device=point.device),
            iteration=torch.tensor(0),
            done=torch.tensor(False),
            spent=torch.tensor(False),
            unit=unit,
            point=point,
            best=point,
            momentum=torch.zeros_like(point),
            energy=torch.zeros_like(point),
            rate=torch.tensor(self.learning_rate, dtype=torch.float64),
        )

    def step(self, objective: AbstractObjective, state: AdamState) -> AdamState:
        """Return the state after one gradient step; nobody converges, for there is no test.

        A member whose loss or gradient is not finite returns to its best point and goes on from there.
        """
        at = state.point.clone().requires_grad_()
        loss = objective.loss(at * state.unit)
        torch.where(torch.isfinite(loss), loss, 0.0).sum().backward()
        if at.grad is None:
            raise RuntimeError("the objective's loss does not depend on its unknowns")
        loss, gradient = loss.detach(), at.grad
        good = torch.isfinite(loss) & torch.isfinite(gradient).all(1)
        better = good & (loss < state.value)
        best = torch.where(better[:, None], state.point, state.best)
        point = torch.where(good[:, None], state.point, best)
        gradient = torch.where(good[:, None], gradient, 0.0)
        momentum = torch.lerp(state.momentum, gradient, 1.0 - FIRST_DECAY)
        energy = (SECOND_DECAY * state.energy).addcmul(gradient, gradient, value=1.0 - SECOND_DECAY)
        count, rate = int(state.iteration) + 1, float(state.rate)
        size = (energy.sqrt() / math.sqrt(1.0 - SECOND_DECAY**count)) + SMALLEST
        per_round = -(-self.iterations // objective.rounds_of(self.order))
        return replace(
            state,
            value=torch.where(better, loss, state.value),
            lost=state.lost + ~good,
            iteration=torch.tensor(count),
            done=torch.tensor(count % per_round == 0 or count >= self.iterations),
            spent=torch.tensor(count >= self.iterations),
            point=point.addcdiv(momentum, size, value=-rate / (1.0 - FIRST_DECAY**count)),
            best=best,
            momentum=momentum,
            energy=energy,
            rate=torch.tensor(self._following(rate, count), dtype=torch.float64),
        )

    def next_round(self, objective: AbstractObjective, state: AdamState) -> AdamState:  # noqa: ARG002
        """Return the same state with the record of the losses begun afresh: they mean something else now."""
        return replace(
            state,
            value=torch.full_like(state.value, torch.inf),
            lost=torch.zeros_like(state.lost),
            done=torch.tensor(False),
        )

    def _following(self, rate: float, count: int) -> float:
        """Return the next step size along the cosine, ``count`` steps from its begin."""
        last = 0.1 * self.learning_rate
        before = 1.0 + math.cos(math.pi * (count - 1) / self.iterations)
        return (1.0 + math.cos(math.pi * count / self.iterations)) / before * (rate - last) + last
