"""L-BFGS for a batch of independent problems."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import pydantic

from sciml_discover.base import Count, Iterations, lazy_import
from sciml_discover.optimizers.abstract import AbstractOptimizer, AbstractState

if TYPE_CHECKING:
    import torch

    from sciml_discover.objectives.abstract import AbstractObjective, Order
else:
    torch = lazy_import("torch")

DECREASE, CURVATURE, MOST_TRIALS = 1e-4, 0.9, 20


@dataclass(frozen=True)
class LbfgsState(AbstractState):
    """Where L-BFGS stands; points and gradients are in the objective's units, ``value`` is the loss.

    Attributes:
        unit: of each unknown, shape ``(n,)``.
        point: where each member stands, which is where it is best, shape ``(B, n)``.
        gradient: there, shape ``(B, n)``.
        steps: the last steps, oldest first, shape ``(pairs, B, n)``.
        changes: what they changed of the gradient, same shape.
        inverses: one over their curvature, zero where it is not positive, shape ``(pairs, B, 1)``.
        past: the last losses of this round, oldest first, shape ``(at most 11, B)``.
        left: iterations left in this round, a scalar on the CPU.
    """

    unit: torch.Tensor
    point: torch.Tensor
    gradient: torch.Tensor
    steps: torch.Tensor
    changes: torch.Tensor
    inverses: torch.Tensor
    past: torch.Tensor
    left: torch.Tensor

    @property
    def unknowns(self) -> torch.Tensor:
        """Where each member stands."""
        return self.point * self.unit


class Lbfgs(AbstractOptimizer):
    """Limited-memory quasi-Newton steps with a Wolfe line search, one per member of the batch.

    `torch.optim.LBFGS` minimises one function: on a batch it would share one step length between problems that
    have nothing to do with each other. Here memory and line search are per member (two-loop recursion: Nocedal 1980,
    doi:10.1090/S0025-5718-1980-0572855-7; bisection to the weak Wolfe conditions: Lewis & Overton 2013,
    doi:10.1007/s10107-012-0514-2, which is all that positive curvature needs).
    """

    order: ClassVar[Order] = 1
    kind: Literal["lbfgs"] = "lbfgs"
    iterations: Iterations = 200
    """Highest number of steps."""
    memory: Count = 20
    """Number of step pairs that shape the curvature."""
    tolerance: pydantic.PositiveFloat = 1e-7
    """Stop a member once ten steps together decrease its loss by less than this fraction."""

    def most_iterations(self, rounds: int) -> int:  # noqa: ARG002 - the rounds share them
        """Return the highest number of steps, however many rounds share them."""
        return self.iterations

    def begin(self, objective: AbstractObjective, unknowns: torch.Tensor) -> LbfgsState:
        """Return the state before the first step: loss and gradient, no curvature yet."""
        unit = objective.unit(unknowns)
        return self._begin(objective, unknowns.detach() / unit, unit, torch.tensor(0))

    def next_round(self, objective: AbstractObjective, state: LbfgsState) -> LbfgsState:
        """Return a state without curvature: the objective changed, and that of before would mislead."""
        return self._begin(objective, state.point, state.unit, state.iteration)

    def _begin(
        self, objective: AbstractObjective, point: torch.Tensor, unit: torch.Tensor, iteration: torch.Tensor
    ) -> LbfgsState:
        loss, gradient = _evaluate(objective, point, unit)
        return LbfgsState(
            value=loss,
            converged=torch.zeros(len(point), dtype=torch.bool, device=point.device),
            lost=torch.zeros(len(point), dtype=torch.int64, device=point.device),
            iteration=iteration,
            done=torch.tensor(False),
            spent=torch.tensor(False),
            unit=unit,
            point=point,
            gradient=gradient,
            steps=point.new_zeros(0, *point.shape),
            changes=point.new_zeros(0, *point.shape),
            inverses=point.new_zeros(0, len(point), 1),
            past=loss[None],
            left=torch.tensor(-(-self.iterations // objective.rounds_of(self.order))),
        )

    def step(self, objective: AbstractObjective, state: LbfgsState) -> LbfgsState:
        """Return the state after one line search along a quasi-Newton direction.

        A member that stopped moving has converged; the batch ends its round when all of them have.
        """
        point, loss, gradient, lost = _line_search(
            lambda at: _evaluate(objective, at, state.unit),
            state.point,
            _direction(state),
            state.value,
            state.gradient,
            first=len(state.steps) == 0,
        )
        step, change = point - state.point, gradient - state.gradient
        # Members without positive curvature get a pair that does nothing.
        curvature = (step * change).sum(1, keepdim=True)
        good = curvature > 1e-12 * step.norm(dim=1, keepdim=True) * change.norm(dim=1, keepdim=True)
        inverse = torch.where(good, 1.0 / torch.where(good, curvature, 1.0), 0.0)
        past = torch.cat([state.past, loss[None]])[-11:]
        converged = state.converged
        if len(past) > 10:
            converged = (past[0] - loss) <= self.tolerance * loss.abs()
        count, left = int(state.iteration) + 1, int(state.left) - 1
        spent = count >= self.iterations
        return LbfgsState(
            value=loss,
            converged=converged,
            lost=state.lost + lost,
            iteration=torch.tensor(count),
            done=torch.tensor(spent or left == 0 or bool(converged.all())),
            spent=torch.tensor(spent),
            unit=state.unit,
            point=point,
            gradient=gradient,
            steps=torch.cat([state.steps, step[None]])[-self.memory :],
            changes=torch.cat([state.changes, change[None]])[-self.memory :],
            inverses=torch.cat([state.inverses, inverse[None]])[-self.memory :],
            past=past,
            left=torch.tensor(left),
        )


def _evaluate(
    objective: AbstractObjective, point: torch.Tensor, unit: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return loss and gradient, infinity and zero where either is not finite."""
    at = point.detach().requires_grad_()
    loss = objective.loss(at * unit)
    finite = torch.isfinite(loss)
    torch.where(finite, loss, 0.0).sum().backward()
    gradient = torch.zeros_like(at) if at.grad is None else at.grad
    finite &= torch.isfinite(gradient).all(1)
    loss = torch.where(finite, loss.detach(), torch.inf)
    return loss, torch.nan_to_num(gradient, posinf=0.0, neginf=0.0)


