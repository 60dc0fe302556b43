"""A law as two C functions, the right-hand side and its Jacobian, in C99."""

from __future__ import annotations

from sciml_discover.callables import derivative, in_functions_of_sympy
from sciml_discover.exports.law import ExportedLaw, code_names, comment, renamed
from sciml_discover.expressions import TIME

RESERVED = """asm auto bool break case char class complex const constexpr continue control default delete derivative do
    double else enum errno explicit extern fabs false float for friend goto i386 if imaginary inline int jacobian linux
    long matrix mutable namespace new nullptr operator pow private protected public register restrict return rhs short
    signed sizeof state static struct switch template this throw true try typedef typename typeof union unix unsigned
    using virtual void volatile while DOMAIN HUGE INFINITY MAXFLOAT NAN NULL N_CONTROLS N_STATES OVERFLOW PLOSS SING
    TLOSS UNDERFLOW math_errhandling"""
"""Names with a meaning of their own in C, in C++ or in the code below; some are macros of a header."""

MACROS = ("M_", "FP_", "HUGE_VAL", "MATH_ERR")
"""What other macros of ``math.h`` begin with."""


def to_c(law: ExportedLaw) -> str:
    """Return the text of a C file.

    Raises:
        InputError: if no trajectory has an initial state.
    """
    from sciml_discover.printing import print_code

    names = code_names(law, lambda name: name in RESERVED.split() or name.startswith(MACROS))
    equations = renamed(law, names)
    states = [names[name] for name in law.states]
    unpack = "\n".join(
        [
            f"    const double {names[name]} = {kind}[{index}];"
            for kind, those in (("state", law.states), ("control", law.controls))
            for index, name in enumerate(those)
        ]
        + [f"    (void){name};" for name in (TIME, *names.values())]
    )
    values = "\n".join(
        f"    derivative[{index}] = {print_code(expression, 'c')};"
        for index, expression in enumerate(equations)
    )
    slopes = "\n".join(
        f"    matrix[{row}][{column}] = {print_code(in_functions_of_sympy(derivative(expression, state)), 'c')};"
        for row, expression in enumerate(equations)
        for column, state in enumerate(states)
    )
    start, sizes, argument, inputs = law.start, f"N_STATES = {len(states)}", "", ""
    if law.controls:
        sizes += f", N_CONTROLS = {len(law.controls)}"
        argument = "const double control[N_CONTROLS], "
        inputs = f"\n// control: the values at that time of {', '.join(law.controls)}."
    return f"""{comment(law, "//")}

#include <math.h>

#ifndef M_PI
#define M_PI 3.14159265358979323846
#endif

enum {{ {sizes} }};

// Writes the time derivative of each state at time t.
// state, derivative: in the order {", ".join(law.states)}.{inputs}
// At t = {start.time!r}: state = {{ {", ".join(map(repr, start.values))} }}.
void rhs(double t, const double state[N_STATES], {argument}double derivative[N_STATES])
{{
{unpack}
{values}
}}

// Writes the derivative of each right-hand side (row) by each state (column).
void jacobian(double t, const double state[N_STATES], {argument}double matrix[N_STATES][N_STATES])
{{
{unpack}
{slopes}
}}
"""
