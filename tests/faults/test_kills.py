"""SIGKILL at any moment of a run of the real stages: the next run ends with what an undisturbed one ends with."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from sciml_discover.cache import verify
from sciml_discover.locks import hold
from sciml_discover.run_folders import list_runs, store_in
from tests.faults.counts import form_of
from tests.faults.experiments import write_logistic
from tests.faults.outcome import comparable, last_result, locks_held, locks_left, processes_of
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


def killed(experiment: Path, folder: Path, warm: Zygote, after: float) -> Path:
    """Return the folder of a run that was killed, earlier than asked for if it had ended by then."""
    attempts = itertools.count()
    while True:
        out = folder / f"attempt{next(attempts)}"
        ended = warm.call("run", str(experiment), str(out), kill_after=after)
        if ended.status == -signal.SIGKILL and not any(out.glob("*/result.json")):
            return out
        assert ended.status in (0, -signal.SIGKILL), ended.err
        after *= 0.8


def goes_on(experiment: Path, out: Path, warm: Zygote, undisturbed: dict[str, Any]) -> set[str]:
    """Check what a killed run left and what the next one makes of it; return the stages that had a checkpoint."""
    assert warm.left_running() == []
    assert locks_held(out) == []
    store = store_in(out)
    made = {path.parent.name for path in (store.root / "refs").glob("*/*.json")}
    checkpoints = (store.root / "checkpoints").glob("*/checkpoint.safetensors")
    begun = {path.parent.name.partition("-")[0] for path in checkpoints} - made

    assert warm.call("run", str(experiment), str(out)).status == 0
    result = last_result(out)
    assert comparable(result) == undisturbed["result"]
    assert {name for name, cached in result["cached"].items() if cached} == made
    log = (out / result["id"] / "run.log").read_text()
    assert {name for name in result["cached"] if f"{name}: going on from a checkpoint" in log} == begun
    assert verify(out) == []
    assert warm.left_running() == []
    assert locks_left(out) == []
    return begun


@pytest.mark.faults("SIGKILL at a random moment of the seven stages, then a rerun")
def test_a_killed_run_is_gone_on_with(
    experiment: Path, undisturbed: dict[str, Any], warm: Zygote, tmp_path: Path, moment: float
) -> None:
    out = killed(experiment, tmp_path, warm, moment * undisturbed["seconds"])
    goes_on(experiment, out, warm, undisturbed)


@pytest.mark.faults("SIGKILL right after a checkpoint of the training or of the search, then a rerun")
@pytest.mark.parametrize("stage", ["train", "select"])
def test_a_run_that_is_killed_after_a_checkpoint_goes_on_from_there(
    experiment: Path, undisturbed: dict[str, Any], warm: Zygote, tmp_path: Path, stage: str
) -> None:
    ended = warm.call("run_until_a_checkpoint", str(experiment), str(tmp_path), stage)
    assert ended.status == -signal.SIGKILL, ended.err
    assert goes_on(experiment, tmp_path, warm, undisturbed) == {stage}


def test_what_is_left_running_or_locked_is_seen(warm: Zygote, tmp_path: Path) -> None:
    assert warm.call("leave_behind", 1.0).status == 0
    assert warm.left_running(within=0.0) == ["sleep 1.0 "]
    assert warm.left_running() == []
    lock = store_in(tmp_path).key_lock("train", "key")
    with hold(lock):
        assert locks_held(tmp_path) == [lock.name]
        assert locks_left(tmp_path) == [lock.name]
    lock.touch()
    assert (locks_held(tmp_path), locks_left(tmp_path)) == ([], [lock.name])


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
    assert locks_held(tmp_path) == []

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
