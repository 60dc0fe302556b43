from __future__ import annotations

import dataclasses
import json
import os
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
    assert run()["train"] == StageOrigin("train", "computed", "1", ("no earlier run has made it",))
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


def test_forced_stages_are_told_and_whether_they_gave_the_same(run: Runs, verbs: FakeVerbs) -> None:
    run()
    origins = run(from_stage="validate")
    assert origins["validate"] == StageOrigin("validate", "forced", "2", ("asked for",), "1", same_bytes=True)
    same = ("validate was made anew and gave the same bytes",)
    assert origins["report"] == StageOrigin("report", "cached", "1", same)
    assert origins["select"] == StageOrigin("select", "cached", "1")
    assert run()["validate"] == StageOrigin("validate", "cached", "2")
    verbs.status = "rejected"
    origins = run(from_stage="validate")
    assert origins["validate"] == StageOrigin("validate", "forced", "4", ("asked for",), "3")
    assert origins["report"].how == "computed"
    assert origins["report"].reasons == ("another result of validate",)


def test_a_change_that_makes_no_difference_ends_where_it_makes_none(run: Runs) -> None:
    run()
    origins = run("select.rivals=3")
    assert origins["select"].reasons == ("select.rivals = 3, was 12",)
    assert origins["select"].same_bytes
    assert origins["validate"].how == "cached"
    assert origins["validate"].reasons == ("select was made anew and gave the same bytes",)
    assert origins["report"].reasons == ("the experiment's text changed",)


def test_lost_and_pruned_results_are_told(run: Runs) -> None:
    run()
    (path,) = (run.out / ".store" / "artifacts" / "train").iterdir()
    path.write_bytes(b"")
    damaged = run()["train"]
    assert (damaged.how, damaged.same_bytes) == ("computed", True)
    assert "damaged" in damaged.reasons[0]
    prune(run.out, max_bytes=0)
    pruned = run()
    assert {origin.how for origin in pruned.values()} == {"computed"}
    assert pruned["select"].reasons == ("made before, but no longer in the store",)
    assert (pruned["select"].since, pruned["select"].same_bytes) == ("2", True)
    (path,) = (run.out / ".store" / "artifacts" / "regress").iterdir()
    os.utime(path, (0, 0))
    prune(run.out, older_than=3600)
    origins = run()
    assert {name for name, origin in origins.items() if origin.how == "computed"} == {"regress"}
    assert origins["regress"].reasons == ("made before, but no longer in the store",)
    assert origins["select"] == StageOrigin(
        "select", "cached", "3", ("regress was made anew and gave the same bytes",)
    )


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
