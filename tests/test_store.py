from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from sciml_discover import locks, store
from sciml_discover.errors import DamagedArtifactError
from sciml_discover.store import Store, make_key, write_atomically


@dataclass(frozen=True)
class Value:
    numbers: np.ndarray


VALUE = Value(np.arange(3.0))
ROOT = Path(__file__).parent.parent


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.parent.name != "locks")


def test_what_was_put_is_found_and_read(tmp_path: Path) -> None:
    shelf = Store(tmp_path)
    assert shelf.find("train", "a" * 64) is None
    put = shelf.put("train", "a" * 64, VALUE)
    found = Store(tmp_path).find("train", "a" * 64)
    assert found == put
    assert found is not None
    np.testing.assert_array_equal(shelf.read(found, Value).numbers, [0, 1, 2])


def test_equal_values_share_one_file(tmp_path: Path) -> None:
    shelf = Store(tmp_path)
    first, second = shelf.put("train", "a" * 64, VALUE), shelf.put("train", "b" * 64, VALUE)
    assert first.path == second.path
    assert len(files(tmp_path)) == 3


def test_another_result_of_the_same_key_leaves_the_old_file_alone(tmp_path: Path) -> None:
    shelf = Store(tmp_path)
    old = shelf.put("train", "a" * 64, VALUE)
    new = shelf.put("train", "a" * 64, Value(np.ones(1)))
    assert shelf.find("train", "a" * 64) == new
    assert shelf.read(old, Value).numbers.tolist() == [0, 1, 2]


def test_stages_do_not_share_keys(tmp_path: Path) -> None:
    shelf = Store(tmp_path)
    shelf.put("train", "a" * 64, VALUE)
    assert shelf.find("select", "a" * 64) is None


def test_one_flipped_bit_is_noticed(tmp_path: Path) -> None:
    shelf = Store(tmp_path)
    artifact = shelf.put("train", "a" * 64, VALUE)
    content = bytearray(artifact.path.read_bytes())
    content[-1] ^= 1
    artifact.path.write_bytes(content)
    with pytest.raises(DamagedArtifactError, match="damaged"):
        shelf.find("train", "a" * 64)
    with pytest.raises(DamagedArtifactError, match="damaged"):
        shelf.read(artifact, Value)


def test_a_deleted_artifact_is_noticed(tmp_path: Path) -> None:
    shelf = Store(tmp_path)
    shelf.put("train", "a" * 64, VALUE).path.unlink()
    with pytest.raises(DamagedArtifactError, match="gone"):
        shelf.find("train", "a" * 64)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"digest": 3}', '{"digest": "../../etc/passwd"}', "[{}]"])
def test_a_damaged_reference_is_noticed(tmp_path: Path, text: str) -> None:
    shelf = Store(tmp_path)
    shelf.put("train", "a" * 64, VALUE)
    next((tmp_path / "refs").rglob("*.json")).write_text(text)
    with pytest.raises(DamagedArtifactError, match="reference"):
        shelf.find("train", "a" * 64)


@pytest.mark.parametrize("stage", ["train", "select"])
def test_a_reference_in_the_place_of_another_is_noticed(tmp_path: Path, stage: str) -> None:
    shelf = Store(tmp_path)
    shelf.put("train", "a" * 64, VALUE)
    shelf.put(stage, "b" * 64, VALUE)
    shelf.reference(stage, "b" * 64).write_bytes(shelf.reference("train", "a" * 64).read_bytes())
    with pytest.raises(DamagedArtifactError, match="belongs to another"):
        shelf.find(stage, "b" * 64)


def test_the_reference_is_written_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []

    def write(path: Path, content: bytes) -> None:
        written.append(path.suffix)
        write_atomically(path, content)

    monkeypatch.setattr(store, "write_atomically", write)
    Store(tmp_path).put("train", "a" * 64, VALUE)
    assert written == [".safetensors", ".json"]


