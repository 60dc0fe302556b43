"""The benchmark of regression, on a problem that takes a second."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from flows.benchmark_regression import benchmark_regression
from flows.benchmarks.regression import compare, draws, problem
from flows.cli import app

pytestmark = [
    # Prefect's own clients leave these behind.
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
]


def measured(*_: Any) -> dict[str, Any]:
    """What a process would have printed."""
    figures = {"ratio": 31.0, "same_supports": 11, "supports": 12, "terms": 56}
    seconds = {"batched": 0.1, "batched_again": 0.09, "pysindy": 3.1, "process": 5.0}
    return {"status": "ok", "reason": "", "figures": figures, "seconds": seconds, "words": {}}


def test_both_do_the_same_work() -> None:
    found = compare(bootstraps=3, thresholds=4, samples=80, seed=1)
    assert found["figures"]["supports"] == found["figures"]["same_supports"] == 12
    assert found["figures"]["terms"] == 56
    seconds = found["seconds"]
    assert found["figures"]["ratio"] == pytest.approx(seconds["pysindy"] / seconds["batched"])
    assert np.linalg.matrix_rank(problem(80, 1)[0]) == 56
    assert (draws(50, 2, 0)[0] != draws(50, 2, 0)[1]).any()
    np.testing.assert_array_equal(draws(50, 2, 3), draws(50, 2, 3))


@pytest.mark.usefixtures("api")
def test_the_document_says_what_was_reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flows.benchmark.run_module", measured)
    document = benchmark_regression(bootstraps=3, thresholds=4, samples=80, out=str(tmp_path))
    (file,) = (tmp_path / "benchmarks" / "regression").glob("*.json")
    assert json.loads(file.read_text()) == document
    assert document["targets"] == {"at least 30 times faster": True, "the same supports": False}
    assert document["command"] == (
        "sciml-discover benchmark regression --bootstraps 3 --thresholds 4 --samples 80 --seed 0"
    )


@pytest.mark.parametrize("status", ["ok", "failed"])
def test_the_command_prints_a_table(status: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = (
        measured() if status == "ok" else {**measured(), "status": "failed", "figures": {}, "reason": "ill"}
    )
    document = {
        **found,
        "options": {"bootstraps": 3, "thresholds": 4, "samples": 80, "seed": 0},
        "file": "runs/x.json",
    }
    monkeypatch.setattr("flows.launch.launch_regression_benchmark", lambda **_: document)
    arguments = ["benchmark", "regression", "--json", "--out", str(tmp_path)]
    done = CliRunner().invoke(app, arguments, env={"COLUMNS": "120"})
    assert json.loads(done.stdout) == document
    if status == "ok":
        assert done.exit_code == 0
        assert "31 times faster; 11 of 12 supports are the same" in done.stderr
    else:
        assert done.exit_code == 1
        assert "nothing was measured, ill" in done.stderr


@pytest.mark.parametrize("wrong", [("--bootstraps", "0"), ("--samples", "10"), ("--seed", "-1")])
def test_numbers_that_make_no_sense_are_refused(wrong: tuple[str, str], tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["benchmark", "regression", *wrong, "--out", str(tmp_path / "runs")])
    assert done.exit_code == 2
    assert wrong[0] in done.stderr
    assert not (tmp_path / "runs").exists()
