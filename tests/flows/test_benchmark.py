from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from flows.benchmark import benchmark
from flows.benchmarks import costs, devices, fits, measures, problems, worker
from flows.benchmarks.cases import CASES, Case, Variant
from flows.benchmarks.measurement import CannotRun, Measurement
from flows.benchmarks.plan import OURS, Request, check_request
from flows.benchmarks.processes import missing_packages, run_module
from flows.benchmarks.table import figure_lines, markdown, target_lines
from flows.benchmarks.targets import (
    Run,
    Runs,
    at_least,
    at_most,
    faster_than,
    grows_linearly,
    median_at_most,
)
from flows.cli import app
from flows.peers import tutorial
from flows.session import Session, session
from sciml_discover.base import Progress
from sciml_discover.errors import SolveError
from tests.problems import LOTKA_VOLTERRA, untrained

pytestmark = [
    # Prefect's own clients leave these behind.
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
]

PEER = "diffrax_recipe"


def ended(status: str = "ok", **figures: Any) -> Run:
    """Return a run; ``<name>_seconds`` are its seconds."""
    seconds = {name.removesuffix("_seconds"): value for name, value in figures.items() if "_seconds" in name}
    rest = {name: value for name, value in figures.items() if "_seconds" not in name}
    return {"status": status, "reason": "", "figures": rest, "seconds": seconds}


def tiny(seed: int, preset: str, settings: Mapping[str, str]) -> Measurement:
    """Measure something at once, unless the settings say what happens instead."""
    match settings.get("what"):
        case "fails":
            raise ZeroDivisionError("oops " * 100)
        case "cannot":
            raise CannotRun("no crystal ball")
        case "unsolvable":
            return Measurement({}, {"train": 2.0}, {}, "what was learnt cannot be solved: it runs away")
    return Measurement({"error": 0.01 * (seed + 1), "bad": float("nan")}, {"train": 1.0}, {"preset": preset})


TINY = Case(
    name="tiny",
    title="A case that takes no time",
    measure=tiny,
    seeds=3,
    seconds=5.0,
    variants=(
        Variant(
            targets=(
                at_most("error", 0.025, share=0.6),
                median_at_most("error", 0.01),
                faster_than("train", PEER, "train", 0.5),
            )
        ),
        Variant("auto", name="also"),
    ),
    peers=(PEER,),
    noise=0.005,
)


@pytest.fixture
def with_tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CASES, "tiny", TINY)


@pytest.mark.usefixtures("with_tiny")
def test_a_worker_prints_what_was_measured(capsys: pytest.CaptureFixture[str]) -> None:
    worker.main(["tiny", "1", "auto"])
    printed = json.loads(capsys.readouterr().out)
    assert printed["status"] == "ok"
    assert printed["figures"] == {"error": 0.02, "bad": None}
    assert printed["seconds"].keys() == {"imports", "train"}
    assert printed["words"] == {"preset": "auto"}


@pytest.mark.usefixtures("with_tiny")
def test_a_worker_says_why_there_are_no_figures(capsys: pytest.CaptureFixture[str]) -> None:
    failed = worker.measure("tiny", 0, "auto", {"what": "fails"})
    assert failed["status"] == "failed"
    assert failed["reason"].startswith("ZeroDivisionError: oops oops")
    assert len(failed["reason"]) <= worker.LONGEST_REASON
    assert "Traceback" in capsys.readouterr().err
    unsolvable = worker.measure("tiny", 0, "auto", {"what": "unsolvable"})
    assert (unsolvable["status"], unsolvable["seconds"]["train"]) == ("failed", 2.0)
    assert "runs away" in unsolvable["reason"]
    cannot = worker.measure("tiny", 0, "auto", {"what": "cannot"})
    assert (cannot["status"], cannot["reason"]) == ("skipped", "no crystal ball")


def test_a_run_is_a_process_that_is_timed_and_stopped() -> None:
    failed = run_module(sys.executable, "flows.benchmarks.worker", ["gpu", "0", "auto", "device=none"], 60.0)
    assert failed["status"] == "failed"
    assert failed["reason"].startswith("RuntimeError: Expected one of cpu, cuda")
    assert 0.1 < failed["seconds"]["process"] < 60
    slow = run_module(sys.executable, "timeit", ["-n1", "-r1", "import time; time.sleep(60)"], 0.5)
    assert (slow["status"], slow["reason"]) == ("failed", "took longer than 0.5 s")
    silent = run_module(sys.executable, "flows.peers.tutorial", [], 60.0)
    assert (silent["status"], silent["reason"]) == ("failed", "exit status 0: it printed nothing")
    nothing = run_module(sys.executable, "flows.peers.nothing", [], 60.0)
    assert nothing["status"] == "failed"
    assert "flows.peers.nothing" in nothing["reason"]
    nobody = run_module("/no/such/python", "flows.peers.nothing", [], 60.0)
    assert "/no/such/python cannot be started" in nobody["reason"]


