"""Several processes on one store: each result is made once, and a killed process holds nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sciml_discover.run_folders import list_runs, store_in
from sciml_discover.stages import STAGES
from tests.fakes import write_experiment

NAMES = [stage.name for stage in STAGES]
ROOT = Path(__file__).parent.parent

RUN = """
import os, sys, time
from pathlib import Path
import pytest
from sciml_discover.runs import discover
from tests.fakes import install

experiment, out, sleeps = sys.argv[1:]

def before(stage):
    with open(Path(experiment).with_name("calls"), "a") as calls:
        calls.write(f"{stage}\\n")
    if stage == sleeps:
        print("asleep", flush=True)
        time.sleep(60)
    time.sleep(0.1)

install(pytest.MonkeyPatch()).before = before
print("ready", flush=True)
sys.stdin.readline()
result = discover(experiment, out=out, watch=lambda event: "waiting" in event.message and print("waits", flush=True))
print(result.status)
"""


class Process:
    """A process that waits for `begin` and then makes one run with stand-ins for the verbs."""

    def __init__(self, experiment: Path, out: Path, sleeps: str = "nowhere") -> None:
        self.popen = subprocess.Popen(
            [sys.executable, "-c", RUN, str(experiment), str(out), sleeps],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    def line(self) -> str:
        assert self.popen.stdout is not None
        return self.popen.stdout.readline().strip()

    def begin(self) -> None:
        assert self.popen.stdin is not None
        self.popen.stdin.write("\n")
        self.popen.stdin.flush()

    def rest(self) -> list[str]:
        return self.popen.communicate(timeout=60)[0].split()


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
