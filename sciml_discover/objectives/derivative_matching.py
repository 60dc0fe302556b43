"""Two-stage collocation: smooth, differentiate, regress. No differential equation is solved."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import pydantic

from sciml_discover.base import lazy_import
from sciml_discover.linear_algebra import DenseNormal
from sciml_discover.objectives.abstract import (
    AbstractLinearization,
    AbstractObjective,
    AbstractObjectiveOptions,
    choose,
    take,
)
from sciml_discover.objectives.problem import FitState, Rows, smooth_again
from sciml_discover.smoothers import Automatic, SmootherOptions
from sciml_discover.ude import UDE

if TYPE_CHECKING:
    import torch
else:
    torch = lazy_import("torch")


class DerivativeMatching(AbstractObjectiveOptions):
    """Match the right-hand side to the derivative of the smoothed data. No solves; a warm start.

    Roesch, Rackauckas & Stumpf 2021, doi:10.1002/mp.14815 (two-stage collocation); Varah 1982,
    doi:10.1137/0903003. Not possible with hidden states, whose derivatives nobody measured.
    """

    solves: ClassVar[bool] = False
    kind: Literal["derivative_matching"] = "derivative_matching"
    accuracy: pydantic.PositiveFloat = 0.05
    """Standard deviation of the smoothed derivatives, relative to their typical size."""
    smoother: SmootherOptions = Automatic()
    """How the data are smoothed and differentiated."""

    def build(self, ude: UDE, rows: Rows, steps: int) -> DerivativeObjective:  # noqa: ARG002 - no solves
        """Return the objective for a universal differential equation and training rows."""
        # The rows come smoothed by the default.
        return DerivativeObjective(
            self, ude, rows if isinstance(self.smoother, Automatic) else smooth_again(rows, self.smoother)
        )


class DerivativeObjective(AbstractObjective):
    """Derivative matching of a batch of equations; the flat unknowns are ``theta``."""

    def __init__(self, options: DerivativeMatching, ude: UDE, rows: Rows) -> None:
        self.options, self.ude, self.rows = options, ude, rows

    def start(self, state: FitState) -> torch.Tensor:
        """Return ``theta``; states stay what the smoother says."""
        return state.theta.clone()

    def finish(self, unknowns: torch.Tensor) -> FitState:
        """Return the smoothed states and the fitted ``theta``."""
        smooth = self.rows.smooth_states
        return FitState(smooth.expand(unknowns.shape[0], *smooth.shape).clone(), unknowns.detach())

    def unit(self, unknowns: torch.Tensor) -> torch.Tensor:
        """Return ones: parameters and weights are of order one already."""
        return torch.ones_like(unknowns[0])

    def loss(self, unknowns: torch.Tensor) -> torch.Tensor:
        """Return half the squared mismatch of derivatives, prior included."""
        slopes = self.ude.rhs(self._times(), self._points(unknowns), unknowns, self.rows.flat_controls)
        prior = (self.ude.prior_precision(unknowns.shape[0]) * unknowns.square()).sum(1)
        return 0.5 * self._mismatch(slopes).square().sum((1, 2)) + 0.5 * prior

    def linearize(self, unknowns: torch.Tensor) -> DenseLinearization:
        """Return the least-squares problem linearised at ``theta``."""
        with torch.no_grad():
            slopes, _, by_theta = self.ude.linearize(
                self._times(), self._points(unknowns), unknowns, self.rows.flat_controls
            )
            residual = self._mismatch(slopes).flatten(1)
            jacobian = (by_theta * self._weights()[..., None]).flatten(1, 2)
            precision = self.ude.prior_precision(unknowns.shape[0])
            return DenseLinearization(
                cost=0.5 * residual.square().sum(1) + 0.5 * (precision * unknowns.square()).sum(1),
                infeasibility=torch.zeros_like(residual[:, 0]),
                worst_defect=torch.zeros_like(residual[:, 0]),
                normal=DenseNormal.assemble(jacobian, residual, precision, unknowns),
            )

    def take(self, index: torch.Tensor) -> DerivativeObjective:
        """Return the objective of the chosen members of the batch."""
        return DerivativeObjective(self.options, self.ude.take(index), self.rows)

    def _times(self) -> torch.Tensor:
        return self.rows.times.flatten()

    def _points(self, unknowns: torch.Tensor) -> torch.Tensor:
        return self.rows.smooth_states.flatten(0, 1).expand(unknowns.shape[0], -1, -1)

    def _weights(self) -> torch.Tensor:
        """Return one over the accuracy of each derivative, zero at padded rows, shape ``(J * L, d)``."""
        lengths = torch.as_tensor(self.rows.lengths, device=self.rows.times.device)
        real = torch.arange(self.rows.times.shape[1], device=lengths.device) < lengths[:, None]
        scale = self.options.accuracy * self.rows.slope_scale_at_rows
        return (real[..., None] / scale).flatten(0, 1)

    def _mismatch(self, slopes: torch.Tensor) -> torch.Tensor:
        return (slopes - self.rows.smooth_slopes.flatten(0, 1)) * self._weights()


@dataclass(frozen=True)
class DenseLinearization(AbstractLinearization):
    """A linearised problem without structure.

    Attributes:
        normal: the normal equations.
    """

    cost: torch.Tensor
    infeasibility: torch.Tensor
    worst_defect: torch.Tensor
    normal: DenseNormal

    def solve(self, damping: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the step and the change of cost that the linear model promises."""
        return self.normal.solve(damping)

    def choose(self, keep: torch.Tensor, other: AbstractLinearization) -> DenseLinearization:
        """Return the members of this one where ``keep`` holds, of the other elsewhere."""
        return choose(keep, self, other)

    def take(self, index: torch.Tensor) -> DenseLinearization:
        """Return the chosen members of the batch."""
        return take(self, index)
