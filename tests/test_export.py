"""Exported laws: they are run, not only looked at."""

from __future__ import annotations

import ctypes
import importlib.util
import json
import math
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from scipy.integrate import solve_ivp

from sciml_discover.errors import InputError
from sciml_discover.export import FORMATS, export_law
from sciml_discover.result import DiscoveryResult, InitialState, failed_result
from tests.artifacts import SmallRun

NASTY = {
    "end": "alpha*end/(1 + double**2) - 0.1*sqrt(end)*exp(-t)",
    "double": "abs(end - 1e-07)*pi/3 + 0.30000000000000004*tanh(double)**2 - log(end)/2 + 2",
}
"""Equations with names that languages reserve, every kind of function, and a float of 17 digits."""


@pytest.fixture
def result(run_artifacts: SmallRun) -> DiscoveryResult:
    return run_artifacts.result()


def nasty(result: DiscoveryResult) -> DiscoveryResult:
    initial = InitialState(time=0.0, values={"end": 1.5, "double": 0.7})
    return result.model_copy(
        update={"equations_full": NASTY, "equations": NASTY, "initial_states": {"all": initial}}
    )


def by_hand(result: DiscoveryResult, t: float, end: float, double: float) -> list[float]:
    alpha = result.parameters["alpha"].value
    assert alpha is not None
    return [
        alpha * end / (1 + double**2) - 0.1 * math.sqrt(end) * math.exp(-t),
        abs(end - 1e-7) * math.pi / 3 + 0.30000000000000004 * math.tanh(double) ** 2 - math.log(end) / 2 + 2,
    ]


