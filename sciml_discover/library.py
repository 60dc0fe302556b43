"""Candidate terms of a hole: polynomials, functions, and terms that the user adds."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations_with_replacement
from typing import TYPE_CHECKING, Literal, cast

import numpy as np
import pydantic

from sciml_discover.base import Options, lazy_import
from sciml_discover.callables import TorchSystem
from sciml_discover.expressions import names_used, parse_expression, symbol

if TYPE_CHECKING:
    import sympy
    import torch
else:
    sympy = lazy_import("sympy")
    torch = lazy_import("torch")

LibraryFunction = Literal["sin", "cos", "tan", "exp", "log", "sqrt", "tanh", "abs"]


class LibraryOptions(Options):
    """Which terms may stand in a hole."""

    polynomial_degree: int = pydantic.Field(default=3, ge=0, le=8)
    """Highest total degree of the monomials of the hole's inputs."""
    constant: bool = True
    """Whether the constant term is a candidate."""
    functions: tuple[LibraryFunction, ...] = ()
    """Functions applied to each input of the hole."""
    extra: tuple[str, ...] = ()
    """Further terms as text, such as ``"hare*lynx/(1+hare)"``, for every hole that has all of their inputs."""


class Library:
    """Candidate terms of one hole, evaluated in batches with their derivatives.

    Args:
        inputs: names of the hole's inputs.
        terms: expressions in those inputs.

    Example:
        >>> library = build_library(("x",), LibraryOptions(polynomial_degree=1, functions=("sin",)))
        >>> library.texts
        ('1', 'x', 'sin(x)')
    """

    def __init__(self, inputs: Sequence[str], terms: Sequence[sympy.Expr]) -> None:
        self.inputs = tuple(inputs)
        self.terms = tuple(terms)
        # The time is an input like any other here, so inputs get names that cannot clash with it.
        names = [f"input{position}" for position in range(len(self.inputs))]
        renaming = {symbol(old): symbol(new) for old, new in zip(self.inputs, names, strict=True)}
        renamed = [cast("sympy.Expr", term.xreplace(renaming)) for term in self.terms]
        self._functions = TorchSystem(renamed, names, ())

    def __len__(self) -> int:
        return len(self.terms)

    @property
    def texts(self) -> tuple[str, ...]:
        """The terms as text."""
        return tuple(str(term) for term in self.terms)

    def evaluate(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return all terms, shape ``(..., terms)``, at inputs of shape ``(..., inputs)``."""
        return self._functions.rhs(inputs.new_zeros(()), inputs, inputs.new_zeros(0))

    def linearize(self, inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return all terms and their derivatives by the inputs, shape ``(..., terms, inputs)``."""
        value, slope, _, _ = self._functions.linearize(inputs.new_zeros(()), inputs, inputs.new_zeros(0))
        return value, slope

    def matrix(self, points: np.ndarray) -> np.ndarray:
        """Return all terms at points of shape ``(samples, inputs)``, shape ``(samples, terms)``."""
        return self.evaluate(torch.as_tensor(points, dtype=torch.float64)).numpy()


def build_library(inputs: Sequence[str], options: LibraryOptions) -> Library:
    """Return the library of one hole: constant, monomials by degree, functions, extra terms; no doubles.

    An extra term that needs inputs which this hole does not have is for another hole, and left out here.

    Raises:
        InputError: an extra term cannot be parsed.
    """
    symbols = [symbol(name) for name in inputs]
    terms: list[sympy.Expr] = [sympy.Integer(1)] if options.constant else []
    for degree in range(1, options.polynomial_degree + 1):
        terms += [sympy.Mul(*chosen) for chosen in combinations_with_replacement(symbols, degree)]
    for function in options.functions:
        name = "Abs" if function == "abs" else function
        terms += [getattr(sympy, name)(argument) for argument in symbols]
    where = "[regress.library] extra"
    terms += [
        parse_expression(text, inputs, where=where)
        for text in options.extra
        if names_used(text, where=where) <= set(inputs)
    ]
    return Library(inputs, list(dict.fromkeys(terms)))
