"""Units: every equation is checked, and what is not stated is derived from what is.

The unit of an expression is a product of powers, so in logarithms every condition is linear: the parts of
a sum have one unit, a function takes a plain number, a right-hand side has the unit of the state over that
of the time. Unknown units (holes, parameters without a unit) are the unknowns of these linear equations,
solved one by one with exact fractions; the first that contradicts the others is refused.

Nothing is converted: data and parameters are taken as numbers in the stated units, so metres beside
kilometres are refused like metres beside seconds.

Only single words of a unit are looked up in pint; products and powers are read here, by the same white list
of syntax as every other text. pint is imported once a system states a unit.

References:
    A. J. Kennedy, "Relational parametricity and units of measure", POPL 1997, doi:10.1145/263699.263761
    (inference of units by unification).
"""

from __future__ import annotations

import ast
import difflib
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cache
from typing import TYPE_CHECKING, Any, NoReturn

from sciml_discover.base import lazy_import
from sciml_discover.errors import InputError
from sciml_discover.expressions import CONSTANTS, MAX_EXPONENT, TIME, exact_number, syntax_tree

if TYPE_CHECKING:
    import pint

    from sciml_discover.system import SystemOptions
else:
    pint = lazy_import("pint")

MAX_UNIT_LENGTH = 80
"""Longest text of a unit, in characters."""

SAME_SCALE = 1e-9
"""Units whose sizes differ by less than this fraction are the same: pint's factors are rounded."""

NUMBERS = ("thousand = 1e3", "million = 1e6", "billion = 1e9")
"""Words for large counts, which pint does not have."""

_SPELLINGS = {"^": "**", "·": "*", "⋅": "*", "×": "*", "µ": "u", "μ": "u", "Ω": "ohm", "%": "percent"}
_BLANK_BETWEEN_FACTORS = re.compile(r"(?<=[A-Za-z0-9)])\s+(?=[A-Za-z(])")
_BRACKETS = re.compile(r"\([^()]*\)")
_UNKNOWN = "?"


@dataclass(frozen=True)
class TermUnits:
    """Units of the numbers in one term of a law, None where nothing says them.

    Attributes:
        coefficient: of the number in front of the term.
        inner: of the parameters inside it, by name.
    """

    coefficient: str | None
    inner: dict[str, str | None]


@dataclass(frozen=True)
class UnitTable:
    """The units of a result, as texts that `SystemUnits` reads.

    Attributes:
        names: of states, parameters, controls, holes, observables and the time ``t``, where known.
        terms: of the numbers in each term, by hole and by term.
    """

    names: dict[str, str] = field(default_factory=dict)
    terms: dict[str, dict[str, TermUnits]] = field(default_factory=dict)

    def of_term(self, hole: str, term: str) -> TermUnits:
        """Return the units of the numbers in a term of a hole."""
        return self.terms.get(hole, {}).get(term) or TermUnits(None, {})


class Unit:
    """A product of powers of named units and of unknown ones; the empty product is the plain number.

    Args:
        powers: exponent per name; a name that starts with ``?`` is that of an unknown unit.
    """

    def __init__(self, powers: Mapping[str, Fraction]) -> None:
        self.powers = {name: power for name, power in powers.items() if power}

    def __mul__(self, other: Unit) -> Unit:
        names = {**self.powers, **other.powers}
        zero = Fraction(0)
        return Unit({name: self.powers.get(name, zero) + other.powers.get(name, zero) for name in names})

    def __truediv__(self, other: Unit) -> Unit:
        return self * other ** Fraction(-1)

    def __pow__(self, exponent: Fraction) -> Unit:
        return Unit({name: power * exponent for name, power in self.powers.items()})

    @property
    def unknowns(self) -> tuple[str, ...]:
        """Names of the unknown units in it."""
        return tuple(name for name in self.powers if name.startswith(_UNKNOWN))


PLAIN = Unit({})
"""The unit of a number without one."""


@cache
def _registry() -> Any:
    """Return pint's registry of units, read once, for that takes 0.15 s; its type hints know no plain floats."""
    registry = pint.UnitRegistry(cache_folder=None)
    for line in NUMBERS:
        registry.define(line)
    return registry