def test_an_interpreter_is_asked_for_the_packages_of_the_peers() -> None:
    missing = missing_packages(sys.executable)
    assert missing is not None
    assert {"pysindy", "scipy"}.isdisjoint(missing)
    assert missing_packages("/no/such/python") is None


def test_targets_count_failures() -> None:
    runs = Runs([ended(error=0.01), ended(error=0.02), ended("failed"), ended(error=None)])
    assert at_most("error", 0.015, share=0.25).judge(runs).met
    assert at_most("error", 0.03, share=0.5).judge(runs).found == "2/4"
    assert not at_most("error", 0.03, share=0.75).judge(runs).met
    assert at_least("error", 0.02, share=0.25).judge(runs).met
    assert not median_at_most("error", 1.0).judge(runs).met  # two of four are infinitely bad
    assert median_at_most("error", 0.02).judge(Runs(runs.mine[:2])).met


def test_targets_compare_with_peers_and_other_rows() -> None:
    mine = [ended(train_seconds=1.0), ended(train_seconds=3.0), ended("failed")]
    peers = {PEER: [ended(train_seconds=10.0), ended("failed", train_seconds=1.0)]}
    verdict = faster_than("train", PEER, "train", 0.3).judge(Runs(mine, peers=peers))
    assert (verdict.met, verdict.found) == (True, "0.3")
    assert faster_than("train", PEER, "train", 0.3).judge(Runs(mine)).met is None
    growth = grows_linearly("iteration", "small", 10.0)
    rows = {"small": [ended(iteration=1.0)]}
    assert growth.judge(Runs([ended(iteration=14.0)], rows)).met
    assert not growth.judge(Runs([ended(iteration=16.0)], rows)).met
    assert not growth.judge(Runs([ended("failed")], rows)).met
    assert not growth.judge(Runs([ended(iteration=1.0)])).met


@pytest.mark.usefixtures("with_tiny")
def test_peers_run_between_our_own_runs() -> None:
    request = Request(("tiny", "cost"), (4, 5), "auto", peers=True)
    planned = [one for one in request.runs() if one.case == "tiny"]
    assert [(one.tool, one.row, one.seed) for one in planned] == [
        (tool, row, seed) for seed in (4, 5) for tool, row in ((OURS, "auto"), (PEER, PEER), (OURS, "also"))
    ]
    assert planned[1].arguments == ("4", "0.005")
    costs_of_one_seed = {one.seed for one in request.runs() if one.case == "cost"}
    assert costs_of_one_seed == {4}


def test_rows_that_come_to_the_same_are_one() -> None:
    request = Request(("lotka_volterra",), None, "multiple_shooting", peers=False)
    assert list(request.variants_of(CASES["lotka_volterra"])) == ["multiple_shooting"]


def fake_run(python: str, module: str, arguments: list[str], seconds: float) -> dict[str, Any]:
    """Return at once what a process would have printed; the run of seed 2 takes too long."""
    assert seconds == TINY.seconds
    if module.startswith("flows.peers."):
        assert python == "/usr/bin/peer"
        return {
            "status": "ok",
            "reason": "",
            "figures": {"error": 0.5},
            "seconds": {"train": 4.0},
            "words": {},
        }
    name, seed, preset = arguments
    if seed == "2":
        return {
            "status": "failed",
            "reason": "took longer than 5 s",
            "figures": {},
            "seconds": {},
            "words": {},
        }
    return worker.measure(name, int(seed), preset, {})


