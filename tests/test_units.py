"""Units: what is refused, what is derived, and that stranger's text is only text."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path

import pytest

from sciml_discover.errors import InputError
from sciml_discover.experiment import Experiment, LoadedExperiment
from sciml_discover.stages import Bench
from sciml_discover.system import SystemOptions
from sciml_discover.units import PLAIN, SystemUnits, UnitWords, units_stated
from tests.fakes import FakeVerbs, install, write_experiment

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def words() -> UnitWords:
    return UnitWords(["pelts", "cell"])


def system(
    equations: Mapping[str, str],
    units: Mapping[str, str | None],
    *,
    time: str | None = "s",
    parameters: Mapping[str, str | None] = {},
    missing: Mapping[str, tuple[str, ...]] = {},
    **more: object,
) -> SystemOptions:
    """Return a system; parameters by their units, states by theirs."""
    return SystemOptions.model_validate(
        {
            "time_unit": time,
            "states": {name: {"unit": units.get(name)} for name in equations},
            "parameters": {name: {"value": 1.0, "unit": unit} for name, unit in parameters.items()},
            "missing": missing,
            "equations": equations,
            **more,
        }
    )


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("m/s", "m s^-1"),
        ("m/s", "m*s**-1"),
        ("N", "kg m/s^2"),
        ("umol/L", "µM"),
        ("mmol/(L h)", "mM/hour"),
        ("thousand pelts/year", "pelt*thousand/yr"),
        ("cells/mL", "cell/cm^3"),
        ("m^(1/2)*m^0.5", "m"),
        ("%", "percent"),
        ("1", "dimensionless"),
        ("rad", "1"),
        ("count", "1"),
        ("K", "delta_degC"),
        ("J/(mol*K)", "J mol^-1 K^-1"),
    ],
)
def test_spellings_of_one_unit(one: str, other: str, words: UnitWords) -> None:
    ratio = words.read(one, where="unit") / words.read(other, where="unit")
    dimensions, scale = words.base(ratio)
    assert dimensions == {}
    assert scale == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize(
    ("one", "other"),
    [("m", "km"), ("h", "s"), ("1", "%"), ("thousand", "1"), ("deg", "rad"), ("pelts", "cell")],
)
def test_units_that_differ(one: str, other: str, words: UnitWords) -> None:
    dimensions, scale = words.base(words.read(one, where="unit") / words.read(other, where="unit"))
    assert dimensions or abs(scale) > 1e-3


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("mmol/L/h", "mmol/(L*h)"),
        ("1/year", "1/year"),
        ("m^2 s^-2", "m^2/s^2"),
        ("m^0.5", "m^(1/2)"),
        ("thousand pelts/year", "thousand*pelts/year"),
        ("m/m", "1"),
        ("N s^2/(kg m)", "1"),
        ("rad", "1"),
    ],
)
def test_units_are_shown_as_they_were_written_and_read_back(text: str, shown: str, words: UnitWords) -> None:
    unit = words.read(text, where="unit")
    assert words.show(unit) == shown
    assert words.base(words.read(shown, where="unit")) == words.base(unit)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   ",
        "metre_",
        "xyzzy",
        "m" * 81,
        "m**1e9",
        "m**999999999999999999999",
        "m**(1/1000003)",
        "10**9 m",
        "9**9**9**9",
        "1000 m",
        "0 m",
        "1/0",
        "m + s",
        "s-1",
        "sin(m)",
        "m/s kg",
        "__import__('os').system('true')",
        "().__class__",
        "m.s",
        "lambda: m",
        "[m]",
        "m; s",
        "m\nimport os",
        '"""',
        "m # s",
    ],
)
def test_what_is_no_unit_is_refused(text: str, words: UnitWords) -> None:
    with pytest.raises(InputError, match=r"^\[system\.states\] x unit"):
        words.read(text, where="[system.states] x unit")


@pytest.mark.parametrize("text", ["degC", "degF", "celsius", "m/degC", "dB", "dBm"])
def test_units_with_a_zero_of_their_own_are_refused_with_advice(text: str, words: UnitWords) -> None:
    with pytest.raises(InputError, match="state kelvin"):
        words.read(text, where="unit")


