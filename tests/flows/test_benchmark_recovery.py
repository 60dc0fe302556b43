"""The benchmark of recovery: what is hidden, what counts as found, what a failure does, and the tables."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from typer.testing import CliRunner

from flows.benchmark_recovery import benchmark_recovery
from flows.benchmarks.measurement import Measurement
from flows.benchmarks.problems import TrainingProblem, one_trajectory
from flows.cli import app
from flows.recovery import odebench, runner, speed, tables, worker
from flows.recovery.case import EXACT, SECONDS, Case, median, share, succeeded
from flows.recovery.cases import CASES
from flows.recovery.discovery import shuffle, structure, true_positions
from flows.recovery.document import read_runs, write_document
from flows.recovery.oracle import setting, short_laws, smallest_errors, told
from flows.recovery.plan import check_request
from flows.recovery.rational import TRUE_NUMBERS, measure_rational, problems
from flows.recovery.refusals import SOURCES
from sciml_discover.callables import NumpySystem
from sciml_discover.errors import InputError
from sciml_discover.expressions import parse_expression, symbol
from sciml_discover.identifiability import CANCEL, INSEPARABLE
from sciml_discover.library import InnerOptions, LibraryOptions, build_library
from sciml_discover.regressors import RegressOptions
from sciml_discover.residual_samples import HoleSamples, ResidualSamples
from sciml_discover.system import System
from tests.artifacts import SmallRun

pytestmark = [
    # Prefect's own clients leave these behind.
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
]

GROWTH = TrainingProblem(
    System.from_text(states=["x"], missing={"growth": ["x"]}, equations={"x": "growth"}),
    {"growth": "0.7*x"},
    np.array([1.0]),
    np.linspace(0.0, 2.0, 15),
    0.0,
    {},
)
SMALL = RegressOptions(library=LibraryOptions(polynomial_degree=2, constant=False))


def run(row: str = "a", seed: int = 0, status: str = "ok", **figures: Any) -> dict[str, Any]:
    """A run as it stands in the document."""
    return {
        "case": "tiny",
        "row": row,
        "item": "",
        "seed": seed,
        "status": status,
        "reason": "" if status == "ok" else "it broke",
        "figures": figures,
        "seconds": {"discovery": 2.0 + seed} if status == "ok" else {},
        "words": {},
        "code": "0",
    }


def tiny(row: str, _: str, seed: int) -> Measurement:
    if seed == 3:
        raise ValueError("nothing to see")
    return Measurement({"exact": row == "a", "error": 0.123456789, "worst": float("inf")}, {"discovery": 1.0})


TINY = Case("Tiny", ("a", "b"), tiny, (EXACT, median("error", "error"), SECONDS), (0, 1), 5.0)


def test_the_readme_shows_the_committed_document() -> None:
    readme, document = tables.README.read_text(), json.loads(tables.DOCUMENT.read_text())
    assert tables.with_tables(readme, document) == readme, "python -m flows.recovery.tables"
    assert all(one["seed"] >= 1000 for one in document["runs"]), "seeds of the development are not shown"


def test_tables_count_failures_and_leave_out_what_was_skipped() -> None:
    runs = [
        run(exact=True, accepted=False, error=0.2),
        run(seed=1, exact=True, accepted=True, error=0.4),
        run(seed=2, exact=False),
        run(seed=5, status="failed"),
        run(seed=9, status="skipped"),
    ]
    columns = (EXACT, share("accepted", "accepted", succeeded("exact")), median("error", "error"), SECONDS)
    case = Case("Tiny", ("a", "b"), tiny, columns, (0,), 1.0)
    assert tables.lines(case, runs) == [("a", "2 of 4", "1 of 2", "0.3", "3.0 s", "0-2, 5", "1")]


def test_a_readme_without_marks_is_refused() -> None:
    with pytest.raises(ValueError, match="recovery: begin"):
        tables.with_tables("nothing", {})


def test_the_worker_says_what_failed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(CASES, "tiny", TINY)
    worker.main(["tiny", "a", ":0", ":3"])
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert first["figures"] == {"exact": True, "error": 0.12346, "worst": None}
    assert (second["status"], second["reason"]) == ("failed", "ValueError: nothing to see")


def test_a_run_that_hangs_or_dies_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "START_SECONDS", 5.0)
    units = [("", 1), ("hangs", 2), ("", 3), ("dies", 4), ("", 5)]
    found = list(runner.runs_of("tiny", "a", units, 1.0, "tests.flows.fake_recovery_worker"))
    assert [(one["item"], one["seed"]) for one in found] == units
    assert [one["status"] for one in found] == ["ok", "failed", "ok", "failed", "ok"]
    assert found[1]["reason"] == "took longer than 1 s"
    assert found[3]["reason"] == "exit status 1: something broke"
    assert found[4]["figures"] == {"seed": 5}


def test_a_document_has_one_line_per_run_and_is_read_back(tmp_path: Path) -> None:
    file, runs = tmp_path / "new" / "recovery.json", [run(seed=1), run(seed=2)]
    assert read_runs(file) == []
    write_document(file, {"benchmark": "recovery", "machine": {}}, runs)
    assert sum('"seed"' in line for line in file.read_text().splitlines()) == 2
    assert read_runs(file) == runs
    file.write_text('{"benchmark": "training", "runs": []}')
    with pytest.raises(InputError, match="no document of this benchmark"):
        read_runs(file)


@pytest.mark.parametrize(
    ("cases", "rows", "seeds", "message"),
    [
        ("senario_1", (), None, "scenario_1"),
        ("rational", ("Hil",), None, "Hill, n = 2"),
        ("rational", (), "1..x", "--seeds"),
    ],
)
def test_wrong_requests_are_refused(
    cases: str, rows: tuple[str, ...], seeds: str | None, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        check_request(cases, rows, seeds)


@pytest.mark.usefixtures("api")
def test_a_second_call_runs_only_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, tuple[Any, ...]]] = []

    def fake(case: str, row: str, units: Any, seconds: float) -> Iterator[dict[str, Any]]:
        assert seconds == 5.0
        asked.append((row, tuple(units)))
        for item, seed in units:
            yield {**run(row, seed, exact=True), "case": case, "item": item}

    monkeypatch.setitem(CASES, "tiny", TINY)
    monkeypatch.setattr("flows.benchmark_recovery.runs_of", fake)
    benchmark_recovery(cases=["tiny"], rows=["a"], seeds="0..1", out=str(tmp_path))
    document = benchmark_recovery(cases=["tiny"], seeds="1..2", out=str(tmp_path))
    assert asked == [("a", (("", 0), ("", 1))), ("a", (("", 2),)), ("b", (("", 1), ("", 2)))]
    assert [(one["row"], one["seed"]) for one in document["runs"]] == [
        ("a", 0), ("a", 1), ("a", 2), ("b", 1), ("b", 2)
    ]  # fmt: skip
    assert len({one["code"] for one in document["runs"]}) == 1
    assert json.loads((tmp_path / "benchmarks" / "recovery.json").read_text())["runs"] == document["runs"]


def test_the_command_shows_the_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CASES, "tiny", TINY)
    document = {"runs": [run(exact=True)], "file": "runs/x.json"}
    monkeypatch.setattr("flows.launch.launch_recovery_benchmark", lambda *_, **__: document)
    arguments = ["benchmark", "recovery", "--json", "--out", str(tmp_path)]
    done = CliRunner().invoke(app, arguments, env={"COLUMNS": "160"})
    assert done.exit_code == 0
    assert json.loads(done.stdout) == document
    assert "exactly the true terms: 1 of 1" in done.stderr


@pytest.mark.parametrize(
    ("equations", "hidden"),
    [
        (["2 - 0.5*x_0"], None),
        (["x_0*(1 - x_0)"], (0, "-x_0**2")),
        (["x_0*x_1 - x_0", "x_1 - x_0*x_1"], (1, "-x_0*x_1")),
        (["x_0**2*x_1", "x_1*x_0"], (0, "x_0**2*x_1")),
        (["x_0**3 + sin(x_1)", "x_0*x_1"], (0, "sin(x_1)")),
        (["x_0/(1 + x_0)", "x_0*x_1/(1 + x_0**2)"], (1, "x_0*x_1/(x_0**2 + 1)")),
        (["x_0 + 2*x_1", "-x_0"], None),
    ],
)
def test_what_is_hidden(equations: list[str], hidden: tuple[int, str] | None) -> None:
    names = ["x_0", "x_1"]
    expressions = [parse_expression(text, names, where="test") for text in equations]
    found = odebench.hidden_term(expressions, names)
    assert (None if found is None else (found[0], str(found[1]))) == hidden


def test_the_hidden_term_completes_every_system() -> None:
    skipped = [item for item in odebench.identifiers() if odebench.half_known(item) is None]
    assert len(odebench.identifiers()) == 21
    assert skipped == ["9", "24"]
    for item, entry in odebench.entries().items():
        problem = odebench.half_known(item)
        if problem is not None:
            point = 0.3 + 0.1 * np.arange(len(entry.names))
            values = dict(zip(map(symbol, entry.names), point.tolist(), strict=True))
            for own, other in zip(problem.filled.equations.values(), entry.equations, strict=True):
                assert float(str(own.xreplace(values))) == pytest.approx(float(str(other.xreplace(values))))


@pytest.mark.parametrize(
    ("sentence", "warned"),
    [
        (f"x and x**2 of f {CANCEL} to 3 % of the largest", True),
        (f"x/(K + x) in f and 1 in f {INSEPARABLE} (correlation 0.981)", True),
        (f"x/(K + x) in f and K in x/(K + x) in f {INSEPARABLE} (correlation 0.981)", False),
        (f"r and 1 in f {INSEPARABLE} (correlation 0.981)", False),
        ("x**3 in f is collinear, over the region that the data visit, with 1", False),
    ],
)
def test_what_is_said_of_terms_warns_that_they_imitate_another_one(
    run_artifacts: SmallRun, sentence: str, warned: bool
) -> None:
    ranked = run_artifacts.laws
    term = next(iter(ranked.laws[0].missing.values()))[0]
    terms = tuple(replace(term, term=text) for text in ("1", "x/(K + x)"))
    choice = replace(ranked.laws[0], missing={"f": terms})
    told = replace(ranked, laws=(choice,), identifiability=("nothing else", sentence))
    assert odebench.imitates(told) == warned


def test_a_hidden_term_that_took_too_long_stays_in_the_denominators() -> None:
    case, late = CASES["half_known"], {**run("1 %", 1000, "failed"), "item": "27"}
    found = {**run("1 %", 1000, exact=True, identifiable=True), "item": "3"}
    undecided = {**run("1 %", 1000, exact=False, identifiable=False), "item": "15"}
    foreign = {**run("1 %", 1000, "failed"), "item": "33"}
    (line,) = tables.lines(case, [late, found, undecided, foreign])
    assert line[2:4] == ("1 of 2", "1 of 3")
    assert line[6] == "0 of 1"


def test_r2_is_one_for_the_truth_and_nothing_without_a_solution() -> None:
    truth = np.column_stack([np.arange(4.0), np.ones(4)])
    assert odebench.explained(truth, truth) == 1.0
    assert odebench.explained(truth, np.broadcast_to(truth.mean(0), truth.shape)) == 0.0
    assert odebench.explained(truth, np.full((4, 2), np.nan)) == -np.inf


def test_equations_that_refuse_what_runs_away_have_no_solution() -> None:
    class Refusing:
        def rhs(self, _: float, state: np.ndarray, __: np.ndarray) -> np.ndarray:
            if not np.isfinite(state).all() or np.abs(state).max() > 1e3:
                raise ValueError("infinity")
            return state**2

    times, refusing = np.linspace(0.0, 1.0, 5), cast("NumpySystem", Refusing())
    assert np.isfinite(odebench._solved(refusing, np.array([-1.0]), times)).all()
    assert np.isnan(odebench._solved(refusing, np.array([5.0]), times)).all()


def test_a_solution_in_ever_smaller_steps_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    class Steep:
        asked = 0

        def rhs(self, time: float, _: np.ndarray, __: np.ndarray) -> np.ndarray:
            self.asked += 1
            return np.array([np.sin(1e7 * time)])

    monkeypatch.setattr(odebench, "MOST_SLOPES", 500)
    steep = Steep()
    solved = odebench._solved(cast("NumpySystem", steep), np.array([0.0]), np.linspace(0.0, 1.0, 5))
    assert np.isnan(solved).all()
    assert steep.asked == 500


def test_numbers_inside_terms_are_no_structure() -> None:
    system = System.from_text(states=["x"], missing={"f": ["x"]}, equations={"x": "f"})
    assert structure({"f": "2*x/(x + 3)"}, system) == structure({"f": "0.1*x/(0.5 + x)"}, system)
    assert structure({"f": "2*x/(x + 3)"}, system) != structure({"f": "2*x/(x + 3) + x"}, system)
    options = LibraryOptions(
        polynomial_degree=2, templates=("input/(K + input)",), inner={"K": InnerOptions()}
    )
    library = build_library(("x",), options)
    assert true_positions(system, {"f": "3*x**2 - 0.2*x/(7 + x)"}, [library]) == [[2, 3]]
    assert true_positions(system, {"f": "sin(x)"}, [library]) is None


def test_shuffled_samples_keep_their_values_and_lose_their_points() -> None:
    numbers = np.arange(50.0)
    hole = HoleSamples(
        "f", ("x",), ("a",) * 50, numbers, numbers[:, None], 2 * numbers, 3 * numbers, 4 * numbers
    )
    (mixed,) = shuffle(ResidualSamples((hole,)), 0).holes
    np.testing.assert_array_equal(mixed.points, hole.points)
    np.testing.assert_array_equal(np.sort(mixed.values), hole.values)
    assert (mixed.values != hole.values).any()
    np.testing.assert_array_equal(mixed.sd, 1.5 * mixed.values)


def test_the_oracle_knows_the_truth_and_its_smallest_error() -> None:
    clean = GROWTH.states(GROWTH.times)
    dataset = one_trajectory(GROWTH, clean)
    bounds = []
    for sd in (0.01, 0.02):
        place = setting(GROWTH, dataset, told(GROWTH, np.array([sd]), dataset), SMALL, clean)
        laws = short_laws(GROWTH, place)
        assert len(laws.fits.candidates) == 2
        assert laws.truth == int(np.argmin(laws.fits.chi_square)) == 0
        bounds += smallest_errors(GROWTH, place).tolist()
    assert bounds[1] == pytest.approx(2.0 * bounds[0], rel=1e-3)
    # x = x0 exp(a t): the bound of a with x0 unknown, by hand.
    design = np.column_stack([clean[:, 0], GROWTH.times * clean[:, 0]]) / 0.01
    assert bounds[0] == pytest.approx(np.sqrt(np.linalg.inv(design.T @ design)[1, 1]), rel=1e-3)


def test_speed_asks_scipy_about_the_best(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "LAWS", SMALL)
    monkeypatch.setattr(speed, "BEST", 2)
    found = speed.measure_speed("529 laws", "", 0)
    assert found.figures["laws"] == 25
    assert found.figures["agree"] == 2
    assert (found.figures["settled"] or 0) >= 20
    assert found.words["ours"] == pytest.approx(found.words["scipy"], abs=0.05)


def test_a_rational_law_comes_back() -> None:
    found = measure_rational("Michaelis-Menten", "", 0)
    assert found.figures["exact"]
    assert found.figures["accepted"]
    assert found.figures["error_rate"] == pytest.approx(0.0, abs=0.05)
    stages = ("train", "sample", "regress", "select", "validate")
    assert found.seconds["discovery"] == pytest.approx(sum(found.seconds[name] for name in stages))


def test_data_without_a_law_have_their_rows() -> None:
    for name, source in SOURCES.items():
        times, values = source(np.random.default_rng(0))
        assert len(times) == len(values) == 200, name
        assert np.isfinite(values).all(), name
        assert (source(np.random.default_rng(1))[1] != values).any(), name


def test_every_case_says_what_is_to_be_reached_for_rows_that_it_has() -> None:
    for name, case in CASES.items():
        assert len(set(case.rows)) == len(case.rows), name
        assert all(column.text(case.rows[0], []) is not None for column in case.columns), name
    assert set(problems()) == set(TRUE_NUMBERS) == set(CASES["rational"].rows)
