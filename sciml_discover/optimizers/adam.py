"""Adam."""

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


class Adam(Options):
    """First-order steps with momentum (Kingma & Ba 2015, arXiv:1412.6980), one batch of problems at once."""

    kind: Literal["adam"] = "adam"
    iterations: pydantic.PositiveInt = 300
    """Number of gradient steps."""
    learning_rate: pydantic.PositiveFloat = 0.01
    """Step size, in units of the typical size of each unknown; falls to a tenth along a cosine."""

    def minimise(
        self, objective: AbstractObjective, unknowns: torch.Tensor, report: Report
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the unknowns of least loss that were seen, and which members converged (none: no test).

        A member whose loss or gradient is not finite returns to its best point and goes on from there.
        """
        unit = objective.unit(unknowns)
        scaled = (unknowns / unit).requires_grad_()
        stepper = torch.optim.Adam([scaled], lr=self.learning_rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(
            stepper, self.iterations, eta_min=0.1 * self.learning_rate
        )
        best, best_loss = scaled.detach().clone(), torch.full_like(scaled[:, 0], torch.inf).detach()
        per_round = -(-self.iterations // objective.rounds)
        for iteration in range(self.iterations):
            if iteration and iteration % per_round == 0 and objective.advance(best * unit):
                # The loss means something else now: start its record afresh.
                best_loss.fill_(torch.inf)
            stepper.zero_grad()
            loss = objective.loss(scaled * unit)
            torch.where(torch.isfinite(loss), loss, 0.0).sum().backward()
            gradient = scaled.grad
            if gradient is None:
                raise RuntimeError("the objective's loss does not depend on its unknowns")
            good = torch.isfinite(loss.detach()) & torch.isfinite(gradient).all(1)
            with torch.no_grad():
                better = good & (loss < best_loss)
                best = torch.where(better[:, None], scaled, best)
                best_loss = torch.where(better, loss, best_loss)
                scaled.copy_(torch.where(good[:, None], scaled, best))
                gradient.copy_(torch.where(good[:, None], gradient, torch.zeros_like(gradient)))
            stepper.step()
            schedule.step()
            report(iteration, best_loss)
        return best * unit, torch.zeros(len(unknowns), dtype=torch.bool, device=unknowns.device)
