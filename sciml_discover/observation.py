"""What is measured of a system: states as they are, or expressions of states, controls and the time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from sciml_discover.base import lazy_import
from sciml_discover.callables import TorchSystem
from sciml_discover.expressions import symbol

if TYPE_CHECKING:
    import sympy
    import torch
else:
    sympy = lazy_import("sympy")
    torch = lazy_import("torch")


class Observation:
    """Several observables of a system as functions of its states, with their exact derivatives.

    Args:
        expressions: what each observable is, by its name.
        states: names of the states.
        controls: names of the controls.
        parameters: values of the parameters that the expressions use.

    Attributes:
        names: of the observables.
        columns: position among the states of each observable that is a state as it is; None for the others.

    Example:
        >>> from sciml_discover.expressions import parse_expression
        >>> total = parse_expression("x + y", ["x", "y"], where="doctest")
        >>> observation = Observation({"y": symbol("y"), "total": total}, ("x", "y"))
        >>> observation.values(np.zeros(1), np.array([[1.0, 2.0]]))
        array([[2., 3.]])
    """

    def __init__(
        self,
        expressions: Mapping[str, sympy.Expr],
        states: Sequence[str],
        controls: Sequence[str] = (),
        parameters: Mapping[str, float] | None = None,
    ) -> None:
        self.names = tuple(expressions)
        self._expressions = tuple(expressions.values())
        self._states, self._controls = tuple(states), tuple(controls)
        self._numbers = dict(parameters or {})
        positions = {symbol(name): position for position, name in enumerate(states)}
        self.columns: tuple[int | None, ...] = tuple(
            positions.get(expression)  # pyright: ignore[reportArgumentType] - whatever is no state is not found
            for expression in self._expressions
        )

    @property
    def direct(self) -> list[int] | None:
        """Positions of the observables among the states; None unless every observable is a state."""
        found = [column for column in self.columns if column is not None]
        return found if len(found) == len(self.columns) else None

    @cached_property
    def _functions(self) -> TorchSystem:
        numbers = {symbol(name): sympy.Float(value) for name, value in self._numbers.items()}
        expressions: list[sympy.Expr] = [
            expression.xreplace(numbers)  # pyright: ignore[reportAssignmentType] - expressions stay expressions
            for expression in self._expressions
        ]
        return TorchSystem(expressions, self._states, (), (), self._controls)

    def evaluate(
        self, time: torch.Tensor, states: torch.Tensor, controls: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the observables, shape ``(..., observables)``.

        Args:
            time: shape ``(...)``.
            states: shape ``(..., states)``.
            controls: shape ``(..., controls)``; None for a system without controls.
        """
        if self.direct is not None:
            return states[..., self.direct]
        return self._functions.rhs(time, states, states.new_zeros(0), None, controls)

    def linearize(
        self, time: torch.Tensor, states: torch.Tensor, controls: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the observables and their derivatives by the states, shape ``(..., observables, states)``."""
        value, slope, _, _ = self._functions.linearize(time, states, states.new_zeros(0), None, controls)
        return value, slope

    def values(self, times: np.ndarray, states: np.ndarray, controls: np.ndarray | None = None) -> np.ndarray:
        """Return the observables at times as an array, shape ``(times, observables)``.

        Args:
            times: shape ``(times,)``.
            states: shape ``(times, states)``.
            controls: shape ``(times, controls)``; None for a system without controls.
        """
        if self.direct is not None:
            return states[:, self.direct]
        given = None if controls is None or not self._controls else torch.as_tensor(controls)
        with torch.no_grad():
            return self.evaluate(torch.as_tensor(times), torch.as_tensor(states), given).numpy()
