"""Safe text to sympy: a whitelist of syntax, functions and names; nothing is ever evaluated.

A text is cut into tokens, checked as a Python syntax tree, and only then rebuilt as a sympy
expression, node by node. `check_expression` needs no sympy, so that an experiment file is checked
in milliseconds; `parse_expression` builds the expression.
"""

from __future__ import annotations

import ast
import keyword
import math
import operator
import re
from collections.abc import Collection, Iterator
from fractions import Fraction
from typing import TYPE_CHECKING, Any, NoReturn

from sciml_discover.base import lazy_import
from sciml_discover.errors import InputError, did_you_mean

if TYPE_CHECKING:
    import sympy
else:
    sympy = lazy_import("sympy")

FUNCTIONS: dict[str, str] = {
    "sin": "sin",
    "cos": "cos",
    "tan": "tan",
    "atan": "atan",
    "sinh": "sinh",
    "cosh": "cosh",
    "tanh": "tanh",
    "exp": "exp",
    "log": "log",
    "sqrt": "sqrt",
    "abs": "Abs",
}
"""Functions that a text may call, and what sympy calls them. Each takes one argument."""

CONSTANTS: frozenset[str] = frozenset({"pi"})
"""Names with a fixed value."""

TIME = "t"
"""The name of time in every expression."""

MAX_LENGTH = 2000
"""Longest text, in characters."""
MAX_RESULT_LENGTH = 100_000
"""Longest text of a result, in characters: nobody typed it, and each number may have seventeen digits."""
MAX_NESTING = 50
"""Deepest nesting of brackets and operators."""
MAX_EXPONENT = 20
"""Largest absolute exponent."""
MAX_ROOT = 1000
"""Largest denominator of an exponent that stays an exact fraction."""
MAX_POWER_OF_POWERS = 100
"""Largest product of the exponents of powers inside powers."""

_TOKEN = re.compile(
    r"(?P<space>\s+)"
    r"|(?P<number>(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)"
    r"|(?P<name>[A-Za-z][A-Za-z0-9_]*)"
    r"|(?P<operator>\*\*|[-+*/(),])"
)
_OPERATIONS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_HINTS = {
    "^": "Write ** for a power.",
    "[": "Use round brackets.",
    "]": "Use round brackets.",
    "{": "Use round brackets.",
    "}": "Use round brackets.",
    "=": "Write only the right-hand side.",
    ".": "Attribute access is not part of the language; numbers are written 0.5.",
    "_": "Names start with a letter.",
    '"': "Texts are not part of the language.",
    "'": "Texts are not part of the language.",
}


def symbol(name: str) -> sympy.Symbol:
    """Return the sympy symbol that stands for ``name``: the one way to make a symbol.

    Symbols are equal only if their assumptions are; every symbol of this library is real.
    """
    return sympy.Symbol(name, real=True)


def check_name(name: str, *, where: str) -> None:
    """Refuse a name that could not be used in an expression.

    Raises:
        InputError: if the name is not letters, digits and underscores starting with a letter, or is
            a function, a constant, the time ``t`` or a reserved word.
    """
    if not _NAME.fullmatch(name):
        raise InputError(
            f"the name {name!r}",
            where=where,
            expected="ASCII letters, digits and underscores, starting with a letter",
            do="Rename it.",
        )
    taken = {
        TIME: "the time",
        **dict.fromkeys(CONSTANTS, "a constant"),
        **dict.fromkeys(FUNCTIONS, "a function"),
    }
    meaning = "a reserved word" if keyword.iskeyword(name) else taken.get(name)
    if meaning:
        raise InputError(
            f"the name {name!r}, which is {meaning}",
            where=where,
            expected="a name with no other meaning",
            do=f"Call it {name + '_'!r}, for example.",
        )


def check_expression(
    text: str, names: Collection[str], *, where: str, exponents: Collection[str] = ()
) -> frozenset[str]:
    """Return the names that ``text`` uses, after checking that it is safe and complete.

    Args:
        text: an expression such as ``"alpha*hare - predation"``.
        names: the names that it may use; functions and constants are always known.
        where: the place that an error message points at.
        exponents: those of the names that may be the exponent of another name, as in ``x**n``.

    Raises:
        InputError: at the first thing that is not allowed, with its column.

    Example:
        >>> sorted(check_expression("alpha*x - sin(x)/2", ["alpha", "x", "y"], where="equation"))
        ['alpha', 'x']
    """
    return _Checker(text, names, where, exponents).check(syntax_tree(text, where))


