"""The interface between objectives and optimizers: a batch of nonlinear least-squares problems."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar, cast

from sciml_discover.base import Options, lazy_import
from sciml_discover.objectives.problem import FitState, Rows
from sciml_discover.ude import UDE

if TYPE_CHECKING:
    import torch
else:
    torch = lazy_import("torch")

Order = Literal[1, 2]
"""Of an optimizer: 1 if it follows gradients, 2 if it solves linearised least-squares problems."""


class AbstractObjectiveOptions(Options, ABC):
    """Which objective is minimised; its fields are the options."""

    solves: ClassVar[bool] = True
    """Whether the differential equation is solved, so that the size of its steps matters."""

    @abstractmethod
    def build(self, ude: UDE, rows: Rows, steps: int) -> AbstractObjective:
        """Return the objective for a universal differential equation and training rows.

        Args:
            ude: the equation.
            rows: the training rows.
            steps: Runge-Kutta steps per interval; a power of two.
        """

    def backed_off(self) -> AbstractObjectiveOptions | None:
        """Return more cautious options, for when these led nowhere; None if there are none."""
        return None


class AbstractLinearization(ABC):
    """An objective linearised at a point, for every member of the batch.

    Attributes:
        cost: half the squared norm of all residuals, prior included, shape ``(B,)``.
        infeasibility: L1 norm of the equality constraints in units of their tolerances, shape ``(B,)``.
        worst_defect: largest violated constraint in units of its tolerance, shape ``(B,)``.
    """

    cost: torch.Tensor
    infeasibility: torch.Tensor
    worst_defect: torch.Tensor

    @abstractmethod
    def solve(self, damping: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the step ``(B, n)`` and the change of ``cost`` that it promises ``(B,)``."""

    def cost_seen_from(self, before: AbstractLinearization) -> torch.Tensor:  # noqa: ARG002 - most have one level
        """Return the cost on the level on which the step from another point was made, shape ``(B,)``."""
        return self.cost

    @abstractmethod
    def choose(self, keep: torch.Tensor, other: AbstractLinearization) -> AbstractLinearization:
        """Return the members of this one where ``keep`` holds, of the other elsewhere."""

    @abstractmethod
    def take(self, index: torch.Tensor) -> AbstractLinearization:
        """Return the chosen members of the batch."""


class AbstractObjective(ABC):
    """What a fit minimises, as a function of one flat vector per member of the batch."""

    @abstractmethod
    def start(self, state: FitState) -> torch.Tensor:
        """Return the flat unknowns ``(B, n)`` that express where the fit stands."""

    @abstractmethod
    def finish(self, unknowns: torch.Tensor) -> FitState:
        """Return where the fit stands, from the flat unknowns."""

    @abstractmethod
    def loss(self, unknowns: torch.Tensor) -> torch.Tensor:
        """Return the differentiable value to be minimised, shape ``(B,)``."""

    @abstractmethod
    def linearize(self, unknowns: torch.Tensor) -> AbstractLinearization:
        """Return the least-squares problem linearised at the unknowns."""

    @abstractmethod
    def unit(self, unknowns: torch.Tensor) -> torch.Tensor:
        """Return the typical size of each unknown, shape ``(n,)``: first-order steps are taken in these units."""

    @abstractmethod
    def take(self, index: torch.Tensor) -> AbstractObjective:
        """Return the objective of the chosen members of the batch."""

    # Objectives are immutable. One that is minimised in rounds, each under conditions of its own, says so below;
    # an optimizer of order 1 sees `loss`, one of order 2 `linearize`.

    def rounds_of(self, order: Order) -> int:  # noqa: ARG002 - most objectives have one round
        """Return the number of rounds that an optimizer of this order goes through."""
        return 1

    @property
    def provisional(self) -> bool:
        """Whether another round follows in any case, so that this one need not be minimised to the last digit."""
        return False

    def first_round(self, order: Order) -> AbstractObjective:  # noqa: ARG002 - most objectives have one round
        """Return the objective as an optimizer of this order should minimise it first."""
        return self

    def next_round(self, unknowns: torch.Tensor) -> AbstractObjective | None:  # noqa: ARG002 - as above
        """Return the objective of the round after this one, which ended at ``unknowns``; None after the last."""
        return None

    def carry(self, previous: AbstractObjective, unknowns: torch.Tensor) -> torch.Tensor:  # noqa: ARG002 - as above
        """Return the unknowns of the round before in the terms of this one, which may have others: see `next_round`."""
        return unknowns

    def suited_to(self, state: FitState) -> AbstractObjective:  # noqa: ARG002 - most objectives suit any
        """Return the objective, prepared for a fit that begins where ``state`` is, before its first round."""
        return self

    def discrepancy(self, unknowns: torch.Tensor) -> torch.Tensor:
        """Return how far states are from solving their equations between rows, in squared noise sd, shape ``(B,)``.

        It is infinite where an objective cannot tell.
        """
        return torch.full((len(unknowns),), torch.inf, dtype=torch.float64, device=unknowns.device)

    @property
    def prior(self) -> torch.Tensor | None:
        """Strengths of the networks' priors, where this objective has chosen them itself, shape ``(B, holes)``."""
        return None

    @property
    def memory(self) -> dict[str, torch.Tensor]:
        """What this round carries beyond the options, such as multipliers; see `recall`."""
        return {}

    def recall(self, memory: dict[str, torch.Tensor]) -> AbstractObjective:  # noqa: ARG002 - as above
        """Return exactly the objective that had this ``memory``, from any other round of it."""
        return self


Linearization = TypeVar("Linearization", bound=AbstractLinearization)


def choose(keep: torch.Tensor, mine: Linearization, other: AbstractLinearization) -> Linearization:
    """Return members of ``mine`` where ``keep`` holds, of ``other`` elsewhere: all tensors, nested ones too."""
    # On other devices this question would cost more than the copies.
    if keep.is_cpu and bool(keep.all()):
        return mine

    def pick(one: torch.Tensor, two: torch.Tensor) -> torch.Tensor:
        return torch.where(keep.reshape(-1, *([1] * (one.dim() - 1))), one, two)

    return _map_tensors(pick, mine, other)


def take(mine: Linearization, index: torch.Tensor) -> Linearization:
    """Return the chosen members of the batch: all tensors, nested ones too."""
    return _map_tensors(lambda tensor, _: tensor[index], mine, mine)


def contiguous(mine: Linearization) -> Linearization:
    """Return the same with all tensors laid out in memory as they are read back from a file."""
    return _map_tensors(lambda tensor, _: tensor.contiguous(), mine, mine)


def _map_tensors(function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], one: Any, two: Any) -> Any:
    if isinstance(one, torch.Tensor):
        return function(one, two)
    if not is_dataclass(one):
        return one
    values = {
        field.name: _map_tensors(function, getattr(one, field.name), getattr(two, field.name))
        for field in fields(one)
    }
    return cast("Any", type(one))(**values)
