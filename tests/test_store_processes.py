"""Several processes on one store: each result is made once, and a killed process holds nothing."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sciml_discover.cache import verify
from sciml_discover.run_folders import list_runs, store_in
from sciml_discover.runs import discover
from sciml_discover.stages import STAGES
from tests.fakes import install, write_experiment
from tests.processes import ROOT, Process

NAMES = [stage.name for stage in STAGES]


@pytest.fixture
def experiment(tmp_path: Path) -> Path:
    return write_experiment(tmp_path / "hares")


def calls(experiment: Path) -> list[str]:
    return experiment.with_name("calls").read_text().split()


def lock_files(out: Path) -> list[Path]:
    return list((store_in(out).root / "locks").iterdir())


def test_processes_on_one_experiment_make_each_result_once(experiment: Path, tmp_path: Path) -> None:
    out = tmp_path / "runs"
    processes = [Process(experiment, out) for _ in range(2)]
    for process in processes:
        assert process.line() == "ready"
    for process in processes:
        process.begin()
    for process in processes:
        assert process.rest()[-1] == "accepted"
    assert sorted(calls(experiment)) == sorted(NAMES)
    first, second = (json.loads((record.folder / "artifacts.json").read_text()) for record in list_runs(out))
    assert {name: first[name]["digest"] for name in NAMES} == {name: second[name]["digest"] for name in NAMES}
    cached = [record.result.cached for record in list_runs(out) if record.result]
    assert {name: sum(one[name] for one in cached) for name in NAMES} == dict.fromkeys(NAMES, 1)
    assert lock_files(out) == []


def test_a_killed_process_lets_the_one_that_waits_go_on(experiment: Path, tmp_path: Path) -> None:
    out = tmp_path / "runs"
    holder, waiter = Process(experiment, out, sleeps="train"), Process(experiment, out)
    for process in (holder, waiter):
        assert process.line() == "ready"
    holder.begin()
    assert holder.line() == "asleep"
    waiter.begin()
    assert waiter.line() == "waits"
    sent = time.monotonic()
    holder.popen.send_signal(signal.SIGKILL)
    assert waiter.rest()[-1] == "accepted"
    assert time.monotonic() - sent < 20
    holder.rest()
    assert sorted(calls(experiment)) == sorted([*NAMES, "train"])
    # What the killed process held can be left there as a file, but nobody holds it.
    assert all(path.name.startswith("use-data-") for path in lock_files(out))


PRUNE = """
import sys
from sciml_discover.cache import prune

print("ready", flush=True)
while True:
    if prune(sys.argv[1], max_bytes=0).in_use:
        print("in-use", flush=True)
"""


def test_a_process_that_prunes_all_the_time_takes_nothing_from_runs(
    experiment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "runs"
    verbs = install(monkeypatch)
    with subprocess.Popen(
        [sys.executable, "-c", PRUNE, str(out)], stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as pruner:
        assert pruner.stdout is not None
        assert pruner.stdout.readline() == "ready\n"
        for _ in range(15):
            assert discover(experiment, out=out).accepted
        pruner.kill()
        assert "in-use" in pruner.stdout.read()
    assert len(verbs.calls) > len(NAMES)  # it did take something between the runs
    assert verify(out) == []