@pytest.mark.usefixtures("with_tiny", "api")
def test_the_flow_measures_all_and_leaves_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flows.benchmark.run_module", fake_run)
    monkeypatch.setattr("flows.benchmark.missing_packages", lambda _: [])
    monkeypatch.setattr("flows.benchmarks.plan.shutil.which", lambda name: name)
    seen: list[Progress] = []
    token = session.set(Session(seen.append))
    call: dict[str, Any] = {"cases": ["tiny"], "peer_python": "/usr/bin/peer", "out": str(tmp_path)}
    try:
        document = benchmark(**call, return_state=True).result()
    finally:
        session.reset(token)
    (file,) = (tmp_path / "benchmarks" / "training").glob("*.json")
    stored = json.loads(file.read_text())
    assert stored == json.loads(json.dumps(document))
    assert len(stored["runs"]) == 9
    assert stored["machine"]["cores"] >= 1
    assert stored["versions"]["python"]
    assert stored["options"]["preset"] == "auto"
    assert (seen[0].step, seen[-1].step, seen[-1].total) == (0, 9, 9)

    assert target_lines(stored["rows"]) == [
        ("tiny", "auto", "error ≤ 0.025 in 60% of the seeds", "2/3", "yes"),
        ("tiny", "auto", "median error ≤ 0.01", "0.02", "no"),
        ("tiny", "auto", f"median train seconds ≤ 0.5 of {PEER}, train", "0.25", "yes"),
    ]
    ours = figure_lines(stored["rows"])[0]
    assert ours[:3] == ("tiny", "auto", "2/3")
    assert ours[-1].endswith("; 1 failed: took longer than 5 s")
    text = file.with_suffix(".md").read_text()
    assert text == markdown(stored)
    assert "| tiny | auto | median error ≤ 0.01 | 0.02 | no |" in text
    assert stored["command"] in text


@pytest.mark.usefixtures("with_tiny", "api")
def test_peers_that_are_not_installed_are_skipped_and_said_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.benchmark.run_module", fake_run)
    monkeypatch.setattr("flows.benchmark.missing_packages", lambda _: ["jax"])
    arguments = ["benchmark", "training", "--cases", "tiny", "--seeds", "0", "--json", "--out", str(tmp_path)]
    monkeypatch.setattr("flows.launch.prefect_api", _no_server)
    done = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.stderr
    rows = {row["row"]: row for row in json.loads(done.stdout)["rows"]}
    assert "jax not installed: pip install 'sciml-discover[peers]'" in rows[PEER]["skipped"]
    assert rows["auto"]["targets"][-1] == {
        "text": f"median train seconds ≤ 0.5 of {PEER}, train",
        "met": None,
        "found": f"{PEER} did not run",
    }
    assert "Targets" in done.stderr
    assert "jax not installed" in done.stderr


