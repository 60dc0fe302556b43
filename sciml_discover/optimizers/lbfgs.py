"""L-BFGS for a batch of independent problems."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import pydantic

from sciml_discover.base import Options, lazy_import
from sciml_discover.optimizers.abstract import Report

if TYPE_CHECKING:
    import torch

    from sciml_discover.objectives.abstract import AbstractObjective
else:
    torch = lazy_import("torch")

DECREASE, CURVATURE, MOST_TRIALS = 1e-4, 0.9, 20


class Lbfgs(Options):
    """Limited-memory quasi-Newton steps with a Wolfe line search, one per member of the batch.

    `torch.optim.LBFGS` minimises one function: on a batch it would share one step length between problems that
    have nothing to do with each other. Here memory and line search are per member (two-loop recursion: Nocedal 1980,
    doi:10.1090/S0025-5718-1980-0572855-7; bisection to the weak Wolfe conditions: Lewis & Overton 2013,
    doi:10.1007/s10107-012-0514-2, which is all that positive curvature needs).
    """

    kind: Literal["lbfgs"] = "lbfgs"
    iterations: pydantic.PositiveInt = 200
    """Highest number of steps."""
    memory: pydantic.PositiveInt = 20
    """Number of step pairs that shape the curvature."""
    tolerance: pydantic.PositiveFloat = 1e-7
    """Stop a member once ten steps together decrease its loss by less than this fraction."""

    def minimise(
        self, objective: AbstractObjective, unknowns: torch.Tensor, report: Report
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the unknowns after minimisation, and which members of the batch converged."""
        unit = objective.unit(unknowns)

        def evaluate(scaled: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            at = scaled.detach().requires_grad_()
            loss = objective.loss(at * unit)
            finite = torch.isfinite(loss)
            torch.where(finite, loss, 0.0).sum().backward()
            gradient = torch.zeros_like(at) if at.grad is None else at.grad
            finite &= torch.isfinite(gradient).all(1)
            loss = torch.where(finite, loss.detach(), torch.inf)
            return loss, torch.nan_to_num(gradient, posinf=0.0, neginf=0.0)

        point = unknowns / unit
        loss, gradient = evaluate(point)
        memory = _Memory(self.memory)
        converged = torch.zeros(len(unknowns), dtype=torch.bool, device=unknowns.device)
        past = [loss]
        per_round = -(-self.iterations // objective.rounds)
        left_in_round, rounds_left = per_round, objective.rounds - 1
        for iteration in range(self.iterations):
            direction = memory.direction(gradient)
            found, loss_found, gradient_found = _line_search(
                evaluate, point, direction, loss, gradient, first=memory.is_empty
            )
            memory.remember(found - point, gradient_found - gradient)
            point, loss, gradient = found, loss_found, gradient_found
            past.append(loss)
            report(iteration, loss)
            left_in_round -= 1
            # A member that stopped moving has converged; the batch ends its round when all of them have.
            if len(past) > 10:
                converged = (past[-11] - loss) <= self.tolerance * loss.abs()
            if left_in_round == 0 or bool(converged.all()):
                if rounds_left == 0 or not objective.advance(point * unit):
                    break
                # The objective changed: its old curvature would mislead.
                rounds_left, left_in_round = rounds_left - 1, per_round
                memory = _Memory(self.memory)
                loss, gradient = evaluate(point)
                past = [loss]
                converged = torch.zeros_like(converged)
        return point * unit, converged


class _Memory:
    """Recent steps and gradient changes of every member of the batch."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._pairs: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []

    @property
    def is_empty(self) -> bool:
        return not self._pairs

    def remember(self, step: torch.Tensor, change: torch.Tensor) -> None:
        """Keep a pair; members without positive curvature get a pair that does nothing."""
        curvature = (step * change).sum(1, keepdim=True)
        good = curvature > 1e-12 * step.norm(dim=1, keepdim=True) * change.norm(dim=1, keepdim=True)
        inverse = torch.where(good, 1.0 / torch.where(good, curvature, 1.0), 0.0)
        self._pairs.append((step, change, inverse))
        del self._pairs[: -self._size]

    def direction(self, gradient: torch.Tensor) -> torch.Tensor:
        """Return minus the approximate inverse Hessian times the gradient, a descent direction."""
        if self.is_empty:
            return -gradient
        vector, factors = gradient.clone(), []
        for step, change, inverse in reversed(self._pairs):
            factor = inverse * (step * vector).sum(1, keepdim=True)
            factors.append(factor)
            vector = vector - factor * change
        step, change, inverse = self._pairs[-1]
        size = change.square().sum(1, keepdim=True)
        scale = torch.where(inverse > 0, 1.0 / (inverse * size).clamp_min(1e-300), 1.0)
        vector = scale * vector
        for (step, change, inverse), factor in zip(self._pairs, reversed(factors), strict=True):
            back = inverse * (change * vector).sum(1, keepdim=True)
            vector = vector + (factor - back) * step
        descends = (vector * gradient).sum(1, keepdim=True) > 0
        return -torch.where(descends, vector, gradient)


def _line_search(evaluate, point, direction, loss, gradient, *, first):
    """Return points that meet the weak Wolfe conditions along each member's direction, or the old points."""
    slope = (direction * gradient).sum(1)
    length = torch.ones_like(loss)
    if first:
        # Without curvature the gradient's length means nothing: start with a step of a tenth of a unit.
        length = 0.1 / direction.norm(dim=1).clamp_min(1e-300)
    low, high = torch.zeros_like(loss), torch.full_like(loss, torch.inf)
    best, best_loss, best_gradient = point, loss, gradient
    done = slope >= 0
    for _ in range(MOST_TRIALS):
        trial = point + length[:, None] * direction
        trial_loss, trial_gradient = evaluate(trial)
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
    return best, best_loss, best_gradient
