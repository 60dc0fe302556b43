"""SIGKILL at any moment of a run of the real stages: the next run ends with what an undisturbed one ends with."""

from __future__ import annotations

import contextlib
import os
import random
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from sciml_discover.cache import verify
from sciml_discover.run_folders import list_runs, store_in
from tests.faults.counts import form_of
from tests.faults.experiments import write_logistic
from tests.faults.outcome import comparable, last_result, locks_left, processes_of
from tests.faults.zygote import ROOT, Zygote

MOMENTS = {"small": {"moment": 2, "moment_of_command": 1}, "whole": {"moment": 50, "moment_of_command": 8}}
"""How many kills of the library in a warm process, and of the whole command with its server."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    counts = MOMENTS[form_of(metafunc.config)]
    for name in counts.keys() & set(metafunc.fixturenames):
        generator = random.Random(name)
        moments = [generator.random() for _ in range(counts[name])]
        metafunc.parametrize(
            name, moments, ids=[f"{number}-{moment:.3f}" for number, moment in enumerate(moments)]
        )


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_logistic(tmp_path_factory.mktemp("kills") / "logistic")


@pytest.fixture(scope="module")
def undisturbed(experiment: Path, warm: Zygote, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("undisturbed")
    ended = warm.call("run", str(experiment), str(out))
    assert ended.status == 0, ended.err
    return {"seconds": ended.seconds, "result": comparable(last_result(out))}


@pytest.mark.faults("SIGKILL at a random moment of the seven stages, then a rerun")
def test_a_killed_run_is_gone_on_with(
    experiment: Path, undisturbed: dict[str, Any], warm: Zygote, tmp_path: Path, moment: float
) -> None:
    after = moment * undisturbed["seconds"]
    while warm.call("run", str(experiment), str(tmp_path), kill_after=after).status != -9:
        after *= 0.8  # it was quicker than the undisturbed one: this was no kill
    store = store_in(tmp_path)
    made = {path.parent.name for path in (store.root / "refs").glob("*/*.json")}
    begun = any((store.root / "checkpoints").glob("*/*.safetensors"))

    assert warm.call("run", str(experiment), str(tmp_path)).status == 0
    result = last_result(tmp_path)
    assert comparable(result) == undisturbed["result"]
    assert {name for name, cached in result["cached"].items() if cached} == made
    if begun and "train" not in made:
        log = (tmp_path / result["id"] / "run.log").read_text()
        assert "going on from a checkpoint" in log
    assert verify(tmp_path) == []
    assert locks_left(tmp_path) == []


def command(experiment: Path, out: Path, home: Path, mark: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PREFECT_HOME": str(home), "OMP_NUM_THREADS": "1", "FAULTS_MARK": mark}
    environment.pop("PREFECT_API_URL", None)
    return subprocess.Popen(
        [sys.executable, "-m", "flows.cli", "run", str(experiment), "--out", str(out)],
        cwd=ROOT,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, experiment: Path) -> tuple[Path, float]:
    """A folder of Prefect that was used before, and how long the whole command takes there."""
    home, seconds = tmp_path_factory.mktemp("prefect"), 0.0
    for name in ("cold", "warm"):
        begun = time.monotonic()
        with command(experiment, tmp_path_factory.mktemp(name), home, name) as process:
            assert process.wait(120) == 0
        seconds = time.monotonic() - begun
    return home, seconds


@pytest.mark.usefixtures("whole_form")
@pytest.mark.faults("SIGKILL at a random moment of the whole command with its server, then a rerun")
def test_a_killed_command_leaves_nothing_behind(
    experiment: Path,
    undisturbed: dict[str, Any],
    home: tuple[Path, float],
    tmp_path: Path,
    moment_of_command: float,
) -> None:
    folder, seconds = home
    mark = str(tmp_path)
    with command(experiment, tmp_path, folder, mark) as process:
        time.sleep(moment_of_command * seconds)
        process.kill()
    deadline = time.monotonic() + 3
    while processes_of(mark) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert processes_of(mark) == []

    with command(experiment, tmp_path, folder, mark) as process:
        _, said = process.communicate(timeout=120)
        assert process.returncode == 0, said
    assert comparable(last_result(tmp_path)) == undisturbed["result"]
    assert processes_of(mark) == []
    assert locks_left(tmp_path) == []
    assert len(list_runs(tmp_path)) <= 2
    with contextlib.closing(sqlite3.connect(folder / "prefect.db")) as database:
        unfinished = "SELECT name FROM flow_run WHERE state_type NOT IN ('COMPLETED', 'CRASHED')"
        assert database.execute(unfinished).fetchall() == []
