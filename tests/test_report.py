"""The report: self-contained, safe, the same every time, and complete."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from sciml_discover.errors import InputError
from sciml_discover.expressions import parse_expression
from sciml_discover.laws import Estimate
from sciml_discover.printing import latex_name, ordered_terms, print_mathml
from sciml_discover.report import render_report, save_picture
from sciml_discover.report.equations import found_term, known_equations, shifted_rates
from sciml_discover.report.figures import COLOURS, DARK_COLOURS
from sciml_discover.report.numbers import interval, number, with_error
from sciml_discover.trajectories import Dataset, Trajectory
from sciml_discover.units import SystemUnits, UnitTable
from tests.artifacts import SmallRun, small_run
from tests.problems import DOSED, LOTKA_VOLTERRA

VOID = {"meta", "br", "link", "img", "input", "hr"}
HOSTILE = (
    """</title></style><script>alert(1)</script><img src=x onerror="alert(2)">' $\\frac{ & {{ 7 * 7 }}"""
)


class Page(HTMLParser):
    """A page as a list of elements; fails where tags do not match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def tags(self) -> set[str]:
        return {tag for tag, _ in self.elements}


@pytest.fixture(scope="module")
def page(run_artifacts: SmallRun) -> str:
    return render_report(**run_artifacts.report_arguments())


def test_the_page_refers_to_nothing_outside(page: str) -> None:
    for tag, attributes in Page(page).elements:
        for name, value in attributes.items():
            if name in {"src", "href", "xlink:href", "action", "data", "poster", "srcset"}:
                assert value is not None
                assert value.startswith("#"), (tag, name, value)
            if name == "style":
                assert re.findall(r"url\((?!#)", value or "") == []
    assert "http://" not in page
    assert "https://" not in page
    assert "@import" not in page
    assert "script" not in Page(page).tags()
    assert re.findall(r"url\((?!#)", page) == []


def test_the_page_is_the_same_in_another_process(page: str) -> None:
    code = (
        "import hashlib\n"
        "from sciml_discover.report import render_report\n"
        "from tests.artifacts import small_run\n"
        "print(hashlib.sha256(render_report(**small_run().report_arguments()).encode()).hexdigest())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).resolve().parents[1],
        env={**os.environ, "PYTHONHASHSEED": "4711", "TZ": "Asia/Tokyo"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == hashlib.sha256(page.encode()).hexdigest()


def test_identifiers_are_unique_and_references_lead_somewhere(page: str) -> None:
    elements = Page(page).elements
    identifiers = [attributes["id"] for _, attributes in elements if "id" in attributes]
    assert len(identifiers) == len(set(identifiers))
    targets = set(re.findall(r'(?:href="#|url\(#)([^")]+)', page))
    assert targets
    assert targets <= set(identifiers)


def test_equations_are_mathml(page: str) -> None:
    assert {"math", "mtable", "mfrac", "mi", "mn"} <= Page(page).tags()
    assert "<mn>0.8996</mn>" in page
    assert "hare*lynx</" not in re.sub(r"<dd>.*?</dd>|<li>.*?</li>|<p>.*?</p>", "", page, flags=re.DOTALL)


def test_every_section_is_there(page: str) -> None:
    sections = {attributes.get("id") for tag, attributes in Page(page).elements if tag == "section"}
    assert sections == {
        "equations", "verdict", "coefficients", "data", "terms", "rivals", "training", "provenance",
    }  # fmt: skip
    figures = {attributes.get("id") for tag, attributes in Page(page).elements if tag == "svg"}
    assert figures == {f"figure-{name}" for name in ("overview", "trajectories", "terms", "front", "history")}


def test_the_page_says_what_was_found(page: str) -> None:
    text = " ".join(" ".join(Page(page).text).split())
    for words in (
        "accepted The law passes every condition",
        "0.8996 ± 0.0012",
        "1/(thousand*year)",
        "1.2997 ± 0.0021",
        "chi-square 29.3 over 33 values",
        "diverged at t = 1.2",
        "exactly the terms of the truth",
        "hare*lynx and hare*lynx**2 are collinear",
        "alpha is not identifiable beside a free network",
        "1 rival is so close that the data do not decide",
        "1 of them were rejected",
        "beside these terms, hare*lynx**2 in predation (13 %)",
        "predation: lynx; growth: 1; it is unstable",
        "Estimated from the data, without the law",
        "17 training rows (33 values), 4 hold-out rows",
        "python 3.11",
    ):
        assert words in text, words


def test_numbers_inside_a_term_have_rows_of_their_own(run_artifacts: SmallRun) -> None:
    law = run_artifacts.laws.laws[0]
    term = dataclasses.replace(
        law.missing["predation"][0],
        term="hare**n/(K**n + hare**n)",
        inner={"K": Estimate(2.5, 0.1, (2.3, 2.7)), "n": Estimate(2.0, 0.05, (1.9, 2.1))},
    )
    law = dataclasses.replace(law, missing={**law.missing, "predation": (term,)})
    laws = dataclasses.replace(run_artifacts.laws, laws=(law, *run_artifacts.laws.laws[1:]))
    units = SystemUnits(run_artifacts.options).table({"predation": [term.term]})
    text = render_report(**{**run_artifacts.report_arguments(), "laws": laws, "units": units})
    row = re.search(r"<tr><td>predation</td><td><math><mi>K</mi></math></td>.*?</tr>", text)
    assert row is not None
    assert "2.50 ± 0.10" in row[0]
    assert "<td>thousand</td>" in row[0]
    assert "2.000 ± 0.050" in text


def test_without_units_there_is_no_column_of_them(run_artifacts: SmallRun, page: str) -> None:
    text = render_report(**{**run_artifacts.report_arguments(), "units": UnitTable()})
    assert '<th>Unit</th><th class="n">Inclusion</th>' in page
    assert '<th>Unit</th><th class="n">Inclusion</th>' not in text


def test_a_rejected_run_says_so(run_artifacts: SmallRun) -> None:
    validation = run_artifacts.validation
    reasons = (dataclasses.replace(validation.reasons[0], passed=False), *validation.reasons[1:])
    rejected = dataclasses.replace(validation, status="rejected", reasons=reasons)
    text = render_report(**{**run_artifacts.report_arguments(), "validation": rejected})
    assert '<p class="verdict rejected">' in text
    assert text.count('<li class="failed">') == 1


def test_without_holdout_and_truth_their_columns_are_gone() -> None:
    text = render_report(**small_run(holdout=False, known_truth=False).report_arguments())
    assert "Hold-out" not in text
    assert "hold-out" not in text
    assert "Beyond the data" not in text
    assert "truth" not in text


def test_texts_from_files_are_escaped(run_artifacts: SmallRun) -> None:
    """A title, a site, a unit and notes that try to be markup, mathematics or a template."""
    data, arguments = run_artifacts.data, run_artifacts.report_arguments()
    system = dataclasses.replace(run_artifacts.system, time_unit=HOSTILE)
    rows = data.train.trajectories[0]
    train = Dataset(data.train.observables, (rows, Trajectory(HOSTILE, rows.times, rows.values)))
    arguments |= {
        "title": HOSTILE,
        "experiment_text": HOSTILE,
        "data": dataclasses.replace(data, train=train, provenance=(HOSTILE,)),
        "trained": dataclasses.replace(run_artifacts.trained, message=HOSTILE, notes=(HOSTILE,)),
        "laws": dataclasses.replace(run_artifacts.laws, identifiability=(HOSTILE,)),
        "system": system,
    }
    text = render_report(**arguments)
    parsed = Page(text)
    assert "script" not in parsed.tags()
    assert "img" not in parsed.tags()
    assert all(not name.startswith("on") for _, attributes in parsed.elements for name in attributes)
    joined = "".join(parsed.text)
    assert joined.count(HOSTILE) >= 10  # nothing was lost, nothing was evaluated


def test_missing_values_and_runaway_models_do_no_harm(run_artifacts: SmallRun) -> None:
    arguments = run_artifacts.report_arguments()
    curves = tuple(
        dataclasses.replace(curve, values=np.where(curve.times[:, None] > 1.0, np.nan, curve.values * 1e200))
        if curve.model == "known_only"
        else curve
        for curve in run_artifacts.validation.curves
    )
    laws = dataclasses.replace(
        run_artifacts.laws, front_complexity=np.array([]), front_chi_square=np.array([]), n_rivals=0
    )
    history = dataclasses.replace(
        run_artifacts.trained.history, stage=(), iteration=np.array([]), loss=np.array([])
    )
    arguments |= {
        "validation": dataclasses.replace(run_artifacts.validation, curves=curves),
        "laws": laws,
        "trained": dataclasses.replace(run_artifacts.trained, history=history, loss=float("nan")),
    }
    assert "<svg" in render_report(**arguments)


def test_what_happened_in_training_is_told(run_artifacts: SmallRun) -> None:
    page = render_report(**run_artifacts.report_arguments())
    [event] = run_artifacts.trained.history.events
    assert str(event) in page
    history = dataclasses.replace(run_artifacts.trained.history, events=())
    trained = dataclasses.replace(run_artifacts.trained, history=history)
    calm = render_report(**{**run_artifacts.report_arguments(), "trained": trained})
    assert "On the way" in page
    assert "On the way" not in calm


def test_many_trajectories_are_named_not_drawn(run_artifacts: SmallRun) -> None:
    data = run_artifacts.data
    rows = data.train.trajectories[0]
    train = Dataset(
        data.train.observables, tuple(Trajectory(f"s{n}", rows.times, rows.values) for n in range(9))
    )
    arguments = {
        **run_artifacts.report_arguments(),
        "data": dataclasses.replace(data, train=train, holdout=None),
    }
    assert "3 more trajectories are not drawn" in render_report(**arguments)


def test_the_picture_is_an_image_of_its_own(page: str, tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text(page, encoding="utf-8")
    save_picture(tmp_path, tmp_path / "recovered.svg")
    text = (tmp_path / "recovered.svg").read_text(encoding="utf-8")
    assert ElementTree.fromstring(text).tag == "{http://www.w3.org/2000/svg}svg"
    assert "var(--" not in text
    assert COLOURS["law"] in text


def test_there_is_no_picture_without_a_report(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no readable file"):
        save_picture(tmp_path, tmp_path / "x.svg")
    (tmp_path / "report.html").write_text("<p>", encoding="utf-8")
    with pytest.raises(InputError, match="without the overview"):
        save_picture(tmp_path, tmp_path / "x.svg")


def test_both_palettes_name_the_same_colours_and_each_is_distinct() -> None:
    assert COLOURS.keys() == DARK_COLOURS.keys()
    assert len(set(COLOURS.values())) == len(COLOURS)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"), (-0.048123, "−0.0481"), (123456.0, "1.23 × 10⁵"), (9.999, "10.0"),
        (0.00099999, "0.00100"),
        (None, "–"), (float("nan"), "–"), (float("-inf"), "−∞"), (1.8, "1.80"), (1e-300, "1.00 × 10⁻³⁰⁰"),
    ],
)  # fmt: skip
def test_numbers(value: float | None, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("value", "stderr", "text"),
    [
        (0.48123, 0.0123, "0.481 ± 0.012"), (0.02481, 0.00091, "0.02481 ± 0.00091"),
        (1234.5, 67.8, "1234 ± 68"), (1.5e7, 2.5e5, "(1.500 ± 0.025) × 10⁷"), (0.1, 3.0, "0.1 ± 3.0"),
        (0.5, 0.0, "0.500"), (0.5, float("inf"), "0.500"), (None, 1.0, "–"),
    ],
)  # fmt: skip
def test_numbers_with_errors(value: float | None, stderr: float, text: str) -> None:
    assert with_error(value, stderr) == text


@pytest.mark.parametrize(
    ("ends", "text"),
    [
        ((0.4561, 0.5063), "0.456 to 0.506"), ((-1.0, 1.0), "−1.0 to 1.0"), (None, "–"),
        ((0.5, float("inf")), "from 0.500"), ((None, 0.5), "up to 0.500"), ((None, None), "–"),
        ((2.0, 2.0), "2.00000"), ((1.0e-9, 1.2e-9), "1.00 × 10⁻⁹ to 1.20 × 10⁻⁹"),
    ],
)  # fmt: skip
def test_intervals(ends: tuple[float | None, float | None] | None, text: str) -> None:
    assert interval(ends) == text


@pytest.mark.parametrize(
    ("text", "order"),
    [
        ("-2*x*y - y + 3*x**2*y + x", ["x", "-y", "-2*x*y", "3*x**2*y"]),
        ("-1.8*y + 0.8*x*y", ["0.8*x*y", "-1.8*y"]),
        ("-x*y - y", ["-y", "-x*y"]),
        ("x**3/2 + 29 - x*sin(y)", ["29", "-x*sin(y)", "x**3/2"]),
    ],
)
def test_terms_stand_in_the_order_of_a_person(text: str, order: list[str]) -> None:
    terms = ordered_terms(parse_expression(text, ["x", "y"], where="test"))
    assert terms == [parse_expression(term, ["x", "y"], where="test") for term in order]


def test_a_refitted_rate_is_no_difference_between_learnt_and_found(run_artifacts: SmallRun) -> None:
    """Trained beside another rate, the network learns the same dynamics as another term."""
    system, (predation, growth) = run_artifacts.system, run_artifacts.samples.holes
    law = run_artifacts.laws.laws[0]
    trained = {"alpha": 0.3, "delta": 1.8}
    alpha, beta = law.parameters["alpha"].estimate.value, law.missing["predation"][0].coefficient.value
    hare, lynx = predation.points.T
    # alpha*hare - beta*hare*lynx = 0.3*hare - u
    np.testing.assert_allclose(
        found_term(predation, law, trained, system), (0.3 - alpha) * hare + beta * hare * lynx
    )
    gamma = law.missing["growth"][0].coefficient.value
    np.testing.assert_allclose(found_term(growth, law, trained, system), gamma * hare * lynx)
    assert shifted_rates(law, trained) == ["alpha"]
    # A hole that does not see the state of the rate keeps its term.
    blind = dataclasses.replace(predation, inputs=("lynx",), points=predation.points[:, 1:])
    own = dataclasses.replace(law, expressions_full={**law.expressions_full, "predation": "2.0*lynx"})
    np.testing.assert_allclose(found_term(blind, own, trained, system), 2.0 * lynx)


def test_mathml_is_well_formed_for_every_function() -> None:
    text = (
        "sin(x)*cos(x)/tan(x) + exp(-x)*log(x) + sqrt(x) + tanh(x)**2 + abs(x) + x**0.5/3 - 1.5e-9*k_max + pi"
        " + atan(x)*sinh(x)*cosh(x)"
    )
    body = print_mathml(parse_expression(text, ["x", "k_max"], where="test"))
    assert ElementTree.fromstring(f"<math>{body}</math>").tag == "math"
    assert "&InvisibleTimes;" not in body


@pytest.mark.parametrize(
    ("name", "latex"),
    [
        ("x", "x"),
        ("x1", "x_{1}"),
        ("alpha", r"\alpha"),
        ("hare", r"\mathrm{hare}"),
        ("k_max", "k_{max}"),
        ("N_a_b", "N_{a, b}"),
    ],
)
def test_names_in_latex(name: str, latex: str) -> None:
    assert latex_name(name) == latex


def test_known_equations_say_what_is_measured() -> None:
    text = known_equations(DOSED.system)
    assert text.count("<mtr>") == 4
    assert "<mi>dose</mi>" in text
    assert "<mi>signal</mi></mtd><mtd><mo>=</mo></mtd>" in text
    assert "<mi>signal</mi>" not in known_equations(LOTKA_VOLTERRA.system)