def names_used(text: str, *, where: str) -> frozenset[str]:
    """Return the names in ``text`` that are neither functions nor constants, whatever they stand for.

    Raises:
        InputError: if ``text`` is not an expression.

    Example:
        >>> sorted(names_used("sin(x)/(1 + k*y)", where="term"))
        ['k', 'x', 'y']
    """
    names = {node.id for node in ast.walk(syntax_tree(text, where)) if isinstance(node, ast.Name)}
    return frozenset(names - FUNCTIONS.keys() - CONSTANTS)


def parse_expression(
    text: str,
    names: Collection[str],
    *,
    where: str,
    exponents: Collection[str] = (),
    longest: int = MAX_LENGTH,
) -> sympy.Expr:
    """Return ``text`` as a sympy expression in real symbols.

    Whole numbers stay exact, decimal numbers become floats, and exponents of up to three decimals
    become exact fractions, so that ``x**0.5`` is a square root.

    Args:
        text: an expression such as ``"alpha*hare - predation"``.
        names: the names that it may use; functions and constants are always known.
        where: the place that an error message points at.
        exponents: those of the names that may be the exponent of another name, as in ``x**n``.
        longest: the longest text that is read, `MAX_RESULT_LENGTH` for what a result says.

    Raises:
        InputError: as `check_expression` does, and if the value is infinite or not real.

    Example:
        >>> parse_expression("2*x**0.5 + x*(-3)", ["x"], where="equation")
        2*sqrt(x) - 3*x
    """
    tree = syntax_tree(text, where, longest)
    _Checker(text, names, where, exponents).check(tree)
    expression = sympy.sympify(_build(tree))
    if expression.has(sympy.zoo, sympy.nan, sympy.oo, -sympy.oo):
        _refuse(text, 0, "a value that is infinite or undefined", where, "a finite expression")
    if any(_is_complex(part) for part in sympy.preorder_traversal(expression) if part.is_number):
        _refuse(text, 0, "a value that is not real", where, "a real expression")
    return expression


def to_text(expression: sympy.Expr) -> str:
    """Return an expression as text that `parse_expression` reads back, numbers in full.

    Example:
        >>> to_text(parse_expression("2.5*x**2 - abs(x)", ["x"], where="doctest"))
        '2.5*x**2 - abs(x)'
    """
    from sympy.printing.str import StrPrinter

    class Printer(StrPrinter):
        def _print_Float(self, expr: sympy.Float) -> str:
            number = repr(float(expr))
            return number[:-2] if number.endswith(".0") else number

        def _print_Abs(self, expr: sympy.Expr) -> str:
            return f"abs({self._print(expr.args[0])})"

    return Printer().doprint(expression)


def _is_complex(number: Any) -> bool:
    """Return whether a number is not real: simplification brings such ones about, as in (x/x - 2)**0.5."""
    return number.is_real is not True and bool(abs(sympy.im(number.evalf())) > 0)


def _refuse(text: str, column: int, found: str, where: str, expected: str, do: str = "") -> NoReturn:
    """Raise an InputError that points at a column of the text (counted from 1)."""
    start = max(0, column - 30)
    piece = text[start : start + 60]
    quoted = f"{'...' if start else ''}{piece}{'...' if start + 60 < len(text) else ''}"
    raise InputError(f"{found} at column {column + 1} of {quoted!r}", where=where, expected=expected, do=do)


