"""Candidate terms of a hole: polynomials, functions, further terms, with parameters inside where need be."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations_with_replacement, product
from math import comb
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import pydantic

from sciml_discover.base import Options, lazy_import
from sciml_discover.callables import derivative
from sciml_discover.coordinates import Coordinates
from sciml_discover.errors import InputError, did_you_mean
from sciml_discover.expressions import (
    MAX_EXPONENT,
    check_name,
    names_used,
    parse_expression,
    symbol,
    to_text,
)
from sciml_discover.factors import Factors

if TYPE_CHECKING:
    import sympy
    import torch
else:
    sympy = lazy_import("sympy")
    torch = lazy_import("torch")

LibraryFunction = Literal["sin", "cos", "tan", "exp", "log", "sqrt", "tanh", "abs"]

PLACEHOLDERS = ("input", "other")
"""What a template calls the inputs of the hole, each of which takes this place in turn."""

EXPONENTS = (0.2, 5.0)
"""Bounds of an inner parameter that is an exponent, unless it has its own."""

MOST_TERMS = 2000
"""Largest library of a hole."""

SPAN = 1e3
"""An inner parameter without bounds stays within this factor of the magnitudes in the data, and of their inverses."""

STARTS = (0.2, 1.0, 5.0)
"""An inner parameter starts at these multiples of the magnitudes in the data, and of their inverses."""

MOST_STARTS = 36
"""Combinations of start values that a term with several inner parameters is tried with."""


class InnerOptions(Options):
    """A parameter inside terms, fitted anew in each law that has such a term."""

    start: float | None = None
    """Where fits begin; without it they begin at several values, of the size of the data and of its inverse."""
    bounds: tuple[float, float] | None = None
    """Lowest and highest value; without them it is positive and not far from the size of the data or its inverse. An
    exponent has to stay between -20 and 20."""

    @pydantic.model_validator(mode="after")
    def _makes_sense(self) -> InnerOptions:
        if self.bounds is not None:
            low, high = self.bounds
            if not low < high:
                raise ValueError(f"bounds = [{low:g}, {high:g}] have no value between them")
            if self.start is not None and not low <= self.start <= high:
                raise ValueError(f"start = {self.start:g} is not within its bounds [{low:g}, {high:g}]")
        elif self.start == 0.0:
            raise ValueError("start = 0 without bounds says nothing of the parameter's size; give bounds too")
        return self


class LibraryOptions(Options):
    """Which terms may stand in a hole."""

    polynomial_degree: int = pydantic.Field(default=3, ge=0, le=10)
    """Highest total degree of the monomials of the hole's inputs."""
    constant: bool = True
    """Whether the constant term is a candidate."""
    functions: tuple[LibraryFunction, ...] = ()
    """Functions applied to each input of the hole."""
    extra: tuple[str, ...] = ()
    """Further terms as text, such as ``"hare*lynx/(1+hare)"``, for every hole that has all of their inputs."""
    templates: tuple[str, ...] = ()
    """Further terms for each input of the hole, which they call ``input``: ``"input/(K + input)"``. What they call
    ``other`` is each input too: ``"sin(input)*other"``."""
    inner: dict[str, InnerOptions] = pydantic.Field(default_factory=dict)
    """Parameters inside terms, by name, such as ``K = {}``; a term of the law has its own, whatever the name."""

    @pydantic.field_validator("inner")
    @classmethod
    def _names_are_names(cls, inner: dict[str, InnerOptions]) -> dict[str, InnerOptions]:
        for name in inner:
            try:
                check_name(name, where="inner parameter")
            except InputError as error:
                raise ValueError(str(error)) from error
            if name in PLACEHOLDERS:
                raise ValueError(f"an inner parameter cannot be called {name!r}: templates call inputs that")
        return inner


