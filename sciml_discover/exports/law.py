"""What is exported: one law of a result, read as if a stranger had written it.

A result file may come from somebody else, and what is made of it may be run: every equation is parsed
against the whitelist of `sciml_discover.expressions` to be printed anew, every name is checked, and free
text reaches only comments of one line (`comment_lines`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from sciml_discover.base import lazy_import
from sciml_discover.errors import InputError
from sciml_discover.expressions import MAX_RESULT_LENGTH, TIME, check_name, parse_expression, symbol
from sciml_discover.result import Covariance, DiscoveryResult, LawRecord, TermEstimate

if TYPE_CHECKING:
    import sympy
else:
    sympy = lazy_import("sympy")


@dataclass(frozen=True)
class Term:
    """One term of a hole, ``coefficient * expression``.

    Attributes:
        expression: in the names of the system and of ``numbers``.
        coefficient: the number in front with its standard error, None where there is none.
        numbers: those inside, in the same way, by name.
    """

    expression: sympy.Expr
    coefficient: tuple[float, float | None]
    numbers: dict[str, tuple[float, float | None]]


@dataclass(frozen=True)
class Start:
    """Where the law starts on the first trajectory, and until when there are data.

    Attributes:
        time: of the first row.
        end: time of the last row.
        values: per state.
    """

    time: float
    end: float
    values: tuple[float, ...]


@dataclass(frozen=True)
class ExportedLaw:
    """One law of a result, every text and name checked.

    Attributes:
        result: the run that it is from.
        number: 0 for the choice, otherwise the number of the alternative.
        record: the law as it stands in the result.
        equations: right-hand side per state in states, controls and time; every number in full precision.
        known: right-hand side per state in the names of parameters and holes too; empty if the result has none.
        terms: what stands in each hole.
    """

    result: DiscoveryResult
    number: int
    record: LawRecord
    equations: dict[str, sympy.Expr]
    known: dict[str, sympy.Expr]
    terms: dict[str, tuple[Term, ...]]

    @property
    def states(self) -> tuple[str, ...]:
        """Names of the states, in order."""
        return tuple(self.equations)

    @property
    def controls(self) -> tuple[str, ...]:
        """Names of the measured inputs, in order."""
        return self.result.controls

    @property
    def start(self) -> Start:
        """Where the law starts on the first trajectory.

        Raises:
            InputError: if no trajectory has an initial value for each state.
        """
        for trajectory in self.result.data.trajectories if self.result.data else ():
            initial = self.record.initial_states.get(trajectory.name)
            values = [initial.values.get(state) for state in self.states] if initial else [None]
            known = tuple(value for value in values if value is not None)
            if initial and len(known) == len(values):
                return Start(initial.time, trajectory.end, known)
        raise InputError(
            "no trajectory with an initial state for each state",
            where=f"{self.result.id}: initial_states",
            expected="one trajectory on which the law starts",
            do="Export to latex or json, which need none.",
        )


def read_law(result: DiscoveryResult, number: int = 0) -> ExportedLaw:
    """Return one law of a result.

    Args:
        result: a finished run.
        number: 0 for the choice, 1 and up for the alternatives in their order.

    Raises:
        InputError: if there is no such law, or it cannot be read safely.
    """
    record = _record(result, number)
    names = _checked_names(result, record)
    equations = {
        state: _read(text, names, f"{result.id}: equations.{state}")
        for state, text in record.equations_full.items()
    }
    for state, text in record.equations.items():
        _read(text, names, f"{result.id}: equations.{state}")
    terms = {
        hole: tuple(
            _term(item, [*result.controls, *equations, TIME], f"{result.id}: {hole}") for item in law.terms
        )
        for hole, law in record.missing.items()
    }
    known = {
        state: _read(text, [*names, *terms], f"{result.id}: known.{state}")
        for state, text in result.known.items()
        if state in equations
    }
    return ExportedLaw(
        result=result,
        number=number,
        record=record,
        equations={state: _with_numbers(state, item, record, result.id) for state, item in equations.items()},
        known=known if len(known) == len(equations) else {},
        terms=terms,
    )


def _read(text: str, names: Iterable[str], where: str) -> sympy.Expr:
    """Return a right-hand side, as long as a result may have it."""
    return parse_expression(text, tuple(names), where=where, longest=MAX_RESULT_LENGTH)


def _record(result: DiscoveryResult, number: int) -> LawRecord:
    if not result.equations_full:
        raise InputError(
            f"a run without a law (status {result.status!r})",
            where=result.id,
            expected="a run that reached a law",
            do="`sciml-discover show` says why it stopped.",
        )
    if number == 0:
        return LawRecord(
            equations=result.equations,
            equations_full=result.equations_full,
            parameters=result.parameters,
            missing=result.missing,
            initial_states=result.initial_states,
            covariance=result.covariance or Covariance(names=(), values=()),
        )
    if not 0 < number <= len(result.alternatives):
        raise InputError(
            f"law {number}",
            where=result.id,
            expected=f"0 for the choice, or the number of an alternative, up to {len(result.alternatives)}",
            do="`sciml-discover show` lists the rivals with their numbers.",
        )
    law = result.alternatives[number - 1].law
    if law is None or not law.equations_full:
        raise InputError(
            f"alternative {number} without its equations",
            where=result.id,
            expected="a result of this version of sciml-discover",
            do="Run the experiment again.",
        )
    return law


def _checked_names(result: DiscoveryResult, record: LawRecord) -> list[str]:
    """Return the names that equations may use: each a name, and none with two meanings."""
    kinds = {
        "equations_full": tuple(record.equations_full),
        "parameters": tuple(record.parameters),
        "missing": tuple(record.missing),
        "controls": result.controls,
    }
    seen: set[str] = set()
    for kind, names in kinds.items():
        for name in names:
            check_name(name, where=f"{result.id}: {kind}")
            if name in seen:
                raise InputError(
                    f"the name {name!r}, which is something else too",
                    where=f"{result.id}: {kind}",
                    expected="a name of its own for everything",
                )
            seen.add(name)
    return [*record.equations_full, *record.parameters, *result.controls, TIME]


def _term(item: TermEstimate, names: list[str], where: str) -> Term:
    for name in item.parameters:
        check_name(name, where=where)
    values = {name: (estimate.value, estimate.stderr) for name, estimate in item.parameters.items()}
    known = {name: (value, error) for name, (value, error) in values.items() if value is not None}
    if item.coefficient is None or len(known) < len(values):
        raise InputError(
            f"no value of a number in the term {item.term!r}", where=where, expected="a value for each number"
        )
    expression = parse_expression(item.term, [*names, *known], where=where, exponents=known)
    return Term(expression, (item.coefficient, item.stderr), known)


def _with_numbers(state: str, equation: sympy.Expr, record: LawRecord, run: str) -> sympy.Expr:
    """Return a right-hand side with the physical parameters replaced by their values."""
    known = {name: item.value for name, item in record.parameters.items() if item.value is not None}
    unknown = {free.name for free in equation.atoms(sympy.Symbol)} & (record.parameters.keys() - known)
    if unknown:
        raise InputError(
            f"no value of {', '.join(sorted(unknown))}",
            where=f"{run}: equations_full.{state}",
            expected="a value for each parameter that the law uses",
        )
    values: Mapping[sympy.Basic, sympy.Basic] = {
        symbol(name): sympy.Float(value) for name, value in known.items()
    }
    return cast("sympy.Expr", equation.xreplace(dict(values)))


def comment_lines(law: ExportedLaw) -> tuple[str, ...]:
    """Return what a reader has to know, as lines that stay comments of one line in every language."""
    result = law.result
    origin = f"Law found by sciml_discover, run {result.id}, {result.status}."
    if law.number:
        delta = result.alternatives[law.number - 1].delta
        behind = "" if delta is None else f", {delta:.3g} behind it in the criterion"
        origin = f"Alternative {law.number} to the law found by sciml_discover, run {result.id}{behind}."
    lines = [result.title, origin]
    if result.units:
        lines.append(f"Units: {', '.join(f'{name} in {unit}' for name, unit in result.units.items())}.")
    return tuple(one_line(line) for line in (*lines, *_estimates(law.record)))


def _estimates(record: LawRecord) -> Iterable[str]:
    """Yield every number of the law with its unit and its uncertainty, in words."""
    for name, item in record.parameters.items():
        how = "fixed" if item.fixed else _uncertainty(item.stderr)
        yield f"{name}: {item.value!r}{_unit(item.unit)} ({how})"
    for hole, missing in record.missing.items():
        for term in missing.terms:
            yield (
                f"coefficient of {term.term} in {hole}: "
                f"{term.coefficient!r}{_unit(term.unit)} ({_uncertainty(term.stderr)})"
            )
            for name, item in term.parameters.items():
                yield f"{name} in {term.term}: {item.value!r}{_unit(item.unit)} ({_uncertainty(item.stderr)})"


def _uncertainty(stderr: float | None) -> str:
    return "not determined by the data" if stderr is None else f"standard error {stderr:.2g}"


def _unit(unit: str | None) -> str:
    return "" if unit in (None, "1") else f" {unit}"


def one_line(text: str) -> str:
    r"""Return a text without anything that could end a comment of one line, or continue it.

    Example:
        >>> print(one_line("a\nimport os \\"))
        a import os /
    """
    # A backslash at the end of a line continues a C comment, and so does its trigraph.
    printable = "".join(character if character.isprintable() else " " for character in text)
    return " ".join(printable.replace("\\", "/").replace("??/", "/").split())


def comment(law: ExportedLaw, mark: str) -> str:
    """Return `comment_lines` as one text, each line behind the mark of a comment."""
    return "\n".join(f"{mark} {line}".rstrip() for line in comment_lines(law))


def code_names(law: ExportedLaw, reserved: Callable[[str], bool]) -> dict[str, str]:
    """Return a name for each state and control that means nothing else in some language.

    Args:
        law: the law.
        reserved: whether a name does; none that ends with an underscore may.
    """
    taken = {*law.states, *law.controls, TIME}
    chosen = {}
    for name in (*law.states, *law.controls):
        safe = name
        if reserved(name):
            while safe in taken:
                safe += "_"
        taken.add(safe)
        chosen[name] = safe
    return chosen


def renamed(law: ExportedLaw, names: Mapping[str, str]) -> tuple[sympy.Expr, ...]:
    """Return the right-hand sides with the states and controls under other names."""
    substitution = {symbol(old): symbol(new) for old, new in names.items()}
    return tuple(cast("sympy.Expr", item.xreplace(substitution)) for item in law.equations.values())
