"""Units of candidate terms: what no coefficient could put right is refused where it was asked for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from sciml_discover.errors import InputError
from sciml_discover.experiment import Experiment, LoadedExperiment
from sciml_discover.runs import discover
from sciml_discover.stages import Bench
from tests.fakes import install, write_experiment

TRANSCENDENTAL = ("sin", "cos", "tan", "atan", "sinh", "cosh", "tanh", "exp", "log")


def bench(library: Mapping[str, Any] = {}, *, angle: str = "1", **holes: Mapping[str, Any]) -> Bench:
    """Return a pendulum of length x at the angle phi: pull depends on both, drag on what is derived, push on t."""
    document = {
        "title": "units",
        "data": {"files": ["rows.csv"]},
        "system": {
            "time_unit": "s",
            "states": {"x": {"unit": "m"}, "v": {}, "phi": {"unit": angle}},
            "missing": {"pull": ("x", "phi"), "drag": ("v",), "push": ("t",)},
            "equations": {"x": "v", "v": "-pull - drag", "phi": "push"},
        },
        "regress": {"library": {"polynomial_degree": 1, **library}, "holes": holes},
    }
    return Bench(LoadedExperiment.from_experiment(Experiment.model_validate(document)))


def refused(made: Bench, says: str) -> None:
    with pytest.raises(InputError, match="^" + re.escape(says)):
        _ = made.units


@pytest.mark.parametrize("function", TRANSCENDENTAL)
def test_a_transcendental_template_of_a_length_is_refused(function: str) -> None:
    refused(
        bench({"templates": (f"{function}(input)",)}),
        f"[regress.library] templates: found '{function}(x)', where 'x' is in m;",
    )


@pytest.mark.parametrize("function", TRANSCENDENTAL)
def test_so_it_is_in_the_library_of_a_single_hole(function: str) -> None:
    own = {"library": {"templates": (f"2*{function}(input**2)",)}}
    refused(
        bench(pull=own),
        f"[regress.holes.pull.library] templates: found '{function}(x**2)', where 'x**2' is in m^2;",
    )


def test_the_message_names_the_key_of_the_library_of_the_hole() -> None:
    refused(
        bench(drag={"library": {"functions": ("exp",)}}),
        "[regress.holes.drag.library] functions: found 'exp(v)', where 'v' is in m/s;",
    )
    refused(
        bench(pull={"library": {"extra": ("phi*log(x)",)}}),
        "[regress.holes.pull.library] extra: found 'log(x)', where 'x' is in m;",
    )
    refused(
        bench(push={"library": {"functions": ("cos",)}}),
        "[regress.holes.push.library] functions: found 'cos(t)', where 't' is in s;",
    )
    refused(
        bench(pull={"library": {"templates": ("1/(1 + input)",)}}),
        "[regress.holes.pull.library] templates: found '1' in 1 beside 'x' in m;",
    )


@pytest.mark.parametrize(
    ("angle", "says"), [("m", "Divide it by a parameter"), ("deg", "state angles in radian")]
)
def test_what_is_said_to_do_fits_what_is_wrong(angle: str, says: str) -> None:
    own = {"library": {"extra": ("tanh(phi)",)}}
    with pytest.raises(InputError, match=rf"^\[regress\.holes\.pull\.library\] extra: .*in {angle};.*{says}"):
        _ = bench(angle=angle, pull=own).units


def test_a_parameter_inside_takes_the_unit_that_makes_a_plain_number() -> None:
    made = bench(
        {"templates": ("exp(-k*input)", "sin(input/K)", "log(input/K)"), "inner": {"k": {}, "K": {}}}
    )
    assert made.units is not None
    table = made.units.table(
        {"pull": ["exp(-k*x)", "exp(-k*phi)"], "drag": ["sin(v/K)"], "push": ["log(t/K)"]}
    )
    assert table.of_term("pull", "exp(-k*x)").inner == {"k": "1/m"}
    assert table.of_term("pull", "exp(-k*phi)").inner == {"k": "1"}
    assert table.of_term("drag", "sin(v/K)").inner == {"K": "m/s"}
    assert table.of_term("push", "log(t/K)").inner == {"K": "s"}
    assert table.of_term("pull", "exp(-k*x)").coefficient == "m/s^2"
    assert table.of_term("push", "log(t/K)").coefficient == "1/s"


@pytest.mark.parametrize("argument", ["input + K", "K*input + input", "(input + K)**2/K"])
def test_a_parameter_inside_that_cannot_help_does_not(argument: str) -> None:
    wrong = {"templates": (f"exp({argument})",), "inner": {"K": {}}}
    told = re.escape(argument.replace("input", "x"))
    for made, where in (
        (bench(wrong), "[regress.library]"),
        (bench(pull={"library": wrong}), "[regress.holes"),
    ):
        with pytest.raises(
            InputError, match=rf"^{re.escape(where)}.* templates: found .*where '{told}' is in m"
        ):
            _ = made.units


def test_a_template_of_two_inputs_is_checked_for_every_pair() -> None:
    refused(
        bench({"templates": ("exp(input/other)",)}),
        "[regress.library] templates: found 'exp(x/phi)', where 'x/phi' is in m;",
    )
    refused(
        bench({"templates": ("other*cos(input)",)}),
        "[regress.library] templates: found 'cos(x)', where 'x' is in m;",
    )
    # Of one input there is one pair, and a ratio to itself is a plain number.
    alone = {"templates": ("exp(input/other)",)}
    assert bench(drag={"library": alone}, push={"library": alone}).units is not None


@pytest.mark.parametrize("template", ["1/(input - other)", "input/other"])
def test_a_pair_that_is_no_term_is_not_asked_for(template: str) -> None:
    own = {"library": {"templates": (template,)}, "forbidden": ("x", "x*phi")}
    assert bench(angle="m", pull=own).units is not None


def test_a_library_of_its_own_goes_before_that_of_all_holes() -> None:
    polynomials = {"library": {"polynomial_degree": 2}}
    wrong = {"templates": ("sin(input)",), "functions": ("log",), "extra": ("exp(x)",)}
    assert bench(wrong, pull=polynomials, drag=polynomials, push=polynomials).units is not None
    refused(
        bench({"templates": ("sin(input)",)}, pull=polynomials), "[regress.library] templates: found 'sin(v)'"
    )
    refused(
        bench({"templates": ("sin(input)",)}, pull=polynomials, drag=polynomials),
        "[regress.library] templates: found 'sin(t)', where 't' is in s;",
    )


def test_what_is_fine_for_one_hole_is_refused_in_another_only() -> None:
    angle = {"library": {"extra": ("sin(phi)", "x*cos(phi)", "exp(phi**2)")}}
    assert bench(pull=angle).units is not None
    refused(
        bench(pull={"library": {"functions": ("sin",)}}),
        "[regress.holes.pull.library] functions: found 'sin(x)', where 'x' is in m;",
    )
    # The term that cannot be right may be taken out by name, wherever it comes from and however it is written.
    for library in ({"functions": ("sin",)}, {"extra": ("sin(x)",)}, {"templates": ("sin(input)",)}):
        for text in ("sin(x)", "sin( 1*x )"):
            assert bench(pull={"library": library, "forbidden": (text,)}).units is not None
        refused(bench(pull={"library": library, "forbidden": ("x",)}), "[regress.holes.pull.library] ")


def test_roots_and_magnitudes_have_units_and_stay_in() -> None:
    both = {"templates": ("sqrt(input)", "abs(input)*input", "sqrt(abs(input/other))")}
    assert bench(both).units is not None
    assert bench(drag={"library": both}).units is not None
    refused(
        bench(drag={"library": {"templates": ("exp(sqrt(input))",)}}),
        "[regress.holes.drag.library] templates: found 'exp(sqrt(v))', where 'sqrt(v)' is in m^(1/2)/s^(1/2);",
    )


def test_a_wrong_term_of_a_single_hole_ends_a_run_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    verbs = install(monkeypatch)
    experiment = write_experiment(tmp_path / "case")
    text = experiment.read_text(encoding="utf-8")
    text = text.replace("hare = { positive = true }", 'hare = { positive = true, unit = "thousand" }')
    text += '\n[regress.holes.growth.library]\ntemplates = ["tanh(input)"]\n'
    experiment.write_text(text, encoding="utf-8")
    with pytest.raises(
        InputError,
        match=r"^\[regress\.holes\.growth\.library\] templates: found 'tanh\(hare\)', where 'hare'",
    ):
        discover(experiment, out=tmp_path / "runs")
    assert verbs.calls == []
