"""From numbers to text that people read and machines read back."""

from __future__ import annotations

import pytest
import sympy

from sciml_discover.expressions import parse_expression, to_text
from sciml_discover.library import Library, LibraryTerm
from sciml_discover.simplify import (
    canonical_terms,
    equations_with_numbers,
    linear_combination,
    redundant_terms,
    same_structure,
)
from sciml_discover.system import System
from tests.problems import LOTKA_VOLTERRA, value


def read(text: str) -> sympy.Expr:
    return parse_expression(text, ["x", "y"], where="test")


@pytest.mark.parametrize(
    "text", ["0.1*x**2 - 1.7e-12*abs(y)", "sin(x)/3 + sqrt(y)", "x/(1 + y)", "1e20*x", "0"]
)
def test_text_is_read_back_exactly(text: str) -> None:
    assert to_text(read(to_text(read(text)))) == to_text(read(text))
    point = {"x": 0.3, "y": 1.7}
    assert value(read(to_text(read(text))), point) == value(read(text), point)


def test_numbers_keep_every_digit() -> None:
    number = 0.1 + 0.2
    assert to_text(linear_combination(("x*y",), (number,), ("x", "y"))) == f"{number!r}*x*y"
    assert linear_combination((), (), ("x",)) == 0


def test_terms_of_an_expression() -> None:
    found = canonical_terms(read("x*(1.5 - y) + 2*x*y"))
    assert found == {read("x"): 1.5, read("x*y"): 1.0}
    assert canonical_terms(read("(x + 1)**2 - x**2 - 2*x")) == {sympy.Integer(1): 1.0}
    assert canonical_terms(read("0.1*x + 0.2*x - 0.3*x + y")) == {read("y"): 1.0}


@pytest.mark.parametrize(
    ("one", "two", "same"),
    [
        ("1.3*x - 0.9*x*y", "x*(1.2 - y)", True),
        ("x**2 + y", "y + 3*x*x", True),
        ("x + y", "x", False),
        ("x + 1", "x", False),
        ("sin(x)", "sin(y)", False),
    ],
)
def test_structure_is_the_set_of_terms(one: str, two: str, same: bool) -> None:
    assert same_structure({"x": read(one)}, {"x": read(two)}) is same
    assert not same_structure({"x": read(one)}, {"y": read(one)})


def test_numbers_in_equations() -> None:
    found = equations_with_numbers(
        LOTKA_VOLTERRA.system,
        {"predation": read("0.9*x*y"), "growth": read("0.8*x*y")},
        {"alpha": 1.25, "delta": 2.0},
    )
    assert to_text(found["x"]) == "-0.9*x*y + 1.25*x"
    assert not found["y"].free_symbols - read("x*y").free_symbols


def system(equations: dict[str, str], **parameters: object) -> System:
    return System.from_text(
        states=["x", "y"],
        parameters={"k": 1.0, **parameters},  # pyright: ignore[reportArgumentType]
        missing={"h": ["x", "y"]},
        equations=equations,
    )


TERMS = [Library(("x", "y"), [LibraryTerm(text) for text in ("1", "x", "y", "x*y", "x**2")])]


def test_numbers_inside_terms_are_no_structure() -> None:
    one = {"s": read("1.5*x/(0.4 + x) - exp(-0.3*x)")}
    assert same_structure(one, {"s": read("1.4*x/(0.38 + x) - 0.9*exp(-0.31*x)")})
    assert not same_structure(one, {"s": read("1.4*x/(0.38 + y) - 0.9*exp(-0.31*x)")})
    assert not same_structure(one, {"s": read("1.4*x**2/(0.38 + x**2) - 0.9*exp(-0.31*x)")})


@pytest.mark.parametrize(
    ("one", "two", "same"),
    [
        ("x/(0.4 + x)", "0.5*x/(0.4 + x) + 0.7*x/(2.3 + x)", False),
        ("exp(-0.5*x)", "2*exp(-0.5*x) - exp(-0.1*x)", False),
        ("x/(0.4 + x) - x/(2.3 + x)", "0.5*x/(0.4 + x) + 0.7*x/(2.3 + x)", True),
        ("x/(0.4 + x) - x/(2.3 + x)", "0", False),
        ("0.1*x/(0.1 + 0.2 + x) + x/(0.3 + x)", "2*x/(0.7 + x)", True),
        ("1.5*x/(0.4 + x)", "3.75*x/(1 + 2.5*x)", True),
        ("x/(0.4 + x) + x/(2 + 5*x)", "x/(0.4 + x)", True),
        ("x/(1 + x) + x/(2.5 + 2.5*x)", "x/(1 + x)", True),
        ("x/(1 + x + y)", "2.1*x/(1.1 + 0.98*x + 1.9*y)", True),
        ("x/(3 - x)", "x/(1.1 + 0.3*x)", True),
        ("x/(1 + x**2)", "x/(0.9 + 2*x**2)", True),
        ("x/(1 + x**2)", "x/(0.9 + 0.1*x + 2*x**2)", False),
        ("x/(0.4 + x)**2", "x/(1 + 2.5*x)**2", True),
        ("sqrt(1 + 2*x)", "3*sqrt(0.5 + x)", True),
        ("sqrt(1 - 2*x)", "sqrt(1.1 - 1.9*x)", True),
        ("y/(1 + 2*exp(-0.3*x))", "y/(0.5 + 1.2*exp(-0.4*x))", True),
    ],
)
def test_terms_are_counted_before_their_numbers_are_left_out(one: str, two: str, same: bool) -> None:
    assert same_structure({"s": read(one)}, {"s": read(two)}) is same
    assert same_structure({"s": read(two)}, {"s": read(one)}) is same


def test_one_function_has_one_coefficient_however_its_denominator_is_scaled() -> None:
    [(term, number)] = canonical_terms(read("1.5*x/(0.4 + x)")).items()
    assert canonical_terms(read("3.75*x/(1 + 2.5*x)")) == {term: pytest.approx(number)}
    assert number == 1.5


def test_a_term_that_a_free_parameter_carries_is_redundant() -> None:
    [mask], [sentence] = redundant_terms(system({"x": "k*x - 2*h", "y": "-y"}), TERMS)
    assert mask.tolist() == [False, True, False, False, False]
    assert sentence == "x in h is carried by the free parameter k already: merged into it"


def test_it_is_not_where_the_parameter_does_more_or_is_fixed() -> None:
    # The parameter stands in both equations, the hole in one only.
    [mask], notes = redundant_terms(system({"x": "k*x - h", "y": "k*x - y"}), TERMS)
    assert not mask.any()
    assert not notes
    fixed = {"k": {"value": 1.0, "fixed": True}}
    [mask], _ = redundant_terms(system({"x": "k*x - h", "y": "-y"}, **fixed), TERMS)
    assert not mask.any()
    # The hole stands in both, and so does the parameter, in another proportion.
    [mask], _ = redundant_terms(system({"x": "k*x - h", "y": "h - 2*k*x"}), TERMS)
    assert not mask.any()
    [mask], _ = redundant_terms(system({"x": "k*x - h", "y": "h - k*x"}), TERMS)
    assert mask.tolist() == [False, True, False, False, False]


def test_a_nonlinear_parameter_carries_its_own_direction_only() -> None:
    [mask], _ = redundant_terms(system({"x": "x**2/k - h", "y": "-y"}), TERMS)
    assert mask.tolist() == [False, False, False, False, True]