def _direction(state: LbfgsState) -> torch.Tensor:
    """Return minus the approximate inverse Hessian times the gradient, a descent direction."""
    gradient, pairs = state.gradient, list(zip(state.steps, state.changes, state.inverses, strict=True))
    if not pairs:
        return -gradient
    vector, factors = gradient.clone(), []
    for step, change, inverse in reversed(pairs):
        factor = inverse * (step * vector).sum(1, keepdim=True)
        factors.append(factor)
        vector = vector - factor * change
    step, change, inverse = pairs[-1]
    size = change.square().sum(1, keepdim=True)
    scale = torch.where(inverse > 0, 1.0 / (inverse * size).clamp_min(1e-300), 1.0)
    vector = scale * vector
    for (step, change, inverse), factor in zip(pairs, reversed(factors), strict=True):
        back = inverse * (change * vector).sum(1, keepdim=True)
        vector = vector + (factor - back) * step
    descends = (vector * gradient).sum(1, keepdim=True) > 0
    return -torch.where(descends, vector, gradient)


def _line_search(evaluate, point, direction, loss, gradient, *, first):
    """Return points that meet the weak Wolfe conditions along each member's direction, or the old points.

    With their losses and gradients, and which members were not finite at some point on the way.
    """
    slope = (direction * gradient).sum(1)
    length = torch.ones_like(loss)
    if first:
        # Without curvature the gradient's length means nothing: start with a step of a tenth of a unit.
        length = 0.1 / direction.norm(dim=1).clamp_min(1e-300)
    low, high = torch.zeros_like(loss), torch.full_like(loss, torch.inf)
    best, best_loss, best_gradient = point, loss, gradient
    done, lost = slope >= 0, ~torch.isfinite(loss)
    for _ in range(MOST_TRIALS):
        trial = point + length[:, None] * direction
        trial_loss, trial_gradient = evaluate(trial)
        lost = lost | (~done & ~torch.isfinite(trial_loss))
        decreases = trial_loss <= loss + DECREASE * length * slope
        curved = (trial_gradient * direction).sum(1) >= CURVATURE * slope
        keep = ~done & decreases & (trial_loss <= best_loss)
        best = torch.where(keep[:, None], trial, best)
        best_loss = torch.where(keep, trial_loss, best_loss)
        best_gradient = torch.where(keep[:, None], trial_gradient, best_gradient)
        done = done | (decreases & curved)
        if bool(done.all()):
            break
        high = torch.where(~done & ~decreases, length, high)
        low = torch.where(~done & decreases, length, low)
        middle = torch.where(torch.isinf(high), 2.0 * length, 0.5 * (low + high))
        length = torch.where(done, length, middle)
    return best, best_loss, best_gradient, lost
