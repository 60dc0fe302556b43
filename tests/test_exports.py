"""Exported laws: they are run wherever something can run them, not only looked at."""

from __future__ import annotations

import ctypes
import importlib.util
import json
import math
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from scipy.integrate import solve_ivp

from sciml_discover.errors import InputError
from sciml_discover.exports import EXPORTERS, export_law
from sciml_discover.exports.document import SCHEMA_FILE, law_schema
from sciml_discover.expressions import FUNCTIONS
from sciml_discover.result import DiscoveryResult, InitialState, ParameterEstimate, failed_result
from sciml_discover.system import System
from tests.artifacts import SmallRun

NASTY = {
    "end": "alpha*end/(1 + double**2) - 0.1*sqrt(end)*exp(-t)",
    "double": "abs(end - 1e-07)*pi/3 + 0.30000000000000004*tanh(double)**2 - log(end)/2 + 2",
}
"""Equations with names that languages reserve, every kind of function, and a float of 17 digits."""

EVERY_FUNCTION = {name: f"{name}(0.3 + x/7)" for name in FUNCTIONS}
POWERS = {
    "square": "x**2",
    "inverse": "2/x",
    "cube": "x**(-3)",
    "half": "3*x**0.5",
    "third": "x**(1/3)",
    "decimal": "x**0.123456",
    "minus": "-x**(-1/3)",
    "nested": "(x**2 + 1)**(3/2)/(2 - x)**2",
    "long": "10000000000000000000000*x/30000000000000000000000",
    "fraction": "x/3 - 2*x*pi/7",
    "zero": "0",
    "constant": "5",
    "time": "sin(2*t)*x",
}
"""Right-hand sides, each under the name of a state, in x."""

Rhs = Callable[[float, Sequence[float] | np.ndarray], np.ndarray]


@pytest.fixture
def result(run_artifacts: SmallRun) -> DiscoveryResult:
    return run_artifacts.result()


def with_equations(
    result: DiscoveryResult, equations: dict[str, str], initial: Sequence[float], **changes: object
) -> DiscoveryResult:
    """Return a result with other equations, whose holes nobody knows."""
    start = InitialState(time=0.0, values=dict(zip(equations, initial, strict=True)))
    update = {
        "equations_full": equations, "equations": equations, "known": {}, "missing": {}, "units": {},
        "initial_states": {"all": start}, **changes,
    }  # fmt: skip
    return result.model_copy(update=update)


def nasty(result: DiscoveryResult) -> DiscoveryResult:
    return with_equations(result, NASTY, (1.5, 0.7))


def table(result: DiscoveryResult) -> DiscoveryResult:
    """A result with every function and every kind of power on a right-hand side."""
    equations = {"x": "-x/2"} | {f"{name}_": text for name, text in {**EVERY_FUNCTION, **POWERS}.items()}
    return with_equations(result, equations, [1.3] * len(equations), parameters={})


def ours(result: DiscoveryResult) -> Rhs:
    """Return what the library itself makes of the equations."""
    values = {name: item.value for name, item in result.parameters.items() if item.value is not None}
    system = System.from_text(
        states=list(result.equations_full),
        equations=result.equations_full,
        parameters={name: value for name, value in values.items() if name in str(result.equations_full)},
    )
    functions, parameters = system.numpy_functions(), np.array([item.value for item in system.parameters])
    return lambda t, state: functions.rhs(t, np.array(state), parameters)


