r"""A law as LaTeX: an ``align`` environment (package ``amsmath``) with every number as value and error."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from sciml_discover.base import lazy_import
from sciml_discover.exports.law import ExportedLaw, comment, one_line
from sciml_discover.expressions import symbol
from sciml_discover.report.numbers import with_error

if TYPE_CHECKING:
    import sympy
else:
    sympy = lazy_import("sympy")

_TYPESET = str.maketrans(
    {
        "−": "-",
        "±": r"\pm",
        "×": r"\times",
        "⁻": "-",
        **{raised: plain for raised, plain in zip("⁰¹²³⁴⁵⁶⁷⁸⁹", "0123456789", strict=True)},
    }
)
_SPECIAL = {
    **{character: f"\\{character}" for character in "#$%&_{}"},
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "\\": r"\textbackslash{}",
    # In units; pdflatex has no such letters in its fonts.
    **dict.fromkeys("µμ", r"$\mu$"),
    "Ω": r"$\Omega$",
    **dict.fromkeys("·⋅", r"$\cdot$"),
    "×": r"$\times$",
}


def to_latex(law: ExportedLaw) -> str:
    """Return the equations, with the parameters and their units below them.

    Digits follow the errors; units that a line has no room for stand in the comments.
    """
    from sciml_discover.printing import latex_name, print_latex

    equations, numbers = _equations(law)
    rows = [
        rf"\frac{{d {latex_name(state)}}}{{dt}} &= {print_latex(expression, numbers)}"
        for state, expression in equations.items()
    ]
    if law.known:
        for name, item in law.record.parameters.items():
            value = _exact(item.value) if item.fixed else _number(item.value, item.stderr)
            rows.append(f"{latex_name(name)} &= {value}{_unit(item.unit)}")
    body = " \\\\\n".join(f"  {row}" for row in rows)
    return f"{comment(law, '%')}\n\\begin{{align}}\n{body}\n\\end{{align}}\n"


def _equations(law: ExportedLaw) -> tuple[dict[str, sympy.Expr], dict[str, str]]:
    """Return the right-hand sides with a symbol for each number of the law, and what each is printed as."""
    if not law.known:
        return _rounded(law), {}
    numbers: dict[str, str] = {}

    def stand_in(value: float, error: float | None) -> sympy.Expr:
        name = f"#{len(numbers)}"  # no name of a system begins so
        numbers[name] = rf"\left({_number(abs(value), error)}\right)"
        return symbol(name) if value >= 0 else -symbol(name)

    holes: dict[sympy.Basic, sympy.Expr] = {}
    for hole, terms in law.terms.items():
        parts = []
        for term in terms:
            inner = {symbol(name): stand_in(*number) for name, number in term.numbers.items()}
            parts.append(stand_in(*term.coefficient) * term.expression.xreplace(inner))
        holes[symbol(hole)] = sympy.Add(*parts)
    return {state: cast("sympy.Expr", item.xreplace(holes)) for state, item in law.known.items()}, numbers


def _rounded(law: ExportedLaw) -> dict[str, sympy.Expr]:
    """Return the right-hand sides with rounded numbers, of a result that does not say the known equations."""
    from sciml_discover.expressions import MAX_RESULT_LENGTH, TIME, parse_expression

    names = [*law.states, *law.record.parameters, *law.controls, TIME]
    return {
        state: parse_expression(
            text, names, where=f"{law.result.id}: equations.{state}", longest=MAX_RESULT_LENGTH
        )
        for state, text in law.record.equations.items()
    }


def _number(value: float | None, error: float | None) -> str:
    r"""Return a number with its error, such as ``(1.234 \pm 0.020) \times 10^{-7}``."""
    text = with_error(value, error).translate(_TYPESET)
    front, times, power = text.partition(r"\times 10")
    return rf"{front}{times}^{{{power}}}" if times else text


def _exact(value: float | None) -> str:
    """Return a number with all of its digits."""
    mantissa, _, exponent = repr(value).partition("e")
    return rf"{mantissa} \times 10^{{{int(exponent)}}}" if exponent else mantissa


def _unit(unit: str | None) -> str:
    if unit in (None, "1"):
        return ""
    escaped = "".join(_SPECIAL.get(character, character) for character in one_line(unit))
    return rf"\;\text{{{escaped}}}"