@dataclass(frozen=True)
class InnerParameter:
    """A parameter inside one term.

    Attributes:
        name: as in the term's text.
        start: where fits begin; None if the data have to say.
        low: lowest value; None if the data have to say, or for none at all where ``start`` is given.
        high: highest value; None like ``low``.
        starts: all values where fits begin; if empty, those that the others suggest.
    """

    name: str
    start: float | None = None
    low: float | None = None
    high: float | None = None
    starts: tuple[float, ...] = ()


@dataclass(frozen=True)
class LibraryTerm:
    """One candidate term, as text.

    Attributes:
        text: in the hole's inputs and the inner parameters.
        inner: the parameters inside.
    """

    text: str
    inner: tuple[InnerParameter, ...] = ()

    def expression(self, inputs: Sequence[str]) -> sympy.Expr:
        """Return the term as an expression in the inputs and the inner parameters."""
        own = [item.name for item in self.inner]
        return parse_expression(self.text, [*inputs, *own], where="library term", exponents=own)


class Library:
    """Candidate terms of one hole, evaluated in batches with their derivatives.

    Args:
        inputs: names of the hole's inputs.
        terms: the candidates.
        starts: per term, the combinations of values at which its inner parameters start, shape ``(starts, own)``; all
            that their ranges suggest unless given.
        expressions: the terms as expressions; their texts are read unless given.

    Example:
        >>> library = build_library(("x",), LibraryOptions(polynomial_degree=1, functions=("sin",)))
        >>> library.texts
        ('1', 'x', 'sin(x)')
    """

    def __init__(
        self,
        inputs: Sequence[str],
        terms: Sequence[LibraryTerm],
        starts: Sequence[np.ndarray] | None = None,
        expressions: Sequence[sympy.Expr] | None = None,
    ) -> None:
        self.inputs, self.terms = tuple(inputs), tuple(terms)
        self._given_starts = starts
        read = [term.expression(inputs) for term in terms] if expressions is None else expressions
        self.expressions = tuple(read)
        self.inner = tuple(item for term in terms for item in term.inner)
        """The inner parameters of all terms, one after another."""
        self.owner = np.array([number for number, term in enumerate(terms) for _ in term.inner], dtype=int)
        """The term that each inner parameter belongs to."""

    def __len__(self) -> int:
        return len(self.terms)

    @property
    def texts(self) -> tuple[str, ...]:
        """The terms as text."""
        return tuple(term.text for term in self.terms)

    def position(self, text: str, where: str) -> int:
        """Return the position of a term, however it is written; a positive number in front makes no difference.

        Raises:
            InputError: the text is no expression, or not a term of this library.
        """
        if text in self.texts:
            return self.texts.index(text)
        own = {item.name for item in self.inner}
        names = [*self.inputs, *sorted(own)]
        if names_used(text, where=where) <= set(names):
            expression = parse_expression(text, names, where=where, exponents=own)
            position = self._places.get(_without_number(expression))
            if position is not None:
                return position
        raise InputError(
            f"the term {text!r}",
            where=where,
            expected="a term of the library",
            do=did_you_mean(text, self.texts),
        )

    @cached_property
    def _places(self) -> dict[tuple[bool, sympy.Expr], int]:
        """Where the terms are, by what `_without_number` leaves of them; the first of those that are alike."""
        places: dict[tuple[bool, sympy.Expr], int] = {}
        for number, expression in enumerate(self.expressions):
            places.setdefault(_without_number(expression), number)
        return places

    @cached_property
    def factors(self) -> Factors:
        """The terms as products of factors, for whoever computes them in batches."""
        return Factors(
            self.inputs, self.expressions, [[item.name for item in term.inner] for term in self.terms]
        )

    @cached_property
    def tangents(self) -> Factors:
        """The terms and then their derivatives by every inner parameter; for the values that `tangent_inner` gives."""
        names = [[item.name for item in term.inner] for term in self.terms]
        derivatives = [
            derivative(self.expressions[own], item.name)
            for own, item in zip(self.owner, self.inner, strict=True)
        ]
        return Factors(
            self.inputs, [*self.expressions, *derivatives], [*names, *(names[k] for k in self.owner)]
        )

    def tangent_inner(self, inner: np.ndarray) -> np.ndarray:
        """Return values of inner parameters ``(..., n_inner)`` once for each term and derivative that has them."""
        own = [np.flatnonzero(self.owner == k) for k in self.owner]
        return inner[..., np.concatenate([np.arange(len(self.inner)), *own]).astype(int)]

    def evaluate(self, inputs: torch.Tensor, inner: torch.Tensor | None = None) -> torch.Tensor:
        """Return all terms, shape ``(P, terms)``, at inputs of shape ``(P, inputs)``.

        Args:
            inputs: points.
            inner: values of the inner parameters, shape ``(n_inner,)``.
        """
        everything = torch.arange(len(self), device=inputs.device)[None]
        table = self.factors.at(inputs[None], None if inner is None else inner[None])
        return table.terms(everything)[0]

    def matrix(self, points: np.ndarray, inner: np.ndarray | None = None) -> np.ndarray:
        """Return all terms at points of shape ``(samples, inputs)``, shape ``(samples, terms)``."""
        values = None if inner is None else torch.as_tensor(inner)
        return self.evaluate(torch.as_tensor(points, dtype=torch.float64), values).numpy()

    def columns(self, points: np.ndarray) -> Columns:
        """Return the terms as columns of a regression, those with inner parameters at each of their start values."""
        counts = self.start_counts
        owner = np.repeat(np.arange(len(self)), counts)
        turn = np.concatenate([np.arange(count) for count in counts])
        matrix = np.empty((len(points), len(owner)))
        for number in range(counts.max()):
            chosen = turn == number
            matrix[:, chosen] = self.matrix(points, self.starts_at(number))[:, owner[chosen]]
        return Columns(
            self, matrix, owner, tuple(values for starts in self._start_values for values in starts)
        )

    def with_numbers(self, number: int, inner: Sequence[float]) -> sympy.Expr:
        """Return a term with numbers for its own inner parameters."""
        values = {
            symbol(item.name): sympy.Float(value)
            for item, value in zip(self.terms[number].inner, inner, strict=True)
        }
        return cast("sympy.Expr", self.expressions[number].xreplace(values))

    def with_more(self, terms: Sequence[LibraryTerm]) -> Library:
        """Return the library with further terms at its end."""
        return Library(self.inputs, (*self.terms, *terms)) if terms else self

    def for_data(self, series: Sequence[np.ndarray]) -> Library:
        """Return the library with a range and starts for every inner parameter, of the size of the data.

        A start at which its term has no value somewhere along the data is left out, unless none has one.

        Args:
            series: values of the inputs along each trajectory, in the order of time, shapes ``(rows, inputs)``.
        """
        if not self.inner:
            return self
        sizes = _magnitudes(np.concatenate([*series]))
        terms = []
        for term, expression in zip(self.terms, self.expressions, strict=True):
            used = {str(item) for item in expression.free_symbols}
            inside = [size for name, size in zip(self.inputs, sizes, strict=True) if name in used]
            # An exponent has no size that data could tell.
            plain = _exponents(expression)
            own = tuple(_ranged(item, [] if item.name in plain else inside) for item in term.inner)
            terms.append(LibraryTerm(term.text, own))
        ranged = Library(self.inputs, terms, expressions=self.expressions)
        starts = []
        for number, valid in enumerate(ranged.valid(series).T):
            values = ranged.start_values(number)
            good = values[valid[: len(values)]]
            starts.append(good if len(good) else values)
        return Library(self.inputs, terms, starts, self.expressions)

    def valid(self, series: Sequence[np.ndarray]) -> np.ndarray:
        """Return whether each term has a value all along some trajectories, at each of its starts.

        It has none where it is not finite, or where what it divides by changes its sign from one row to the next:
        between the two there is a pole, and no trajectory comes past it.

        Args:
            series: values of the inputs along each trajectory, in the order of time, shapes ``(rows, inputs)``.

        Returns:
            Shape ``(starts, terms)``; a term with fewer starts has its last one repeated.
        """
        below, owner = self._divisors
        valid = np.ones((max(self.start_counts.max(initial=1), 1), len(self)), dtype=bool)
        for turn, inner in enumerate(self.starts_at(number) for number in range(len(valid))):
            own = np.concatenate([np.empty(0), *(inner[self.owner == term] for term in owner)])
            for points in series:
                with np.errstate(all="ignore"):
                    valid[turn] &= np.isfinite(self.matrix(points, inner)).all(axis=0)
                    signs = np.sign(below.matrix(points, own)) if len(below) else np.empty((len(points), 0))
                crossed = (signs[1:] * signs[:-1] < 0.0).any(axis=0)
                valid[turn, owner[crossed]] = False
        return valid

    @cached_property
    def _divisors(self) -> tuple[Library, np.ndarray]:
        """What terms divide by, each with all inner parameters of its term; and the term of each."""
        found = [
            (divisor, number)
            for number, expression in enumerate(self.expressions)
            for divisor in _divisors(expression, [symbol(name) for name in self.inputs])
        ]
        # Not as texts: sympy may have brought them into a form that no text may have, such as x**(-n).
        terms = [LibraryTerm(str(divisor), self.terms[number].inner) for divisor, number in found]
        return (
            Library(self.inputs, terms, expressions=[divisor for divisor, _ in found]),
            np.array([number for _, number in found], dtype=int),
        )

    def coordinates(self, device: torch.device | str = "cpu") -> Coordinates:
        """Return the unbounded coordinates in which fits move the inner parameters; see `for_data`."""
        low = [-np.inf if item.low is None else item.low for item in self.inner]
        high = [np.inf if item.high is None else item.high for item in self.inner]
        return Coordinates(
            low, high, np.maximum(np.abs(self.starts), 1e-300).tolist(), [bound > 0 for bound in low], device
        )

    @property
    def starts(self) -> np.ndarray:
        """Where fits of the inner parameters begin unless told otherwise, shape ``(n_inner,)``."""
        return np.array([1.0 if item.start is None else item.start for item in self.inner])

    @cached_property
    def _start_values(self) -> tuple[np.ndarray, ...]:
        if self._given_starts is not None:
            return tuple(self._given_starts)
        return tuple(_combined_starts(term) for term in self.terms)

    def start_values(self, number: int) -> np.ndarray:
        """Return the combinations of values at which a term's inner parameters start, shape ``(starts, own)``."""
        return self._start_values[number]

    @cached_property
    def start_counts(self) -> np.ndarray:
        """How many starts each term has, one for a term without inner parameters, shape ``(terms,)``."""
        return np.array([len(starts) for starts in self._start_values])

    def starts_at(self, turn: int) -> np.ndarray:
        """Return all inner parameters, each term at its start of that number or its last one, shape ``(n_inner,)``."""
        return np.concatenate([starts[min(turn, len(starts) - 1)] for starts in self._start_values])


