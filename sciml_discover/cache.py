"""What lies in the store: how much, who rests on it, whether it is whole, and what can go.

Nothing here is needed to run an experiment; whatever is deleted is made anew when it is next wanted.
"""

from __future__ import annotations

import hashlib
import shutil
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sciml_discover.atomic import is_temporary
from sciml_discover.errors import DamagedArtifactError
from sciml_discover.locks import hold_if_free
from sciml_discover.run_folders import DEFAULT_OUT, runs_by_digest, store_in
from sciml_discover.store import Store, read_reference

LEFTOVER_SECONDS = 3600.0
"""Half-written files, and results that nothing refers to, are leftovers of a kill once they are this old."""


@dataclass(frozen=True)
class CacheEntry:
    """One result in the store, or the checkpoint of one that is not finished.

    Attributes:
        kind: ``"result"`` or ``"checkpoint"``.
        stage: name of the stage.
        name: the digest of a result; the key of a checkpoint.
        path: the file, or the checkpoint's folder.
        bytes: how much space it takes.
        used: when it was last used, in seconds since the epoch.
        keys: the keys that refer to a result.
        runs: names of the runs that rest on a result, as far as they are still in the folder.
    """

    kind: Literal["result", "checkpoint"]
    stage: str
    name: str
    path: Path
    bytes: int
    used: float
    keys: tuple[str, ...] = ()
    runs: tuple[str, ...] = ()

    @property
    def age(self) -> float:
        """Seconds since it was last used, 0 if the clock was set back."""
        return max(0.0, time.time() - self.used)


@dataclass(frozen=True)
class Damage:
    """A file of the store that is not what it should be, and why."""

    path: Path
    problem: str


@dataclass(frozen=True)
class Pruned:
    """What `prune` deleted, or would delete.

    Attributes:
        removed: the results and checkpoints.
        in_use: those that should go too, but that a running process rests on or works at.
        leftovers: half-written files and references without a result.
        freed: bytes of all that.
        remaining: bytes of the results and checkpoints that stay.
    """

    removed: tuple[CacheEntry, ...]
    in_use: tuple[CacheEntry, ...]
    leftovers: tuple[Path, ...]
    freed: int
    remaining: int


def cache_entries(out: str | Path | None = None) -> list[CacheEntry]:
    """Return what the store of a folder of runs holds, what was not used for longest first."""
    out = DEFAULT_OUT if out is None else Path(out)
    store, runs = store_in(out), runs_by_digest(out)
    files = list((store.root / "artifacts").glob("*/*.safetensors"))
    keys: dict[tuple[str, str], list[str]] = defaultdict(list)
    for path, digest in _references(store):
        if not isinstance(digest, DamagedArtifactError):
            keys[path.parent.name, digest].append(path.stem)
    entries = [
        CacheEntry("result", stage, digest, path, size, used, tuple(keys[stage, digest]), runs[stage, digest])
        for path in files
        if (found := _size_and_time(path))
        for size, used in [found]
        for stage, digest in [(path.parent.name, path.stem)]
    ]
    for folder in (store.root / "checkpoints").glob("*-*"):
        stage, _, key = folder.name.partition("-")
        inside = [found for path in folder.rglob("*") if (found := _size_and_time(path))]
        used = max((used for _, used in inside), default=0.0)
        entries.append(CacheEntry("checkpoint", stage, key, folder, sum(size for size, _ in inside), used))
    return sorted(entries, key=lambda entry: (entry.used, entry.stage, entry.name))


def verify(out: str | Path | None = None) -> list[Damage]:
    """Return every result that does not have its digest, and every reference that leads to none.

    The next run that needs one of them makes it anew.
    """
    store = store_in(DEFAULT_OUT if out is None else Path(out))
    damages = []
    for path in sorted((store.root / "artifacts").glob("*/*.safetensors")):
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            continue  # pruned meanwhile
        except OSError as error:
            damages.append(Damage(path, f"the result cannot be read ({error.strerror})"))
            continue
        if hashlib.sha256(content).hexdigest() != path.stem:
            problem = "is empty" if not content else "does not have the digest that is its name"
            damages.append(Damage(path, f"the result {problem}"))
    for path, digest in _references(store):
        if isinstance(digest, DamagedArtifactError):
            damages.append(Damage(path, str(digest)))
        elif not store.path(path.parent.name, digest).exists():
            damages.append(Damage(path, "the result that it refers to is gone"))
    return damages