class UnitWords:
    """The words that units are made of: those of pint, and things that are counted.

    Args:
        counted: words such as ``"pelts"``, each a unit of its own; they go before those of pint.
    """

    def __init__(self, counted: Iterable[str] = ()) -> None:
        self._registry = _registry()
        self._counted = tuple(counted)
        self._spelling: dict[str, str] = {}  # the first spelling of each unit, by its full name
        self._base: dict[str, tuple[dict[str, Fraction], float]] = {}

    def read(self, text: str, *, where: str) -> Unit:
        """Return the unit that a text such as ``"mmol/(L*h)"``, ``"m s^-2"``, ``"%"`` or ``"1"`` names.

        Raises:
            InputError: if it is no product of powers of known units, or a unit with a zero of its own.
        """
        if len(text) > MAX_UNIT_LENGTH:
            raise InputError(
                f"a unit of {len(text)} characters", where=where, expected=f"at most {MAX_UNIT_LENGTH}"
            )
        plain = "".join(_SPELLINGS.get(character, character) for character in text.strip())
        if _BLANK_BETWEEN_FACTORS.search(_BRACKETS.sub("x", plain).partition("/")[2]):
            raise InputError(
                f"the unit {text!r}",
                where=where,
                expected="no blank between factors after a slash: is the second one divided by, too?",
                do="Write brackets, as in J/(mol*K).",
            )
        tree = syntax_tree(_BLANK_BETWEEN_FACTORS.sub("*", plain), where)
        return self._product(tree, text, where)

    def show(self, unit: Unit) -> str:
        """Return a unit as text that `read` reads, in the words in which its parts were first read."""
        dimensions, scale = self.base(unit)
        if not unit.unknowns and not dimensions and abs(scale) < SAME_SCALE:
            return "1"
        spelt = list(self._spelling)
        # In the order in which they were read; what is unknown comes last.
        order = sorted(unit.powers, key=lambda name: spelt.index(name) if name in spelt else len(spelt))
        above = [self._power(name, unit.powers[name]) for name in order if unit.powers[name] > 0]
        below = [self._power(name, -unit.powers[name]) for name in order if unit.powers[name] < 0]
        top = "*".join(above) or "1"
        if not below:
            return top
        return f"{top}/{below[0]}" if len(below) == 1 else f"{top}/({'*'.join(below)})"

    def base(self, unit: Unit) -> tuple[dict[str, Fraction], float]:
        """Return the base units of the known part of a unit with their exponents, and the log of its size."""
        total, scale = PLAIN, 0.0
        for name, power in unit.powers.items():
            if not name.startswith(_UNKNOWN):
                powers, size = self._base[name]
                total, scale = total * Unit(powers) ** power, scale + float(power) * size
        return total.powers, scale

    def _product(self, node: ast.expr, text: str, where: str) -> Unit:
        if isinstance(node, ast.Name) and node.id == "dimensionless":
            return PLAIN
        if isinstance(node, ast.Name):
            return Unit({self._look_up(node.id, text, where): Fraction(1)})
        if isinstance(node, ast.Constant) and node.value == 1:
            return PLAIN
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult | ast.Div):
            left, right = (self._product(side, text, where) for side in (node.left, node.right))
            return left * right if isinstance(node.op, ast.Mult) else left / right
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow):
            exponent = exact_number(node.right)
            if (
                exponent is not None
                and abs(exponent) <= MAX_EXPONENT
                and exponent.denominator <= MAX_EXPONENT
            ):
                return self._product(node.left, text, where) ** exponent
        raise InputError(
            f"the unit {text!r}",
            where=where,
            expected="names of units, multiplied, divided, and raised to small numbers, as in mmol/(L*h) or m*s^-2",
            do="Large counts have the words thousand, million, billion; a plain number has the unit '1'.",
        )

    def _look_up(self, word: str, text: str, where: str) -> str:
        """Return the full name of the unit that a word stands for; its size is known afterwards."""
        for thing in self._counted:
            if word in (thing, f"{thing}s") or f"{word}s" == thing:
                name = f"counted {thing}"
                self._base[name] = ({name: Fraction(1)}, 0.0)
                self._spelling.setdefault(name, word)
                return name
        readings = self._registry.parse_unit_name(word)
        if not readings:
            near = difflib.get_close_matches(word, list(self._registry), n=1, cutoff=0.75)
            guess = f"Did you mean {near[0]!r}? " if near else ""
            raise InputError(
                f"the unknown unit {word!r} in {text!r}" if word != text else f"the unknown unit {word!r}",
                where=where,
                expected="units such as kg, mmol, L, h, year, thousand, or %",
                do=f"{guess}Things that are counted are named first: [system] counted = [{word!r}].",
            )
        name = "".join(readings[0])
        if name not in self._base:
            self._base[name] = self._measure(name, word, where)
        self._spelling.setdefault(name, word)
        return name

    def _measure(self, name: str, word: str, where: str) -> tuple[dict[str, Fraction], float]:
        unit = self._registry.Unit(self._registry.UnitsContainer({name: 1}))
        if self._registry.Quantity(0, unit).to_base_units().magnitude != 0:
            raise InputError(
                f"the unit {word!r}, whose zero is not that of the quantity",
                where=where,
                expected="a unit that can be multiplied: an equation in it means the same in any other",
                do="For a temperature, state kelvin (K) and convert the data; for a difference of temperatures, "
                "state delta_degC. In place of a logarithmic unit, state that of the quantity itself.",
            )
        factor, _ = self._registry.get_base_units(unit)
        # Angles and counts have no dimension: they are plain numbers.
        powers = {
            dimension: Fraction(power).limit_denominator(MAX_EXPONENT)
            for dimension, power in dict(unit.dimensionality).items()
        }
        return powers, math.log(float(factor))

    def _power(self, name: str, power: Fraction) -> str:
        if name.startswith(_UNKNOWN):
            name = f"[{name.removeprefix(_UNKNOWN)}]"
        name = self._spelling.get(name, name)
        if power == 1:
            return name
        return f"{name}^{power}" if power.denominator == 1 else f"{name}^({power})"