@dataclass(frozen=True)
class Columns:
    """Library terms at some points.

    Attributes:
        library: with ranges for its inner parameters.
        matrix: shape ``(points, columns)``.
        owner: the term of each column, shape ``(columns,)``.
        starts: the values of that term's inner parameters in each column.
    """

    library: Library
    matrix: np.ndarray
    owner: np.ndarray
    starts: tuple[np.ndarray, ...]

    def one_start_each(self, support: np.ndarray, size: np.ndarray) -> np.ndarray:
        """Return a support of columns with the largest column of each term only."""
        best: dict[int, int] = {}
        for column in np.flatnonzero(support):
            term = int(self.owner[column])
            if term not in best or size[column] > size[best[term]]:
                best[term] = int(column)
        chosen = np.zeros_like(support)
        chosen[list(best.values())] = True
        return chosen

    def of_terms(self, values: np.ndarray) -> np.ndarray:
        """Return values ``(columns,)``, zero for all but one column of each term, as values ``(terms,)``."""
        totals = np.zeros(len(self.library))
        np.add.at(totals, self.owner, values)
        return totals

    def inner(self, support: np.ndarray) -> np.ndarray:
        """Return the inner parameters that a support of columns stands for, shape ``(n_inner,)``."""
        values = self.library.starts
        for column in np.flatnonzero(support):
            values[self.library.owner == self.owner[column]] = self.starts[column]
        return values


