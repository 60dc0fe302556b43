from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from prefect.client.schemas.objects import State
from typer.testing import CliRunner

from flows import sweep_work
from flows.cli import app
from flows.sweep import sweep
from flows.sweep_table import SweepTable
from sciml_discover.errors import InputError
from sciml_discover.run_folders import list_runs
from sciml_discover.threads import usable_cores
from tests.fakes import FakeVerbs, install, write_experiment
from tests.flows.prefect_states import read_task_runs

ROOT = Path(__file__).parent.parent.parent

pytestmark = [
    # Prefect's own clients leave these behind.
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture
def experiment(tmp_path: Path) -> str:
    return str(write_experiment(tmp_path / "hares"))


@pytest.fixture
def verbs(monkeypatch: pytest.MonkeyPatch, api: str) -> FakeVerbs:
    monkeypatch.setenv("PREFECT_API_URL", api)
    monkeypatch.setattr(sweep_work, "RETRY_SECONDS", 0.0)
    return install(monkeypatch)


def swept(experiment: str, tmp_path: Path, **more: Any) -> tuple[SweepTable, list[str]]:
    """The table of a sweep of three, and the names of the Prefect task runs that it took."""
    call = {"experiment": experiment, "over": ["train.starts=1..3"], "out": str(tmp_path / "runs"), **more}
    state: State[Any] = sweep(**call, return_state=True)
    return state.result(), [run.name for _, run in read_task_runs(state)]


def statuses(table: SweepTable) -> list[str]:
    return [row.status for row in table.rows]


def test_only_what_must_be_computed_becomes_a_task(experiment: str, tmp_path: Path, verbs: FakeVerbs) -> None:
    threads: set[str | None] = set()
    verbs.before = lambda _: threads.add(os.environ.get("OMP_NUM_THREADS"))
    first, tasks = swept(experiment, tmp_path, runner="threads", workers=64)
    assert threads == {"1"}
    assert sorted(tasks) == ["starts=1", "starts=2", "starts=3"]
    verbs.calls.clear()
    for record in (tmp_path / "runs" / "sweeps" / "finished").iterdir():
        record.unlink()
    found, tasks = swept(experiment, tmp_path, runner="threads")
    assert (tasks, verbs.calls) == ([], [])
    assert statuses(found) == ["accepted"] * 3
    assert {row.run for row in found.rows}.isdisjoint(row.run for row in first.rows)
    known, tasks = swept(experiment, tmp_path, runner="threads")
    assert tasks == []
    assert known.rows == found.rows


def test_a_record_that_cannot_be_read_is_no_record(experiment: str, tmp_path: Path, verbs: FakeVerbs) -> None:
    first, _ = swept(experiment, tmp_path, runner="threads")
    texts = ("{", "[]", '{"run": "nowhere"}')
    for record, text in zip((tmp_path / "runs" / "sweeps" / "finished").iterdir(), texts, strict=True):
        record.write_text(text)
    verbs.calls.clear()
    again, _ = swept(experiment, tmp_path, runner="threads")
    assert (statuses(again), verbs.calls) == (statuses(first), [])


@pytest.mark.parametrize(
    ("error", "retries", "trainings", "ends"),
    [
        (OSError("the disk is busy"), 1, 4, "accepted"),
        (OSError("the disk is busy"), 0, 3, "failed"),
        (InputError("text", where="rows.csv", expected="numbers"), 3, 3, "failed"),
    ],
    ids=["retried", "not-asked-for", "wrong-input"],
)
def test_failures_are_tried_again_if_that_can_help(
    experiment: str,
    tmp_path: Path,
    verbs: FakeVerbs,
    error: Exception,
    retries: int,
    trainings: int,
    ends: str,
) -> None:
    def fail(stage: str) -> None:
        if stage == "train" and verbs.calls.count("train") == 2:
            raise error

    verbs.before = fail
    table, tasks = swept(experiment, tmp_path, runner="threads", retries=retries)
    assert statuses(table) == ["accepted", ends, "accepted"]
    assert (verbs.calls.count("train"), len(tasks)) == (trainings, trainings)
    assert len(list_runs(tmp_path / "runs")) == trainings


def call(*arguments: object, api: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command line with stand-ins, in its own process and in those that it starts."""
    return subprocess.run(
        [sys.executable, "-m", "tests.flows.fake_cli", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "PREFECT_API_URL": api, "COLUMNS": "200", **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize(("runner", "package"), [("processes", "prefect"), ("dask", "prefect_dask")])
def test_other_processes_have_their_share_of_the_cores_and_may_die(
    runner: str, package: str, experiment: str, tmp_path: Path, api: str
) -> None:
    pytest.importorskip(package)
    calls = tmp_path / "calls"
    arguments = ["sweep", experiment, "--over", "train.starts=1..3", "--out", tmp_path / "runs"]
    arguments += ["--runner", runner, "--workers", 2, "--retries", 1]
    environment = {"FAKE_CALLS": str(calls), "FAKE_DIES": str(tmp_path / "died"), "OMP_NUM_THREADS": "64"}
    done = call(*arguments, api=api, **environment)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert (tmp_path / "died").exists()
    assert "3 of 3 combinations" in done.stderr
    assert "failed:" not in done.stderr
    lines = [line.split() for line in calls.read_text().splitlines()]
    assert {int(threads) for _, _, threads in lines} <= {1, max(1, usable_cores() // 2)}
    assert len({process for _, process, _ in lines}) >= 2


@pytest.mark.parametrize("runner", ["threads", "processes", "dask"])
def test_an_interrupted_sweep_does_not_wait_for_what_runs(
    runner: str, experiment: str, tmp_path: Path, api: str
) -> None:
    if runner == "dask":
        pytest.importorskip("prefect_dask")
    arguments = ["sweep", experiment, "--over", "train.starts=1..2", "--out", str(tmp_path / "runs")]
    environment = {"PREFECT_API_URL": api, "COLUMNS": "200", "FAKE_SLEEP": "select"}
    with subprocess.Popen(
        [sys.executable, "-m", "tests.flows.fake_cli", *arguments, "--runner", runner, "--workers", "1"],
        cwd=ROOT,
        env={**os.environ, **environment},
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        while "asleep" not in process.stderr.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        sent = time.monotonic()
        stderr = process.stderr.read()
        assert process.wait(30) == 130, stderr
        assert time.monotonic() - sent < 3.0
    assert "Traceback" not in stderr
    assert "the same command goes on from there.\n" in stderr


def install_stand_ins() -> None:
    install(pytest.MonkeyPatch())


@pytest.mark.usefixtures("api")
def test_a_cluster_that_is_there_shares_the_store(experiment: str, tmp_path: Path) -> None:
    distributed = pytest.importorskip("distributed")
    pytest.importorskip("prefect_dask")
    own = {"n_workers": 1, "threads_per_worker": 2, "dashboard_address": "127.0.0.1:0", "silence_logs": 50}
    with distributed.LocalCluster(**own) as cluster, distributed.Client(cluster) as client:
        client.run(install_stand_ins)
        address = {"runner": "dask", "dask_address": cluster.scheduler_address}
        table, tasks = swept(experiment, tmp_path, **address)
        assert statuses(table) == ["accepted"] * 3
        assert sorted(tasks) == ["starts=1", "starts=2", "starts=3"]
        wider, tasks = swept(experiment, tmp_path, **address, over=["train.starts=1..4"])
    assert tasks == ["starts=4"]
    assert wider.rows[:3] == table.rows


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dask-address", "tcp://127.0.0.1:1"], "--runner dask only"),
        (["--runner", "threads", "--dask-address", "tcp://127.0.0.1:1"], "--runner dask only"),
        (["--runner", "dask", "--dask-address", "tcp://127.0.0.1:1"], "no scheduler"),
        (["--runner", "dask", "--dask-address", "nonsense:"], "no scheduler"),
        (["--runner", "slurm"], "slurm"),
    ],
)
def test_a_runner_that_cannot_be_used_starts_nothing(
    experiment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    pytest.importorskip("prefect_dask")
    monkeypatch.setattr("flows.api.LocalServer", None)
    monkeypatch.setattr("flows.runners.dask_cluster.CONNECT_SECONDS", 1)
    out = tmp_path / "runs"
    done = CliRunner().invoke(app, ["sweep", experiment, "--over", "seed=1", "--out", str(out), *arguments])
    assert (done.exit_code, done.stdout) == (2, "")
    assert message in done.stderr
    assert not out.exists()


def test_without_dask_it_is_said_what_to_install(
    experiment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.runners.dask_cluster.find_spec", lambda _: None)
    arguments = ["sweep", experiment, "--over", "seed=1", "--out", str(tmp_path), "--runner", "dask"]
    done = CliRunner().invoke(app, arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    assert "pip install -e '.[dask]'" in done.stderr
