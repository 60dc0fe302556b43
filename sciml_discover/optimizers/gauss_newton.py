"""Gauss-Newton with Levenberg-Marquardt damping, one for each member of the batch."""

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


LARGEST_DAMPING = 1e8
LARGEST_DEFECT = 1e-2
"""Constraints closer than this, in units of the noise, count as met."""


class GaussNewton(Options):
    """Levenberg-Marquardt steps on the linearised residual, one damping per member of the batch.

    Equality constraints enter through an L1 merit function whose weight follows the step (Nocedal & Wright
    2006, section 18.3).
    """

    kind: Literal["gauss_newton"] = "gauss_newton"
    iterations: pydantic.PositiveInt = 60
    """Highest number of linearisations."""
    tolerance: pydantic.PositiveFloat = 1e-3
    """Stop once the promised decrease of chi-square is below this."""
    damping: pydantic.PositiveFloat = 1e-2
    """First damping, relative to the diagonal of the normal matrix."""

    def minimise(
        self, objective: AbstractObjective, unknowns: torch.Tensor, report: Report
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the unknowns after minimisation, and which members of the batch converged.

        A member whose solve fails (NaN, infinity) keeps its last good point and is damped more.
        """
        converged = torch.zeros(len(unknowns), dtype=torch.bool, device=unknowns.device)
        for stage in objective.second_order_rounds():
            unknowns, converged = self.minimise_round(stage, unknowns, report)
        return unknowns, converged

    def minimise_round(
        self, objective: AbstractObjective, unknowns: torch.Tensor, report: Report
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Minimise one round of an objective, as `minimise` does."""
        result = unknowns.clone()
        converged = torch.zeros(len(unknowns), dtype=torch.bool, device=unknowns.device)
        alive = torch.arange(len(unknowns), device=unknowns.device)
        current = objective.linearize(unknowns)
        damping = unknowns.new_full((len(unknowns),), self.damping)
        fraction = torch.ones_like(damping)
        weight = torch.ones_like(damping)
        values = current.cost.clone()
        for iteration in range(self.iterations):
            step, change = current.solve(damping)
            # The merit weight is large enough for every step to descend (Nocedal & Wright, 18.36).
            needed = change / (0.5 * current.infeasibility.clamp_min(1e-12))
            weight = torch.where(torch.isfinite(needed), torch.maximum(weight, needed), weight)
            promised = change - weight * current.infeasibility
            trial = unknowns + fraction[:, None] * torch.nan_to_num(step)
            following = objective.linearize(trial)
            before = current.cost + weight * current.infeasibility
            after = following.cost + weight * following.infeasibility
            finite = torch.isfinite(after) & torch.isfinite(step).all(1)
            accept = finite & (after <= before + 1e-4 * fraction * promised.clamp_max(0.0))
            ratio = torch.where(accept, (after - before) / (fraction * promised).clamp_max(-1e-300), 0.0)
            settled = accept & (fraction == 1.0) & (-promised < 0.5 * self.tolerance)
            settled &= following.worst_defect < LARGEST_DEFECT
            unknowns = torch.where(accept[:, None], trial, unknowns)
            current = following.choose(accept, current)
            shrink = torch.where(ratio > 0.75, 0.1, torch.where(ratio > 0.25, 0.5, 2.0))
            damping = torch.where(accept, damping * shrink, damping * 8.0).clamp(1e-12, 2 * LARGEST_DAMPING)
            fraction = torch.where(
                accept, (2.0 * fraction).clamp_max(1.0), (0.5 * fraction).clamp_min(0.0625)
            )
            stuck = (damping > LARGEST_DAMPING) & ~accept

            result[alive] = unknowns
            values[alive] = current.cost
            converged[alive] |= settled
            report(iteration, values)
            left = torch.nonzero(~(settled | stuck)).flatten()
            if len(left) == 0:
                break
            if len(left) < len(alive):
                alive, unknowns, current = alive[left], unknowns[left], current.take(left)
                objective = objective.take(left)
                damping, fraction, weight = damping[left], fraction[left], weight[left]
        return result, converged