def _divisors(expression: sympy.Expr, inputs: Sequence[sympy.Symbol]) -> list[sympy.Expr]:
    """Return what changes its sign where an expression has a pole."""
    found = [
        power.base
        for power in sorted(expression.atoms(sympy.Pow), key=sympy.default_sort_key)
        if power.exp.could_extract_minus_sign()
    ]
    found += [
        sympy.cos(tan.args[0]) for tan in sorted(expression.atoms(sympy.tan), key=sympy.default_sort_key)
    ]
    return [divisor for divisor in found if divisor.free_symbols & set(inputs)]


def _magnitudes(points: np.ndarray) -> list[float]:
    """Return the median magnitude of each input that is not zero, one for an input that always is."""
    sizes = []
    for column in np.abs(points).T:
        there = column[np.isfinite(column) & (column > 0)]
        sizes.append(float(np.median(there)) if len(there) else 1.0)
    return sizes


def _exponents(expression: sympy.Expr) -> set[str]:
    """Return the names in the exponents of an expression."""
    return {str(item) for power in expression.atoms(sympy.Pow) for item in power.exp.free_symbols}


def _without_number(expression: sympy.Expr) -> tuple[bool, sympy.Expr]:
    """Return whether an expression has a minus sign, and what is left of it without numbers in front.

    Two expressions of which the same is left are multiples of each other.
    """
    number, rest = sympy.Integer(1), []
    for factor in sympy.Mul.make_args(_with_bare_sums(expression)):
        front, bare = (factor, sympy.Integer(1)) if factor.is_number else _bare_sum(factor)
        number *= front
        rest.append(bare)
    return bool(number.is_negative), sympy.Integer(0) if number.is_zero else sympy.Mul(*rest)