def syntax_tree(text: str, where: str, longest: int = MAX_LENGTH) -> ast.expr:
    """Return the syntax tree of a text made of nothing but the allowed tokens.

    What the names mean, and whether the tree is arithmetic, is not looked at: see `check_expression`.

    Raises:
        InputError: if the text is too long, or has another character, or is no expression of Python.
    """
    if len(text) > longest:
        raise InputError(
            f"an expression of {len(text)} characters",
            where=where,
            expected=f"at most {longest}",
            do="Shorten it.",
        )
    if not text.strip():
        raise InputError("an empty expression", where=where, expected="an expression such as '0.5*x'")
    _check_tokens(text, where)
    # Every white space becomes a blank of the same width, and the bracket that is added keeps line
    # breaks and indentation from mattering; it moves each column by one.
    source = "(" + re.sub(r"\s", " ", text) + ")"
    try:
        return ast.parse(source, mode="eval").body
    except (SyntaxError, MemoryError, RecursionError, ValueError) as error:
        column = min(max((getattr(error, "offset", None) or 2) - 2, 0), len(text) - 1)
        _refuse(
            text,
            column,
            "something that is not arithmetic",
            where,
            "numbers, names, + - * / ** and functions in brackets",
        )


def _check_tokens(text: str, where: str) -> None:
    """Refuse unknown characters, `2x`, unbalanced brackets and deep nesting, before any parsing."""
    position, depth, previous_number, opened = 0, 0, False, []
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            character = text[position]
            _refuse(
                text,
                position,
                f"the character {character!r}",
                where,
                "numbers, names, + - * / ** and round brackets",
                _HINTS.get(character, ""),
            )
        kind, token = match.lastgroup, match.group()
        if kind == "name" and previous_number:
            _refuse(
                text,
                position,
                f"{token!r} right after a number",
                where,
                "an operator between them",
                "Write *.",
            )
        if kind == "name" and keyword.iskeyword(token):
            _refuse(text, position, f"the reserved word {token!r}", where, "arithmetic")
        if token == "(":
            depth += 1
            opened.append(position)
            if depth > MAX_NESTING:
                _refuse(
                    text, position, "too many brackets inside one another", where, f"at most {MAX_NESTING}"
                )
        if token == ")":
            depth -= 1
            if depth < 0:
                _refuse(
                    text, position, "a closing bracket without its opening one", where, "balanced brackets"
                )
            opened.pop()
        previous_number = kind == "number"
        position = match.end()
    if opened:
        _refuse(text, opened[-1], "a bracket that is never closed", where, "balanced brackets")


