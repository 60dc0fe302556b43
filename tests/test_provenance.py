from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from sciml_discover import runs, stages
from sciml_discover.cache import prune
from sciml_discover.provenance import StageOrigin, stage_origins
from sciml_discover.runs import discover
from sciml_discover.stages import STAGES
from tests.fakes import FakeVerbs, install, write_experiment

NAMES = [stage.name for stage in STAGES]


@pytest.fixture
def verbs(monkeypatch: pytest.MonkeyPatch) -> FakeVerbs:
    return install(monkeypatch)


class Runs:
    """Runs of one experiment, one after the other, named 1, 2, ..."""

    def __init__(self, folder: Path) -> None:
        self.experiment, self.out, self.count = write_experiment(folder / "hares"), folder / "runs", 0

    def __call__(self, *overrides: str, from_stage: str | None = None) -> dict[str, StageOrigin]:
        self.count += 1
        name = str(self.count)
        discover(self.experiment, out=self.out, overrides=overrides, from_stage=from_stage, run_id=name)
        origins = stage_origins(self.out / name)
        assert [origin.stage for origin in origins] == NAMES
        return {origin.stage: origin for origin in origins}


@pytest.fixture
def run(tmp_path: Path, verbs: FakeVerbs) -> Runs:
    assert verbs.calls == []
    return Runs(tmp_path)


def test_a_first_run_then_a_cached_one(run: Runs) -> None:
    assert run()["train"] == StageOrigin("train", "computed", "1", ("made for the first time",))
    run()
    assert run() == {name: StageOrigin(name, "cached", "1") for name in NAMES}


def test_options_that_changed_are_told_with_the_run_since(run: Runs) -> None:
    run()
    origins = run("train.starts=3")
    starts = run("train.starts=2")["train"]
    assert origins["data"].how == "cached"
    assert (starts.how, starts.run, starts.since) == ("computed", "3", "2")
    assert starts.reasons == ("train.starts = 2, was 3",)
    assert origins["sample"].reasons == ("another result of train",)
    # The stand-in's samples depend on nothing, so that what follows is found.
    assert origins["sample"].same_bytes
    assert origins["regress"].how == "cached"
    added = run("train.starts=2", "regress.library.functions=['sin']")["regress"]
    assert added.reasons == ("regress.library.functions.0 added",)
    text = run("train.starts=2", "title=Other")["report"]
    assert text.reasons == ("title = 'Other', was 'Hare and lynx'", "the experiment's text changed")


def test_the_nearest_run_is_compared_with(run: Runs) -> None:
    run("train.starts=3")
    run("train.starts=1", "seed=7")
    origin = run("train.starts=2")["train"]
    assert (origin.reasons, origin.since) == (("train.starts = 2, was 3",), "1")


def test_data_that_changed_are_told(run: Runs) -> None:
    run()
    rows = run.experiment.with_name("rows.csv")
    rows.write_text(rows.read_text() + "3,4,5\n")
    assert run()["data"].reasons == ("other bytes in rows.csv",)


def test_forced_stages_are_told_and_whether_they_gave_the_same(run: Runs) -> None:
    run()
    origins = run(from_stage="validate")
    assert {origin.how for origin in origins.values()} == {"cached", "forced"}
    assert origins["validate"] == StageOrigin("validate", "forced", "2", ("asked for",), "1", same_bytes=True)
    assert run()["validate"] == StageOrigin("validate", "cached", "2")


def test_lost_and_pruned_results_are_told(run: Runs) -> None:
    run()
    (path,) = (run.out / ".store" / "artifacts" / "train").iterdir()
    path.write_bytes(b"")
    damaged = run()["train"]
    assert (damaged.how, damaged.same_bytes) == ("computed", True)
    assert "damaged" in damaged.reasons[0]
    prune(run.out, max_bytes=0)
    pruned = run()["select"]
    assert pruned.reasons == ("made before, but no longer in the store",)
    assert pruned.since == "2"


def test_a_new_version_of_a_stage_is_told(run: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    run()
    raised = tuple(
        dataclasses.replace(stage, version=stage.version + 10 * (stage.name == "select")) for stage in STAGES
    )
    for module in (stages, runs):
        monkeypatch.setattr(module, "STAGES", raised)
    old = next(stage.version for stage in STAGES if stage.name == "select")
    assert run()["select"].reasons == (f"version {old + 10} of the stage, was {old}",)


def test_files_that_cannot_be_read_are_left_out(run: Runs) -> None:
    run()
    for name, text in {"a": "{", "b": "[]", "c": json.dumps({"train": 3, "select": {}})}.items():
        (run.out / name).mkdir()
        (run.out / name / "experiment.toml").touch()
        (run.out / name / "artifacts.json").write_text(text)
    assert stage_origins(run.out / "a") == []
    assert run("train.starts=3")["train"].since == "1"
