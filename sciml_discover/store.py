"""The content store: what a stage made is found again by everything that determined it.

A reference ``refs/<stage>/<key>.json`` names the digest of an artifact
``artifacts/<stage>/<digest>.safetensors``. The reference is written last and atomically, so a kill
at any moment leaves either a whole result or none; the artifact's digest is checked again on every
lookup and every read. Artifacts bear the name of their content: equal results are stored once, and
making one anew never changes a file that an older run refers to.

Any number of processes may use one store. Who makes the result of a key holds the key's lock; who
rests on an artifact keeps it from being pruned. Both locks end with their process. The folder is
its owner's alone (mode 0700): measured data lie in it.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from sciml_discover import locks, payload
from sciml_discover.atomic import write_atomically
from sciml_discover.errors import DamagedArtifactError

T = TypeVar("T")

_READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Artifact:
    """A reference to the stored result of a stage.

    Attributes:
        stage: name of the stage.
        key: digest of everything that determined the result.
        digest: sha256 of the stored bytes.
        path: where they lie.
        run: name of the run that made it; empty if that is not known.
    """

    stage: str
    key: str
    digest: str
    path: Path
    run: str = ""


def make_key(parts: Any) -> str:
    """Return the sha256 of JSON-able ``parts``.

    The order of dicts counts: the order of the states is the order of the columns of every array.

    Raises:
        TypeError: if the parts are not JSON.
        ValueError: if a number is not finite.
    """
    text = json.dumps(parts, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


class Store:
    """Artifacts under one folder.

    Args:
        root: the folder; it is made at the first write.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._kept: contextlib.ExitStack | None = None

    @contextlib.contextmanager
    def keeping(self) -> Iterator[None]:
        """Keep every artifact that is found or put from being pruned, until the end of the block."""
        with contextlib.ExitStack() as kept:
            self._kept = kept
            try:
                yield
            finally:
                self._kept = None

    def find(self, stage: str, key: str) -> Artifact | None:
        """Return the whole artifact of a stage's key, or None if none was ever stored.

        Raises:
            DamagedArtifactError: if a reference is there, but not the bytes that it promises.
        """
        try:
            reference = self.reference(stage, key).read_bytes()
        except FileNotFoundError:
            return None
        digest, run = read_reference(reference, stage, key)
        artifact = Artifact(stage, key, digest, self.path(stage, digest), run)
        with self._in_use(artifact):
            self._content(artifact)
            # The time of the last use, by which old artifacts are pruned: losing it harms no result.
            with contextlib.suppress(OSError):
                os.utime(artifact.path)
        return artifact

    def put(self, stage: str, key: str, value: Any, *, run: str = "") -> Artifact:
        """Store a dataclass under a stage's key; see `payload.encode` for what it may hold."""
        content = payload.encode(value)
        digest = hashlib.sha256(content).hexdigest()
        artifact = Artifact(stage, key, digest, self.path(stage, digest), run)
        reference = json.dumps({"stage": stage, "key": key, "digest": digest, "run": run}, indent=1)
        with self._in_use(artifact):
            write_atomically(artifact.path, content)
            write_atomically(self.reference(stage, key), reference.encode())
        return artifact

    def read(self, artifact: Artifact, kind: type[T]) -> T:
        """Return the value of an artifact, a dataclass of type ``kind``.

        Raises:
            DamagedArtifactError: if the bytes are not those that the reference promises.
        """
        return payload.decode(self._content(artifact), kind)

    @contextlib.contextmanager
    def locked(self, stage: str, key: str, *, on_wait: Callable[[], object] = lambda: None) -> Iterator[None]:
        """Hold a stage's key for one process or thread at a time; ``on_wait`` is called if that takes time."""
        with locks.hold(self.key_lock(stage, key), on_wait=on_wait):
            yield

    def key_lock(self, stage: str, key: str) -> Path:
        """Return the lock of whoever makes the result of a stage's key."""
        return self._own_folder() / "locks" / f"{stage}-{key}.lock"

    def use_lock(self, stage: str, digest: str) -> Path:
        """Return the lock that everybody shares who rests on an artifact."""
        return self._own_folder() / "locks" / f"use-{stage}-{digest}.lock"

    def checkpoint(self, stage: str, key: str) -> Path:
        """Return the folder in which work on a stage's key writes down how far it is; it need not exist."""
        return self.root / "checkpoints" / f"{stage}-{key}"

    def remove_checkpoint(self, stage: str, key: str) -> None:
        """Remove the checkpoint of work whose result is stored: not before, for a kill would lose the work."""
        shutil.rmtree(self.checkpoint(stage, key), ignore_errors=True)

    def reference(self, stage: str, key: str) -> Path:
        """Return the file that names the digest of a key's result."""
        return self.root / "refs" / stage / f"{key}.json"

    def path(self, stage: str, digest: str) -> Path:
        """Return the file of the result with a digest."""
        return self.root / "artifacts" / stage / f"{digest}.safetensors"

    def _own_folder(self) -> Path:
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        return self.root

    @contextlib.contextmanager
    def _in_use(self, artifact: Artifact) -> Iterator[None]:
        """Keep an artifact from being pruned: now, and from now on inside `keeping`."""
        with contextlib.ExitStack() as now:
            kept = now if self._kept is None else self._kept
            try:
                kept.enter_context(locks.hold(self.use_lock(artifact.stage, artifact.digest), shared=True))
            except OSError as error:
                # A store that may only be read serves what it has; a loss is noticed where it is read.
                if error.errno not in _READ_ONLY:
                    raise
            yield

    def _content(self, artifact: Artifact) -> bytes:
        try:
            content = artifact.path.read_bytes()
        except FileNotFoundError:
            raise DamagedArtifactError(
                f"the stored result of {artifact.stage!r} is gone: {artifact.path}"
            ) from None
        if hashlib.sha256(content).hexdigest() != artifact.digest:
            raise DamagedArtifactError(f"the stored result of {artifact.stage!r} is damaged: {artifact.path}")
        return content


def read_reference(reference: bytes, stage: str, key: str) -> tuple[str, str]:
    """Return the digest that a reference names, and the run that made it; no path is taken from the file.

    Raises:
        DamagedArtifactError: if the bytes are no reference, or one of another stage or key.
    """
    try:
        content = json.loads(reference)
        place, digest, run = (content["stage"], content["key"]), content["digest"], content.get("run", "")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedArtifactError(f"a reference of stage {stage!r} cannot be read") from error
    if place != (stage, key):
        raise DamagedArtifactError(f"a reference of stage {stage!r} belongs to another result")
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest) or not isinstance(run, str):
        raise DamagedArtifactError(f"a reference of stage {stage!r} names no digest")
    return digest, run
