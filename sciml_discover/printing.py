"""Expressions as LaTeX, MathML and code: sympy's printers with our order of terms and our digits.

This module imports sympy at once; whoever must stay light imports it inside a function.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import sympy
from sympy.printing.c import C99CodePrinter
from sympy.printing.conventions import split_super_sub
from sympy.printing.latex import LatexPrinter, greek_letters_set, latex_escape, tex_greek_dictionary
from sympy.printing.mathml import MathMLPresentationPrinter
from sympy.printing.numpy import NumPyPrinter
from sympy.printing.str import StrPrinter

# Words multiplied need a thin space between them; a minus sign is not a hyphen; e is a letter.
_MATHML = {
    "<mo>&InvisibleTimes;</mo>": '<mo lspace="0.2em">&#8290;</mo>',
    "<mo>-</mo>": "<mo>&#8722;</mo>",
    "<mn>-": "<mn>&#8722;",
    "<mo>&#xB7;</mo>": "<mo>&#215;</mo>",
    "<mi>&ExponentialE;</mi>": "<mi>e</mi>",
    "<mi>&pi;</mi>": "<mi>&#960;</mi>",
}

LONGEST_INTEGER = 2**31
"""Integers from here on are written as floats: a language may have no integers as long."""

# Brackets around nothing high: those that can stretch take more room than they need.
_LOW_BRACKETS = re.compile(r"<mo>\(</mo>((?:(?!<mo>\(|<mfrac>).)*?)<mo>\)</mo>")


def print_latex(expression: sympy.Basic, texts: Mapping[str, str] | None = None) -> str:
    r"""Return an expression as LaTeX.

    Args:
        expression: what to print.
        texts: what symbols of these names are printed as, instead of as their names.

    Example:
        >>> from sciml_discover.expressions import parse_expression
        >>> names = ["hare", "lynx", "alpha"]
        >>> print(print_latex(parse_expression("-0.9*hare*lynx + alpha*hare", names, where="equation")))
        \alpha \, \mathrm{hare} - 0.9 \, \mathrm{hare} \, \mathrm{lynx}
    """
    symbols = expression.atoms(sympy.Symbol)
    names = {free: (texts or {}).get(free.name) or latex_name(free.name) for free in symbols}
    return _Latex({"symbol_names": names, "mul_symbol": r" \, "}).doprint(expression)


def print_mathml(expression: sympy.Basic) -> str:
    """Return an expression as presentation MathML, without the ``<math>`` around it.

    Example:
        >>> from sciml_discover.expressions import parse_expression
        >>> print_mathml(parse_expression("x**2", ["x"], where="equation"))
        '<msup><mi>x</mi><mn>2</mn></msup>'
    """
    text = _MathML().doprint(expression)
    for sympys, ours in _MATHML.items():
        text = text.replace(sympys, ours)
    return _LOW_BRACKETS.sub(r'<mo stretchy="false">(</mo>\1<mo stretchy="false">)</mo>', text)


def print_code(expression: sympy.Basic, language: str) -> str:
    """Return an expression as ``"python"``, ``"julia"`` or ``"c"``.

    Every float is the shortest text that reads back as the same double.

    Example:
        >>> from sciml_discover.expressions import parse_expression
        >>> print_code(parse_expression("x**2*abs(x)/3 + 0.1", ["x"], where="equation"), "c")
        '0.1 + (1.0/3.0)*pow(x, 2)*fabs(x)'
    """
    return _CODE_PRINTERS[language]().doprint(expression)


def ordered_terms(expression: Any) -> list[Any]:
    """Return the terms of a sum as a person writes them: low degree first, but no minus sign in front."""
    terms = sorted(sympy.Add.make_args(expression), key=_rank)
    positive = [term for term in terms if not term.could_extract_minus_sign()]
    return sorted(terms, key=lambda term: term is not positive[0]) if positive else terms


def latex_name(name: str) -> str:
    r"""Return a name as LaTeX: Greek letters and single letters as they are, words upright.

    Example:
        >>> print(latex_name("alpha"), latex_name("hare"), latex_name("k_max"))
        \alpha \mathrm{hare} k_{max}
    """
    parts: Any = split_super_sub(name)
    base, above, below = parts
    if base in greek_letters_set or base in tex_greek_dictionary:
        text = tex_greek_dictionary.get(base) or f"\\{base}"
    else:
        text = base if len(base) == 1 else rf"\mathrm{{{latex_escape(base)}}}"
    # Names are letters, digits and underscores, so an index can only stand below.
    index = ", ".join(latex_escape(part) for part in (*above, *below))
    return f"{text}_{{{index}}}" if index else text


def _rank(term: Any) -> tuple[int, str]:
    variables = term.as_coeff_Mul()[1]
    powers = variables.as_powers_dict().items() if variables.free_symbols else ()
    degree = sum(int(power) if power.is_Integer else 1 for base, power in powers if base.free_symbols)
    return degree, str(variables)


class _Ordered:
    """Makes a sympy printer write sums in our order, and floats in their shortest exact digits."""

    def _as_ordered_terms(self, expr: Any, order: str | None = None) -> list[Any]:  # noqa: ARG002
        return ordered_terms(expr)


class _Latex(_Ordered, LatexPrinter):
    """LaTeX."""


class _MathML(_Ordered, MathMLPresentationPrinter):
    """Presentation MathML."""


class _ExactNumbers(_Ordered):
    """Code in which no digit is lost (sympy would print 15 of the 17 that a double may need), and integers fit."""

    def _print_Float(self, flt: Any) -> str:
        return repr(float(flt))

    def _print_Integer(self, expr: Any) -> str:
        return str(int(expr)) if abs(int(expr)) < LONGEST_INTEGER else repr(float(expr))


class _Python(_ExactNumbers, NumPyPrinter):  # pyright: ignore[reportIncompatibleMethodOverride]
    """Python, with the functions of ``numpy``: outside their domain they are NaN, as where the law was judged."""


class _C(_ExactNumbers, C99CodePrinter):
    """C99."""

    def _print_Pow(self, expr: Any) -> str:
        if expr.exp == sympy.Rational(1, 3):  # cbrt has another value below zero than the power
            return f"pow({self._print(expr.base)}, 1.0/3.0)"
        return super()._print_Pow(expr)


class _Julia(_ExactNumbers, StrPrinter):  # pyright: ignore[reportIncompatibleMethodOverride]
    """Julia for scalars, which reads what sympy writes, but for the power and the absolute value."""

    def _print_Abs(self, expr: Any) -> str:
        return f"abs({self._print(expr.args[0])})"

    def _print_Rational(self, expr: Any) -> str:
        return f"{self._print(sympy.Integer(expr.p))}/{self._print(sympy.Integer(expr.q))}"

    def doprint(self, expr: Any) -> str:
        return super().doprint(expr).replace("**", "^")


_CODE_PRINTERS: dict[str, Any] = {"python": _Python, "julia": _Julia, "c": _C}
