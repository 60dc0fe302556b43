"""What every optimizer offers: explicit states, and one step from each to the next.

``begin`` gives the state at some unknowns, ``step`` the state after one more iteration. States are frozen and hold
tensors only, so that a fit can be stopped, written down and gone on with at any iteration.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from sciml_discover.base import Options, lazy_import
from sciml_discover.objectives.abstract import AbstractObjective, Order

if TYPE_CHECKING:
    import torch
else:
    torch = lazy_import("torch")


@dataclass(frozen=True)
class AbstractState(ABC):
    """Where the minimisation of a batch of ``B`` independent problems stands.

    Attributes:
        value: what is reported of each member, which never rises within a round, shape ``(B,)``.
        converged: whether each member has converged in this round, shape ``(B,)``.
        lost: in how many iterations of this round each member was not finite where it was tried, shape ``(B,)``.
        iteration: number of iterations so far, a scalar on the CPU.
        done: whether this round has nothing more to do, a scalar on the CPU.
        spent: whether there are no iterations left for further rounds, a scalar on the CPU.
    """

    value: torch.Tensor
    converged: torch.Tensor
    lost: torch.Tensor
    iteration: torch.Tensor
    done: torch.Tensor
    spent: torch.Tensor

    @property
    @abstractmethod
    def unknowns(self) -> torch.Tensor:
        """The best unknowns of each member, shape ``(B, n)``: what a fit that ends here gives."""

    @property
    def stalled(self) -> torch.Tensor:
        """Members that have given up in this round without having converged, shape ``(B,)``."""
        return torch.zeros_like(self.converged)


class AbstractOptimizer(Options, ABC):
    """How an objective is minimised; its fields are the options."""

    order: ClassVar[Order]
    """1 if it follows the gradient of `loss`, 2 if it solves what `linearize` gives."""
    report_every: ClassVar[int] = 1
    """Iterations between two looks at the values, each of which waits for the device."""

    @abstractmethod
    def most_iterations(self, rounds: int) -> int:
        """Return the most iterations that a minimisation in so many rounds can take."""

    @abstractmethod
    def begin(self, objective: AbstractObjective, unknowns: torch.Tensor) -> Any:
        """Return the state before the first iteration, from unknowns ``(B, n)``."""

    @abstractmethod
    def step(self, objective: AbstractObjective, state: Any) -> Any:
        """Return the state after one more iteration.

        A member whose objective is not finite goes on from its best point, and does not disturb the others.
        """

    @abstractmethod
    def next_round(self, objective: AbstractObjective, state: Any) -> Any:
        """Return the state with which the next round begins, where ``state`` ended the one before it."""