def _with_bare_sums(expression: Any) -> Any:
    """Return an expression in which ``(x - y)**2`` and ``(y - x)**2`` are the same, and so are others like them."""

    def split(power: Any) -> Any:
        number, bare = _bare_sum(power.base)
        return number**power.exp * bare**power.exp

    return expression.replace(lambda part: part.is_Pow and part.exp.is_Integer and part.base.is_Add, split)


def _bare_sum(expression: Any) -> tuple[Any, Any]:
    """Return a sum as a number and what that multiplies, the same for every multiple of it; one before all else."""
    if not expression.is_Add:
        return sympy.Integer(1), expression
    number, bare = expression.primitive()
    return (-number, -bare) if bare.could_extract_minus_sign() else (number, bare)


def _ranged(item: InnerParameter, sizes: Sequence[float]) -> InnerParameter:
    """Return an inner parameter with a start and bounds.

    Whether it is of the size of an input or of its inverse is not known, so both are within the range.
    """
    if item.start and (item.low is not None or item.start < 0):
        return item
    typical = float(np.exp(np.mean(np.log(sizes)))) if sizes else 1.0
    if item.low is not None and item.high is not None:
        if item.low <= 0:
            return _around_zero(item, item.low, item.high, typical)
        return InnerParameter(item.name, float(np.sqrt(item.low * item.high)), item.low, item.high)
    if item.start is not None:
        return InnerParameter(item.name, item.start, item.start / SPAN, item.start * SPAN)
    low, high = sorted((typical, 1.0 / typical))
    return InnerParameter(item.name, typical, low / SPAN, high * SPAN)


