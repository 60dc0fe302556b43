"""Library terms as products of factors that many of them share, for whole batches with their derivatives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

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


class Factors:
    """Terms as products of factors of one input each where that is possible.

    The factors are computed once for all members of a batch, and each member multiplies those of its own terms: 56
    monomials of three inputs have 16 factors. Factor number zero is one; a term with fewer factors than others is
    filled up with it. A term with inner parameters is one factor.

    Args:
        inputs: names of the inputs.
        terms: expressions in the inputs and in their own inner parameters.
        inner: names of each term's inner parameters; terms may use the same name for different ones.
    """

    def __init__(
        self, inputs: Sequence[str], terms: Sequence[sympy.Expr], inner: Sequence[Sequence[str]]
    ) -> None:
        # The time is an input like any other here, so inputs get names that cannot clash with it.
        names = [f"input{number}" for number in range(len(inputs))]
        renaming = {symbol(old): symbol(new) for old, new in zip(inputs, names, strict=True)}
        self._inner = [f"inner{number}" for number in range(sum(len(own) for own in inner))]
        places: dict[sympy.Expr, int] = {sympy.Integer(1): 0}
        rows, by_inner, waiting = [], [], iter(self._inner)
        for term, own_names in zip(terms, inner, strict=True):
            own = {symbol(name): symbol(next(waiting)) for name in own_names}
            expression = cast("sympy.Expr", term.xreplace({**renaming, **own}))
            parts = [expression] if own else _separate(expression)
            by_inner += [sympy.diff(expression, name) for name in own.values()]
            rows.append([places.setdefault(part, len(places)) for part in parts])
        most = max((len(row) for row in rows), default=1)
        self._rows = np.array([row + [0] * (most - len(row)) for row in rows], dtype=np.int64)
        self._tables: dict[str, torch.Tensor] = {}
        self._values = TorchSystem(list(places), names, (), controls=self._inner)
        self._by_inner = TorchSystem(by_inner, names, (), controls=self._inner)

    def at(
        self, inputs: torch.Tensor, inner: torch.Tensor | None = None, *, slopes: bool = False
    ) -> FactorTable:
        """Return the factors at some points.

        Args:
            inputs: shape ``(B, P, inputs)``.
            inner: values of all inner parameters, shape ``(B, n_inner)``; None for terms without.
            slopes: whether derivatives by the inputs are wanted too.
        """
        arguments = self._arguments(inputs, inner)
        if slopes:
            value, slope, _, _ = self._values.linearize(*arguments)
        else:
            value, slope = self._values.rhs(*arguments), None
        key = str(inputs.device)
        if key not in self._tables:
            self._tables[key] = torch.as_tensor(self._rows, device=inputs.device)
        return FactorTable(self._tables[key], value, slope)

    def by_inner(self, inputs: torch.Tensor, index: torch.Tensor, inner: torch.Tensor) -> torch.Tensor:
        """Return terms' derivatives by chosen inner parameters, shape ``(B, P, V)``.

        Args:
            inputs: shape ``(B, P, inputs)``.
            index: positions of ``V`` inner parameters per member, shape ``(B, V)``.
            inner: values of all inner parameters, shape ``(B, n_inner)``.
        """
        return _pick(self._by_inner.rhs(*self._arguments(inputs, inner)), index)

    def _arguments(self, inputs: torch.Tensor, inner: torch.Tensor | None) -> tuple:
        if inner is None and self._inner:
            raise ValueError(f"got no values of the inner parameters, expected {len(self._inner)}")
        given = inner[:, None, :] if inner is not None and self._inner else None
        return inputs.new_zeros(()), inputs, inputs.new_zeros(0), None, given


@dataclass(frozen=True)
class FactorTable:
    """Factors at the points of each member of a batch.

    Attributes:
        rows: the factors of each term, shape ``(terms, most)``.
        value: shape ``(B, P, factors)``.
        slope: derivatives by the inputs, shape ``(B, P, factors, inputs)``; None if nobody asked.
    """

    rows: torch.Tensor
    value: torch.Tensor
    slope: torch.Tensor | None

    def terms(self, index: torch.Tensor) -> torch.Tensor:
        """Return the chosen terms of each member, shape ``(B, P, W)``, for positions of shape ``(B, W)``."""
        first, *others = self.rows[index].unbind(-1)
        total = _pick(self.value, first)
        for choice in others:
            total = total * _pick(self.value, choice)
        return total

    def terms_and_slopes(self, index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the chosen terms and their derivatives by the inputs, shape ``(B, P, W, inputs)``; see `terms`."""
        if self.slope is None:
            raise ValueError("got a table without derivatives, expected Factors.at(..., slopes=True)")
        first, *others = self.rows[index].unbind(-1)
        total, slope = _pick(self.value, first), _pick(self.slope, first)
        for choice in others:
            part = _pick(self.value, choice)
            slope = slope * part[..., None] + total[..., None] * _pick(self.slope, choice)
            total = total * part
        return total, slope


def _separate(expression: sympy.Expr) -> list[sympy.Expr]:
    """Return factors of a term such that no two of them have the same inputs."""
    groups: dict[frozenset, sympy.Expr] = {}
    for part in sympy.Mul.make_args(expression):
        key = frozenset(part.free_symbols)
        groups[key] = groups.get(key, sympy.Integer(1)) * part
    number = groups.pop(frozenset(), sympy.Integer(1))
    parts = list(groups.values()) or [sympy.Integer(1)]
    if number != 1:
        parts[0] = parts[0] * number
    return parts


def _pick(table: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Return entries of ``(B, P, F, ...)`` at positions ``(B, W)``, shape ``(B, P, W, ...)``."""
    shape = (*table.shape[:2], index.shape[1], *table.shape[3:])
    index = index.reshape(index.shape[0], 1, index.shape[1], *[1] * (table.dim() - 3)).expand(shape)
    return table.gather(2, index)
