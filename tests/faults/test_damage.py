"""Every stored file damaged in every way: noticed, made anew, and said so; nothing else is made anew."""

from __future__ import annotations

import datetime
import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import pytest
from typer.testing import CliRunner

from flows.cli import app
from sciml_discover import run_folders
from sciml_discover.cache import prune, verify
from sciml_discover.run_folders import find_run, list_runs, store_in
from sciml_discover.runs import discover
from sciml_discover.stages import STAGES
from tests.fakes import FakeVerbs, install, write_experiment
from tests.faults.counts import form_of
from tests.faults.experiments import write_logistic
from tests.faults.outcome import comparable, last_result, locks_left
from tests.faults.zygote import Zygote

NAMES = [stage.name for stage in STAGES]


def truncate(path: Path, _: bytes) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def empty(path: Path, _: bytes) -> None:
    path.write_bytes(b"")


def flip(path: Path, _: bytes) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def replace(path: Path, other: bytes) -> None:
    path.write_bytes(other)


def delete(path: Path, _: bytes) -> None:
    path.unlink()


def lie(path: Path, _: bytes) -> None:
    """Say that the header is longer than the file."""
    path.write_bytes((2**62).to_bytes(8, "little") + path.read_bytes()[8:])


DAMAGES = {damage.__name__: damage for damage in (truncate, empty, flip, replace, delete, lie)}
KINDS = {
    "truncate": "an artifact or a reference truncated",
    "empty": "an artifact or a reference emptied",
    "flip": "one bit of an artifact or a reference flipped",
    "replace": "an artifact or a reference replaced by another stage's",
    "delete": "an artifact or a reference deleted",
    "lie": "an artifact or a reference whose header lies",
}


def files(out: Path, folder: str) -> dict[str, Path]:
    return {path.parent.name: path for path in (store_in(out).root / folder).glob("*/*")}


def spoil(out: Path, folder: str, damage: str, *stages: str) -> None:
    there = files(out, folder)
    contents = [there[name].read_bytes() for name in NAMES]
    for stage in stages:
        DAMAGES[damage](there[stage], contents[NAMES.index(stage) - 1])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of runs after one run with stand-ins for the verbs, and the experiment beside it."""
    folder = tmp_path_factory.mktemp("damage")
    experiment = write_experiment(folder / "hares")
    with pytest.MonkeyPatch.context() as patch:
        install(patch)
        discover(experiment, out=folder / "runs")
    return folder


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made / "runs", tmp_path / "runs")
    return tmp_path / "runs"


@pytest.fixture
def verbs(monkeypatch: pytest.MonkeyPatch) -> FakeVerbs:
    return install(monkeypatch)


def parameters() -> list[Any]:
    return [
        pytest.param(stage, folder, damage, marks=pytest.mark.faults(KINDS[damage]))
        for damage in DAMAGES
        for stage in NAMES
        for folder in ("artifacts", "refs")
    ]


@pytest.mark.parametrize(("stage", "folder", "damage"), parameters())
def test_damage_is_noticed_mended_and_told(
    made: Path, copy: Path, verbs: FakeVerbs, stage: str, folder: str, damage: str
) -> None:
    before = {name: path.read_bytes() for name, path in files(copy, "artifacts").items()}
    spoil(copy, folder, damage, stage)
    result = discover(made / "hares" / "experiment.toml", out=copy)
    assert result.accepted
    assert verbs.calls == [stage]
    assert [name for name in NAMES if not result.cached[name]] == [stage]
    record = json.loads((copy / result.id / "artifacts.json").read_text())[stage]
    silent = damage == "delete" and folder == "refs"  # a result that was never made looks the same
    assert bool(record["lost"]) != silent
    assert ("made anew" in (copy / result.id / "run.log").read_text()) != silent
    assert {name: path.read_bytes() for name, path in files(copy, "artifacts").items()} == before
    assert verify(copy) == []
    assert locks_left(copy) == []


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "damage_of_all" in metafunc.fixturenames:
        whole = form_of(metafunc.config) == "whole"
        metafunc.parametrize("damage_of_all", list(DAMAGES) if whole else ["flip"])


@pytest.fixture(scope="module")
def really_made(warm: Zygote, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same of the real stages."""
    folder = tmp_path_factory.mktemp("real")
    assert warm.call("run", str(write_logistic(folder / "logistic")), str(folder / "runs")).status == 0
    return folder


