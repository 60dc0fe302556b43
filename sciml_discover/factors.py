"""Library terms as products of factors that many of them share, for whole batches with their derivatives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from sciml_discover.base import lazy_import
from sciml_discover.callables import compile_torch, derivative
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
        renaming = {symbol(old): symbol(f"input{number}") for number, old in enumerate(inputs)}
        self._n_inner = sum(len(own) for own in inner)
        places: dict[sympy.Expr, int] = {sympy.Integer(1): 0}
        rows, derivatives, owner, begin = [], list[_Factor](), list[int](), 0
        for number, (term, names) in enumerate(zip(terms, inner, strict=True)):
            own = {symbol(name): symbol(f"inner{begin + k}") for k, name in enumerate(names)}
            expression = cast("sympy.Expr", term.xreplace({**renaming, **own}))
            parts = [expression] if own else _separate(expression)
            derivatives += [_Factor.of(derivative(expression, str(name))) for name in own.values()]
            owner += [number] * len(own)
            begin += len(own)
            rows.append([places.setdefault(part, len(places)) for part in parts])
        most = max((len(row) for row in rows), default=1)
        self._rows = np.array([row + [0] * (most - len(row)) for row in rows], dtype=np.int64)
        self._factors = [_Factor.of(expression) for expression in places]
        self._derivatives, self._owner = derivatives, np.array(owner, dtype=np.int64)
        self._place = np.arange(len(derivatives))
        self._tables: dict[str, tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]] = {}

    def only(self, terms: np.ndarray) -> Factors:
        """Return the factors of some of the terms; nothing else is computed then.

        Args:
            terms: which of them, shape ``(terms,)``; the others must not be asked for.
        """
        some = copy(self)
        needed = np.union1d([0], self._rows[terms])
        rows = np.where(terms[:, None], np.searchsorted(needed, self._rows), 0)
        rows = rows[:, (rows > 0).any(axis=0)]
        some._rows = rows if rows.shape[1] else np.zeros((len(rows), 1), dtype=np.int64)
        some._factors = [self._factors[number] for number in needed]
        active = terms[self._owner] if len(self._owner) else np.zeros(0, dtype=bool)
        some._derivatives = [one for one, may in zip(self._derivatives, active, strict=True) if may]
        some._place = np.maximum(np.cumsum(active) - 1, 0)
        some._tables = {}
        return some

    def at(
        self, inputs: torch.Tensor, inner: torch.Tensor | None = None, *, slopes: bool = False
    ) -> FactorTable:
        """Return the factors at some points.

        Args:
            inputs: shape ``(B, P, inputs)``.
            inner: values of all inner parameters, shape ``(B, n_inner)``; None for terms without.
            slopes: whether derivatives by the inputs are wanted too.
        """
        if inner is None and self._n_inner:
            raise ValueError(f"got no values of the inner parameters, expected {self._n_inner}")
        columns = inputs.unbind(-1)
        rows, sources, unit, _ = self._on(inputs)
        found = [factor.evaluate(columns, inner, slopes=slopes) for factor in self._factors]
        like = inputs[..., 0]
        value = torch.stack([_full(one[0], like) for one in found])
        if not slopes:
            return FactorTable(rows, value, (), sources, unit)
        most = max((len(one) - 1 for one in found), default=0)
        slope = tuple(
            torch.stack([_full(one[1 + k] if len(one) > 1 + k else 0.0, like) for one in found])
            for k in range(most)
        )
        return FactorTable(rows, value, slope, sources, unit)

    def by_inner(self, inputs: torch.Tensor, index: torch.Tensor, inner: torch.Tensor) -> torch.Tensor:
        """Return terms' derivatives by chosen inner parameters, shape ``(B, P, V)``.

        Args:
            inputs: shape ``(B, P, inputs)``.
            index: positions of ``V`` inner parameters per member, shape ``(B, V)``.
            inner: values of all inner parameters, shape ``(B, n_inner)``.
        """
        columns, like = inputs.unbind(-1), inputs[..., 0]
        found = [one.evaluate(columns, inner, slopes=False)[0] for one in self._derivatives]
        place = self._on(inputs)[3]
        return _pick(torch.stack([_full(one, like) for one in found]), place[index]).transpose(1, 2)

    def _on(self, inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the factors of each term, their inputs, unit vectors and places of derivatives, where inputs are."""
        device, key = inputs.device, f"{inputs.device} {inputs.dtype}"
        if key not in self._tables:
            most = max((len(factor.inputs) for factor in self._factors), default=0)
            sources = np.array(
                [[*factor.inputs, *[0] * (most - len(factor.inputs))] for factor in self._factors],
                dtype=np.int64,
            )
            self._tables[key] = (
                torch.as_tensor(self._rows, device=device),
                torch.as_tensor(sources, device=device),
                torch.eye(inputs.shape[-1], dtype=inputs.dtype, device=device),
                torch.as_tensor(self._place, device=device),
            )
        return self._tables[key]