def test_a_misspelt_unit_is_guessed_and_a_counted_thing_explained() -> None:
    with pytest.raises(InputError, match="Did you mean 'kilogram'"):
        UnitWords().read("kilogramm", where="unit")
    with pytest.raises(InputError, match=re.escape("[system] counted = ['pelts']")):
        UnitWords().read("pelts", where="unit")


def test_counted_things_go_before_known_units() -> None:
    # Unless it is counted, a hare is a hectare squared in kind.
    hares = UnitWords(["hare"])
    dimensions, _ = hares.base(hares.read("hare", where="unit") / hares.read("are", where="unit"))
    assert dimensions == {"counted hare": 1, "[length]": -2}


def test_products_and_powers_of_units(words: UnitWords) -> None:
    speed = words.read("m/s", where="unit")
    assert words.show(speed ** Fraction(2) / words.read("m", where="unit")) == "m/s^2"
    assert (speed / speed).powers == PLAIN.powers


def test_what_is_not_stated_follows_from_the_equations() -> None:
    options = system(
        {"x": "v", "v": "-k*x/m - drag + push/m"},
        {"x": "m"},
        parameters={"k": None, "m": "kg"},
        missing={"drag": ("v",), "push": ("x", "t")},
    )
    table = SystemUnits(options).table({"drag": ["v**2", "1", "abs(v)*v"], "push": ["x*t", "sqrt(x)"]})
    assert table.names == {
        "t": "s",
        "x": "m",
        "v": "m/s",
        "k": "kg/s^2",
        "m": "kg",
        "drag": "m/s^2",
        "push": "m*kg/s^2",
    }
    assert table.of_term("drag", "v**2").coefficient == "1/m"
    assert table.of_term("drag", "abs(v)*v").coefficient == "1/m"
    assert table.of_term("drag", "1").coefficient == "m/s^2"
    assert table.of_term("push", "x*t").coefficient == "kg/s^3"
    assert table.of_term("push", "sqrt(x)").coefficient == "m^(1/2)*kg/s^2"
    assert table.of_term("push", "not there").coefficient is None


def test_parameters_inside_a_term_get_units_too() -> None:
    options = system({"x": "-u"}, {"x": "g/L"}, time="h", missing={"u": ("x",)})
    term = SystemUnits(options).table({"u": ["x/(K + x)", "exp(-k*x)"]}).terms["u"]
    assert (term["x/(K + x)"].coefficient, term["x/(K + x)"].inner) == ("g/(L*h)", {"K": "g/L"})
    assert (term["exp(-k*x)"].coefficient, term["exp(-k*x)"].inner) == ("g/(L*h)", {"k": "L/g"})


def test_powers_with_a_name_as_exponent() -> None:
    options = system({"x": "-u"}, {"x": "g/L"}, time="h", missing={"u": ("x",)})
    table = SystemUnits(options).table({"u": ["x**n/(K**n + x**n)", "x**n", "x**n/(K**m + x**n)"]})
    hill = table.terms["u"]["x**n/(K**n + x**n)"]
    assert (hill.coefficient, hill.inner) == ("g/(L*h)", {"K": "g/L", "n": "1"})
    assert table.of_term("u", "x**n").coefficient is None
    assert table.of_term("u", "x**n/(K**m + x**n)").coefficient == "g/(L*h)"
    plain = SystemUnits(system({"x": "-u"}, {"x": "1"}, time="h", missing={"u": ("x",)}))
    assert plain.table({"u": ["x**n"]}).of_term("u", "x**n").coefficient == "1/h"
    two = SystemUnits(system({"x": "-u", "y": "0"}, {"x": "g", "y": "mol"}, missing={"u": ("x", "y")}))
    with pytest.raises(InputError, match=r"'y\*\*n' .*beside 'x\*\*n'"):
        two.check_term("x/(y**n + x**n)", "u", where="term")


def test_what_nothing_says_stays_unknown() -> None:
    options = system(
        {"x": "u - k*x", "y": "c*y"},
        {"x": "m"},
        time=None,
        parameters={"k": None, "c": None},
        missing={"u": ("x", "y")},
    )
    table = SystemUnits(options).table({"u": ["x", "x*y"]})
    assert table.names == {"x": "m"}
    assert table.of_term("u", "x*y").coefficient is None


def test_a_term_that_only_numbers_hold_together_has_no_unit() -> None:
    units = SystemUnits(system({"x": "-u"}, {"x": "m"}, missing={"u": ("x",)}))
    assert units.table({"u": ["x/(1 + x)", "x"]}).of_term("u", "x/(1 + x)").coefficient is None
    assert units.table({"u": ["x/(1 + x)", "x"]}).of_term("u", "x").coefficient == "1/s"