def python_module(text: str, folder: Path) -> Callable[[float, list[float]], list[float]]:
    file = folder / "law.py"
    file.write_text(text, encoding="utf-8")
    spec = importlib.util.spec_from_file_location("law", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.rhs


def c_function(text: str, folder: Path) -> Callable[[float, list[float]], list[float]]:
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
    function = ctypes.CDLL(str(folder / "law.so")).rhs
    function.argtypes = [ctypes.c_double, ctypes.POINTER(ctypes.c_double), ctypes.POINTER(ctypes.c_double)]
    function.restype = None

    def rhs(t: float, state: list[float]) -> list[float]:
        derivative = (ctypes.c_double * 2)()
        function(t, (ctypes.c_double * 2)(*state), derivative)
        return list(derivative)

    return rhs


@pytest.mark.parametrize(("format", "load"), [("python", python_module), ("c", c_function)])
def test_exported_code_computes_the_law(
    format: str, load: Callable, result: DiscoveryResult, tmp_path: Path
) -> None:
    rhs = load(export_law(nasty(result), format), tmp_path)
    for t, end, double in ((0.0, 1.5, 0.7), (2.5, 0.3, -4.0)):
        assert rhs(t, [end, double]) == pytest.approx(by_hand(result, t, end, double), rel=1e-14)


def test_exported_python_solves_the_law(result: DiscoveryResult, tmp_path: Path) -> None:
    text = export_law(result, "python")
    file = tmp_path / "law.py"
    file.write_text(text, encoding="utf-8")
    done = subprocess.run([sys.executable, file], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "t hare lynx"
    time, *state = map(float, lines[-1].split())
    rhs = python_module(text, tmp_path)
    initial = list(result.initial_states["all"].values.values())
    again = solve_ivp(rhs, (0.0, 5.0), initial, rtol=1e-10, atol=1e-12)
    assert time == 5.0
    assert state == pytest.approx(again.y[:, -1].tolist(), rel=1e-5)


def test_no_digit_is_lost(result: DiscoveryResult) -> None:
    for format in ("python", "julia", "c", "json"):
        text = export_law(result, format)
        for number in ("0.8996123456789012", "0.8007654321098765", "1.2996666666666667"):
            assert number in text, format
        assert "0.30000000000000004" in export_law(nasty(result), format), format


def test_julia(result: DiscoveryResult) -> None:
    text = export_law(nasty(result), "julia")
    assert "function rhs!(du, u, p, t)" in text
    assert "end_ = u[1]" in text
    assert "double = u[2]" in text
    assert "double^2" in text
    assert "abs(end_ - 1e-07)" in text
    assert "**" not in text
    assert "ODEProblem(rhs!, [1.5, 0.7], (0.0, 5.0))" in text


def driven(result: DiscoveryResult) -> DiscoveryResult:
    """The nasty law with two inputs, one of which bears a name that every language reserves."""
    equations = {**NASTY, "end": NASTY["end"] + " + control*feed**2"}
    changes = {"equations_full": equations, "equations": equations, "controls": ("feed", "control")}
    return nasty(result).model_copy(update=changes)


def test_exported_python_takes_the_controls(result: DiscoveryResult, tmp_path: Path) -> None:
    text = export_law(driven(result), "python")
    rhs: Callable = python_module(text, tmp_path)
    exact = by_hand(result, 2.5, 0.3, -4.0)
    found = rhs(2.5, [0.3, -4.0], [3.0, 0.5])
    assert found == pytest.approx([exact[0] + 0.5 * 9.0, exact[1]], rel=1e-14)
    assert "CONTROLS = ('feed', 'control')" in text
    solve = rhs.__globals__["solve"]
    solution = solve(lambda t: (math.sin(t), 0.5), t_eval=[0.0, 1.0])

    def by_scipy(t: float, state: list[float]) -> list[float]:
        first, second = by_hand(result, t, *state)
        return [first + 0.5 * math.sin(t) ** 2, second]

    again = solve_ivp(by_scipy, (0.0, 1.0), [1.5, 0.7], rtol=1e-9, atol=1e-11)
    assert solution.y[:, -1].tolist() == pytest.approx(again.y[:, -1].tolist(), rel=1e-5)


def test_exported_c_takes_the_controls(result: DiscoveryResult, tmp_path: Path) -> None:
    c_function(export_law(driven(result), "c"), tmp_path)  # compiles without a warning
    function = ctypes.CDLL(str(tmp_path / "law.so")).rhs
    vector = ctypes.c_double * 2
    derivative = vector()
    function(ctypes.c_double(2.5), vector(0.3, -4.0), vector(3.0, 0.5), derivative)
    exact = by_hand(result, 2.5, 0.3, -4.0)
    assert list(derivative) == pytest.approx([exact[0] + 0.5 * 9.0, exact[1]], rel=1e-14)


def test_julia_and_the_others_name_the_controls(result: DiscoveryResult) -> None:
    julia = export_law(driven(result), "julia")
    assert "    control = p(t)\n    end_ = u[1]\n    double = u[2]\n    feed = control[1]\n" in julia
    assert "control_ = control[2]" in julia
    assert "problem(inputs) = ODEProblem(rhs!, [1.5, 0.7], (0.0, 5.0), inputs)" in julia
    assert "solution(inputs) = solve(problem(inputs), AutoTsit5" in julia
    assert r"\mathrm{feed}^{2}" in export_law(driven(result), "latex")
    assert json.loads(export_law(driven(result), "json"))["controls"] == ["feed", "control"]


@pytest.mark.parametrize("controls", [("end",), ("alpha",), ("feed", "feed"), ("import os",)])
def test_controls_that_are_something_else_are_refused(
    controls: tuple[str, ...], result: DiscoveryResult
) -> None:
    hostile = nasty(result).model_copy(update={"controls": controls})
    for format in FORMATS:
        with pytest.raises(InputError):
            export_law(hostile, format)


def test_latex_has_readable_digits(result: DiscoveryResult) -> None:
    text = export_law(result, "latex")
    assert (
        r"\frac{d \mathrm{hare}}{dt} &= 1.2997 \, \mathrm{hare} - 0.8996 \, \mathrm{hare} \, \mathrm{lynx} \\"
        in text
    )
    assert text.count(r"\begin{aligned}") == text.count(r"\end{aligned}") == 1


def test_json_holds_the_law_alone(result: DiscoveryResult) -> None:
    content = json.loads(export_law(result, "json"))
    assert content["equations_full"] == result.equations_full
    assert "training" not in content


def test_what_a_reader_must_know_is_in_the_comments(result: DiscoveryResult) -> None:
    for format, mark in (("python", "#"), ("julia", "#"), ("c", "//"), ("latex", "%")):
        text = export_law(result, format)
        assert f"{mark} alpha: 1.2996666666666667 1/year (standard error 0.0021)" in text
        assert f"{mark} delta: 1.8 1/year (fixed)" in text
        assert (
            f"{mark} coefficient of hare*lynx in growth: 0.8007654321098765 (standard error 0.0011)" in text
        )


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(
    "title", ["a\nimport os\n", 'a """ b', "a\r\nevil()\u2028x", "ends in \\", "a ??/", "#= */"]
)
def test_a_hostile_title_stays_in_its_comment(
    format: str, title: str, result: DiscoveryResult, tmp_path: Path
) -> None:
    plain = export_law(result.model_copy(update={"title": "plain"}), format)
    text = export_law(result.model_copy(update={"title": title}), format)
    if format == "json":
        assert json.loads(text)["title"] == title
        return
    assert text.splitlines()[1:] == plain.splitlines()[1:]
    assert not text.splitlines()[0].endswith(("\\", "??/"))
    if format == "python":
        python_module(text, tmp_path)


@pytest.mark.parametrize("format", FORMATS)
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
def test_a_hostile_result_is_refused(format: str, equations: dict[str, str], result: DiscoveryResult) -> None:
    hostile = result.model_copy(update={"equations_full": equations, "equations": equations})
    with pytest.raises(InputError):
        export_law(hostile, format)


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
