"""Equations of a system and of a law as MathML."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from sciml_discover.expressions import MAX_RESULT_LENGTH, TIME, parse_expression, symbol

if TYPE_CHECKING:
    import sympy

    from sciml_discover.laws import Law
    from sciml_discover.residual_samples import HoleSamples
    from sciml_discover.system import System


def known_equations(system: System) -> str:
    """Return the equations of a system, its holes as symbols, and what is measured, as one block of MathML."""
    from sciml_discover.printing import print_mathml

    rows = [(_derivative(name), equation) for name, equation in system.equations.items()]
    rows += [(print_mathml(symbol(name)), expression) for name, expression in system.observed.items()]
    return _block(rows)


def law_equations(law: Law, system: System) -> str:
    """Return the whole equations of a law, digits following the errors, as one block of MathML."""
    return _block((_derivative(name), _parse(law.equations[name], system)) for name in system.state_names)


def hole_equation(hole: str, text: str, system: System) -> str:
    """Return what stands in one hole as a line of MathML."""
    from sciml_discover.printing import print_mathml

    left, right = print_mathml(symbol(hole)), print_mathml(_parse(text, system))
    return f"<math><mrow>{left}<mo>=</mo>{right}</mrow></math>"


def inline(text: str, system: System, own: Iterable[str] = ()) -> str:
    """Return an expression of the system's names, and of ``own`` ones, as a piece of MathML."""
    from sciml_discover.printing import print_mathml

    return f"<math>{print_mathml(_parse(text, system, tuple(own)))}</math>"


def shifted_rates(law: Law, trained: Mapping[str, float]) -> list[str]:
    """Return the parameters of the known physics whose value changed from the training to the law."""
    return [
        name
        for name, known in law.parameters.items()
        if name in trained and not np.isclose(trained[name], known.estimate.value, rtol=1e-3)
    ]


def found_term(samples: HoleSamples, law: Law, trained: Mapping[str, float], system: System) -> np.ndarray:
    """Return the found term at the samples of a hole as the network had to learn it, shape ``(samples,)``.

    A free rate beside a free network is often not determined: the network absorbs it. The law brings
    rates of its own. For a comparison that means something, the found term takes over whatever the
    rates of the training leave open in the equation: it solves ``known(trained, u) = known(law, found)``
    for ``u``. Where that needs states that the hole does not see, it is the found term as it is.

    Outside the domain of the expression the value is NaN.

    Args:
        samples: what the network of the hole says, and where.
        law: the law that was found.
        trained: parameters of the known physics as trained.
        system: the known physics and its holes.
    """
    import sympy

    refitted = {name: known.estimate.value for name, known in law.parameters.items()}
    found = _parse(law.expressions_full[samples.hole], system).xreplace(_numbers(refitted))
    inputs = [symbol(name) for name in samples.inputs]
    shown = found
    for shifted in _beside_trained_rates(samples.hole, law, refitted, {**refitted, **trained}, system):
        if shifted.free_symbols <= set(inputs):
            shown = shifted
            break
    function = sympy.lambdify(inputs, shown, "numpy")
    with np.errstate(all="ignore"):
        values = function(*samples.points.T)
    return np.broadcast_to(np.asarray(values, dtype=np.float64), samples.times.shape)


def _beside_trained_rates(
    hole: str, law: Law, refitted: Mapping[str, float], trained: Mapping[str, float], system: System
) -> Iterable[sympy.Expr]:
    """Yield what the hole has to be beside the trained rates, per equation in which it stands linearly."""
    import sympy

    unknown = symbol(hole)
    filled = {
        symbol(name): _parse(text, system).xreplace(_numbers(refitted))
        for name, text in law.expressions_full.items()
    }
    others = {name: text for name, text in filled.items() if name != unknown}
    for equation in system.equations.values():
        target: Any = equation.xreplace(_numbers(refitted)).xreplace(filled)
        known: Any = equation.xreplace(_numbers(trained)).xreplace(others)
        slope = known.diff(unknown)
        if slope != 0 and not slope.has(unknown):
            yield ((target - known.xreplace({unknown: sympy.Integer(0)})) / slope).expand()


def _numbers(values: Mapping[str, float]) -> dict[sympy.Basic, sympy.Basic]:
    import sympy

    return {symbol(name): sympy.Float(value) for name, value in values.items()}


def _parse(text: str, system: System, own: tuple[str, ...] = ()) -> sympy.Expr:
    names = [*system.state_names, *system.parameter_names, *system.control_names, TIME, *own]
    return parse_expression(text, names, where="law", exponents=own, longest=MAX_RESULT_LENGTH)


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