class _Checker:
    """Walks a syntax tree without recursion along sums and products, which may be long."""

    def __init__(
        self, text: str, names: Collection[str], where: str, exponents: Collection[str] = ()
    ) -> None:
        self.text, self.names, self.where, self.exponents = text, names, where, exponents
        self.used: set[str] = set()

    def check(self, tree: ast.expr) -> frozenset[str]:
        """Check the whole tree and return the names that it uses."""
        pending: list[tuple[ast.expr, int, Fraction]] = [(tree, 0, Fraction(1))]
        visited: list[ast.expr] = []
        while pending:
            node, depth, power = pending.pop()
            if depth > MAX_NESTING:
                self.refuse(node, "too deep a nesting", f"at most {MAX_NESTING} levels")
            visited.append(node)
            pending.extend(self.visit(node, depth, power))
        self.check_values(visited)
        return frozenset(self.used)

    def check_values(self, visited: list[ast.expr]) -> None:
        """Refuse parts without variables whose value is not a finite real number.

        Such a part would otherwise be worked out exactly, at any cost, by sympy. Children come after
        their parents in ``visited``, so the values are worked out from its end.
        """
        values: dict[ast.expr, float | None] = {}
        for node in reversed(visited):
            if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div) and values[node.right] == 0:
                self.refuse(node.right, "a division by zero", "a divisor that is not zero")
            try:
                values[node] = _value(node, values)
                finite = values[node] is None or math.isfinite(values[node] or 0.0)
            except (ArithmeticError, ValueError):
                finite = False
            if not finite:
                self.refuse(node, "a part without a finite real value", "numbers that can be worked out")

    def visit(self, node: ast.expr, depth: int, power: Fraction) -> Iterator[tuple[ast.expr, int, Fraction]]:
        """Check one node; yield its children with their depth and the powers around them."""
        if isinstance(node, ast.Constant):
            self.check_number(node)
        elif isinstance(node, ast.Name):
            self.check_known(node)
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.UAdd, ast.USub)):
            yield node.operand, depth + 1, power
        elif isinstance(node, ast.BinOp) and type(node.op) in _OPERATIONS:
            yield node.left, depth, power
            yield node.right, depth + 1, power
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow):
            yield node.left, depth + 1, self.check_power(node, power)
        elif isinstance(node, ast.Call):
            yield self.check_call(node), depth + 1, power
        else:
            self.refuse(
                node, "something that is not arithmetic", "numbers, names, + - * / ** and known functions"
            )

    def check_number(self, node: ast.Constant) -> None:
        """Refuse numbers that no float can hold."""
        if isinstance(node.value, bool) or not isinstance(node.value, (int, float)):
            self.refuse(node, f"{node.value!r}", "a number")
        if exact_number(node) is None:
            self.refuse(node, "a number too large", "a finite number")

    def check_known(self, node: ast.Name) -> None:
        """Refuse unknown names, and functions without their argument."""
        name = node.id
        if name in self.names:
            self.used.add(name)
        elif name in FUNCTIONS:
            self.refuse(node, f"the function {name!r} without an argument", f"{name}(...)")
        elif name not in CONSTANTS:
            self.refuse(
                node,
                f"the unknown name {name!r}",
                "one of the names that this expression may use",
                did_you_mean(name, self.names),
            )

    def check_power(self, node: ast.BinOp, power: Fraction) -> Fraction:
        """Refuse exponents that are not small numbers; return the product of the exponents so far."""
        names = _names_of_power(node)
        if names is not None and names[1] in self.exponents:
            self.used.add(names[1])
            return power
        exponent = exact_number(node.right)
        if exponent is None or abs(exponent) > MAX_EXPONENT:
            self.refuse(
                node.right,
                "an exponent that is not a small number",
                f"a number between -{MAX_EXPONENT} and {MAX_EXPONENT}",
                "" if exponent is not None else "A power with a variable exponent is exp(n*log(x)).",
            )
        base = exact_number(node.left)
        if base == 0 and exponent <= 0:
            self.refuse(node, "a power of zero without a value", "a base that is not zero")
        total = power * max(abs(exponent), Fraction(1))
        if total > MAX_POWER_OF_POWERS:
            self.refuse(node, "powers of powers", f"at most {MAX_POWER_OF_POWERS} multiplied together")
        return total

    def check_call(self, node: ast.Call) -> ast.expr:
        """Refuse unknown functions; return the one argument of a known one."""
        if not isinstance(node.func, ast.Name):
            self.refuse(node, "a call of something that has no name", "a known function")
        name = node.func.id
        if name in self.names:
            self.refuse(node, f"{name!r} used as a function", f"{name}*(...), or a known function")
        if name not in FUNCTIONS:
            self.refuse(
                node, f"the unknown function {name!r}", "a known function", did_you_mean(name, FUNCTIONS)
            )
        if len(node.args) != 1 or node.keywords:
            self.refuse(node, f"{len(node.args)} arguments of {name!r}", "one argument")
        return node.args[0]

    def refuse(self, node: ast.expr, found: str, expected: str, do: str = "") -> NoReturn:
        """Raise at the place of a node."""
        _refuse(self.text, max(node.col_offset - 1, 0), found, self.where, expected, do)


def _names_of_power(node: ast.BinOp) -> tuple[str, str] | None:
    """Return base and exponent of a power of one name to another; otherwise None."""
    if isinstance(node.left, ast.Name) and isinstance(node.right, ast.Name):
        return node.left.id, node.right.id
    return None


def exact_number(node: ast.expr) -> Fraction | None:
    """Return the exact value of a number, a signed number or a quotient of two; otherwise None."""
    if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
        try:
            finite = math.isfinite(float(node.value))
        except OverflowError:
            return None
        # The decimal digits, not the binary float: 0.1 is one tenth.
        return Fraction(repr(node.value)) if finite else None
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.UAdd, ast.USub)):
        value = exact_number(node.operand) if isinstance(node.operand, (ast.Constant, ast.BinOp)) else None
        return -value if value is not None and isinstance(node.op, ast.USub) else value
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
        sides = (node.left, node.right)
        if all(isinstance(side, (ast.Constant, ast.UnaryOp)) for side in sides):
            top, bottom = (exact_number(side) for side in sides)
            return top / bottom if top is not None and bottom else None
    return None


