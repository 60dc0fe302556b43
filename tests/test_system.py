"""Systems with holes: what is refused, what `fill` does, and that every derivative is exact."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
import sympy
import torch

from sciml_discover.callables import TorchSystem
from sciml_discover.errors import InputError, NotYetError
from sciml_discover.expressions import parse_expression, symbol
from sciml_discover.system import MissingTerm, Parameter, System, SystemOptions, Variable

LOTKA_VOLTERRA: dict[str, Any] = {
    "states": {"hare": {"positive": True}, "lynx": {}},
    "parameters": {"alpha": {"value": 0.5, "bounds": [0.0, 2.0]}, "delta": {"value": 0.8, "fixed": True}},
    "missing": {"predation": ["hare", "lynx"], "growth": ["hare", "lynx"]},
    "equations": {"hare": "alpha*hare - predation", "lynx": "growth - delta*lynx"},
}


def options(**changes: Any) -> SystemOptions:
    return SystemOptions.model_validate({**LOTKA_VOLTERRA, **changes})


def rich_system() -> System:
    """Holes inside functions, shared between equations, multiplied; every allowed function; time."""
    return System.from_text(
        states=["x", "y"],
        parameters={"a": 0.5, "b": 2.0},
        missing={"h": ["x", "y"], "g": ["x", "t"]},
        equations={
            "x": "a*x - h*sqrt(x)/(1 + abs(y)) + sin(t)*g + tan(x/5)*atan(y) + log(1 + x**2)",
            "y": "x**3/3 - b*exp(-y**2)*h**2 + 1 - 1e-3*x**-2 + x**1.5*cos(g) + pi*t"
            " + sqrt(2)*abs(sqrt(x) - 3) + tanh(y)/cosh(x) - sinh(y)/sqrt(1 + x)",
        },
    )


def random_point(*batch: int, seed: int = 0) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    shapes = (batch, (*batch, 2), (*batch, 2), (*batch, 2))
    return tuple(torch.rand(shape, generator=generator, dtype=torch.float64) + 0.2 for shape in shapes)


def test_from_options_keeps_order_and_options() -> None:
    system = System.from_options(options(time_unit="year"))
    assert system.states == (Variable("hare", positive=True), Variable("lynx"))
    assert system.parameters == (
        Parameter("alpha", 0.5, bounds=(0.0, 2.0)),
        Parameter("delta", 0.8, fixed=True),
    )
    assert system.missing == (
        MissingTerm("predation", ("hare", "lynx")),
        MissingTerm("growth", ("hare", "lynx")),
    )
    assert list(system.equations) == ["hare", "lynx"]
    assert [item.name for item in system.free_parameters] == ["alpha"]
    assert (system.dimension, system.time_unit) == (2, "year")
    assert system.observables == ("hare", "lynx")


def test_observables_are_states_in_their_order() -> None:
    assert options(observables=["lynx", "hare"]).observed == ("hare", "lynx")
    assert options(observables={"lynx": "lynx"}).observed == ("lynx",)
    assert System.from_options(options(observables=["lynx"])).observables == ("lynx",)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"controls": {"feed": {}}}, InputError, r"\[system.controls\] feed: found 'feed' in no equation"),
        ({"controls": {"hare": {}}}, InputError, r"\[system.controls\] hare: .* also in \[system.states\]"),
        ({"controls": {"sin": {}}}, InputError, "which is a function"),
        ({"events": [{"at": 3}]}, NotYetError, "events"),
        ({"grid": {"x": 10}}, NotYetError, "grid"),
        ({"observables": {"sum": "alpha*hare"}}, NotYetError, "free parameter 'alpha' in an observable"),
        ({"observables": {"sum": "hare + growth"}}, NotYetError, "missing term 'growth' in an observable"),
        ({"observables": {"sum": "hare + lynks"}}, InputError, r"'lynks' at column 8 .* Did you mean 'lynx'"),
        ({"observables": {"sum": "2*t"}}, InputError, "depends on no state"),
        ({"observables": {"hare": "2*hare"}}, InputError, "'hare' means something else"),
        ({"observables": {"sin": "2*hare"}}, InputError, "which is a function"),
        ({"observables": ["hair"]}, InputError, "Did you mean 'hare'"),
        ({"observables": []}, InputError, "no observables"),
        ({"observables": ["hare", "hare"]}, InputError, "each once"),
        ({"states": {"hare": {}, "t": {}}}, InputError, "which is the time"),
        ({"states": {"hare": {}, "sin": {}}}, InputError, "which is a function"),
        ({"states": {"hare": {}, "lambda": {}}}, InputError, "which is a reserved word"),
        ({"parameters": {"hare": {"value": 1.0}}}, InputError, r"also in \[system.states\]"),
        (
            {"parameters": {"alpha": {"value": 1.0, "bounds": [2.0, 0.0]}}},
            InputError,
            "the smaller bound first",
        ),
        (
            {"parameters": {"alpha": {"value": 3.0, "bounds": [0.0, 2.0]}}},
            InputError,
            "a value between its bounds",
        ),
        ({"parameters": {"alpha": {"value": 1.0}}}, InputError, "unknown name 'delta'"),
        ({"missing": {"predation": ["hair"], "growth": ["hare"]}}, InputError, "Did you mean 'hare'"),
        ({"missing": {"predation": ["predation"], "growth": ["hare"]}}, InputError, "circular"),
        ({"missing": {"predation": ["growth"], "growth": ["predation"]}}, InputError, "circular"),
        ({"missing": {"predation": [], "growth": ["hare"]}}, InputError, "no inputs"),
        ({"missing": {"predation": ["hare", "hare"], "growth": ["hare"]}}, InputError, "each input once"),
        (
            {"missing": {**LOTKA_VOLTERRA["missing"], "unused": ["hare"]}},
            InputError,
            "'unused' in no equation",
        ),
        ({"equations": {"hare": "alpha*hare - predation"}}, InputError, "no equation for the state 'lynx'"),
        (
            {"equations": {**LOTKA_VOLTERRA["equations"], "fox": "0"}},
            InputError,
            "'fox', which is not a state",
        ),
        (
            {"equations": {**LOTKA_VOLTERRA["equations"], "hare": "alpha*hair - predation"}},
            InputError,
            "unknown name 'hair' at column 7",
        ),
    ],
)
def test_refuses_with_the_reason(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        options(**changes)


def test_refuses_a_hole_that_cancels_out() -> None:
    equations = {"hare": "alpha*hare + predation - predation", "lynx": "growth - delta*lynx"}
    with pytest.raises(InputError, match="'predation' cancelling out"):
        System.from_options(options(equations=equations))


def test_checking_options_takes_no_sympy_expression(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("sympy was used")

    monkeypatch.setattr(sympy, "Symbol", refuse)
    options()


def test_fill_substitutes_all_holes_at_once() -> None:
    system = System.from_text(
        states=["x", "y"],
        missing={"h": ["x", "y"], "g": ["x", "t"]},
        equations={"x": "h*(1 + g)", "y": "sin(h) - 2*g + h"},
    )
    names = ["x", "y", "t", "k"]
    laws = {
        "h": parse_expression("k*x*y", names, where="test"),
        "g": parse_expression("x + t", names, where="test"),
    }
    filled = system.fill(laws, (Parameter("k", 3.0),))
    expected = ["k*x*y*(1 + x + t)", "sin(k*x*y) - 2*(x + t) + k*x*y"]
    for text, equation in zip(expected, filled.equations.values(), strict=True):
        assert sympy.expand(parse_expression(text, names, where="test") - equation) == 0
    assert filled.missing == ()
    assert filled.parameters == (Parameter("k", 3.0),)
    assert system.missing_names == ("h", "g")


def test_fill_in_two_steps_is_fill_in_one() -> None:
    system, x, y = rich_system(), symbol("x"), symbol("y")
    laws = {"h": x * y, "g": x**2}
    step = system.fill({"h": laws["h"]})
    assert step.missing_names == ("g",)
    assert step.fill({"g": laws["g"]}).equations == system.fill(laws).equations


@pytest.mark.parametrize(
    ("laws", "parameters", "message"),
    [
        ({"h": symbol("t")}, (), "got t in the law of 'h'"),
        ({"h": symbol("a")}, (), "got a in the law of 'h'"),
        ({"h": sympy.Symbol("x")}, (), "got x in the law of 'h'"),
        ({"hh": symbol("x")}, (), "Did you mean"),
        ({"h": symbol("x")}, (Parameter("a", 1.0),), "names not in use"),
        ({"h": symbol("x")}, (Parameter("k", 1.0), Parameter("k", 1.0)), "names not in use"),
    ],
)
def test_fill_refuses(laws: dict[str, sympy.Expr], parameters: tuple[Parameter, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rich_system().fill(laws, parameters)


def test_fill_refuses_a_law_that_is_no_name() -> None:
    with pytest.raises(ValueError, match="holes"):
        rich_system().fill({"nothing": sympy.Integer(0)})


def test_torch_rhs_is_the_text() -> None:
    t, x, p, u = random_point(5)
    values = rich_system().torch_functions().rhs(t, x, p, u)
    a, b, h, g = p[:, 0], p[:, 1], u[:, 0], u[:, 1]
    first, second = x[:, 0], x[:, 1]
    expected = torch.stack(
        [
            a * first
            - h * first.sqrt() / (1 + second.abs())
            + t.sin() * g
            + (first / 5).tan() * second.atan()
            + (1 + first**2).log(),
            first**3 / 3
            - b * (-(second**2)).exp() * h**2
            + 1
            - 1e-3 / first**2
            + first**1.5 * g.cos()
            + torch.pi * t
            + 2**0.5 * (first.sqrt() - 3).abs()
            + second.tanh() / first.cosh()
            - second.sinh() / (1 + first).sqrt(),
        ],
        dim=-1,
    )
    torch.testing.assert_close(values, expected, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("batch", [(), (7,), (3, 4)])
def test_linearize_is_exact(batch: tuple[int, ...]) -> None:
    functions = rich_system().torch_functions()
    t, x, p, u = random_point(*batch)
    f, f_x, f_p, f_u = functions.linearize(t, x, p, u)
    torch.testing.assert_close(f, functions.rhs(t, x, p, u), rtol=1e-14, atol=1e-14)
    for argument, actual in ((1, f_x), (2, f_p), (3, f_u)):
        jacobian: Any = torch.func.jacrev(functions.rhs, argnums=argument)
        for _ in batch:
            jacobian = torch.func.vmap(jacobian)
        torch.testing.assert_close(actual, jacobian(t, x, p, u), rtol=1e-12, atol=1e-12)


def test_leading_dimensions_broadcast() -> None:
    functions = rich_system().torch_functions()
    t, _, _, _ = random_point(4, seed=1)
    _, x, _, _ = random_point(3, 1, seed=2)
    _, _, p, _ = random_point(seed=3)
    _, _, _, u = random_point(1, 4, seed=4)
    actual = functions.linearize(t, x, p, u)
    wide = (t.expand(3, 4), x.expand(3, 4, 2), p.expand(3, 4, 2), u.expand(3, 4, 2))
    for left, right in zip(actual, functions.linearize(*wide), strict=True):
        torch.testing.assert_close(left, right, rtol=0, atol=0)
    assert functions.rhs(t, x, p, u).shape == (3, 4, 2)


def test_constant_outputs_have_full_shape_and_no_part_in_gradients() -> None:
    system = System.from_options(options())
    t, x, p, u = random_point(6)
    x.requires_grad_()
    f, f_x, f_p, f_u = system.torch_functions().linearize(t, x, p, u)
    assert [tuple(item.shape) for item in (f, f_x, f_p, f_u)] == [(6, 2), (6, 2, 2), (6, 2, 2), (6, 2, 2)]
    expected = torch.tensor([[-1.0, 0.0], [0.0, 1.0]], dtype=torch.float64).expand(6, 2, 2)
    torch.testing.assert_close(f_u, expected, rtol=0, atol=0)
    f.sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, torch.stack([p[:, 0], -p[:, 1]], dim=-1))


def test_first_use_in_inference_mode_does_not_spoil_training() -> None:
    functions = System.from_options(options()).torch_functions()
    t, x, p, u = random_point(2)
    with torch.inference_mode():
        functions.linearize(t, x, p, u)
    x.requires_grad_()
    functions.linearize(t, x, p, u)[0].sum().backward()
    assert x.grad is not None


def test_a_system_without_parameters_and_holes() -> None:
    system = System.from_text(states=["x"], equations={"x": "-3"})
    x, nothing = torch.ones(5, 1, dtype=torch.float64), torch.zeros(0, dtype=torch.float64)
    f, f_x, f_p, f_u = system.torch_functions().linearize(torch.zeros(()), x, nothing)
    assert f.tolist() == [[-3.0]] * 5
    assert (f_x.shape, f_p.shape, f_u.shape) == ((5, 1, 1), (5, 1, 0), (5, 1, 0))
    assert f_x.abs().sum() == 0


def test_more_outputs_than_inputs() -> None:
    x = symbol("x")
    functions = TorchSystem([sympy.Integer(1), x, x**2, x**7], ["x"], ())
    points, nothing = torch.tensor([[2.0], [3.0]], dtype=torch.float64), torch.zeros(0, dtype=torch.float64)
    value, slope, _, _ = functions.linearize(torch.zeros(()), points, nothing)
    assert value.tolist() == [[1, 2, 4, 128], [1, 3, 9, 2187]]
    assert slope.squeeze(-1).tolist() == [[0, 1, 4, 448], [0, 1, 6, 5103]]


@pytest.mark.parametrize("sizes", [(3, 2, 2), (2, 1, 2), (2, 3, 1), (2, 2, None)])
def test_wrong_sizes_are_refused(sizes: tuple[int, int, int | None]) -> None:
    x, p = torch.ones(sizes[0]), torch.ones(sizes[1])
    u = None if sizes[2] is None else torch.ones(sizes[2])
    with pytest.raises(ValueError, match="expected"):
        rich_system().torch_functions().rhs(torch.zeros(()), x, p, u)


def test_states_may_have_names_of_the_generated_code() -> None:
    names = ["torch", "x0", "reciprocal", "integer_power", "cse"]
    system = System.from_text(
        states=names,
        equations={name: f"1/{name} + {names[0]}**5 + exp({name})" for name in names},
    )
    x = torch.linspace(0.5, 1.5, 5, dtype=torch.float64)
    f = system.torch_functions().rhs(torch.zeros(()), x, torch.zeros(0, dtype=torch.float64))
    torch.testing.assert_close(f, 1 / x + 0.5**5 + x.exp())


def test_training_callable_is_fast_enough() -> None:
    """Not a benchmark: a guard against a hundredfold slip, such as derivatives made at every call."""
    functions = System.from_options(options()).torch_functions()
    point = random_point(20, 32)
    functions.linearize(*point)
    started = time.perf_counter()
    for _ in range(50):
        functions.linearize(*point)
    assert (time.perf_counter() - started) / 50 < 5e-3


def filled_system() -> System:
    laws = {"h": symbol("x") * symbol("y"), "g": symbol("x") * symbol("t")}
    return rich_system().fill(laws)


def test_numpy_jacobian_is_that_of_finite_differences() -> None:
    functions = filled_system().numpy_functions()
    t, x, p = 0.3, np.array([0.8, -0.6]), np.array([0.5, 2.0])
    jacobian = functions.jacobian(t, x, p)
    for column in range(2):
        step = np.zeros(2)
        step[column] = 1e-6
        difference = (functions.rhs(t, x + step, p) - functions.rhs(t, x - step, p)) / 2e-6
        np.testing.assert_allclose(jacobian[:, column], difference, rtol=1e-7, atol=1e-8)


def test_numpy_and_torch_agree() -> None:
    system = filled_system()
    t, x, p, _ = random_point(9)
    nothing = torch.zeros(9, 0, dtype=torch.float64)
    f, f_x, _, _ = system.torch_functions().linearize(t, x, p, nothing)
    functions = system.numpy_functions()
    for row in range(9):
        point = (float(t[row]), x[row].numpy(), p[row].numpy())
        np.testing.assert_allclose(functions.rhs(*point), f[row], rtol=1e-13, atol=1e-13)
        np.testing.assert_allclose(functions.jacobian(*point), f_x[row], rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize(
    ("text", "value"), [("1/x", 0.0), ("log(x)", -1.0), ("exp(x)", 1e6), ("x**3", 1e200)]
)
def test_numpy_functions_say_nan_where_there_is_no_value(text: str, value: float) -> None:
    functions = System.from_text(states=["x"], equations={"x": text}).numpy_functions()
    assert not np.isfinite(functions.rhs(0.0, np.array([value]), np.zeros(0)))[0]


def test_numpy_functions_refuse_holes_and_wrong_sizes() -> None:
    with pytest.raises(ValueError, match=r"holes h, g, .*fill"):
        rich_system().numpy_functions()
    with pytest.raises(ValueError, match="got 3 states and parameters, expected 4"):
        filled_system().numpy_functions().rhs(0.0, np.ones(2), np.ones(1))


def test_functions_are_made_once() -> None:
    system = filled_system()
    assert system.torch_functions() is system.torch_functions()
    assert system.numpy_functions() is system.numpy_functions()
