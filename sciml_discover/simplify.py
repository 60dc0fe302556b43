"""Expressions with fitted numbers in them: sums of terms, canonical terms, terms that say the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from sciml_discover.base import lazy_import
from sciml_discover.expressions import parse_expression, symbol

if TYPE_CHECKING:
    import sympy

    from sciml_discover.library import Library
    from sciml_discover.system import System
else:
    sympy = lazy_import("sympy")

NUMBER = "number"
"""What stands for a fitted number inside a term where only its structure counts."""

SAME_DIGITS = 10
"""Numbers inside two terms that agree to so many digits differ in rounding only."""


def linear_combination(
    terms: Sequence[str], coefficients: Sequence[float], inputs: Sequence[str]
) -> sympy.Expr:
    """Return the sum of coefficients times library terms, zero if there are none."""
    return sympy.Add(
        *(
            sympy.Float(float(number)) * parse_expression(term, inputs, where="library term")
            for term, number in zip(terms, coefficients, strict=True)
        )
    )


def equations_with_numbers(
    system: System, laws: Mapping[str, sympy.Expr], parameters: Mapping[str, float]
) -> dict[str, sympy.Expr]:
    """Return the right-hand sides with laws in the holes and numbers for the parameters."""
    filled = system.fill(laws)
    numbers = {symbol(name): sympy.Float(value) for name, value in parameters.items()}
    return {
        name: cast("sympy.Expr", equation.xreplace(numbers)) for name, equation in filled.equations.items()
    }


def tidied(expression: sympy.Expr) -> sympy.Expr:
    """Return an expression without the digits that arithmetic adds to short numbers.

    Example:
        >>> from sciml_discover.expressions import to_text
        >>> to_text(tidied(sympy.Float(0.0033) ** 2 * sympy.Symbol("x", real=True)))
        '1.089e-05*x'
    """
    return _rounded(expression, 14)


def canonical_terms(expression: sympy.Expr) -> dict[sympy.Expr, float]:
    """Return the terms of an expanded expression and their coefficients.

    Terms that differ in rounding only, or in the numbers inside them, are merged; terms that vanished are dropped.
    Numbers inside a term, such as the constant of ``x/(0.4 + x)``, are written as the symbol `NUMBER`: what they are
    is a question of accuracy, not of structure. Denominators are scaled: ``x/(2 + 5*x)`` is ``0.2*x/(0.4 + x)``.
    """
    return _collected(
        (_without_numbers(term), number) for term, number in _numbered_terms(expression).items()
    )


def _numbered_terms(expression: sympy.Expr) -> dict[sympy.Expr, float]:
    """Return the terms of an expanded expression, with the numbers inside them, and their coefficients."""
    terms = []
    for term in sympy.Add.make_args(sympy.expand(expression)):
        coefficient, rest = _scaled(term).as_coeff_Mul()
        terms.append((_rounded(rest, SAME_DIGITS), float(coefficient)))
    return _collected(terms)


def _collected(terms: Iterable[tuple[sympy.Expr, float]]) -> dict[sympy.Expr, float]:
    """Return the sum of the coefficients of each term, without terms that vanished."""
    sums: dict[sympy.Expr, float] = {}
    for term, number in terms:
        sums[term] = sums.get(term, 0.0) + number
    largest = max((abs(number) for number in sums.values()), default=0.0)
    return {term: number for term, number in sums.items() if abs(number) > 1e-12 * largest}


def _scaled(term: sympy.Expr) -> sympy.Expr:
    """Return a term in which each sum under a power has one as the coefficient of its last monomial.

    ``3*x/(1 + 2*x)`` and ``1.5*x/(0.5 + x)`` are one function. Which monomial is the last is a question of how they are
    written without numbers: ``x**2`` comes after ``x``.
    """
    factors: list[sympy.Expr] = []
    for factor in sympy.Mul.make_args(term):
        base, exponent = factor.as_base_exp()
        if not isinstance(base, sympy.Add) or not exponent.is_number:
            factors.append(factor)
            continue
        parts = [part.as_coeff_Mul() for part in base.args]
        leading, last = max(parts, key=lambda part: "" if part[1] == 1 else str(_without_numbers(part[1])))
        # A negative number has no root: its sign stays inside.
        sign = sympy.Integer(-1 if leading < 0 and not exponent.is_Integer else 1)
        size = sign * leading
        others = [sympy.Float(number / size) * part for number, part in parts if part != last]
        factors += [sympy.Float(size) ** exponent, sympy.Add(sign * last, *others) ** exponent]
    return sympy.Mul(*factors)


def _rounded(expression: sympy.Expr, digits: int) -> sympy.Expr:
    """Return an expression whose numbers have so many digits."""
    numbers = expression.atoms(sympy.Float)
    rounded = {one: sympy.Float(float(f"{float(one):.{digits}g}")) for one in numbers}
    return cast("sympy.Expr", expression.xreplace(rounded))


def _without_numbers(term: sympy.Expr) -> sympy.Expr:
    """Return a term with a symbol for each number in it that a fit may have given."""
    number = sympy.Symbol(NUMBER)

    def hide(part: Any) -> Any:
        if part.is_Float:
            return number
        if isinstance(part, sympy.Add):
            return part.func(*(number if item.is_Number else hide(item) for item in part.args))
        return part.func(*(hide(item) for item in part.args)) if part.args else part

    return cast("sympy.Expr", hide(term))


def same_structure(one: Mapping[str, sympy.Expr], two: Mapping[str, sympy.Expr]) -> bool:
    """Return whether two systems of equations have exactly the same terms, whatever their coefficients.

    Numbers inside terms may differ, but two terms that differ in these only are two: ``x/(1 + x) + x/(2 + x)`` has one
    term more than ``x/(1 + x)``.

    Example:
        >>> read = lambda text: {"x": parse_expression(text, ["x", "y"], where="doctest")}
        >>> same_structure(read("1.3*x - 0.9*x*y"), read("x*(1.2 - y)"))
        True
    """
    if set(one) != set(two):
        return False
    return all(_structure(one[name]) == _structure(two[name]) for name in one)


def _structure(expression: sympy.Expr) -> Counter[sympy.Expr]:
    """Return how many terms of an expression differ in the numbers inside them only."""
    return Counter(_without_numbers(term) for term in _numbered_terms(expression))


def redundant_terms(system: System, libraries: Sequence[Library]) -> tuple[list[np.ndarray], list[str]]:
    """Return which library terms a free parameter of the known physics already carries.

    A term is redundant when adding it to its hole changes the equations exactly as changing one free parameter
    does: ``alpha*hare`` with a free ``alpha``, and ``hare`` as a term of a hole that is subtracted. Such a law is the
    same law, written twice.

    Args:
        system: the known physics with its holes.
        libraries: one per hole.

    Returns:
        Per hole, whether each term is redundant; and a sentence for each.
    """
    masks, sentences = [], []
    columns = {
        parameter.name: [
            sympy.diff(system.equations[name], symbol(parameter.name)) for name in system.state_names
        ]
        for parameter in system.free_parameters
    }
    numbers = {symbol(name) for name in system.parameter_names}
    for hole, library in zip(system.missing, libraries, strict=True):
        effect = [sympy.diff(system.equations[name], symbol(hole.name)) for name in system.state_names]
        mask = np.zeros(len(library), dtype=bool)
        if not columns:
            masks.append(mask)
            continue
        for position, (text, term) in enumerate(zip(library.texts, library.expressions, strict=True)):
            change = [sympy.simplify(part * term) for part in effect]
            for name, column in columns.items():
                if _proportional(change, column, numbers):
                    mask[position] = True
                    sentences.append(
                        f"{text} in {hole.name} is carried by the free parameter {name} already: merged into it"
                    )
                    break
        masks.append(mask)
    return masks, sentences


def _proportional(one: Sequence[sympy.Expr], two: Sequence[sympy.Expr], numbers: set[sympy.Symbol]) -> bool:
    """Return whether two vectors of expressions differ by a factor only that depends on ``numbers`` at most."""
    ratio = None
    for first, second in zip(one, two, strict=True):
        if first == 0 and second == 0:
            continue
        if first == 0 or second == 0:
            return False
        quotient = sympy.simplify(first / second)
        if quotient.free_symbols - numbers or (ratio is not None and sympy.simplify(quotient - ratio) != 0):
            return False
        ratio = quotient
    return ratio is not None
