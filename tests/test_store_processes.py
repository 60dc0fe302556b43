"""Several processes on one store: each result is made once, and a killed process holds nothing."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest

from sciml_discover.run_folders import list_runs, store_in
from sciml_discover.stages import STAGES
from tests.fakes import write_experiment
from tests.processes import Process

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
