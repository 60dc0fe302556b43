"""A discovered law as LaTeX, Python, Julia, C or JSON, from result.json alone.

A result file may come from somebody else, and what is made here may be run: every equation is parsed
against the whitelist of `sciml_discover.expressions` and printed anew, every name is checked, and free
text reaches only comments of one line.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sciml_discover.base import lazy_import
from sciml_discover.errors import InputError, did_you_mean
from sciml_discover.expressions import TIME, check_name, parse_expression, symbol

if TYPE_CHECKING:
    import sympy

    from sciml_discover.result import DiscoveryResult
else:
    sympy = lazy_import("sympy")

RESERVED = {
    "python": "abs control math state",
    "julia": """abs baremodule begin break catch const continue control do du else elseif end export false finally for
        function global if import in isa let local macro module p quote return struct true try u using where
        while""",
    "c": """auto bool break case char complex const continue control default derivative do double else enum extern
        fabs false float for goto if imaginary inline int long pow register restrict return short signed
        sizeof state static struct switch true typedef union unsigned void volatile while M_PI
        N_CONTROLS N_STATES NULL""",
}
"""Per language, names that a state or a control may have in an experiment but not in code."""


def export_law(result: DiscoveryResult, format: str) -> str:
    """Return the law of a run as text.

    Args:
        result: a finished run.
        format: ``"latex"`` (digits following the errors), or ``"python"``, ``"julia"``, ``"c"``, ``"json"``
            (every number in full precision).

    Raises:
        InputError: if there is no such format, the run has no law, or the law cannot be read safely.
    """
    if format not in FORMATS:
        raise InputError(
            f"the format {format!r}",
            where="export",
            expected=f"one of {', '.join(FORMATS)}",
            do=did_you_mean(format, FORMATS),
        )
    if not result.equations_full:
        raise InputError(
            f"a run without a law (status {result.status!r})",
            where=result.id,
            expected="a run that reached a law",
            do="`sciml-discover show` says why it stopped.",
        )
    return FORMATS[format](result)


@dataclass(frozen=True)
class _Law:
    """A law ready for printing in one language.

    ``states`` and ``controls`` hold the names in the code beside the original ones, ``start`` and ``end``
    the time span of the data, ``initial`` the refitted initial state of the first trajectory.
    """

    header: tuple[str, ...]
    states: dict[str, str]
    controls: dict[str, str]
    equations: tuple[sympy.Basic, ...]
    start: float
    end: float
    initial: tuple[float, ...]


def _law(result: DiscoveryResult, language: str) -> _Law:
    """Return the law in full precision, its names made fit for ``language``."""
    names = {name: _safe(name, result, language) for name in (*result.equations_full, *result.controls)}
    symbols = {symbol(name): symbol(safe) for name, safe in names.items()}
    equations = tuple(expression.xreplace(symbols) for expression in _with_numbers(result))
    (start, end), initial = _example(result)
    return _Law(
        header=_header(result),
        states={names[name]: name for name in result.equations_full},
        controls={names[name]: name for name in result.controls},
        equations=equations,
        start=start,
        end=end,
        initial=initial,
    )


def _safe(name: str, result: DiscoveryResult, language: str) -> str:
    """Return a name that means nothing else in ``language`` and belongs to no other state or control."""
    safe, taken = name, (*result.equations_full, *result.controls)
    while safe in RESERVED[language].split() or (safe != name and safe in taken):
        safe += "_"
    return safe


def _read(result: DiscoveryResult, field: str) -> dict[str, sympy.Expr]:
    """Return the right-hand sides in ``equations`` or ``equations_full``, every name and text checked."""
    texts: dict[str, str] = getattr(result, field)
    names = [*texts, *result.parameters, *result.controls, TIME]
    for control in result.controls:
        check_name(control, where=f"{result.id}: controls")
        if control in texts or control in result.parameters or result.controls.count(control) > 1:
            raise InputError(
                f"the control {control!r}, which is something else too",
                where=f"{result.id}: controls",
                expected="a name of its own for each control",
            )
    equations = {}
    for state, text in texts.items():
        check_name(state, where=f"{result.id}: {field}")
        equations[state] = parse_expression(text, names, where=f"{result.id}: {field}.{state}")
    return equations


def _with_numbers(result: DiscoveryResult) -> list[sympy.Basic]:
    """Return the right-hand sides in full precision, physical parameters replaced by their values."""
    known = {name: item.value for name, item in result.parameters.items() if item.value is not None}
    values = {symbol(name): sympy.Float(value) for name, value in known.items()}
    equations = []
    for state, expression in _read(result, "equations_full").items():
        unknown = {free.name for free in expression.atoms(sympy.Symbol)} & (result.parameters.keys() - known)
        if unknown:
            raise InputError(
                f"no value of {', '.join(sorted(unknown))}",
                where=f"{result.id}: equations_full.{state}",
                expected="a value for each parameter that the law uses",
            )
        equations.append(expression.xreplace(values))
    return equations


def _example(result: DiscoveryResult) -> tuple[tuple[float, float], tuple[float, ...]]:
    """Return the time span of the first trajectory and where the law starts on it."""
    trajectories = result.data.trajectories if result.data else ()
    for trajectory in trajectories:
        initial = result.initial_states.get(trajectory.name)
        values = [initial.values.get(state) for state in result.equations_full] if initial else [None]
        if initial and all(value is not None for value in values):
            return (initial.time, trajectory.end), tuple(value for value in values if value is not None)
    raise InputError(
        "no trajectory with an initial state for each state",
        where=f"{result.id}: initial_states",
        expected="one trajectory on which the law starts",
        do="Export as latex or json, which need none.",
    )


def _header(result: DiscoveryResult) -> tuple[str, ...]:
    """Return what a reader has to know, as lines that are safe in a comment of one line."""
    lines = [result.title, f"Law found by sciml_discover, run {result.id}, {result.status}."]
    for name, estimate in _estimates(result):
        lines.append(f"{name}: {estimate}")
    return tuple(_one_line(line) for line in lines)


def _estimates(result: DiscoveryResult) -> Iterable[tuple[str, str]]:
    """Yield every number of the law with its uncertainty, in words."""
    for name, parameter in result.parameters.items():
        fixed = "fixed" if parameter.fixed else _uncertainty(parameter.stderr)
        yield name, f"{parameter.value!r}{f' {parameter.unit}' if parameter.unit else ''} ({fixed})"
    for hole, law in result.missing.items():
        for term in law.terms:
            yield (
                f"coefficient of {term.term} in {hole}",
                f"{term.coefficient!r} ({_uncertainty(term.stderr)})",
            )


def _uncertainty(stderr: float | None) -> str:
    return "not determined by the data" if stderr is None else f"standard error {stderr:.2g}"


def _one_line(text: str) -> str:
    # A backslash at the end of a line continues a C comment, and so does its trigraph.
    printable = "".join(character if character.isprintable() else " " for character in text)
    return " ".join(printable.replace("\\", "/").replace("??/", "/").split())


def _comment(lines: Iterable[str], mark: str) -> str:
    return "\n".join(f"{mark} {line}".rstrip() for line in lines)


def _latex(result: DiscoveryResult) -> str:
    from sciml_discover.printing import latex_name, print_latex

    rows = [
        rf"\frac{{d {latex_name(state)}}}{{dt}} &= {print_latex(expression)}"
        for state, expression in _read(result, "equations").items()
    ]
    body = " \\\\\n".join(f"  {row}" for row in rows)
    return f"{_comment(_header(result), '%')}\n\\begin{{aligned}}\n{body}\n\\end{{aligned}}\n"


def _python(result: DiscoveryResult) -> str:
    from sciml_discover.printing import print_code

    law = _law(result, "python")
    unpack = "\n".join(
        f"    {name} = {kind}[{index}]"
        for kind, names in (("state", law.states), ("control", law.controls))
        for index, name in enumerate(names)
    )
    values = "\n".join(f"        {print_code(expression, 'python')}," for expression in law.equations)
    start = f"""{_comment(law.header, "#")}