def test_a_kill_between_artifact_and_reference_leaves_nothing_to_find(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(path: Path, content: bytes) -> None:
        if path.suffix == ".json":
            raise KeyboardInterrupt
        write_atomically(path, content)

    monkeypatch.setattr(store, "write_atomically", write)
    with pytest.raises(KeyboardInterrupt):
        Store(tmp_path).put("train", "a" * 64, VALUE)
    assert Store(tmp_path).find("train", "a" * 64) is None


def test_a_failed_write_keeps_the_old_content_and_no_temporary_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.json"
    write_atomically(path, b"old")

    def broken(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", broken)
    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert files(tmp_path) == [path]


def test_written_files_follow_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_atomically(tmp_path / "x", b"")
    finally:
        os.umask(before)
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o640


def test_a_key_is_held_by_one_thread_at_a_time(tmp_path: Path) -> None:
    shelf, order = Store(tmp_path), []
    inside, go_on = threading.Event(), threading.Event()

    def first() -> None:
        with shelf.locked("train", "a"):
            inside.set()
            go_on.wait(5)
            order.append("first")

    def second() -> None:
        with shelf.locked("train", "a"):
            order.append("second")

    one, two = threading.Thread(target=first), threading.Thread(target=second)
    one.start()
    assert inside.wait(5)
    two.start()
    with shelf.locked("train", "b"):
        order.append("other key")
    go_on.set()
    one.join(5)
    two.join(5)
    assert order == ["other key", "first", "second"]


def test_a_killed_process_holds_no_key(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from sciml_discover.store import Store\n"
        "with Store(Path(sys.argv[1])).locked('train', 'a'):\n"
        "    print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        holder.send_signal(signal.SIGKILL)
    with Store(tmp_path).locked("train", "a"):
        pass


def test_no_lock_files_pile_up(tmp_path: Path) -> None:
    shelf = Store(tmp_path)
    with shelf.keeping():
        with shelf.locked("train", "a" * 64):
            shelf.put("train", "a" * 64, VALUE)
        assert shelf.find("train", "a" * 64) is not None
        assert [path.name.split("-")[0] for path in (tmp_path / "locks").iterdir()] == ["use"]
    assert list((tmp_path / "locks").iterdir()) == []


def test_a_lock_whose_file_was_removed_while_waiting_excludes_still(tmp_path: Path) -> None:
    path, inside, most = tmp_path / "x.lock", [0], [0]

    def work() -> None:
        for _ in range(30):
            with locks.hold(path):
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                time.sleep(0.0005)
                inside[0] -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert (most, inside, path.exists()) == ([1], [0], False)


def test_waiting_is_told_and_shared_locks_do_not_wait(tmp_path: Path) -> None:
    path, told = tmp_path / "x.lock", []
    with locks.hold(path, shared=True), locks.hold(path, shared=True, on_wait=lambda: told.append(1)):
        assert told == []
        with locks.hold_if_free(path) as free:
            assert not free
    with locks.hold_if_free(path) as free:
        assert free

    def wait() -> None:
        with locks.hold(path, on_wait=lambda: told.append(2)):
            pass

    with locks.hold(path):
        waiting = threading.Thread(target=wait)
        waiting.start()
        deadline = time.monotonic() + 5
        while not told and time.monotonic() < deadline:
            time.sleep(0.01)
    waiting.join(5)
    assert told == [2]


def test_the_folder_is_its_owners_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        Store(tmp_path / "runs" / ".store").put("train", "a" * 64, VALUE)
    finally:
        os.umask(before)
    assert (tmp_path / "runs" / ".store").stat().st_mode & 0o777 == 0o700


def test_the_run_that_made_a_result_is_known(tmp_path: Path) -> None:
    shelf = Store(tmp_path)
    shelf.put("train", "a" * 64, VALUE, run="hares-1")
    found = shelf.find("train", "a" * 64)
    assert found is not None
    assert found.run == "hares-1"


def test_keys_depend_on_values_and_on_the_order_of_states() -> None:
    key = make_key(["train", 1, {"hare": {}, "lynx": {}}])
    assert key == make_key(["train", 1, {"hare": {}, "lynx": {}}])
    assert key != make_key(["train", 1, {"lynx": {}, "hare": {}}])
    assert key != make_key(["train", 2, {"hare": {}, "lynx": {}}])
    with pytest.raises(ValueError, match="JSON"):
        make_key([float("nan")])