def units_stated(system: SystemOptions) -> bool:
    """Return whether a system states any unit; if not, there is nothing to check."""
    named = (*system.states.values(), *system.parameters.values(), *system.controls.values())
    return system.time_unit is not None or any(item.unit is not None for item in named)


class SystemUnits:
    """The units of a system: all equations checked, and those that were not stated derived.

    Args:
        system: the ``[system]`` table.

    Raises:
        InputError: if a unit cannot be read, or an equation or an observable is inconsistent.

    Example:
        >>> from sciml_discover.system import SystemOptions
        >>> units = SystemUnits(
        ...     SystemOptions.model_validate(
        ...         {
        ...             "time_unit": "h",
        ...             "states": {"x": {"unit": "g/L"}},
        ...             "parameters": {"k": {"value": 0.1}},
        ...             "missing": {"u": ["x"]},
        ...             "equations": {"x": "u - k*x"},
        ...         }
        ...     )
        ... )
        >>> units.table({"u": ["x**2"]}).names["k"], units.table({"u": ["x**2"]}).of_term("u", "x**2").coefficient
        ('1/h', 'L/(g*h)')
    """

    def __init__(self, system: SystemOptions) -> None:
        self._words = UnitWords(system.counted)
        self._inputs = {hole: inputs for hole, inputs in system.missing.items()}
        self._solved: dict[str, Unit] = {}
        self._fresh = 0
        self._powers: dict[str, tuple[Unit, str]] = {}  # base and exponent of powers like x**n
        self._units: dict[str, Unit] = {}
        for kind in ("states", "parameters", "controls"):
            for name, item in getattr(system, kind).items():
                self._units[name] = self._stated(name, item.unit, f"[system.{kind}] {name} unit")
        self._units[TIME] = self._stated(TIME, system.time_unit, "[system] time_unit")
        for name in system.missing:
            self._units[name] = self._stated(name, None, "")
        for name in system.states:
            self._check_equation(name, system.equations[name])
        observables: dict[str, Unit] = {}
        for name, text in system.observed_expressions.items():
            where = f"[system.observables] {name}"
            observables[name] = self._unit_of(syntax_tree(text, where), self._units, where)
        self._units = {**observables, **self._units}

    def check_term(self, text: str, hole: str, *, where: str) -> None:
        """Refuse a term that no coefficient could make consistent, such as the sine of a length.

        Names in it that the system does not have are parameters of its own, of any unit.

        Raises:
            InputError: naming the term.
        """
        before = dict(self._solved)
        try:
            self._term(text, hole, where)
        finally:
            self._solved = before  # a candidate is no fact about the system

    def table(self, terms: Mapping[str, Iterable[str]]) -> UnitTable:
        """Return all units that are known.

        Args:
            terms: those of the laws that were found, as text, by hole.
        """
        names = {name: self._show(unit) for name, unit in self._units.items()}
        return UnitTable(
            {name: text for name, text in names.items() if text is not None},
            {hole: {text: self._term_units(text, hole) for text in texts} for hole, texts in terms.items()},
        )

    def _term_units(self, text: str, hole: str) -> TermUnits:
        before = dict(self._solved)
        try:
            unit, inner = self._term(text, hole, "")
            coefficient = self._show(self._units[hole] / unit)
            return TermUnits(coefficient, {name: self._show(item) for name, item in inner.items()})
        except InputError:
            # A term that only numbers hold together, such as x/(1 + x) for a length x: nothing to be said.
            return TermUnits(None, {})
        finally:
            self._solved = before

    def _term(self, text: str, hole: str, where: str) -> tuple[Unit, dict[str, Unit]]:
        tree = syntax_tree(text, where)
        called = {node.func for node in ast.walk(tree) if isinstance(node, ast.Call)}
        named = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and node not in called}
        own = sorted(named - {*self._inputs[hole], *CONSTANTS})
        inner = {name: self._unknown() for name in own}
        return self._unit_of(tree, {**self._units, **inner}, where), inner

    def _stated(self, name: str, text: str | None, where: str) -> Unit:
        return (
            Unit({f"{_UNKNOWN}{name}": Fraction(1)}) if text is None else self._words.read(text, where=where)
        )

    def _unknown(self) -> Unit:
        self._fresh += 1
        return Unit({f"{_UNKNOWN}{self._fresh}": Fraction(1)})

    def _show(self, unit: Unit) -> str | None:
        reduced = self._reduce(unit)
        return None if reduced.unknowns else self._words.show(reduced)

    def _check_equation(self, state: str, text: str) -> None:
        where = f"[system.equations] {state}"
        right = self._unit_of(syntax_tree(text, where), self._units, where)
        left = self._units[state] / self._units[TIME]
        if not self._same(left, right):
            self._refuse(f"d {state}/dt", left, text, right, where)

    def _unit_of(self, node: ast.expr, units: Mapping[str, Unit], where: str) -> Unit:
        """Return the unit of an expression; unknown units are solved for on the way."""
        if isinstance(node, ast.Constant):
            return PLAIN if node.value else self._unknown()  # zero is zero in every unit
        if isinstance(node, ast.Name):
            return PLAIN if node.id in CONSTANTS else units[node.id]
        if isinstance(node, ast.UnaryOp):
            return self._unit_of(node.operand, units, where)
        if isinstance(node, ast.Call):
            return self._unit_of_call(node, units, where)
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow):
            exponent = exact_number(node.right)
            if exponent is not None:
                return self._unit_of(node.left, units, where) ** exponent
            self._require_plain(node.right, _text(node), units, where)
            base = self._reduce(self._unit_of(node.left, units, where))
            return self._power_of_name(base, _text(node)) if base.powers else PLAIN
        first, *others = _chain(node)
        total = self._unit_of(first[1], units, where)
        for operation, part in others:
            unit = self._unit_of(part, units, where)
            if isinstance(operation, ast.Mult):
                total = total * unit
            elif isinstance(operation, ast.Div):
                total = total / unit
            elif not self._same(total, unit):
                self._refuse(_text(first[1]), total, _text(part), unit, where)
        return total

    def _unit_of_call(self, node: ast.Call, units: Mapping[str, Unit], where: str) -> Unit:
        name = ast.unparse(node.func)
        if name in ("abs", "sqrt"):
            return self._unit_of(node.args[0], units, where) ** (
                Fraction(1, 2) if name == "sqrt" else Fraction(1)
            )
        self._require_plain(node.args[0], _text(node), units, where)
        return PLAIN

    def _power_of_name(self, base: Unit, text: str) -> Unit:
        """Return the unit of a power whose exponent is no number but a name, such as ``x**n``.

        It is an unknown one, remembered with its base: where such powers with one exponent cancel, as in
        ``x**n/(K**n + x**n)``, so must their bases.
        """
        name = f"{_UNKNOWN}{text}"
        self._powers[name] = (base, text.rpartition("**")[2])
        return Unit({name: Fraction(1)})

    def _bases_agree(self, powers: Mapping[str, Fraction]) -> bool:
        """Return whether powers with names as exponents may cancel; their bases are solved for if so."""
        together = PLAIN
        for name, power in powers.items():
            together = together * self._powers[name][0] ** power
        return self._same(together, PLAIN)

    def _require_plain(self, part: ast.expr, whole: str, units: Mapping[str, Unit], where: str) -> None:
        unit = self._unit_of(part, units, where)
        if self._same(unit, PLAIN):
            return
        reduced = self._reduce(unit)
        only_scale = not self._words.base(reduced)[0]
        raise InputError(
            f"{_short(whole)!r}, where {_short(_text(part))!r} is in {self._words.show(reduced)}",
            where=where,
            expected="a plain number there",
            do="Nothing is converted: state angles in radian, shares and counts as plain numbers ('1')."
            if only_scale
            else "Divide it by a parameter of the same unit.",
        )

    def _same(self, one: Unit, two: Unit) -> bool:
        """Make two units equal by solving for an unknown one; return whether they can be."""
        difference = self._reduce(one / two)
        if not difference.unknowns:
            dimensions, scale = self._words.base(difference)
            return not dimensions and abs(scale) < SAME_SCALE
        exponents = {self._powers[name][1] if name in self._powers else None for name in difference.powers}
        if len(exponents) == 1 and exponents != {None} and not self._bases_agree(difference.powers):
            return False
        name = difference.unknowns[-1]
        power = difference.powers[name]
        rest = Unit({other: value for other, value in difference.powers.items() if other != name})
        self._solved[name] = rest ** (-1 / power)
        # Every solution stays in terms of what is still unknown.
        self._solved = {known: self._reduce(unit) for known, unit in self._solved.items()}
        return True

    def _reduce(self, unit: Unit) -> Unit:
        """Return a unit with all solved unknowns replaced."""
        total = Unit({name: power for name, power in unit.powers.items() if name not in self._solved})
        for name, power in unit.powers.items():
            if name in self._solved:
                total = total * self._solved[name] ** power
        return total

    def _refuse(self, one: str, unit: Unit, other: str, beside: Unit, where: str) -> NoReturn:
        first, second = self._reduce(unit), self._reduce(beside)
        scale_only = not (first / second).unknowns and not self._words.base(first / second)[0]
        raise InputError(
            f"{_short(one)!r} in {self._words.show(first)} beside {_short(other)!r} in {self._words.show(second)}",
            where=where,
            expected="the same unit on both sides of = + and -",
            do="They are of one kind, but nothing is converted: state, and measure, both in the same unit."
            if scale_only
            else "Correct the equation or the units; units that are not stated follow from the equations before.",
        )


def _chain(node: ast.expr) -> Iterator[tuple[ast.operator, ast.expr]]:
    """Yield the parts of ``a + b - c ...`` or ``a * b / c ...`` with the operator before each, in order."""
    sums, products = (ast.Add, ast.Sub), (ast.Mult, ast.Div)
    family = sums if isinstance(node, ast.BinOp) and isinstance(node.op, sums) else products
    parts: list[tuple[ast.operator, ast.expr]] = []
    while isinstance(node, ast.BinOp) and isinstance(node.op, family):
        parts.append((node.op, node.right))
        node = node.left
    yield family[0](), node
    yield from reversed(parts)


def _text(node: ast.expr) -> str:
    """Return a part of an expression without blanks around the operators that bind."""
    return re.sub(r" (\*\*|\*|/) ", r"\1", ast.unparse(node))


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."
