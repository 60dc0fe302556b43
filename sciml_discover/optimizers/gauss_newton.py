"""Gauss-Newton with Levenberg-Marquardt damping, one for each member of the batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import pydantic

from sciml_discover.base import Iterations, lazy_import
from sciml_discover.objectives.abstract import AbstractLinearization, contiguous
from sciml_discover.optimizers.abstract import AbstractOptimizer, AbstractState

if TYPE_CHECKING:
    import torch

    from sciml_discover.objectives.abstract import AbstractObjective, Order
else:
    torch = lazy_import("torch")


LARGEST_DAMPING = 1e8
PROVISIONAL = 0.03
"""A round that another one follows ends once a step gains less than this fraction of the cost."""
LARGEST_DEFECT = 1e-2
"""Constraints closer than this, in units of the noise, count as met."""


@dataclass(frozen=True)
class GaussNewtonState(AbstractState):
    """Where Gauss-Newton stands. Members that are done have left the batch and cost no time.

    Attributes:
        point: where each member stands, which is where it is best, shape ``(B, n)``.
        alive: positions of the members that go on, shape ``(A,)``.
        current: the objective linearised where they stand.
        damping: relative to the diagonal of the normal matrix, shape ``(A,)``.
        fraction: of the step that is tried next, shape ``(A,)``.
        weight: of the constraints in the merit function, shape ``(A,)``.
        rise: factor of the damping if the next step is refused, shape ``(A,)``.
    """

    point: torch.Tensor
    alive: torch.Tensor
    current: AbstractLinearization
    damping: torch.Tensor
    fraction: torch.Tensor
    weight: torch.Tensor
    rise: torch.Tensor

    @property
    def unknowns(self) -> torch.Tensor:
        """Where each member stands."""
        return self.point

    @property
    def stalled(self) -> torch.Tensor:
        """Members that no step could improve, however small."""
        going = torch.zeros_like(self.converged).index_fill(0, self.alive, True)
        return ~going & ~self.converged


class GaussNewton(AbstractOptimizer):
    """Levenberg-Marquardt steps on the linearised residual, one damping per member of the batch.

    Equality constraints enter through an L1 merit function whose weight follows the step (Nocedal & Wright
    2006, section 18.3).
    """

    order: ClassVar[Order] = 2
    kind: Literal["gauss_newton"] = "gauss_newton"
    iterations: Iterations = 60
    """Highest number of linearisations in each round."""
    tolerance: pydantic.PositiveFloat = 1e-3
    """Stop once the promised decrease of chi-square is below this."""
    damping: pydantic.PositiveFloat = 1e-2
    """First damping, relative to the diagonal of the normal matrix."""

    def most_iterations(self, rounds: int) -> int:
        """Return the number of linearisations of all rounds."""
        return rounds * self.iterations

    def begin(self, objective: AbstractObjective, unknowns: torch.Tensor) -> GaussNewtonState:
        """Return the state before the first step: the objective linearised where it begins."""
        unknowns = unknowns.detach()
        current = contiguous(objective.linearize(unknowns))
        damping = unknowns.new_full((len(unknowns),), self.damping)
        return GaussNewtonState(
            value=current.cost,
            converged=torch.zeros(len(unknowns), dtype=torch.bool, device=unknowns.device),
            lost=torch.zeros(len(unknowns), dtype=torch.int64, device=unknowns.device),
            iteration=torch.tensor(0),
            done=torch.tensor(False),
            spent=torch.tensor(False),
            point=unknowns,
            alive=torch.arange(len(unknowns), device=unknowns.device),
            current=current,
            damping=damping,
            fraction=torch.ones_like(damping),
            weight=torch.ones_like(damping),
            rise=torch.full_like(damping, 2.0),
        )

    def next_round(self, objective: AbstractObjective, state: GaussNewtonState) -> GaussNewtonState:
        """Begin afresh, with all members, where the last round ended."""
        return self.begin(objective, state.point)

    def step(self, objective: AbstractObjective, state: GaussNewtonState) -> GaussNewtonState:
        """Return the state after one more linearisation.

        A member whose solve fails (NaN, infinity) keeps its last good point and is damped more.
        """
        alive, current, damping, fraction = state.alive, state.current, state.damping, state.fraction
        everybody = len(alive) == len(state.point)
        if not everybody:
            objective = objective.take(alive)
        unknowns = state.point if everybody else state.point[alive]
        step, change = current.solve(damping)
        # The merit weight is large enough for every step to descend (Nocedal & Wright, 18.36).
        needed = change / (0.5 * current.infeasibility.clamp_min(1e-12))
        weight = torch.where(torch.isfinite(needed), torch.maximum(state.weight, needed), state.weight)
        promised = change - weight * current.infeasibility
        trial = unknowns + fraction[:, None] * torch.nan_to_num(step)
        following = objective.linearize(trial)
        before = current.cost + weight * current.infeasibility
        after = following.cost_seen_from(current) + weight * following.infeasibility
        finite = torch.isfinite(after) & torch.isfinite(step).all(1)
        accept = finite & (after <= before + 1e-4 * fraction * promised.clamp_max(0.0))
        ratio = torch.where(accept, (after - before) / (fraction * promised).clamp_max(-1e-300), 0.0)
        if objective.provisional:
            enough = (PROVISIONAL * before).clamp_min(0.5 * self.tolerance)
            settled = accept & (before - after < enough)
        else:
            settled = accept & (fraction == 1.0) & (-promised < 0.5 * self.tolerance)
        settled &= following.worst_defect < LARGEST_DEFECT
        unknowns = torch.where(accept[:, None], trial, unknowns)
        # What a checkpoint gives back lies in memory like this, and sums depend on that in the last bit.
        current = contiguous(following.choose(accept, current))
        # Nielsen 1999 (IMM-REP-1999-05): a smooth function of how well the model predicted, and doubled rises.
        factor = (1.0 - (2.0 * ratio - 1.0) ** 3).clamp(0.333, 2.0)
        damping = torch.where(accept, damping * factor, damping * state.rise)
        damping = damping.clamp(1e-12, 2 * LARGEST_DAMPING)
        # Damping does not shorten what closes constraints: a second refusal in a row shortens the whole step.
        shorter = torch.where(state.rise > 2.0, (0.5 * fraction).clamp_min(0.0625), fraction)
        fraction = torch.where(accept, (2.0 * fraction).clamp_max(1.0), shorter)
        rise = torch.where(accept, 2.0, 2.0 * state.rise)
        stuck = (damping > LARGEST_DAMPING) & ~accept

        point = unknowns if everybody else state.point.index_copy(0, alive, unknowns)
        value = current.cost if everybody else state.value.index_copy(0, alive, current.cost)
        converged = settled if everybody else state.converged.index_copy(0, alive, settled)
        # The only place where an iteration waits for the device.
        left = torch.nonzero(~(settled | stuck)).flatten()
        if len(left) < len(alive):
            alive, current = alive[left], current.take(left)
            damping, fraction, weight, rise = damping[left], fraction[left], weight[left], rise[left]
        count = int(state.iteration) + 1
        return GaussNewtonState(
            value=value,
            converged=converged,
            lost=state.lost.index_add(0, state.alive, (~finite).long()),
            iteration=torch.tensor(count),
            done=torch.tensor(len(left) == 0 or count >= self.iterations),
            spent=torch.tensor(False),
            point=point,
            alive=alive,
            current=current,
            damping=damping,
            fraction=fraction,
            weight=weight,
            rise=rise,
        )
