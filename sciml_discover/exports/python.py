"""A law as a Python script that needs numpy and scipy only."""

from __future__ import annotations

from sciml_discover.exports.law import ExportedLaw, code_names, comment, renamed

RESERVED = "numpy state control"
"""Names with a meaning of their own where the states have theirs."""


def to_python(law: ExportedLaw) -> str:
    """Return a module with the right-hand side and its solution; run as a script, it prints the solution.

    Raises:
        InputError: if no trajectory has an initial state.
    """
    from sciml_discover.printing import print_code

    names = code_names(law, lambda name: name in RESERVED.split())
    unpack = "\n".join(
        f"    {names[name]} = {kind}[{index}]"
        for kind, those in (("state", law.states), ("control", law.controls))
        for index, name in enumerate(those)
    )
    values = "\n".join(
        f"                {print_code(expression, 'python')}," for expression in renamed(law, names)
    )
    start = law.start
    head = f"""{comment(law, "#")}

import numpy

STATES = {law.states!r}
START, END = {start.time!r}, {start.end!r}
INITIAL = {list(start.values)!r}
"""
    body = f"""{unpack}
    with numpy.errstate(all="ignore"):  # outside its domain a function is not a number
        return numpy.array(
            [
{values}
            ],
            dtype=numpy.float64,
        )
"""
    options = '{"method": "LSODA", "rtol": 1e-8, "atol": 1e-10 * max(map(abs, INITIAL)) or 1e-10, **options}'
    if law.controls:
        return f'''{head}CONTROLS = {law.controls!r}


def rhs(t, state, control):
    """Return the time derivative of each state at time t, for the values of CONTROLS at that time."""
    state = numpy.asarray(state, dtype=numpy.float64)
    control = numpy.asarray(control, dtype=numpy.float64)
{body}

def solve(control, **options):
    """Solve the law over the span of the data; control(t) returns the values of CONTROLS at time t."""
    from scipy.integrate import solve_ivp

    options = {options}
    return solve_ivp(lambda t, state: rhs(t, state, control(t)), (START, END), INITIAL, **options)
'''
    return f'''{head}

def rhs(t, state):
    """Return the time derivative of each state at time t."""
    state = numpy.asarray(state, dtype=numpy.float64)
{body}

def solve(**options):
    """Solve the law over the span of the data."""
    from scipy.integrate import solve_ivp

    options = {options}
    return solve_ivp(rhs, (START, END), INITIAL, **options)


if __name__ == "__main__":
    solution = solve()
    print("t", *STATES)
    for row in zip(solution.t, *solution.y):
        print(*(f"{{value:.12g}}" for value in row))
'''