import math  # noqa: F401

STATES = {tuple(law.states.values())!r}
START, END = {law.start!r}, {law.end!r}
INITIAL = {list(law.initial)!r}
"""
    if law.controls:
        return f'''{start}CONTROLS = {tuple(law.controls.values())!r}


def rhs(t, state, control):
    """Return the time derivative of each state at time t, for the values of CONTROLS at that time."""
{unpack}
    return [
{values}
    ]


def solve(control, **options):
    """Solve the law over the span of the data; control(t) returns the values of CONTROLS at time t."""
    from scipy.integrate import solve_ivp

    options = {{"method": "LSODA", "rtol": 1e-8, "atol": 1e-10, **options}}
    return solve_ivp(lambda t, state: rhs(t, state, control(t)), (START, END), INITIAL, **options)
'''
    return f'''{start}

def rhs(t, state):
    """Return the time derivative of each state at time t."""
{unpack}
    return [
{values}
    ]


if __name__ == "__main__":
    from scipy.integrate import solve_ivp

    solution = solve_ivp(rhs, (START, END), INITIAL, method="LSODA", rtol=1e-8, atol=1e-10)
    print("t", *STATES)
    for row in zip(solution.t, *solution.y):
        print(*(f"{{value:.6g}}" for value in row))
'''


def _julia(result: DiscoveryResult) -> str:
    from sciml_discover.printing import print_code

    law = _law(result, "julia")
    unpack = "\n".join(
        f"    {name} = {kind}[{index}]"
        for kind, names in (("u", law.states), ("control", law.controls))
        for index, name in enumerate(names, 1)
    )
    values = "\n".join(
        f"    du[{index}] = {print_code(expression, 'julia')}"
        for index, expression in enumerate(law.equations, 1)
    )
    reads, problem = "", f"problem = ODEProblem(rhs!, {list(law.initial)!r}, ({law.start!r}, {law.end!r}))"
    solution = "solution = solve(problem, AutoTsit5(Rosenbrock23()); reltol = 1e-8, abstol = 1e-10)"
    if law.controls:
        # The parameter of the problem is the function that says the controls.
        reads = "    control = p(t)\n"
        listed = ", ".join(law.controls.values())
        problem = (
            f"# inputs(t) returns the values of the controls at time t: {listed}.\n"
            f"problem(inputs) = ODEProblem(rhs!, {list(law.initial)!r}, ({law.start!r}, {law.end!r}), inputs)"
        )
        solution = solution.replace("solution =", "solution(inputs) =").replace(
            "problem,", "problem(inputs),"
        )
    return f"""{_comment(law.header, "#")}

