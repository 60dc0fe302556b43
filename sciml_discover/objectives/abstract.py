"""The interface between objectives and optimizers: a batch of nonlinear least-squares problems."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from sciml_discover.base import lazy_import
from sciml_discover.objectives.problem import FitState

if TYPE_CHECKING:
    import torch
else:
    torch = lazy_import("torch")


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

    def advance(self, unknowns: torch.Tensor) -> bool:  # noqa: ARG002 - most objectives have one round
        """Tighten the penalties after a round of a first-order method; return whether another round is needed."""
        return False

    @property
    def rounds(self) -> int:
        """Number of rounds that a first-order method should divide its iterations into."""
        return 1

    def second_order_rounds(self) -> tuple[AbstractObjective, ...]:
        """Return the objectives that a second-order method should minimise in turn, this one last."""
        return (self,)


Linearization = TypeVar("Linearization", bound=AbstractLinearization)


def choose(keep: torch.Tensor, mine: Linearization, other: AbstractLinearization) -> Linearization:
    """Return members of ``mine`` where ``keep`` holds, of ``other`` elsewhere: all tensors, nested ones too."""

    def pick(one: torch.Tensor, two: torch.Tensor) -> torch.Tensor:
        return torch.where(keep.reshape(-1, *([1] * (one.dim() - 1))), one, two)

    return _map_tensors(pick, mine, other)


def take(mine: Linearization, index: torch.Tensor) -> Linearization:
    """Return the chosen members of the batch: all tensors, nested ones too."""
    return _map_tensors(lambda tensor, _: tensor[index], mine, mine)


def _map_tensors(function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], one: Any, two: Any) -> Any:
    if isinstance(one, torch.Tensor):
        return function(one, two)
    if not is_dataclass(one):
        return one
    values = {
        field.name: _map_tensors(function, getattr(one, field.name), getattr(two, field.name))
        for field in fields(one)
    }
    return type(one)(**values)