@pytest.mark.faults("all artifacts of the real stages damaged at once")
def test_damage_of_all_real_results_is_mended(
    really_made: Path, warm: Zygote, tmp_path: Path, damage_of_all: str
) -> None:
    out = tmp_path / "runs"
    shutil.copytree(really_made / "runs", out)
    spoil(out, "artifacts", damage_of_all, *NAMES)
    assert {problem.path.parent.name for problem in verify(out)} == set(NAMES)
    assert warm.call("run", str(really_made / "logistic" / "experiment.toml"), str(out)).status == 0
    again = last_result(out)
    assert not any(again["cached"].values())
    assert comparable(again) == comparable(last_result(really_made / "runs"))
    assert verify(out) == []


def forge(out: Path, stage: str) -> None:
    """Put something else in the place of a result, with a reference that vouches for it."""
    reference = files(out, "refs")[stage]
    content = json.loads(reference.read_text())
    other = files(out, "artifacts")[NAMES[NAMES.index(stage) - 1]]
    content["digest"] = other.stem
    reference.write_text(json.dumps(content))
    shutil.copy(other, files(out, "artifacts")[stage].with_name(other.name))


@pytest.mark.faults("another stage's result under a reference that vouches for it")
@pytest.mark.parametrize("stage", NAMES)
def test_a_forged_result_is_made_anew_as_soon_as_it_is_read(
    made: Path, copy: Path, verbs: FakeVerbs, stage: str
) -> None:
    forge(copy, stage)
    result = discover(made / "hares" / "experiment.toml", out=copy)
    assert result.accepted
    assert stage in verbs.calls or stage in (
        "sample",
        "regress",
    )  # nobody reads these, all after them being there
    assert comparable(result.to_dict()) == comparable(last_result(made / "runs"))


def set_times(folder: Path, change: Callable[[float], float]) -> None:
    for path in folder.rglob("*"):
        seconds = change(path.stat().st_mtime)
        os.utime(path, (seconds, seconds))


def set_clock(patch: pytest.MonkeyPatch, moment: datetime.datetime) -> None:
    """Stop the clock that the library and its flows read; files still bear the real time."""

    class Clock(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> Self:
            return cls.fromtimestamp(moment.timestamp(), tz)

    patch.setattr(run_folders, "datetime", SimpleNamespace(datetime=Clock, UTC=datetime.UTC))
    patch.setattr(time, "time", moment.timestamp)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.faults("the clock set back, or files from the future")
@pytest.mark.parametrize("years", [-30, -1, 0, 1, 30])
def test_a_clock_that_is_wrong_harms_nothing(
    made: Path, copy: Path, verbs: FakeVerbs, monkeypatch: pytest.MonkeyPatch, years: int
) -> None:
    shift = datetime.timedelta(days=365.25 * years)
    set_times(copy, lambda seconds: seconds + shift.total_seconds())
    [first] = list_runs(copy)
    assert first.result is not None
    before = contents(first.folder)
    # Without a shift it is the very second of the earlier run again.
    moment = datetime.datetime.fromisoformat(first.result.created) - shift
    experiment = made / "hares" / "experiment.toml"
    with monkeypatch.context() as patch:
        set_clock(patch, moment)
        cached = discover(experiment, out=copy)
        again = discover(experiment, out=copy, from_stage="report")
        assert cached.cached == dict.fromkeys(NAMES, True)
        assert verbs.calls == ["report"]
        for result in (cached, again):
            assert (
                datetime.datetime.fromisoformat(result.created) == moment
            )  # it was this clock that was read
            assert f"-{moment:%Y%m%dT%H%M%S}Z-" in result.id
            assert comparable(result.to_dict()) == comparable(first.result.to_dict())
            assert find_run(result.id, copy).to_dict() == result.to_dict()
            assert f"cached from {first.folder.name}" in told(copy, "show", result.id)
        records = list_runs(copy)
        ids = {first.folder.name, cached.id, again.id}
        assert {record.folder.name for record in records} == ids
        assert len(ids) == 3
        order = [record.result.created for record in records if record.result]
        assert order == sorted(order)
        assert all(name in told(copy, "list") for name in ids)
        assert contents(first.folder) == before
        if years > 0:
            assert prune(copy, older_than=3600.0).removed == ()
    assert discover(experiment, out=copy).cached == dict.fromkeys(NAMES, True)
    assert verify(copy) == []
    assert locks_left(copy) == []


def told(out: Path, *words: str) -> str:
    """Return what a command says of a folder of runs."""
    done = CliRunner().invoke(app, [*words, "--out", str(out)], env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.output
    return done.stdout
