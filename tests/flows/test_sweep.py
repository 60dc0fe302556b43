from __future__ import annotations

import csv
import json
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from prefect.client.schemas.objects import State
from typer.testing import CliRunner

from flows.cli import app
from flows.combinations import plan
from flows.session import Session, session
from flows.sweep import sweep
from flows.sweep_rows import rows_without_work
from flows.sweep_table import SweepTable
from sciml_discover.base import Progress
from sciml_discover.run_folders import find_run, list_runs
from tests.fakes import FakeVerbs, install, write_experiment

pytestmark = [
    # Prefect's own clients leave these behind.
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture
def verbs(monkeypatch: pytest.MonkeyPatch, api: str) -> FakeVerbs:
    monkeypatch.setenv("PREFECT_API_URL", api)
    monkeypatch.setattr("flows.launch.import_for", lambda _: None)
    return install(monkeypatch)


@pytest.fixture
def call(tmp_path: Path) -> dict[str, Any]:
    return {
        "experiment": str(write_experiment(tmp_path / "hares")),
        "out": str(tmp_path / "runs"),
        "over": ["train.starts=1..3"],
        "runner": "threads",  # where the stand-ins are
    }


def fail_on(verbs: FakeVerbs, count: int) -> None:
    """Let the training of one combination fail, counted from 1."""

    def fail(stage: str) -> None:
        if stage == "train" and verbs.calls.count("train") == count:
            raise ZeroDivisionError("oops")

    verbs.before = fail


def run(call: dict[str, Any]) -> SweepTable:
    state: State[Any] = sweep(**call, return_state=True)
    return state.result()


def statuses(table: SweepTable) -> list[str]:
    return [row.status for row in table.rows]


def test_one_failure_is_counted_and_ends_nothing(call: dict[str, Any], verbs: FakeVerbs) -> None:
    fail_on(verbs, 2)
    table = run(call)
    assert statuses(table) == ["accepted", "failed", "accepted"]
    assert table.rows[1].message == "ZeroDivisionError: oops"
    assert [row.values["train.starts"] for row in table.rows] == ["1", "2", "3"]
    summary = table.summary()
    assert (summary["done"], summary["accepted"], summary["failed"], summary["same structure"]) == (
        3,
        2,
        1,
        2,
    )
    assert summary["median largest relative error"] == 0.001
    assert summary["median |relative error| hare: hare*lynx"] == 0.0004
    assert summary["median hold-out error"] == pytest.approx(1.0, abs=1)
    assert find_run(table.rows[1].run, call["out"]).failed_stage == "train"


def test_started_again_it_runs_only_what_is_not_finished(call: dict[str, Any], verbs: FakeVerbs) -> None:
    fail_on(verbs, 2)
    first = run(call)
    verbs.calls.clear()
    verbs.before = lambda _: None
    second = run(call)
    assert statuses(second) == ["accepted"] * 3
    assert verbs.calls.count("train") == 1
    assert second.folder == first.folder
    assert [second.rows[0].run, second.rows[2].run] == [first.rows[0].run, first.rows[2].run]
    assert second.rows[1].run != first.rows[1].run

    verbs.calls.clear()
    wider = run({**call, "over": ["train.starts=1..4"]})
    assert wider.rows[:3] == second.rows
    assert verbs.calls.count("train") == 1

    verbs.calls.clear()
    shutil.rmtree(Path(call["out"]) / second.rows[0].run)
    again = run(call)
    assert verbs.calls == []
    assert again.rows[0].run != second.rows[0].run
    assert find_run(again.rows[0].run, call["out"]).cached["train"]


def test_a_cached_run_adds_less_than_a_tenth_of_a_second(call: dict[str, Any], verbs: FakeVerbs) -> None:
    run({**call, "over": ["train.starts=1"]})
    verbs.calls.clear()
    planned = plan(call["experiment"], ["train.starts=1"], [], "cpu")
    out = Path(call["out"])
    begun = time.process_time()
    for _ in range(20):
        shutil.rmtree(out / "sweeps" / "finished")
        assert len(list(rows_without_work(planned, out, "cpu"))) == 1
    assert (time.process_time() - begun) / 20 < 0.1
    assert verbs.calls == []


def test_an_interrupted_sweep_keeps_what_was_done(call: dict[str, Any], verbs: FakeVerbs) -> None:
    begun, second = threading.Event(), threading.Event()

    def wait(stage: str) -> None:
        if stage == "train" and verbs.calls.count("train") == 2:
            begun.set()
            second.wait(20)

    def interrupt(event: Progress) -> None:
        if event.step == 1:
            assert begun.wait(20)
            threading.Timer(0.3, second.set).start()
            raise KeyboardInterrupt

    verbs.before = wait
    token = session.set(Session(watch=interrupt))
    try:
        with pytest.raises(KeyboardInterrupt):
            run(call)
    finally:
        session.reset(token)
    # Nobody waits for the thread, which ends by itself.
    until = time.monotonic() + 20.0
    while any(record.result is None for record in list_runs(call["out"])) and time.monotonic() < until:
        time.sleep(0.05)
    assert verbs.calls.count("train") == 2
    assert "sample" not in verbs.calls[verbs.calls.index("train", 2) :]
    ended = [record.result for record in list_runs(call["out"]) if record.result]
    assert sorted(result.reasons[0].message for result in ended if result.status == "failed") == [
        "interrupted"
    ]
    verbs.before = lambda _: None
    verbs.calls.clear()
    assert statuses(run(call)) == ["accepted"] * 3
    assert verbs.calls.count("train") == 2


def test_the_table_is_kept_as_csv_and_json(call: dict[str, Any], verbs: FakeVerbs) -> None:
    verbs.status = "rejected"
    table = run(call)
    document = json.loads((table.folder / "table.json").read_text())
    assert document["summary"] == table.summary()
    assert [row["status"] for row in document["rows"]] == ["rejected"] * 3
    with (table.folder / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["train.starts"] for row in rows] == ["1", "2", "3"]
    assert rows[0]["run"] == table.rows[0].run
    assert float(rows[0]["relative_error lynx: hare*lynx"]) == 0.001


def test_progress_is_told(call: dict[str, Any], verbs: FakeVerbs) -> None:
    events: list[Progress] = []
    token = session.set(Session(watch=events.append))
    try:
        run(call)
    finally:
        session.reset(token)
    assert [(event.step, event.total) for event in events] == [(0, 3), (1, 3), (2, 3), (3, 3)]
    assert verbs.calls.count("train") == 3


def test_the_command_prints_one_table(call: dict[str, Any], verbs: FakeVerbs) -> None:
    fail_on(verbs, 3)
    arguments = ["sweep", call["experiment"], "--over", "train.starts=1..3", "--out", call["out"]]
    arguments += ["--runner", "threads"]
    done = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})
    assert (done.exit_code, done.stdout) == (1, "")
    assert "ZeroDivisionError: oops" in done.stderr
    assert "1 failed: the same command runs them again" in done.stderr
    assert "table.csv" in done.stderr
    verbs.before = lambda _: None
    again = CliRunner().invoke(app, arguments)
    assert (again.exit_code, again.stdout) == (0, "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--over", "train.starts"], "KEY=VALUES"),
        (["--over", "train.stats=1,2"], "'starts'"),
        (["--over", "train.starts=1,0"], "starts"),
    ],
)
def test_wrong_input_starts_nothing(
    call: dict[str, Any], monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.setattr("flows.api.LocalServer", None)
    done = CliRunner().invoke(app, ["sweep", call["experiment"], "--out", call["out"], *arguments])
    assert (done.exit_code, done.stdout) == (2, "")
    assert message in done.stderr
    assert not Path(call["out"]).exists()
