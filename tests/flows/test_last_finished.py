from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flows.discover import discover
from flows.last_finished import LastFinished
from sciml_discover.experiment import Changes
from sciml_discover.run_folders import list_runs
from sciml_discover.stages import STAGES
from tests.fakes import FakeVerbs, install, write_experiment
from tests.flows.prefect_states import task_states

NAMES = [stage.name for stage in STAGES]


def test_a_run_is_remembered_as_long_as_it_is_there(tmp_path: Path) -> None:
    last = LastFinished(tmp_path, "hares: every day/at six")
    assert last.with_digest("a") is None
    run = tmp_path / "hares-1"
    run.mkdir()
    (run / "result.json").touch()
    last.remember("a", run)
    assert LastFinished(tmp_path, "hares: every day/at six").with_digest("a") == run
    assert last.with_digest("b") is None
    assert LastFinished(tmp_path, "another").with_digest("a") is None
    (run / "result.json").unlink()
    assert last.with_digest("a") is None


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"digest": "a"}', '{"digest": "a", "run": 7}'])
def test_a_record_that_nobody_can_read_is_none(tmp_path: Path, content: str) -> None:
    last = LastFinished(tmp_path, "hares")
    last.remember("a", tmp_path / "hares-1")
    (record,) = (tmp_path / ".schedules").iterdir()
    record.write_text(content)
    assert last.with_digest("a") is None


@pytest.mark.usefixtures("api")
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_nothing_is_done_until_the_data_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    verbs: FakeVerbs = install(monkeypatch)
    experiment = write_experiment(tmp_path / "hares")
    call: dict[str, Any] = {"experiment": experiment, "out": tmp_path / "runs", "when_data_changes": True}

    def fail(stage: str) -> None:
        if stage == "select":
            raise ZeroDivisionError("oops")

    verbs.before = fail
    assert discover(**call, return_state=True).is_failed()
    verbs.before = lambda _: None
    first = discover(**call, return_state=True)
    assert first.name == "Completed"  # what failed is tried again

    again = discover(**call, return_state=True)
    assert (again.is_completed(), again.name) == (True, "Unchanged")
    assert Path(first.result()).name in (again.message or "")
    assert again.result() == first.result()
    assert task_states(again) == {name: [] for name in NAMES}
    assert len(list_runs(tmp_path / "runs")) == 2

    rows = experiment.parent / "rows.csv"
    rows.write_text(rows.read_text() + "3,4,5\n")
    assert discover(**call, return_state=True).name == "Completed"
    changed = {**call, "changes": Changes.model_validate({"seed": 4})}
    assert discover(**changed, return_state=True).name == "Completed"
