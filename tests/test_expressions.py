"""The parser: what it accepts, what it refuses and where it points, and that it never executes anything."""

from __future__ import annotations

import builtins
import math
import operator
import time

import pytest
import sympy
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from sciml_discover.errors import InputError
from sciml_discover.expressions import (
    FUNCTIONS,
    MAX_LENGTH,
    MAX_RESULT_LENGTH,
    check_expression,
    check_name,
    parse_expression,
    symbol,
    to_text,
)

NAMES = ("alpha", "x", "y", "t", "predation")

x, y, alpha = symbol("x"), symbol("y"), symbol("alpha")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("alpha*x - y", alpha * x - y),
        ("-x", -x),
        ("+x - -y", x + y),
        ("x**2", x**2),
        ("x**-2", x**-2),
        ("-x**2", -(x**2)),
        ("x**0.5", sympy.sqrt(x)),
        ("x**(1/3)", x ** sympy.Rational(1, 3)),
        ("2**3*x", 8 * x),
        ("x**0.123456", x ** sympy.Float(0.123456)),
        ("x/3/4", x / 12),
        ("sqrt(4*x)", 2 * sympy.sqrt(x)),
        ("sqrt(2)*x", sympy.Float(2**0.5) * x),
        ("sin(2*pi/4)*x", x),
        ("x - y - alpha", x - y - alpha),
        ("x/y*alpha", x * alpha / y),
        ("1/3", sympy.Rational(1, 3)),
        ("0.1*x", sympy.Float(0.1) * x),
        ("1e-3*x", sympy.Float(0.001) * x),
        ("pi*x", sympy.pi * x),
        ("abs(x)", sympy.Abs(x)),
        ("exp(-(x - y)**2/(1 + y))", sympy.exp(-((x - y) ** 2) / (1 + y))),
        ("  x\n\t+ y  ", x + y),
    ],
)
def test_parses_to_the_meant_expression(text: str, expected: sympy.Expr) -> None:
    assert parse_expression(text, NAMES, where="test") == expected


def test_every_function_is_the_one_of_its_name() -> None:
    for name, sympy_name in FUNCTIONS.items():
        value = float(parse_expression(f"{name}(x)", NAMES, where="test").subs(x, 0.3))
        assert value == pytest.approx(abs(0.3) if name == "abs" else getattr(math, name)(0.3)), sympy_name


def test_returns_the_names_that_are_used() -> None:
    assert check_expression("alpha*sin(x) + pi", NAMES, where="test") == {"alpha", "x"}


def test_long_sums_and_products_are_no_nesting() -> None:
    assert parse_expression("+".join(["x"] * 900), NAMES, where="test") == 900 * x
    assert parse_expression("-".join(["x"] * 900), NAMES, where="test") == -898 * x
    assert parse_expression("*".join(["x"] * 900), NAMES, where="test") == x**900


