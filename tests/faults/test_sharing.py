"""Several processes on one store, some of them killed: each result is made once, and nobody waits for the dead."""

from __future__ import annotations

import json
import random
import shutil
import threading
import time
from pathlib import Path

import pytest

from sciml_discover.cache import verify
from sciml_discover.run_folders import list_runs, store_in
from sciml_discover.stages import STAGES
from tests.fakes import write_experiment
from tests.faults.counts import form_of
from tests.faults.experiments import write_logistic
from tests.faults.outcome import locks_left
from tests.faults.zygote import Zygote

NAMES = [stage.name for stage in STAGES]
TIMES = {"small": 1, "whole": 5}
FAR = 120.0


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "time_around" in metafunc.fixturenames:
        metafunc.parametrize("time_around", range(TIMES[form_of(metafunc.config)]))


def digests(out: Path) -> list[dict[str, str]]:
    found = [json.loads((record.folder / "artifacts.json").read_text()) for record in list_runs(out)]
    return [{name: record[name]["digest"] for name in NAMES} for record in found]


@pytest.mark.usefixtures("whole_form")
@pytest.mark.faults("two processes on one experiment, the real stages")
def test_two_processes_on_one_experiment(warm: Zygote, tmp_path: Path, time_around: int) -> None:
    experiment, out = str(write_logistic(tmp_path / "logistic")), tmp_path / "runs"
    ended = warm.call_all([("run", (experiment, str(out), f"seed={time_around}"), {}, FAR)] * 2)
    assert [one.status for one in ended] == [0, 0], ended
    first, second = digests(out)
    assert first == second
    cached = [record.result.cached for record in list_runs(out) if record.result]
    assert {name: sum(one[name] for one in cached) for name in NAMES} == dict.fromkeys(NAMES, 1)
    assert locks_left(out) == []


@pytest.mark.faults("eight processes on eight experiments in one store")
def test_eight_processes_on_eight_experiments(warm: Zygote, tmp_path: Path, time_around: int) -> None:
    experiment, out = str(write_experiment(tmp_path / "hares")), tmp_path / "runs"
    seeds = range(8 * time_around, 8 * time_around + 8)
    calls = [("run_stand_ins", (experiment, str(out), f"seed={seed}"), {}, FAR) for seed in seeds]
    ended = warm.call_all(calls)
    assert [one.status for one in ended] == [0] * 8, ended
    assert len(digests(out)) == 8
    assert (verify(out), locks_left(out)) == ([], [])


@pytest.mark.usefixtures("whole_form")
@pytest.mark.faults("four of eight processes on one experiment killed")
def test_processes_that_are_killed_hold_nobody_up(warm: Zygote, tmp_path: Path, time_around: int) -> None:
    experiment, out = str(write_logistic(tmp_path / "logistic")), tmp_path / "runs"
    chance = random.Random(time_around)
    seconds = [chance.uniform(0.1, 2.0) if number % 2 else FAR for number in range(8)]
    ended = warm.call_all([("run", (experiment, str(out)), {}, one) for one in seconds])
    assert [one.status for one in ended[::2]] == [0] * 4, ended
    assert {one.status for one in ended[1::2]} <= {0, -9}
    finished = [record for record in list_runs(out) if record.result]
    assert len(finished) >= 4
    assert len({tuple(one.items()) for one in digests_of(finished)}) == 1
    # The next one clears away the files, though not the locks, that the killed ones left.
    assert warm.call("run", experiment, str(out)).status == 0
    assert (verify(out), locks_left(out)) == ([], [])


def digests_of(records: list) -> list[dict[str, str]]:
    found = [json.loads((record.folder / "artifacts.json").read_text()) for record in records]
    return [{name: one[name]["digest"] for name in NAMES} for one in found]


@pytest.mark.usefixtures("whole_form")
@pytest.mark.faults("the store deleted while a run goes on")
def test_a_store_that_is_deleted(warm: Zygote, tmp_path: Path, time_around: int) -> None:
    experiment, out = str(write_logistic(tmp_path / "logistic")), tmp_path / "runs"
    chance, over = random.Random(time_around), threading.Event()

    def delete() -> None:
        while not over.wait(chance.uniform(0.2, 1.5)):
            shutil.rmtree(store_in(out).root, ignore_errors=True)

    thread = threading.Thread(target=delete)
    thread.start()
    try:
        # Three times at most: a run gives up on a store that is deleted again and again.
        time.sleep(0.1)
        timer = threading.Timer(3.0, over.set)
        timer.start()
        ended = warm.call("run", experiment, str(out))
        timer.cancel()
    finally:
        over.set()
        thread.join()
    assert ended.status == 0, ended.err
    assert warm.call("run", experiment, str(out)).status == 0
    assert verify(out) == []
