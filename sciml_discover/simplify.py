"""Expressions with fitted numbers in them: sums of terms, canonical terms, terms that say the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    numbers = expression.atoms(sympy.Float)
    return cast(
        "sympy.Expr", expression.xreplace({one: sympy.Float(float(f"{float(one):.14g}")) for one in numbers})
    )


def canonical_terms(expression: sympy.Expr) -> dict[sympy.Expr, float]:
    """Return the terms of an expanded expression and their coefficients.

    Terms that differ in rounding only, or in the numbers inside them, are merged; terms that vanished are dropped.
    Numbers inside a term, such as the constant of ``x/(0.4 + x)``, are written as the symbol `NUMBER`: what they are
    is a question of accuracy, not of structure.
    """
    expanded = sympy.expand(expression)
    terms: dict[sympy.Expr, float] = {}
    for term in sympy.Add.make_args(expanded):
        coefficient, rest = term.as_coeff_Mul()
        rest = _without_numbers(rest)
        terms[rest] = terms.get(rest, 0.0) + float(coefficient)
    largest = max((abs(number) for number in terms.values()), default=0.0)
    return {term: number for term, number in terms.items() if abs(number) > 1e-12 * largest}


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

    Example:
        >>> read = lambda text: {"x": parse_expression(text, ["x", "y"], where="doctest")}
        >>> same_structure(read("1.3*x - 0.9*x*y"), read("x*(1.2 - y)"))
        True
    """
    if set(one) != set(two):
        return False
    return all(set(canonical_terms(one[name])) == set(canonical_terms(two[name])) for name in one)


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