def _value(node: ast.expr, values: dict[ast.expr, float | None]) -> float | None:
    """Return the value of a part without variables, given those of its children; otherwise None."""
    if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
        return float(node.value)
    if isinstance(node, ast.Name):
        return math.pi if node.id == "pi" else None
    if isinstance(node, ast.UnaryOp):
        value = values[node.operand]
        return -value if value is not None and isinstance(node.op, ast.USub) else value
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        value, name = values[node.args[0]], node.func.id
        return None if value is None else float(abs(value) if name == "abs" else getattr(math, name)(value))
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow):
        base, exponent = values[node.left], exact_number(node.right)
        return None if base is None or exponent is None else math.pow(base, float(exponent))
    if isinstance(node, ast.BinOp):
        left, right = values[node.left], values[node.right]
        return None if left is None or right is None else _OPERATIONS[type(node.op)](left, right)
    return None


def _build(node: ast.expr) -> sympy.Expr:
    """Return a checked tree as sympy; sums and products of any length at one level of recursion."""
    if isinstance(node, ast.Constant):
        return sympy.Float(node.value) if isinstance(node.value, float) else sympy.Integer(str(node.value))
    if isinstance(node, ast.Name):
        return sympy.pi if node.id == "pi" else symbol(node.id)
    if isinstance(node, ast.UnaryOp):
        value = _build(node.operand)
        return -value if isinstance(node.op, ast.USub) else value
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        argument = _build(node.args[0])
        if node.func.id == "sqrt":
            return _power(argument, Fraction(1, 2))
        value = getattr(sympy, FUNCTIONS[node.func.id])(argument)
        if node.func.id == "tan":
            # sympy makes -cot(x) of tan(x + pi/2), which no text may call.
            value = value.replace(sympy.cot, lambda angle: sympy.cos(angle) / sympy.sin(angle))
        return _without_roots(value)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow):
        names = _names_of_power(node)
        if names is not None:
            return _build(node.left) ** symbol(names[1])
        return _power(_build(node.left), exact_number(node.right) or Fraction(0))
    return _build_chain(node)


def _power(base: sympy.Expr, exponent: Fraction) -> sympy.Expr:
    """Return a power, with the roots of numbers as floats."""
    if exponent.denominator > MAX_ROOT:
        # sympy would look for an exact root of any order, at any cost.
        return base ** sympy.Float(float(exponent))
    exact = sympy.Rational(exponent.numerator, exponent.denominator)
    coefficient, rest = base.as_coeff_Mul()
    if exact.is_Integer or not coefficient.is_positive:
        return _without_roots(base**exact)
    return _without_roots(coefficient**exact) * _without_roots(rest**exact)


def _without_roots(expression: sympy.Expr) -> sympy.Expr:
    """Return a number that is neither rational nor a multiple of pi as a float, all else as it is.

    sympy never comes back from some products of floats and exact roots, such as (0.125*2**0.25)**1.5.
    """
    if not expression.is_number or expression.is_real is not True:
        return expression
    if expression.is_Rational or (expression / sympy.pi).is_Rational:
        return expression
    return sympy.Float(float(expression))


def _build_chain(node: ast.expr) -> sympy.Expr:
    """Return ``a + b - c ...`` or ``a * b / c ...``, gathered from the right end of the chain."""
    sums = (ast.Add, ast.Sub)
    family = sums if isinstance(node, ast.BinOp) and isinstance(node.op, sums) else (ast.Mult, ast.Div)
    parts: list[sympy.Expr] = []
    while isinstance(node, ast.BinOp) and isinstance(node.op, family):
        right = _build(node.right)
        if isinstance(node.op, ast.Sub):
            right = -right
        elif isinstance(node.op, ast.Div):
            right = 1 / right
        parts.append(right)
        node = node.left
    parts.append(_build(node))
    parts.reverse()
    return sympy.Add(*parts) if family is sums else sympy.Mul(*parts)