def _around_zero(item: InnerParameter, low: float, high: float, typical: float) -> InnerParameter:
    """Return an inner parameter that may be zero or negative with its starts, of both signs where both may be.

    The middle is one of them, but never the only one if it is zero: all that ``sin(K*x)`` says there is nothing.
    """
    sizes = [base * factor for base in (typical, 1.0 / typical) for factor in STARTS]
    inside = [value for size in sizes for value in (size, -size) if low <= value <= high]
    middle = 0.5 * (low + high)
    quarter = 0.25 * (high - low)
    others = inside or [value for value in (middle + quarter, middle - quarter) if value]
    nearest = min(others, key=lambda value: (abs(np.log(abs(value) / typical)), value < 0))
    start = nearest if item.start is None else item.start
    values = {float(f"{value:.12g}") for value in (*others, middle, start)}
    return InnerParameter(item.name, start, low, high, tuple(sorted(values)))


def _combined_starts(term: LibraryTerm) -> np.ndarray:
    """Return the combinations of start values of a term's inner parameters, shape ``(starts, own)``."""
    if not term.inner:
        return np.zeros((1, 0))
    combined = np.array(list(product(*(_choices(item) for item in term.inner))))
    if len(combined) > MOST_STARTS:
        combined = combined[np.linspace(0, len(combined) - 1, MOST_STARTS).astype(int)]
    return combined


def _choices(item: InnerParameter) -> list[float]:
    """Return start values of one inner parameter that has a range, or the one that it states."""
    if item.start is None:
        raise ValueError("a library for no data has no start values; see Library.for_data")
    if item.starts:
        return list(item.starts)
    if item.low is None or item.high is None:
        return [item.start]
    around = [item.start] if item.low <= 0 else [item.start, 1.0 / item.start]
    values = {float(f"{base * factor:.12g}") for base in around for factor in STARTS if base}
    inside = sorted(value for value in values if item.low <= value <= item.high)
    return inside or [item.start]


def build_library(inputs: Sequence[str], options: LibraryOptions) -> Library:
    """Return the library of one hole: constant, monomials by degree, functions, further terms; no doubles.

    An extra term that needs inputs which this hole does not have is for another hole, and left out here.

    Raises:
        InputError: a term cannot be parsed, or there are none or too many.
    """
    check_size(inputs, options, "[regress.library]")
    symbols = [symbol(name) for name in inputs]
    terms: list[sympy.Expr] = [sympy.Integer(1)] if options.constant else []
    for degree in range(1, options.polynomial_degree + 1):
        terms += [sympy.Mul(*chosen) for chosen in combinations_with_replacement(symbols, degree)]
    for function in options.functions:
        name = "Abs" if function == "abs" else function
        terms += [getattr(sympy, name)(argument) for argument in symbols]
    found = {_without_number(term)[1]: LibraryTerm(to_text(term)) for term in dict.fromkeys(terms)}
    where = "[regress.library] extra"
    for text in options.extra:
        if names_used(text, where=where) <= {*inputs, *options.inner}:
            _add(found, text, inputs, options.inner, where)
    for template in options.templates:
        for text in instances(template, inputs, options.inner):
            _add(found, text, inputs, options.inner, "[regress.library] templates")
    if not found or len(found) > MOST_TERMS:
        raise InputError(
            f"{len(found)} candidate terms for a hole of {', '.join(inputs)}",
            where="[regress.library]",
            expected=f"between 1 and {MOST_TERMS}",
            do="Change polynomial_degree, functions or templates; or give the hole fewer inputs.",
        )
    return Library(inputs, list(found.values()))