class _no_server:
    """Stands for a server that is there already."""

    def __init__(self, _: Path) -> None: ...

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--cases", "lorentz"), "Did you mean 'lorenz'?"),
        (("--seeds", "a"), "--seeds"),
        (("--seeds", "3..1"), "the smaller end first"),
        (("--seeds", "1,,2"), "an empty value"),
        (("--preset", "autos"), "Did you mean 'auto'?"),
        (("--peer-python", "/no/such/python"), "--peer-python"),
        (("--out", "file/runs"), "cannot be written"),
    ],
)
def test_wrong_input_is_told_at_once_and_starts_no_server(
    arguments: tuple[str, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("flows.api.LocalServer", None)
    (tmp_path / "file").touch()
    done = CliRunner().invoke(app, ["benchmark", "training", *arguments])
    assert (done.exit_code, done.stdout) == (2, "")
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "runs").exists()


def test_no_cases_means_all() -> None:
    assert check_request("", None, "auto", peers=False, peer_python="").cases == tuple(CASES)


def test_the_peers_draw_the_same_rows() -> None:
    problem = problems.lotka_volterra()
    (ours,) = fits.tutorial_data(problem, 3).trajectories
    theirs, sd = tutorial.noisy_rows(0.005, 3)
    np.testing.assert_allclose(ours.values, theirs, rtol=1e-8)
    np.testing.assert_allclose(sd, 0.005 * problem.states(problem.times).mean(axis=0), rtol=1e-8)
    product = theirs[:, :1] * theirs[:, 1:]
    assert tutorial.learnt_error(theirs, product * [-0.9, 0.8]) == pytest.approx(0.0, abs=1e-14)


def test_truths_satisfy_their_equations() -> None:
    """By a difference quotient of the simulated states: nothing that made them is asked."""
    stiff, period = problems.stiff_van_der_pol()
    # Dorodnitsyn's expansion for large stiffness: (3 - 2 ln 2) mu + 7.014 mu**(-1/3) - ...
    assert period == pytest.approx((3 - 2 * np.log(2)) * 1000 + 7.014 / 10, abs=0.1)
    path = stiff.states(stiff.times)
    np.testing.assert_allclose(path[0], stiff.states(np.array([0.0, 2 * period]))[1], atol=1e-3)
    steps = np.linalg.norm(np.diff(path / np.ptp(path, axis=0), axis=0), axis=1)
    # Chords of equal arcs; only where the cycle turns sharply is a chord much shorter.
    assert np.quantile(steps, 0.05) > 0.95 * steps.max()

    cart = problems.cart()
    times = np.array([1.0, 1.0 + 1e-4, 1.0 + 2e-4])
    (_, v0), (x, v), (_, v2) = cart.states(times)
    assert (v2 - v0) / 2e-4 == pytest.approx(-2.0 * x - 0.3 * v - 0.1 * v**3, rel=1e-5)
    assert problems.robertson().states(np.array([1e5]))[0].sum() == pytest.approx(1.0)
    assert problems.lorenz(2001).states(problems.lorenz(2001).times).shape == (2001, 3)
    x = problems.driven_oscillator().states(np.array([2.0 - 1e-4, 2.0, 2.0 + 1e-4]))
    force = 0.5 * np.cos(2.4) + 0.3 * np.sin(1.9) + 0.2 * np.cos(4.2)
    slope = (x[2, 1] - x[0, 1]) / 2e-4
    assert slope == pytest.approx(force - 0.1 * x[1, 1] - x[1, 0] - 0.5 * x[1, 0] ** 3, rel=1e-5)


def test_figures_of_a_fit() -> None:
    trained = untrained(LOTKA_VOLTERRA)
    problem = problems.lotka_volterra()
    terms = measures.learnt_terms(problem, trained, problem.times)
    states = problem.states(problem.times)
    np.testing.assert_allclose(terms.truth[:, 0], 0.9 * states[:, 0] * states[:, 1])
    assert (terms.sd > 0).all()
    figures = measures.band_figures(terms)
    assert figures["learnt_error"] == pytest.approx(1.0, abs=0.2)  # it starts near zero
    assert figures["worst_coverage"] <= figures["coverage"] < 1.0
    exact = measures.LearntTerms(terms.truth, 0.1 * terms.truth, terms.truth)
    figures = measures.band_figures(exact)
    assert (figures["coverage"], figures["band_width"]) == (1.0, pytest.approx(0.392))

    solved = measures.resolve(problem.system, trained, problem.times[:3])
    assert solved[0] == pytest.approx(problem.initial)
    found = measures.worst_relative_errors(
        np.array([[1.1, 0.0], [1.0, 2.0]]), np.array([[1.0, 0.0], [1.0, 2.0]])
    )
    assert found == pytest.approx([0.1 / 1.001, 0.0])
    assert measures.last_period(np.array([1.0, 2.0, 3.5])) == 1.5
    with pytest.raises(SolveError, match="does not oscillate"):
        measures.last_period(np.array([1.0]))


@pytest.mark.slow
def test_a_real_case_from_end_to_end() -> None:
    done = run_module(sys.executable, "flows.benchmarks.worker", ["cart_parameter", "0", "auto"], 100.0)
    assert done["status"] == "ok", done["reason"]
    assert done["figures"]["parameter_error"] < 0.05
    assert 0 < done["seconds"]["train"] < done["seconds"]["process"]
    assert done["words"]["n_observed"] == 202


def test_iterations_are_timed_and_training_then_ends() -> None:
    problem = problems.lotka_volterra()
    data = costs.with_known_noise(problem, fits.tutorial_data(problem, 0), np.array([0.01, 0.01]))
    options = costs.method_options("multiple_shooting x gauss_newton", 9, starts=2, hidden=(3,))
    seconds = costs.timed_iterations(problem, data, options, 0, 2)
    assert len(seconds) == 2
    assert all(0 < second < 60 for second in seconds)
    assert 0.01 < costs.peak_gigabytes() < 1000


def test_the_comparison_of_devices_finds_none_between_the_cpu_and_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(devices, "SEGMENTS", 4)
    monkeypatch.setattr(devices, "STARTS", 2)
    figures = devices.gpu_against_cpu(0, "auto", {"device": "cpu"}).figures
    assert figures["worst_difference"] == 0.0
    kinds = {options.kind for options in devices.every_objective()}
    assert {f"difference_{kind}_gradient" for kind in kinds} <= figures.keys()
    assert len(kinds) >= 2


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_every_objective_is_the_same_on_the_gpu() -> None:
    figures = devices.gpu_against_cpu(0, "auto", {"device": "cuda"}).figures
    assert figures["worst_difference"] is not None
    assert figures["worst_difference"] <= 1e-8