@pytest.mark.parametrize(
    ("text", "found", "column"),
    [
        ("__import__('os').system('true')", "'_'", 1),
        ("x.real", "'.'", 2),
        ("x + y.__class__", "'.'", 6),
        ("x^2", "'^'", 2),
        ("x + é", "'é'", 5),
        ("x + 2y", "'y' right after a number", 6),
        ("x + hair", "'hair'", 5),
        ("sinn(x)", "'sinn'", 1),
        ("open(x)", "'open'", 1),
        ("sin", "'sin' without an argument", 1),
        ("sin(x, y)", "2 arguments", 1),
        ("x(y)", "'x' used as a function", 1),
        ("(x)(y)", "'x' used as a function", 1),
        ("sin(x)(y)", "no name", 1),
        ("x, y", "not arithmetic", 1),
        ("x y", "not arithmetic", 1),
        ("x + ", "not arithmetic", 4),
        ("lambda x", "'lambda'", 1),
        ("x if y else 1", "'if'", 3),
        ("x // y", "not arithmetic", 1),
        ("x + )", "closing bracket", 5),
        ("x + (y", "never closed", 5),
        ("x**21", "exponent", 4),
        ("x**-21", "exponent", 4),
        ("x**y", "exponent", 4),
        ("9**9**9", "exponent", 4),
        ("(x**20)**20", "powers of powers", 2),
        ("((1 + 1/10**9)**20)**20", "powers of powers", 2),
        ("abs(abs(x**20)**20)", "powers of powers", 9),
        ("x/0", "division by zero", 3),
        ("x/(2 - 2)", "division by zero", 4),
        ("1/(2 - 2)", "division by zero", 4),
        ("0**-1", "power of zero", 1),
        ("1e999*x", "too large", 1),
        ("log(0)", "finite real value", 1),
        ("x*sqrt(-1)", "finite real value", 3),
        ("exp(exp(exp(exp(9))))", "finite real value", 9),
        ("", "empty", None),
        (" \n ", "empty", None),
        ("(" * 5000 + ")" * 5000, "10000 characters", None),
        ("(" * 60 + "x" + ")" * 60, "too many brackets", 51),
        ("-" * 60 + "x", "nesting", 52),
        ("x" * (MAX_LENGTH + 1), "2001 characters", None),
        ("9" * 400, "too large", 1),
        ("x\0", "'\\x00'", 2),
    ],
)
def test_refuses_and_points_at_the_place(text: str, found: str, column: int | None) -> None:
    for function in (check_expression, parse_expression):
        with pytest.raises(InputError) as caught:
            function(text, NAMES, where="[system.equations] x")
        message = str(caught.value)
        assert message.startswith("[system.equations] x: found ")
        assert found in message
        assert column is None or f"at column {column} of" in message
        assert len(message) < 400


@pytest.mark.parametrize("text", ["(x/x - 2)**0.5", "y*log(1 - x/x - 3)", "1/(x - x)", "log(y - y)"])
def test_refuses_what_turns_out_to_have_no_real_value(text: str) -> None:
    with pytest.raises(InputError, match="a value that is"):
        parse_expression(text, NAMES, where="test")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("tan(x + pi/2)", -1 / math.tan(0.3)),
        ("tan(pi/2 - x)", 1 / math.tan(0.3)),
        ("y*tan(x*y + pi/2)**2", 0.7 / math.tan(0.21) ** 2),
        ("tan(3 + pi/2)", -1 / math.tan(3)),
    ],
)
def test_a_tangent_that_sympy_rewrites_is_read_back(text: str, expected: float) -> None:
    expression = parse_expression(text, NAMES, where="test")
    assert parse_expression(to_text(expression), NAMES, where="test") == expression
    value = expression.subs([(symbol("x"), 0.3), (symbol("y"), 0.7)])
    assert float(value) == pytest.approx(expected, rel=1e-12)


def test_a_constant_may_have_an_exponent_that_is_a_name() -> None:
    expression = parse_expression("x*pi**n", ["x", "n"], where="test", exponents=["n"])
    assert expression == symbol("x") * sympy.pi ** symbol("n")


def test_what_a_result_says_may_be_longer_than_what_is_typed() -> None:
    text = " + ".join(f"0.12345678901234567*x**{degree % 3 + 1}" for degree in range(100))
    assert len(text) > MAX_LENGTH
    with pytest.raises(InputError, match="at most 2000"):
        parse_expression(text, NAMES, where="test")
    assert parse_expression(text, NAMES, where="test", longest=MAX_RESULT_LENGTH).free_symbols == {
        symbol("x")
    }
    with pytest.raises(InputError, match="at most 100000"):
        parse_expression("+".join([text] * 50), NAMES, where="test", longest=MAX_RESULT_LENGTH)


def test_an_unknown_name_is_not_told_to_be_something_that_is_not_allowed_here() -> None:
    with pytest.raises(InputError, match=r"'a' .*one of the names that this expression may use.*Known: x, y"):
        check_expression("a*x", ["x", "y"], where="[regress.library] extra")


def test_hints_at_the_right_spelling() -> None:
    with pytest.raises(InputError, match=r"Write \*\* for a power"):
        check_expression("x^2", NAMES, where="test")
    with pytest.raises(InputError, match="Did you mean 'predation'"):
        check_expression("predatoin", NAMES, where="test")
    with pytest.raises(InputError, match=r"exp\(n\*log\(x\)\)"):
        check_expression("x**alpha", NAMES, where="test")