@dataclass(frozen=True)
class FactorTable:
    """Factors at the points of each member of a batch.

    Attributes:
        rows: the factors of each term, shape ``(terms, most)``.
        value: shape ``(factors, B, P)``.
        slope: derivatives by the first input of each factor, by the second one, and so on, zero where it has fewer,
            each of shape ``(factors, B, P)``; empty if nobody asked.
        sources: which inputs these are, shape ``(factors, inputs of a factor)``.
        unit: the unit vectors of all inputs, shape ``(inputs, inputs)``.
    """

    rows: torch.Tensor
    value: torch.Tensor
    slope: tuple[torch.Tensor, ...]
    sources: torch.Tensor
    unit: torch.Tensor

    def terms(self, index: torch.Tensor) -> torch.Tensor:
        """Return the chosen terms of each member, shape ``(B, P, W)``, for positions of shape ``(B, W)``."""
        first, *others = self.rows[index].unbind(-1)
        total = _pick(self.value, first)
        for choice in others:
            total = total * _pick(self.value, choice)
        return total.transpose(1, 2)

    def sum_of_terms(
        self, index: torch.Tensor, coefficients: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the sum of chosen terms, its derivatives by the inputs, and the terms.

        Args:
            index: positions of ``W`` terms of each member, shape ``(B, W)``.
            coefficients: shape ``(B, W)``.

        Returns:
            Shapes ``(B, P)``, ``(B, P, inputs)`` and ``(B, P, W)``.
        """
        choices = self.rows[index].unbind(-1)
        values = [_pick(self.value, choice) for choice in choices]
        total = values[0]
        for value in values[1:]:
            total = total * value
        gradient = total.new_zeros(total.shape[0], total.shape[2], len(self.unit))
        for number, choice in enumerate(choices):
            others = [value for k, value in enumerate(values) if k != number]
            for k, table in enumerate(self.slope):
                part = _pick(table, choice)
                for value in others:
                    part = part * value
                # Which input a term is differentiated by here is another one for each member.
                weights = self.unit[self.sources[choice, k]] * coefficients[..., None]
                gradient = torch.baddbmm(gradient, part.transpose(1, 2), weights)
        terms = total.transpose(1, 2)
        return torch.bmm(terms, coefficients[..., None])[..., 0], gradient, terms


@dataclass(frozen=True)
class _Factor:
    """One factor.

    Attributes:
        expression: in ``input0``, ``input1``, ... and ``inner0``, ``inner1``, ...
        inputs: positions of the inputs that it has.
        inner: positions of the inner parameters that it has.
    """

    expression: sympy.Expr
    inputs: tuple[int, ...]
    inner: tuple[int, ...]

    @classmethod
    def of(cls, expression: sympy.Expr) -> _Factor:
        """Return the factor that an expression is."""
        names = [str(item) for item in expression.free_symbols]
        inputs = sorted(int(name[len("input") :]) for name in names if name.startswith("input"))
        inner = sorted(int(name[len("inner") :]) for name in names if name.startswith("inner"))
        return cls(expression, tuple(inputs), tuple(inner))

    def evaluate(
        self, inputs: Sequence[torch.Tensor], inner: torch.Tensor | None, *, slopes: bool
    ) -> list[torch.Tensor | float]:
        """Return the value and, if wanted, the derivatives by the own inputs; numbers where they are constant.

        Args:
            inputs: all inputs, each of shape ``(B, P)``.
            inner: all inner parameters, shape ``(B, n_inner)``.
            slopes: whether derivatives are wanted.
        """
        function = _compiled(self.expression, self.inputs, self.inner, slopes)
        own = [] if inner is None else [inner[:, k : k + 1] for k in self.inner]
        return function(*(inputs[k] for k in self.inputs), *own)


@lru_cache(maxsize=4096)
def _compiled(
    expression: sympy.Expr, inputs: tuple[int, ...], inner: tuple[int, ...], slopes: bool
) -> Callable[..., list[Any]]:
    """Return a function of the inputs and inner parameters of a factor; many libraries have the same ones."""
    names = [f"input{k}" for k in inputs]
    return compile_torch(expression, [*names, *(f"inner{k}" for k in inner)], names if slopes else ())


def _full(value: torch.Tensor | float, like: torch.Tensor) -> torch.Tensor:
    """Return a value at every point ``(B, P)``."""
    if not isinstance(value, torch.Tensor):
        return torch.full_like(like, value)
    return value if value.shape == like.shape else value.expand_as(like)


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
    """Return entries of ``(F, B, P)`` at positions ``(B, W)``, shape ``(B, W, P)``."""
    return table[index, torch.arange(len(index), device=index.device)[:, None]]