def prune(
    out: str | Path | None = None,
    *,
    older_than: float | None = None,
    max_bytes: int | None = None,
    dry_run: bool = False,
) -> Pruned:
    """Delete what was not used for long, what is too much, and what killed processes left half done.

    Nothing goes that a running process has locked: neither what a run rests on, nor the checkpoint
    of what it is making.

    Args:
        out: the folder of all runs.
        older_than: seconds since the last use beyond which an entry goes; None: age does not matter.
        max_bytes: entries go, what was not used for longest first, until no more than this is
            left; None: size does not matter.
        dry_run: whether to delete nothing and only say what would go.
    """
    out = DEFAULT_OUT if out is None else Path(out)
    store, entries = store_in(out), cache_entries(out)
    removed, in_use = [], []
    remaining = sum(entry.bytes for entry in entries)
    for entry in entries:
        orphan = entry.kind == "result" and not entry.keys and entry.age > LEFTOVER_SECONDS
        old = older_than is not None and entry.age > older_than
        too_much = max_bytes is not None and remaining > max_bytes
        if not (orphan or old or too_much):
            continue
        if _remove(store, entry, dry_run):
            removed.append(entry)
            remaining -= entry.bytes
        else:
            in_use.append(entry)
    sizes = dict(_remove_leftovers(store, dry_run))
    freed = sum(entry.bytes for entry in removed) + sum(sizes.values())
    return Pruned(tuple(removed), tuple(in_use), tuple(sizes), freed, remaining)


def _remove(store: Store, entry: CacheEntry, dry_run: bool) -> bool:
    """Delete an entry unless somebody holds it, and return whether it is gone."""
    result = entry.kind == "result"
    lock = store.use_lock(entry.stage, entry.name) if result else store.key_lock(entry.stage, entry.name)
    with hold_if_free(lock) as free:
        if not free:
            return False
        if result and (found := _size_and_time(entry.path)) and found[1] != entry.used:
            return False  # used between the look and the lock
        if dry_run:
            return True
        if not result:
            shutil.rmtree(entry.path, ignore_errors=True)
            return not entry.path.exists()
        # References first: a kill in between leaves a result without one, not the other way round.
        for key in entry.keys:
            store.reference(entry.stage, key).unlink(missing_ok=True)
        entry.path.unlink(missing_ok=True)
    return True


def _remove_leftovers(store: Store, dry_run: bool) -> Iterator[tuple[Path, int]]:
    """Delete what killed processes left half done; yield each file that is worth telling, and its bytes."""
    for path in store.root.rglob(".*"):
        found = _size_and_time(path) if is_temporary(path) else None
        if found and time.time() - found[1] > LEFTOVER_SECONDS:
            if not dry_run:
                path.unlink(missing_ok=True)
            yield path, found[0]
    for path, digest in _references(store):
        stage = path.parent.name
        if not isinstance(digest, DamagedArtifactError) and store.path(stage, digest).exists():
            continue
        with hold_if_free(store.key_lock(stage, path.stem)) as free:
            if free and (found := _size_and_time(path)):
                if not dry_run:
                    path.unlink(missing_ok=True)
                yield path, found[0]
    for path in (store.root / "locks").glob("*.lock"):
        if not dry_run:
            with hold_if_free(path):
                pass  # a lock that nobody holds goes with its release


def _references(store: Store) -> Iterator[tuple[Path, str | DamagedArtifactError]]:
    """Yield every reference with the digest that it names, or with what is wrong with it."""
    for path in sorted((store.root / "refs").glob("*/*.json")):
        try:
            yield path, read_reference(path.read_bytes(), path.parent.name, path.stem)[0]
        except FileNotFoundError:
            continue  # pruned meanwhile
        except DamagedArtifactError as error:
            yield path, error


def _size_and_time(path: Path) -> tuple[int, float] | None:
    """Return the bytes of a file and when it was last changed, or None if it is gone or none."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return None
    return None if path.is_dir() else (status.st_size, status.st_mtime)