@pytest.mark.parametrize(
    "name", ["sin", "t", "pi", "lambda", "None", "_x", "x y", "2x", "", "x.y", "é", "x\n"]
)
def test_refuses_names_that_no_expression_could_use(name: str) -> None:
    with pytest.raises(InputError, match="the name"):
        check_name(name, where="test")


@pytest.mark.parametrize("name", ["hare", "x1", "N_2", "e", "I", "S", "Q"])
def test_accepts_names_even_where_sympy_has_another_meaning(name: str) -> None:
    check_name(name, where="test")
    assert parse_expression(f"2*{name}", [name], where="test") == 2 * symbol(name)


FRAGMENTS = st.sampled_from(
    [
        *(*NAMES, *FUNCTIONS, "pi", "__import__", "exec", "eval", "lambda"),
        *(*"()*/+-,. 2\n[]:='\"\\#@é", "((", "))", "**", "0", "20", "0.5", "1e300"),
    ]
)


class ExecutedError(Exception):
    """Raised in place of whatever a parser must never call."""


@given(st.one_of(st.lists(FRAGMENTS, max_size=40).map("".join), st.text(max_size=80)))
@example("__import__('os').system('exit 1')")
@example("().__class__.__bases__[0].__subclasses__()")
@example("exec('raise SystemExit')")
@example("log(1/3**1e-300)*sqrt(t)")
@example("((1 + x)*(0.125*2**0.25))**1.5")
@example("((2*x)**0.25*0.125*(1 + y))**1.5")
@settings(max_examples=400, deadline=None)
def test_junk_is_parsed_or_refused_and_never_executed(text: str) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ExecutedError

    with pytest.MonkeyPatch.context() as patch:
        for name in ("eval", "exec", "open"):
            patch.setattr(builtins, name, refuse)
        try:
            used = check_expression(text, NAMES, where="test")
        except InputError:
            used = None
    if used is None:
        with pytest.raises(InputError):
            parse_expression(text, NAMES, where="test")
        return
    started = time.perf_counter()
    try:
        expression = parse_expression(text, NAMES, where="test")
    except InputError:
        return
    assert time.perf_counter() - started < 5
    assert {str(item) for item in expression.free_symbols} <= used


Arithmetic = tuple[str, float]
VALUES = {"x": 0.7, "y": -0.3, "alpha": 1.1, "2": 2.0, "0.5": 0.5, "3": 3.0}
OPERATIONS = {"+": operator.add, "-": operator.sub, "*": operator.mul}


def arithmetic() -> st.SearchStrategy[Arithmetic]:
    """A random valid expression, fully bracketed, and its value at ``VALUES``."""

    def grow(inner: st.SearchStrategy[Arithmetic]) -> st.SearchStrategy[Arithmetic]:
        pairs = st.tuples(inner, st.sampled_from("+-*"), inner)
        return st.one_of(
            pairs.map(lambda it: (f"({it[0][0]} {it[1]} {it[2][0]})", OPERATIONS[it[1]](it[0][1], it[2][1]))),
            inner.map(lambda it: (f"sin({it[0]})", math.sin(it[1]))),
            inner.map(lambda it: (f"(-{it[0]})", -it[1])),
            inner.map(lambda it: (f"(({it[0]})**3)", it[1] ** 3)),
        )

    return st.recursive(st.sampled_from(list(VALUES.items())), grow, max_leaves=8)


@given(arithmetic())
@settings(max_examples=100, deadline=None)
def test_the_value_is_that_of_python(text_and_value: Arithmetic) -> None:
    text, value = text_and_value
    assume(text.count("**3") <= 4 and abs(value) < 1e6)
    expression = parse_expression(text, NAMES, where="test")
    for name, number in VALUES.items():
        expression = expression.subs(symbol(name), number)
    assert float(expression) == pytest.approx(value, rel=1e-9, abs=1e-9)
