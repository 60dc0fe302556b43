"""A law as a Julia script: a plain ``ODEProblem`` of OrdinaryDiffEq."""

from __future__ import annotations

from sciml_discover.exports.law import ExportedLaw, code_names, comment, renamed

RESERVED = """abs abstract baremodule begin break catch ccall cglobal const continue control do du else elseif end
    export false finally for function global if import in isa let local macro module mutable nothing p primitive
    public quote return struct true try type u using where while"""
"""Names with a meaning of their own where the states have theirs."""


def to_julia(law: ExportedLaw) -> str:
    """Return a script that solves the law over the span of the data, or offers to, where it has controls.

    Raises:
        InputError: if no trajectory has an initial state.
    """
    from sciml_discover.printing import print_code

    names = code_names(law, lambda name: name in RESERVED.split())
    unpack = "\n".join(
        f"    {names[name]} = {kind}[{index}]"
        for kind, those in (("u", law.states), ("control", law.controls))
        for index, name in enumerate(those, 1)
    )
    values = "\n".join(
        f"    du[{index}] = {print_code(expression, 'julia')}"
        for index, expression in enumerate(renamed(law, names), 1)
    )
    start = law.start
    span = f"{list(start.values)!r}, ({start.time!r}, {start.end!r})"
    smallest = 1e-10 * max(map(abs, start.values)) or 1e-10
    solver = f"AutoTsit5(Rosenbrock23()); reltol = 1e-8, abstol = {smallest!r}"
    reads = ""
    last = f"problem = ODEProblem(rhs!, {span})\nsolution = solve(problem, {solver})"
    if law.controls:
        # The parameter of the problem is the function that says the controls.
        reads = "    control = p(t)\n"
        last = (
            f"# inputs(t) returns the values of the controls at time t: {', '.join(law.controls)}.\n"
            f"problem(inputs) = ODEProblem(rhs!, {span}, inputs)\n"
            f"solution(inputs) = solve(problem(inputs), {solver})"
        )
    return f"""{comment(law, "#")}

using OrdinaryDiffEq

function rhs!(du, u, p, t)
{reads}{unpack}
{values}
    return nothing
end

{last}
"""