def test_zero_has_every_unit_and_pi_none() -> None:
    SystemUnits(
        system(
            {"x": "0", "y": "0 + k*y", "z": "pi*z*k + 0*x"},
            {"x": "m", "y": "kg", "z": "m"},
            parameters={"k": "1/s"},
        )
    )


@pytest.mark.parametrize(
    ("equations", "units", "parameters", "message"),
    [
        # sums
        ({"x": "x/t + v", "v": "0"}, {"x": "m", "v": "m"}, {},
         r"^\[system\.equations\] x: found 'x/t' in m/s beside 'v' in m;"),
        ({"x": "k*(x + 1)"}, {"x": "m"}, {"k": "1/s"}, r"\[system\.equations\] x: found 'x' in m beside '1' in 1;"),
        # the sides of an equation
        ({"x": "k*x"}, {"x": "m"}, {"k": "1/kg"}, r"equations\] x: found 'd x/dt' in m/s beside 'k\*x' in m/kg;"),
        ({"x": "5"}, {"x": "m"}, {}, "'d x/dt' in m/s beside '5' in 1"),
        ({"x": "x*y/t", "y": "0"}, {"x": "m", "y": "s"}, {}, r"beside 'x\*y/t' in m;"),
        # one kind, another size: nothing is converted
        ({"x": "k*x"}, {"x": "m"}, {"k": "1/h"}, "nothing is converted"),
        ({"x": "(x + y)/t", "y": "0"}, {"x": "km", "y": "m"}, {}, "'x' in km beside 'y' in m; .*nothing is converted"),
        ({"x": "(x + y)/t", "y": "0"}, {"x": "degree", "y": "rad"}, {}, "nothing is converted"),
        # functions
        ({"x": "k*sin(x)"}, {"x": "m"}, {"k": "m/s"}, r"x: found 'sin\(x\)', where 'x' is in m; .*Divide it"),
        ({"x": "k*exp(-t)"}, {"x": "m"}, {"k": "m/s"}, r"'exp\(-t\)', where '-t' is in s"),
        ({"x": "k*log(x)"}, {"x": "m"}, {"k": "m/s"}, r"'log\(x\)'"),
        ({"x": "k*tanh(x)"}, {"x": "degree"}, {"k": "deg/s"}, "state angles in radian"),
        ({"x": "k*atan(x**2)"}, {"x": "m"}, {"k": "m/s"}, r"'x\*\*2' is in m\^2"),
        # what was derived from one equation contradicts the next
        ({"x": "k*x", "y": "k*x"}, {"x": "m", "y": "kg"}, {"k": None},
         r"equations\] y: found 'd y/dt' in kg/s beside 'k\*x' in m/s"),
        ({"x": "k*sin(w*t) + k*sin(w)"}, {"x": "m"}, {"k": None, "w": None}, r"'sin\(w\)', where 'w' is in 1/s"),
    ],
)  # fmt: skip
def test_inconsistent_equations_are_refused(
    equations: dict[str, str], units: dict[str, str], parameters: dict[str, str | None], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        SystemUnits(system(equations, units, parameters=parameters))


def test_a_hole_in_two_equations_has_one_unit() -> None:
    holes: dict[str, tuple[str, ...]] = {"u": ("x", "y")}
    same = system({"x": "-u", "y": "e*u"}, {"x": "g", "y": "g"}, parameters={"e": "1"}, missing=holes)
    assert SystemUnits(same).table({}).names["u"] == "g/s"
    scaled = system({"x": "-u", "y": "e*u"}, {"x": "g", "y": "mol"}, parameters={"e": None}, missing=holes)
    assert SystemUnits(scaled).table({}).names["e"] == "mol/g"
    different = system({"x": "-u", "y": "u"}, {"x": "g", "y": "mol"}, missing=holes)
    with pytest.raises(
        InputError, match=r"\[system\.equations\] y: found 'd y/dt' in mol/s beside 'u' in g/s"
    ):
        SystemUnits(different)


def test_a_hole_inside_a_function_is_a_plain_number() -> None:
    options = system({"x": "k*exp(u)"}, {"x": "m"}, parameters={"k": None}, missing={"u": ("x",)})
    assert SystemUnits(options).table({"u": ["x"]}).of_term("u", "x").coefficient == "1/m"


def test_controls_and_observables_are_checked() -> None:
    good = system(
        {"x": "volts*gain"}, {"x": "A"}, parameters={"gain": None},
        controls={"volts": {"unit": "V"}}, observables={"x": "x", "twice": "2*x"},
    )  # fmt: skip
    names = SystemUnits(good).table({}).names
    assert (names["gain"], names["twice"]) == ("A/(V*s)", "A")
    with pytest.raises(InputError, match=r"\[system\.observables\] odd: found 'x' in A beside 'volts' in V"):
        SystemUnits(good.model_copy(update={"observables": {"odd": "x + volts"}}))
    with pytest.raises(InputError, match=r"\[system\.controls\] volts unit"):
        SystemUnits(system({"x": "volts"}, {"x": "A"}, controls={"volts": {"unit": "W/"}}))


def test_a_long_sum_is_no_danger() -> None:
    text = "+".join(["k*x"] * 480)
    SystemUnits(system({"x": text}, {"x": "m"}, parameters={"k": None}))


def bench(unit: str | None = "m", inner: tuple[str, ...] = (), **library: tuple[str, ...]) -> Bench:
    document = {
        "title": "units",
        "data": {"files": ["rows.csv"]},
        "system": {
            "time_unit": "s",
            "states": {"x": {"unit": unit}},
            "missing": {"u": ("x",)},
            "equations": {"x": "-u"},
        },
        "regress": {"library": {**library, "inner": {name: {} for name in inner}}},
    }
    return Bench(LoadedExperiment.from_experiment(Experiment.model_validate(document)))


def test_terms_that_are_asked_for_by_name_are_checked() -> None:
    with pytest.raises(
        InputError, match=r"^\[regress.library\] functions: found 'sin\(x\)', where 'x' is in m"
    ):
        _ = bench(functions=("sin",)).units
    with pytest.raises(InputError, match=r"^\[regress.library\] extra: found '1' in 1 beside 'x' in m"):
        _ = bench(extra=("x/(1 + x)",)).units
    for fine in (
        bench(functions=("sqrt", "abs")),
        bench(functions=("sin",), unit="1"),
        bench(extra=("x**2",)),
    ):
        assert fine.units is not None
    # A unit that nothing says is not held against a term, and one term says nothing about the next.
    assert bench(functions=("sin",), extra=("x + x**2",), unit=None).units is not None


def test_without_units_there_is_nothing_to_check() -> None:
    options = system({"x": "sin(x) + 1"}, {}, time=None)
    assert not units_stated(options)
    assert units_stated(system({"x": "sin(x) + 1"}, {}))


RUN = """
import sys, warnings
from sciml_discover.runs import discover
result = discover(sys.argv[1], out=sys.argv[2])
assert all(result.cached.values()), result.cached
print(result.missing["growth"].terms[0].unit, "pint" in sys.modules)
"""


def test_a_cached_run_knows_the_units_without_pint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sciml_discover.runs import discover

    verbs: FakeVerbs = install(monkeypatch)
    experiment = write_experiment(tmp_path / "case")
    text = experiment.read_text(encoding="utf-8")
    experiment.write_text(
        text.replace("[system.states]", '[system]\ntime_unit = "year"\n\n[system.states]'), encoding="utf-8"
    )
    assert "time_unit" in experiment.read_text(encoding="utf-8")
    first = discover(experiment, out=tmp_path / "runs")
    assert first.units["t"] == "year"
    calls = list(verbs.calls)
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(experiment), str(tmp_path / "runs")],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    unit = first.missing["growth"].terms[0].unit
    assert (done.stderr, done.stdout.strip()) == ("", f"{unit} False")
    assert verbs.calls == calls


def test_wrong_units_end_a_run_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sciml_discover.runs import discover

    verbs = install(monkeypatch)
    experiment = write_experiment(tmp_path / "case")
    text = experiment.read_text(encoding="utf-8")
    experiment.write_text(
        text.replace("[system.states]", '[system]\ntime_unit = "yaer"\n\n[system.states]'), encoding="utf-8"
    )
    with pytest.raises(InputError, match="Did you mean 'year'"):
        discover(experiment, out=tmp_path / "runs")
    assert verbs.calls == []