using OrdinaryDiffEq

function rhs!(du, u, p, t)
{reads}{unpack}
{values}
    return nothing
end

{problem}
{solution}
"""


def _c(result: DiscoveryResult) -> str:
    from sciml_discover.printing import print_code

    law = _law(result, "c")
    unpack = "\n".join(
        f"    const double {name} = {kind}[{index}];"
        for kind, names in (("state", law.states), ("control", law.controls))
        for index, name in enumerate(names)
    )
    unused = "\n".join(f"    (void){name};" for name in (TIME, *law.states, *law.controls))
    values = "\n".join(
        f"    derivative[{index}] = {print_code(expression, 'c')};"
        for index, expression in enumerate(law.equations)
    )
    sizes, argument, inputs = f"N_STATES = {len(law.states)}", "", ""
    if law.controls:
        sizes += f", N_CONTROLS = {len(law.controls)}"
        argument = "const double control[N_CONTROLS], "
        inputs = f"\n// control: the values at that time of {', '.join(law.controls.values())}."
    return f"""{_comment(law.header, "//")}

#include <math.h>

#ifndef M_PI
#define M_PI 3.14159265358979323846
#endif

enum {{ {sizes} }};

// Writes the time derivative of each state at time t.{inputs}
// At t = {law.start!r}: state = {{ {", ".join(map(repr, law.initial))} }}.
void rhs(double t, const double state[N_STATES], {argument}double derivative[N_STATES])
{{
{unpack}
{unused}
{values}
}}
"""


def _json(result: DiscoveryResult) -> str:
    for field in ("equations", "equations_full"):
        _read(result, field)  # what is handed on has been read, and is safe to read again
    content = result.to_dict()
    kept = (
        "id",
        "title",
        "status",
        "equations",
        "equations_full",
        "controls",
        "parameters",
        "missing",
        "initial_states",
        "identifiability",
    )
    return (
        json.dumps({key: content[key] for key in kept}, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    )


FORMATS: dict[str, Callable[[DiscoveryResult], str]] = {
    "latex": _latex,
    "python": _python,
    "julia": _julia,
    "c": _c,
    "json": _json,
}
"""What a law can be exported as."""
