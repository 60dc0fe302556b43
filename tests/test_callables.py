"""Derivatives of expressions of real numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sciml_discover.callables import compile_torch, derivative, in_functions_of_sympy
from sciml_discover.expressions import parse_expression, to_text

NAMES = ("x", "K", "n")

POWERS = ["x**n", "x**n/(K**n + x**n)", "K*x**n*x", "1/x**n", "pi**n*x", "exp(-x**n)", "x**n*log(x)"]


def values(text: str, by: tuple[str, ...], *at: list[float]) -> list[np.ndarray]:
    """Return an expression in x, K and n, and its derivatives, at some values of these."""
    function = compile_torch(parse_expression(text, NAMES, where="test", exponents=NAMES), NAMES, by)
    points = torch.tensor(at, dtype=torch.float64)
    return [np.broadcast_to(np.asarray(one), len(at)) for one in function(*points.unbind(-1))]


@pytest.mark.parametrize("text", POWERS)
def test_derivatives_of_powers_are_those_of_finite_differences(text: str) -> None:
    points = np.array([[0.7, 1.3, 2.2], [3.0, 0.4, 0.6], [0.05, 1.0, 1.0]])
    _, *slopes = values(text, NAMES, *points.tolist())
    for slope, unit in zip(slopes, 1e-6 * np.eye(3), strict=True):
        [above], [below] = (values(text, (), *(points + side * unit).tolist()) for side in (1, -1))
        np.testing.assert_allclose(slope, (above - below) / 2e-6, rtol=1e-6, atol=1e-8)


def test_a_power_has_derivatives_where_its_base_is_zero() -> None:
    at = [[0.0, 1.3, exponent] for exponent in (1.0, 1.5, 2.0)]
    value, by_x, by_n = values("x**n", ("x", "n"), *at)
    assert value.tolist() == [0.0, 0.0, 0.0]
    assert by_x.tolist() == [1.0, 0.0, 0.0]
    assert by_n.tolist() == [0.0, 0.0, 0.0]
    hill, *slopes = values("x**n/(K**n + x**n)", NAMES, *at)
    assert hill.tolist() == [0.0, 0.0, 0.0]
    np.testing.assert_allclose(slopes, [[1 / 1.3, 0, 0], [0, 0, 0], [0, 0, 0]], atol=1e-15)
    # Its slope there is infinite, and is said to be so.
    [_, steep] = values("x**n", ("x",), [0.0, 1.0, 0.5])
    assert steep.tolist() == [np.inf]


def test_a_power_of_a_negative_number_has_no_value_and_no_derivative() -> None:
    for found in values("x**n", ("x", "n"), [-0.5, 1.0, 1.5]):
        assert np.isnan(found).all()


def test_derivatives_can_be_differentiated_again() -> None:
    first = derivative(parse_expression("x**n", NAMES, where="test", exponents=["n"]), "n")
    function = compile_torch(first, NAMES, ("x", "n"))
    at = torch.tensor([0.7, 0.0], dtype=torch.float64)
    n = torch.tensor([2.2, 2.2], dtype=torch.float64)
    value, by_x, by_n = function(at, at, n)
    x = 0.7
    np.testing.assert_allclose(value, [x**2.2 * np.log(x), 0.0])
    np.testing.assert_allclose(by_x, [x**1.2 * (2.2 * np.log(x) + 1), 0.0])
    np.testing.assert_allclose(by_n, [x**2.2 * np.log(x) ** 2, 0.0])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x**3 + K*x", "K + 3*x**2"),
        ("K*sin(x)", "K*cos(x)"),
        ("abs(x*log(K))", "log(K)*sign(x*log(K))"),
        ("abs(x)**2", "2*x"),
    ],
)
def test_derivatives_for_printers(text: str, expected: str) -> None:
    slope = derivative(parse_expression(text, NAMES, where="test"), "x")
    assert to_text(in_functions_of_sympy(slope)) == expected
