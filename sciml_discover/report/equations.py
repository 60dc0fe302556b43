"""Equations of a system and of a law as MathML."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from sciml_discover.expressions import TIME, parse_expression, symbol

if TYPE_CHECKING:
    import sympy

    from sciml_discover.laws import Law, LawParameter
    from sciml_discover.residual_samples import HoleSamples
    from sciml_discover.system import System


def known_equations(system: System) -> str:
    """Return the equations of a system, its holes as symbols, as one block of MathML."""
    return _block((_derivative(name), equation) for name, equation in system.equations.items())


def law_equations(law: Law, system: System) -> str:
    """Return the whole equations of a law, digits following the errors, as one block of MathML."""
    return _block((_derivative(name), _parse(law.equations[name], system)) for name in system.state_names)


def hole_equation(hole: str, text: str, system: System) -> str:
    """Return what stands in one hole as a line of MathML."""
    from sciml_discover.printing import print_mathml

    left, right = print_mathml(symbol(hole)), print_mathml(_parse(text, system))
    return f"<math><mrow>{left}<mo>=</mo>{right}</mrow></math>"


def inline(text: str, system: System) -> str:
    """Return an expression of the system's names as a piece of MathML."""
    from sciml_discover.printing import print_mathml

    return f"<math>{print_mathml(_parse(text, system))}</math>"


def evaluate(text: str, samples: HoleSamples, law: Law, system: System) -> np.ndarray:
    """Return what an expression says at the samples of a hole, shape ``(samples,)``.

    Outside the domain of the expression the value is NaN.
    """
    import sympy

    expression = _parse(text, system).xreplace(_parameter_values(law.parameters))
    function = sympy.lambdify([symbol(name) for name in samples.inputs], expression, "numpy")
    with np.errstate(all="ignore"):
        values = function(*samples.points.T)
    return np.broadcast_to(np.asarray(values, dtype=np.float64), samples.times.shape)


def _parameter_values(parameters: Mapping[str, LawParameter]) -> dict[sympy.Basic, sympy.Basic]:
    import sympy

    return {symbol(name): sympy.Float(known.estimate.value) for name, known in parameters.items()}


def _parse(text: str, system: System) -> sympy.Expr:
    names = [*system.state_names, *system.parameter_names, TIME]
    return parse_expression(text, names, where="law")


def _derivative(state: str) -> str:
    from sciml_discover.printing import print_mathml

    top = f"<mrow><mi>d</mi>{print_mathml(symbol(state))}</mrow>"
    return f"<mfrac>{top}<mrow><mi>d</mi><mi>t</mi></mrow></mfrac>"


def _block(rows: Iterable[tuple[str, sympy.Expr]]) -> str:
    from sciml_discover.printing import print_mathml

    body = "".join(
        f"<mtr><mtd>{left}</mtd><mtd><mo>=</mo></mtd><mtd>{print_mathml(right)}</mtd></mtr>"
        for left, right in rows
    )
    return f'<math display="block"><mtable displaystyle="true">{body}</mtable></math>'