def check_size(inputs: Sequence[str], options: LibraryOptions, where: str) -> None:
    """Refuse more terms of a hole than could ever be told apart, before any is made.

    Raises:
        InputError: there are too many, doubles not counted out.
    """
    pairs = sum("other" in names_used(text, where=f"{where} templates") for text in options.templates)
    counts = {
        "polynomial_degree": comb(len(inputs) + options.polynomial_degree, options.polynomial_degree),
        "functions": len(set(options.functions)) * len(inputs),
        "extra": len(set(options.extra)),
        "templates": pairs * len(inputs) ** 2 + (len(options.templates) - pairs) * len(inputs),
    }
    for key, count in counts.items():
        if count > MOST_TERMS:
            raise InputError(
                f"{count} terms of {len(inputs)} inputs",
                where=f"{where} {key}",
                expected=f"at most {MOST_TERMS}",
                do="Ask for less, or give the hole fewer inputs.",
            )


def _add(
    found: dict[sympy.Expr, LibraryTerm],
    text: str,
    inputs: Sequence[str],
    inner: Mapping[str, InnerOptions],
    where: str,
) -> None:
    """Add a term unless a multiple of it is there."""
    names = names_used(text, where=where)
    expression = parse_expression(text, [*inputs, *inner], where=where, exponents=inner)
    exponents = _exponents(expression)
    own = []
    for name in sorted(names & set(inner)):
        start, bounds = inner[name].start, inner[name].bounds
        if bounds is None and name in exponents:
            bounds = _bounds_of_exponent(start)
        low, high = bounds or (None, None)
        own.append(InnerParameter(name, start, low, high))
    _check_exponents(expression, own, text, where)
    # A plain term is written as expressions are printed, so that equal terms have equal texts.
    term = LibraryTerm(text if own else to_text(expression), tuple(own))
    found.setdefault(_without_number(expression)[1], term)


def _bounds_of_exponent(start: float | None) -> tuple[float, float]:
    """Return the bounds of an exponent that has none of its own."""
    if start is None or EXPONENTS[0] <= start <= EXPONENTS[1]:
        return EXPONENTS
    furthest = float(np.clip(start * SPAN, -MAX_EXPONENT, MAX_EXPONENT))
    ends = (start / SPAN, start, furthest)
    return min(ends), max(ends)


def _check_exponents(expression: sympy.Expr, own: Sequence[InnerParameter], text: str, where: str) -> None:
    """Refuse a term whose exponent may become larger than an expression may have it.

    Raises:
        InputError: there is one, such as that of ``x**n*x**n`` with an ``n`` of up to 20.
    """
    ends = {item.name: (item.low, item.high) for item in own}
    for power in expression.atoms(sympy.Pow):
        names = sorted(str(item) for item in power.exp.free_symbols)
        if not names:
            continue
        # A sum of parameters and numbers is largest in a corner of the bounds.
        for corner in product(*(ends[name] for name in names)):
            values = {symbol(name): sympy.Float(end) for name, end in zip(names, corner, strict=True)}
            size = abs(float(cast("sympy.Float", power.exp.xreplace(values))))
            if size > MAX_EXPONENT:
                raise InputError(
                    f"an exponent that may become {size:g}, of {text!r}",
                    where=where,
                    expected=f"exponents between -{MAX_EXPONENT} and {MAX_EXPONENT}",
                    do=f"Give {' and '.join(names)} bounds that keep it there, in [regress.library] inner.",
                )


def instances(template: str, inputs: Sequence[str], inner: Mapping[str, InnerOptions]) -> list[str]:
    """Return the terms that a template stands for: every input in the place of ``input``, and of ``other``.

    Left out is what is no term: ``input/other`` and ``1/(input - other)`` with the same input twice.
    """
    where = "[regress.library] templates"
    used = names_used(template, where=where)
    expression = parse_expression(template, [*PLACEHOLDERS, *inner], where=where, exponents=inner)
    texts = []
    for one, other in product(inputs, inputs if "other" in used else ("",)):
        meant = {"input": one, "other": other or one}
        instance = expression.xreplace({symbol(old): symbol(new) for old, new in meant.items()})
        if instance.is_number or instance.has(sympy.zoo, sympy.nan, sympy.oo):
            continue
        texts.append(re.sub(r"\b(input|other)\b", lambda match: meant[match.group()], template))  # noqa: B023
    return texts