def python_module(text: str, folder: Path) -> Callable:
    file = folder / "law.py"
    file.write_text(text, encoding="utf-8")
    spec = importlib.util.spec_from_file_location("law", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.rhs


def c_library(text: str, folder: Path) -> ctypes.CDLL:
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("no C compiler")
    (folder / "law.c").write_text(text, encoding="utf-8")
    command = [
        compiler, "-std=c99", "-Wall", "-Wextra", "-Wno-error=unknown-pragmas", "-Werror", "-shared", "-fPIC",
        "law.c", "-lm", "-o", "law.so",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    library = ctypes.CDLL(str(folder / "law.so"))
    pointer = ctypes.POINTER(ctypes.c_double)
    for function in (library.rhs, library.jacobian):
        function.argtypes, function.restype = [ctypes.c_double, pointer, pointer], None
    return library


def called(function: Callable, size: int) -> Rhs:
    def rhs(t: float, state: Sequence[float] | np.ndarray) -> np.ndarray:
        answer = (ctypes.c_double * size)()
        function(t, (ctypes.c_double * len(state))(*state), answer)
        return np.array(answer)

    return rhs


def c_function(text: str, folder: Path) -> Rhs:
    size = int(re.findall(r"N_STATES = (\d+)", text)[0])
    return called(c_library(text, folder).rhs, size)


RUNNABLE = pytest.mark.parametrize(("to", "load"), [("python", python_module), ("c", c_function)])


@RUNNABLE
def test_exported_code_computes_the_law(
    to: str, load: Callable, result: DiscoveryResult, tmp_path: Path
) -> None:
    rhs, alpha = load(export_law(nasty(result), to), tmp_path), result.parameters["alpha"].value
    assert alpha is not None
    for t, end, double in ((0.0, 1.5, 0.7), (2.5, 0.3, -4.0)):
        by_hand = [
            alpha * end / (1 + double**2) - 0.1 * math.sqrt(end) * math.exp(-t),
            abs(end - 1e-7) * math.pi / 3
            + 0.30000000000000004 * math.tanh(double) ** 2
            - math.log(end) / 2
            + 2,
        ]
        assert list(rhs(t, [end, double])) == pytest.approx(by_hand, rel=1e-14)


@RUNNABLE
def test_every_function_and_power_means_the_same(
    to: str, load: Callable, result: DiscoveryResult, tmp_path: Path
) -> None:
    law = table(result)
    rhs, exact = load(export_law(law, to), tmp_path), ours(law)
    size = len(law.equations_full)
    for t, x in ((0.0, 1.3), (1.7, 0.2), (0.3, 40.0)):
        state = [x] * size
        np.testing.assert_allclose(rhs(t, state), exact(t, state), rtol=1e-13)


@RUNNABLE
def test_outside_its_domain_a_function_is_not_a_number(
    to: str, load: Callable, result: DiscoveryResult, tmp_path: Path
) -> None:
    equations = {
        "x": "sqrt(x)",
        "y": "log(x)",
        "z": "x**(1/3)",
        "w": "1/(x + 8)",
        "v": "exp(-200*x)",
        "u": "x**0.4",
    }
    rhs = load(export_law(with_equations(result, equations, [1.0] * 6, parameters={}), to), tmp_path)
    found = rhs(0.0, [-8.0] * 6)
    assert np.isnan(found[[0, 1, 2, 5]]).all()
    assert np.isinf(found[[3, 4]]).all()


def test_the_jacobian_in_c(result: DiscoveryResult, tmp_path: Path) -> None:
    law = table(result)
    size = len(law.equations_full)
    jacobian = called(c_library(export_law(law, "c"), tmp_path).jacobian, size * size)
    exact = ours(law)
    for t, x in ((0.4, 1.3), (1.7, 0.9)):
        state, step = np.full(size, x), 1e-6
        slopes = [
            (exact(t, state + step * unit) - exact(t, state - step * unit)) / (2 * step)
            for unit in np.eye(size)
        ]
        found = jacobian(t, state.tolist()).reshape(size, size)
        np.testing.assert_allclose(found, np.array(slopes).T, rtol=1e-6, atol=1e-8)


def test_the_jacobian_in_c_of_magnitudes_of_what_may_be_complex(
    result: DiscoveryResult, tmp_path: Path
) -> None:
    equations = {
        "x": "-0.3*abs(x*log(y))",
        "y": "abs(x - y**1.7)",
        "z": "abs(sqrt(x) - abs(z - 2*y))*z/abs(z)",
    }
    law = with_equations(result, equations, (1.0, 2.0, 3.0), parameters={})
    jacobian = called(c_library(export_law(law, "c"), tmp_path).jacobian, 9)
    exact, step = ours(law), 1e-6
    for state in ([1.3, 0.4, 2.0], [2.5, 3.0, -0.7]):
        slopes = [
            (exact(0.0, state + step * unit) - exact(0.0, state - step * unit)) / (2 * step)
            for unit in np.eye(3)
        ]
        np.testing.assert_allclose(
            jacobian(0.0, state).reshape(3, 3), np.array(slopes).T, rtol=1e-6, atol=1e-8
        )


@pytest.mark.parametrize("to", EXPORTERS)
def test_a_law_may_be_longer_than_what_somebody_types(to: str, result: DiscoveryResult) -> None:
    long = " + ".join(f"0.12345678901234567*x**{k % 7}*y**{k // 7}" for k in range(70))
    assert len(long) > 2000
    assert export_law(with_equations(result, {"x": long, "y": "-y"}, (1.0, 2.0), parameters={}), to)


def test_the_exported_script_solves_the_law(result: DiscoveryResult, tmp_path: Path) -> None:
    file = tmp_path / "law.py"
    file.write_text(export_law(result, "python"), encoding="utf-8")
    # Isolated: the script must not need this library.
    done = subprocess.run(
        [sys.executable, "-I", file], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "t hare lynx"
    rows = np.array([[float(word) for word in line.split()] for line in lines[1:]])
    initial = list(result.initial_states["all"].values.values())
    again = solve_ivp(ours(result), (0.0, 5.0), initial, t_eval=rows[:, 0], rtol=1e-10, atol=1e-12)
    assert rows[-1, 0] == 5.0
    np.testing.assert_allclose(rows[:, 1:], again.y.T, rtol=1e-5)


def test_an_alternative_is_exported_by_its_number(result: DiscoveryResult, tmp_path: Path) -> None:
    text = export_law(result, "python", 1)
    assert "# Alternative 1 to the law found by sciml_discover" in text
    assert "3.8 behind it in the criterion" in text
    found = python_module(text, tmp_path)(0.0, [2.0, 3.0])
    rival = result.alternatives[0].law
    assert rival is not None
    assert (
        found.tolist()
        == ours(result.model_copy(update={"equations_full": rival.equations_full}))(0.0, [2.0, 3.0]).tolist()
    )
    assert "lynx}^{2}" in export_law(result, "latex", 1)
    document = json.loads(export_law(result, "json", 1))
    assert (document["law"], document["equations_full"]) == (1, rival.equations_full)
    for number in (2, -1):
        with pytest.raises(InputError, match=f"law {number}"):
            export_law(result, "python", number)
    old = result.alternatives[0].model_copy(update={"law": None})
    with pytest.raises(InputError, match="without its equations"):
        export_law(result.model_copy(update={"alternatives": (old,)}), "python", 1)


def test_no_digit_is_lost(result: DiscoveryResult) -> None:
    for to in ("python", "julia", "c", "json"):
        text = export_law(result, to)
        for number in ("0.8996123456789012", "0.8007654321098765", "1.2996666666666667"):
            assert number in text, to
        assert "0.30000000000000004" in export_law(nasty(result), to), to


def test_julia(result: DiscoveryResult) -> None:
    text = export_law(nasty(result), "julia")
    assert "function rhs!(du, u, p, t)" in text
    assert "end_ = u[1]" in text
    assert "double = u[2]" in text
    assert "double^2" in text
    assert "abs(end_ - 1e-07)" in text
    assert "**" not in text
    assert "ODEProblem(rhs!, [1.5, 0.7], (0.0, 5.0))" in text
    assert "abstol = 1.5e-10" in text


def test_julia_has_a_name_for_every_function(result: DiscoveryResult) -> None:
    text = export_law(table(result), "julia")
    code = text.split("function rhs!")[1].split("return nothing")[0]
    used = set(re.findall(r"\b([a-zA-Z_]\w*)\(", code))
    # These are functions of Julia's Base, under the same names.
    assert used <= set(FUNCTIONS)
    assert used >= set(FUNCTIONS) - {"sqrt"}
    assert "sqrt(" in code
    assert code.count("(") == code.count(")")
    longest = [digits for digits in re.findall(r"(?<![\d.])\d{11,}(?![\d.e])", code)]
    assert not longest, "integers that Julia would read as Int128 or BigInt"


def driven(result: DiscoveryResult) -> DiscoveryResult:
    """The nasty law with two inputs, one of which bears a name that every language reserves."""
    equations = {**NASTY, "end": NASTY["end"] + " + control*feed**2"}
    return with_equations(result, equations, (1.5, 0.7), controls=("feed", "control"))


def test_exported_python_takes_the_controls(result: DiscoveryResult, tmp_path: Path) -> None:
    text = export_law(driven(result), "python")
    rhs: Callable = python_module(text, tmp_path)
    exact = ours(nasty(result))
    assert rhs(2.5, [0.3, -4.0], [3.0, 0.5]) == pytest.approx(
        exact(2.5, [0.3, -4.0]) + np.array([4.5, 0.0]), rel=1e-14
    )
    assert 'CONTROLS = ("feed", "control")' in text.replace("'", '"')
    solve = rhs.__globals__["solve"]
    solution = solve(lambda t: (math.sin(t), 0.5), t_eval=[0.0, 1.0])

    def by_scipy(t: float, state: list[float]) -> np.ndarray:
        return exact(t, state) + np.array([0.5 * math.sin(t) ** 2, 0.0])

    again = solve_ivp(by_scipy, (0.0, 1.0), [1.5, 0.7], rtol=1e-9, atol=1e-11)
    assert solution.y[:, -1].tolist() == pytest.approx(again.y[:, -1].tolist(), rel=1e-5)


def test_exported_c_takes_the_controls(result: DiscoveryResult, tmp_path: Path) -> None:
    library = c_library(export_law(driven(result), "c"), tmp_path)  # compiles without a warning
    vector = ctypes.c_double * 2
    derivative = vector()
    library["rhs"](ctypes.c_double(2.5), vector(0.3, -4.0), vector(3.0, 0.5), derivative)
    exact = ours(nasty(result))(2.5, [0.3, -4.0])
    assert list(derivative) == pytest.approx(exact + np.array([4.5, 0.0]), rel=1e-14)


def test_julia_and_the_others_name_the_controls(result: DiscoveryResult) -> None:
    julia = export_law(driven(result), "julia")
    assert "    control = p(t)\n    end_ = u[1]\n    double = u[2]\n    feed = control[1]\n" in julia
    assert "control_ = control[2]" in julia
    assert "problem(inputs) = ODEProblem(rhs!, [1.5, 0.7], (0.0, 5.0), inputs)" in julia
    assert "solution(inputs) = solve(problem(inputs), AutoTsit5" in julia
    assert r"\mathrm{feed}^{2}" in export_law(driven(result), "latex")
    assert json.loads(export_law(driven(result), "json"))["controls"] == ["feed", "control"]


@pytest.mark.parametrize(
    "name",
    ["M_PI", "linux", "unix", "NAN", "y0", "j1", "template", "errno", "numpy", "state", "derivative", "matrix", "du"],
)  # fmt: skip
def test_names_that_mean_something_in_a_language(name: str, result: DiscoveryResult, tmp_path: Path) -> None:
    law = with_equations(result, {name: f"2*{name} + other_", "other_": "pi*1.0"}, (1.0, 2.0), parameters={})
    for to, load in (("python", python_module), ("c", c_function)):
        (tmp_path / to).mkdir()
        assert load(export_law(law, to), tmp_path / to)(0.0, [3.0, 4.0]) == pytest.approx([10.0, math.pi]), to


def test_a_name_moves_out_of_the_way_of_the_others(result: DiscoveryResult, tmp_path: Path) -> None:
    equations = {"state": "state - state_", "state_": "2*state__", "state__": "state"}
    rhs = python_module(
        export_law(with_equations(result, equations, (1.0, 2.0, 3.0), parameters={}), "python"), tmp_path
    )
    assert rhs(0.0, [1.0, 2.0, 3.0]).tolist() == [-1.0, 6.0, 1.0]


@pytest.mark.parametrize("controls", [("end",), ("alpha",), ("feed", "feed"), ("import os",)])
def test_controls_that_are_something_else_are_refused(
    controls: tuple[str, ...], result: DiscoveryResult
) -> None:
    hostile = nasty(result).model_copy(update={"controls": controls})
    for to in EXPORTERS:
        with pytest.raises(InputError):
            export_law(hostile, to)


def test_latex_has_every_number_with_its_error(result: DiscoveryResult) -> None:
    text = export_law(result, "latex")
    assert (
        r"\frac{d \mathrm{hare}}{dt} &= \alpha \, \mathrm{hare} - "
        r"\left(0.8996 \pm 0.0012\right) \, \mathrm{hare} \, \mathrm{lynx} \\"
    ) in text
    assert r"\alpha &= 1.2997 \pm 0.0021\;\text{1/year} \\" in text
    assert r"\delta &= 1.8\;\text{1/year}" in text
    assert text.count(r"\begin{align}") == text.count(r"\end{align}") == 1
    balanced(text)


def balanced(text: str) -> None:
    """Check what can be checked of LaTeX without running it."""
    code = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
    bare = code.replace(r"\{", "").replace(r"\}", "")
    assert bare.count("{") == bare.count("}")
    assert bare.count(r"\left") == bare.count(r"\right")
    assert not re.search(r"(?<!\\)[#$%~]", bare)
    assert not re.search(r"[^\x20-\x7e\n]", bare), "a character that needs a font"
    for row in bare.split(r"\begin{align}")[1].split(r"\end{align}")[0].split(r"\\"):
        assert len(re.findall(r"(?<!\\)&", row)) == 1, row
    assert not re.search(r"_[^{\\]", re.sub(r"\\_", "", bare)), "an index without braces"


def test_latex_has_no_letters_of_units_that_its_fonts_lack(result: DiscoveryResult) -> None:
    unit = "μmol·Ω/(µL×s⋅m)"
    delta = result.parameters["delta"].model_copy(update={"unit": unit})
    text = export_law(
        result.model_copy(update={"parameters": {**result.parameters, "delta": delta}}), "latex"
    )
    assert r"\text{$\mu$mol$\cdot$$\Omega$/($\mu$L$\times$s$\cdot$m)}" in text
    assert text.split(r"\begin{align}")[1].isascii()


def test_latex_of_small_negative_and_fixed_numbers(result: DiscoveryResult) -> None:
    (term,) = result.missing["predation"].terms
    inner = ParameterEstimate(
        value=2.5, stderr=0.1, interval95=None, unit="thousand", fixed=False, identifiable=True
    )
    changed = term.model_copy(
        update={
            "term": "hare/(K_half + hare)",
            "coefficient": -1.234e-7,
            "stderr": 2e-9,
            "parameters": {"K_half": inner},
        }
    )
    missing = {
        **result.missing,
        "predation": result.missing["predation"].model_copy(update={"terms": (changed,)}),
    }
    delta = result.parameters["delta"].model_copy(update={"value": 1.5e-9, "unit": "50%_{x}\\input"})
    changes = {"missing": missing, "parameters": {**result.parameters, "delta": delta}}
    text = export_law(result.model_copy(update=changes), "latex")
    balanced(text)
    assert r"\left((1.234 \pm 0.020) \times 10^{-7}\right)" in text
    assert r"\left(2.50 \pm 0.10\right) + \mathrm{hare}" in text
    assert r"\delta &= 1.5 \times 10^{-9}" in text
    assert r"\text{50\%\_\{x\}/input}" in text


def test_numbers_in_exponents(result: DiscoveryResult, tmp_path: Path) -> None:
    def number(value: float, error: float) -> ParameterEstimate:
        return ParameterEstimate(
            value=value, stderr=error, interval95=None, unit=None, fixed=False, identifiable=True
        )

    (term,) = result.missing["predation"].terms
    inner = {"K": number(2.5, 0.1), "n": number(2.013, 0.01)}
    changed = term.model_copy(update={"term": "hare**n/(K**n + hare**n)", "parameters": inner})
    predation = result.missing["predation"].model_copy(update={"terms": (changed,)})
    hill = "hare**2.013/(2.5**2.013 + hare**2.013)"
    law = result.model_copy(
        update={
            "missing": {**result.missing, "predation": predation},
            "equations_full": {"hare": f"hare - 0.9*{hill}", "lynx": "-lynx"},
        }
    )
    assert r"\mathrm{hare}^{\left(2.013 \pm 0.010\right)}" in export_law(law, "latex")
    balanced(export_law(law, "latex"))
    assert "# n in hare**n/(K**n + hare**n): 2.013 (standard error 0.01)" in export_law(law, "julia")
    for to, load in (("python", python_module), ("c", c_function)):
        (tmp_path / to).mkdir()
        found = load(export_law(law, to), tmp_path / to)(0.0, [2.0, 3.0])
        assert found[0] == pytest.approx(2.0 - 0.9 * 2.0**2.013 / (2.5**2.013 + 2.0**2.013), rel=1e-13)


def test_latex_escapes_names(result: DiscoveryResult) -> None:
    equations = {"a_b_c": "a_b_c*beta_max/2", "foo_": "log(foo_)*abs(a_b_c)**0.5 + tanh(a_b_c)"}
    beta = result.parameters["alpha"]
    law = with_equations(result, equations, (1.0, 2.0), parameters={"beta_max": beta}, known=equations)
    text = export_law(law, "latex")
    balanced(text)
    assert r"\beta_{max}" in text
    balanced(export_law(table(result), "latex"))


def test_json_follows_its_schema_and_reads_back(result: DiscoveryResult) -> None:
    schema = json.loads(SCHEMA_FILE.read_text(encoding="utf-8"))
    assert schema == law_schema(), "run write_law_schema()"
    for law in (result, nasty(result), driven(result), table(result)):
        content = json.loads(export_law(law, "json"))
        jsonschema.validate(content, schema)
        assert content["equations_full"] == law.equations_full
    content = json.loads(export_law(result, "json"))
    assert "training" not in content
    assert content["covariance"]["names"] == ["alpha", "predation: hare*lynx", "growth: hare*lynx"]
    assert content["units"]["hare"] == "thousand"
    assert content["missing"]["growth"]["terms"][0]["unit"] == "1/(thousand*year)"
    # The known equations with the terms in their holes are the equations.
    system = System.from_text(
        states=list(content["known"]),
        parameters={name: item["value"] for name, item in content["parameters"].items()},
        missing={hole: list(content["known"]) for hole in content["missing"]},
        equations=content["known"],
    )
    from sciml_discover.expressions import parse_expression

    laws = {
        hole: parse_expression(item["expression_full"], system.state_names, where="json")
        for hole, item in content["missing"].items()
    }
    filled = system.fill(laws)
    found = filled.numpy_functions().rhs(
        0.0, np.array([2.0, 3.0]), np.array([item.value for item in system.parameters])
    )
    np.testing.assert_allclose(found, ours(result)(0.0, [2.0, 3.0]), rtol=1e-14)


def test_what_a_reader_must_know_is_in_the_comments(result: DiscoveryResult) -> None:
    for to, mark in (("python", "#"), ("julia", "#"), ("c", "//"), ("latex", "%")):
        text = export_law(result, to)
        assert (
            f"{mark} Units: hare in thousand, lynx in thousand, t in year, predation in thousand/year" in text
        )
        assert f"{mark} alpha: 1.2996666666666667 1/year (standard error 0.0021)" in text
        assert f"{mark} delta: 1.8 1/year (fixed)" in text
        line = (
            "coefficient of hare*lynx in growth: 0.8007654321098765 1/(thousand*year) (standard error 0.0011)"
        )
        assert f"{mark} {line}" in text


HOSTILE = [
    "a\nimport os\n", 'a """ b', "a\r\nevil()\u2028x", "ends in \\", "a ??/", "#= */", "/* x */ \x0b\x0c\x85evil",
    "\u202e reversed", "*/ int x;", "\\end{align}", "${HOME} `id`", "=# end", "%}",
]  # fmt: skip


@pytest.mark.parametrize("to", EXPORTERS)
@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_texts_stay_in_their_comments(
    to: str, text: str, result: DiscoveryResult, tmp_path: Path
) -> None:
    def exported(free: str) -> str:
        (term,) = result.missing["growth"].terms
        growth = result.missing["growth"].model_copy(
            update={"terms": (term.model_copy(update={"unit": free}),)}
        )
        update = {"title": free, "units": {"hare": free}, "missing": {**result.missing, "growth": growth}}
        return export_law(result.model_copy(update=update), to)

    plain, hostile = exported("plain"), exported(text)
    if to == "json":
        content = json.loads(hostile)
        assert (content["title"], content["units"]["hare"]) == (text, text)
        return
    mark = {"python": "# ", "julia": "# ", "c": "// ", "latex": "% "}[to]
    lines = hostile.splitlines()
    comments = [line for line in lines if line.startswith(mark) and "standard error" not in line]
    assert len(lines) == len(plain.splitlines())
    different = [line for line, same in zip(lines, plain.splitlines(), strict=True) if line != same]
    assert different
    assert all(line.startswith(mark) for line in different)
    assert not any(line.endswith(("\\", "??/")) for line in comments)
    assert all(line.isprintable() for line in lines)
    if to == "python":
        python_module(hostile, tmp_path)
    if to == "c":
        c_function(hostile, tmp_path)
    if to == "latex":
        balanced(hostile)


@pytest.mark.parametrize("to", EXPORTERS)
@pytest.mark.parametrize(
    "equations",
    [
        {"x": "__import__('os').system('true')"},
        {"x": "x.real"},
        {"x": "y"},
        {"x = 1; import os; y": "1.0"},
        {"sin": "1.0"},
    ],
)
def test_a_hostile_result_is_refused(to: str, equations: dict[str, str], result: DiscoveryResult) -> None:
    with pytest.raises(InputError):
        export_law(with_equations(result, equations, [1.0]), to)


@pytest.mark.parametrize("to", EXPORTERS)
@pytest.mark.parametrize(
    "changes",
    [
        {"term": "hare.real"},
        {"term": "evil(hare)"},
        {"parameters": {"a; b": None}},
        {"parameters": {"K": None}},
    ],
)
def test_a_hostile_term_is_refused(to: str, changes: dict, result: DiscoveryResult) -> None:
    unknown = ParameterEstimate(
        value=None, stderr=None, interval95=None, unit=None, fixed=False, identifiable=False
    )
    if "parameters" in changes:
        changes = {"parameters": dict.fromkeys(changes["parameters"], unknown)}
    (term,) = result.missing["growth"].terms
    growth = result.missing["growth"].model_copy(update={"terms": (term.model_copy(update=changes),)})
    with pytest.raises(InputError):
        export_law(result.model_copy(update={"missing": {**result.missing, "growth": growth}}), to)


def test_what_cannot_be_exported_is_refused(result: DiscoveryResult) -> None:
    with pytest.raises(InputError, match="Did you mean 'python'"):
        export_law(result, "pyhton")
    without_start = result.model_copy(update={"initial_states": {}})
    with pytest.raises(InputError, match="initial state"):
        export_law(without_start, "python")
    assert export_law(without_start, "latex")
    failed = failed_result(
        run_id="x", created="", case="x", title="x", seed=0, device="cpu", stage="train", message="diverged",
        seconds={}, cached={}, versions={},
    )  # fmt: skip
    with pytest.raises(InputError, match="without a law"):
        export_law(failed, "python")
