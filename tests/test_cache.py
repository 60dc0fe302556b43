from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from sciml_discover import cache, locks
from sciml_discover.cache import CacheEntry, cache_entries, prune, verify
from sciml_discover.experiment import load_experiment
from sciml_discover.run_folders import list_runs, store_in
from sciml_discover.runs import Run, discover
from sciml_discover.stages import STAGES
from sciml_discover.store import Artifact, Store
from tests.fakes import FakeVerbs, install, write_experiment

NAMES = [stage.name for stage in STAGES]
DAY = 86400.0


@dataclass(frozen=True)
class Value:
    text: str


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "runs"


@pytest.fixture
def store(out: Path) -> Store:
    return store_in(out)


@pytest.fixture
def verbs(monkeypatch: pytest.MonkeyPatch) -> FakeVerbs:
    return install(monkeypatch)


def put(store: Store, text: str, age: float = 0.0) -> Artifact:
    artifact = store.put("train", text * 64, Value(text * 1000))
    set_age(artifact.path, age)
    return artifact


def set_age(path: Path, age: float) -> None:
    then = time.time() - age
    os.utime(path, (then, then))


def names(entries: tuple[CacheEntry, ...]) -> list[str]:
    return [entry.name for entry in entries]


def test_an_empty_folder_holds_nothing_and_gets_nothing(out: Path) -> None:
    assert cache_entries(out) == verify(out) == []
    assert prune(out).freed == 0
    assert not out.exists()


def test_entries_name_the_runs_that_rest_on_them(tmp_path: Path, out: Path, verbs: FakeVerbs) -> None:
    experiment = write_experiment(tmp_path / "hares")
    discover(experiment, out=out, run_id="one")
    discover(experiment, out=out, run_id="two", overrides=["select.rivals=3"])
    runs = {entry.stage: entry.runs for entry in cache_entries(out) if entry.stage != "report"}
    assert runs == dict.fromkeys(NAMES[:-1], ("one", "two"))
    assert all(entry.bytes == entry.path.stat().st_size for entry in cache_entries(out))
    # The choice under other options has the same bytes: one result, two keys.
    assert {entry.stage: len(entry.keys) for entry in cache_entries(out)}["select"] == 2
    assert verbs.calls == [*NAMES, "select", "report"]


def test_prune_deletes_what_is_old_and_a_use_makes_it_young(out: Path, store: Store) -> None:
    put(store, "a", age=9 * DAY)
    old, young = put(store, "b", age=8 * DAY), put(store, "c", age=6 * DAY)
    assert store.find("train", "a" * 64) is not None
    dry = prune(out, older_than=7 * DAY, dry_run=True)
    assert (names(dry.removed), dry.freed) == ([old.digest], old.path.stat().st_size)
    assert old.path.exists()
    assert prune(out, older_than=7 * DAY) == dry
    assert not old.path.exists()
    assert young.path.exists()
    assert store.find("train", "b" * 64) is None
    assert verify(out) == []


def test_prune_keeps_the_youngest_within_a_size(out: Path, store: Store) -> None:
    artifacts = [put(store, text, age) for text, age in zip("abcd", (4, 3, 2, 1), strict=True)]
    size = artifacts[0].path.stat().st_size
    done = prune(out, max_bytes=2 * size + 1)
    assert names(done.removed) == [artifact.digest for artifact in artifacts[:2]]
    assert (done.freed, done.remaining) == (2 * size, 2 * size)
    assert prune(out, max_bytes=2 * size).removed == ()


def test_prune_leaves_what_a_run_rests_on(tmp_path: Path, out: Path, verbs: FakeVerbs) -> None:
    with Run(load_experiment(write_experiment(tmp_path / "hares")), out=out, run_id="one") as run:
        data = run.stage("data").artifact
        done = prune(out, older_than=-1, max_bytes=0)
        assert (names(done.removed), names(done.in_use)) == ([], [data.digest])
        assert data.path.exists()
    assert names(prune(out, max_bytes=0).removed) == [data.digest]
    assert verbs.calls == ["data"]


def test_prune_leaves_the_checkpoint_of_what_is_being_made(out: Path, store: Store) -> None:
    folder = store.checkpoint("train", "a")
    folder.mkdir(parents=True)
    (folder / "checkpoint.safetensors").write_bytes(b"123")
    with store.locked("train", "a"):
        done = prune(out, max_bytes=0)
        assert (done.removed, names(done.in_use)) == ((), ["a"])
    [entry] = cache_entries(out)
    assert (entry.kind, entry.stage, entry.bytes) == ("checkpoint", "train", 3)
    assert names(prune(out, max_bytes=0).removed) == ["a"]
    assert not folder.exists()


def test_prune_spares_what_was_used_since_it_was_listed(
    out: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = put(store, "a", age=DAY)
    entries = cache_entries(out)
    monkeypatch.setattr(cache, "cache_entries", lambda _: entries)
    store.find("train", "a" * 64)
    assert names(prune(out, max_bytes=0).in_use) == [artifact.digest]
    assert artifact.path.exists()


def test_leftovers_of_killed_processes_go_and_fresh_ones_stay(out: Path, store: Store) -> None:
    whole, lost, orphan = put(store, "a"), put(store, "b"), put(store, "c", age=DAY)
    lost.path.unlink()
    store.reference("train", "c" * 64).unlink()
    half = [whole.path.with_name(f".{whole.path.name}.{word * 6}") for word in ("0a", "0b")]
    for path in half:
        path.write_bytes(b"half")
    set_age(half[0], DAY)
    (store.root / "locks" / "train-x.lock").touch()
    with locks.hold(store.root / "locks" / "train-y.lock"):
        dry = prune(out, dry_run=True)
        done = prune(out)
        assert [path.name for path in (store.root / "locks").iterdir()] == ["train-y.lock"]
    assert done == dry
    assert set(done.leftovers) == {half[0], store.reference("train", "b" * 64)}
    assert names(done.removed) == [orphan.digest]
    assert whole.path.exists()
    assert half[1].exists()
    assert not half[0].exists()
    assert verify(out) == []


@pytest.mark.parametrize("harm", ["truncate", "empty", "flip", "replace", "delete", "reference", "swap"])
@pytest.mark.parametrize("stage", NAMES)
def test_every_damage_is_found_and_made_good(
    tmp_path: Path, out: Path, verbs: FakeVerbs, stage: str, harm: str
) -> None:
    experiment = write_experiment(tmp_path / "hares")
    discover(experiment, out=out)
    assert verify(out) == []
    entries = {entry.stage: entry for entry in cache_entries(out)}
    entry, other = entries[stage], entries[NAMES[NAMES.index(stage) - 1]]
    reference = store_in(out).reference(stage, entry.keys[0])
    content = entry.path.read_bytes()
    if harm == "delete":
        entry.path.unlink()
    elif harm == "reference":
        reference.write_text("{")
    elif harm == "swap":
        reference.write_bytes(store_in(out).reference(other.stage, other.keys[0]).read_bytes())
    else:
        middle = len(content) // 2
        flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        entry.path.write_bytes(
            {"truncate": content[:-1], "empty": b"", "flip": flipped, "replace": other.path.read_bytes()}[
                harm
            ]
        )
    broken = reference if harm in {"delete", "reference", "swap"} else entry.path
    assert [damage.path for damage in verify(out)] == [broken]
    verbs.calls.clear()
    discover(experiment, out=out)
    assert verbs.calls == [stage]
    assert verify(out) == []
    assert len(list_runs(out)) == 2
