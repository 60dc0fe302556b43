"""The content store: what a stage made is found again by everything that determined it.

A reference ``refs/<stage>/<key>.json`` names the digest of an artifact
``artifacts/<stage>/<digest>.safetensors``. The reference is written last and atomically, so a kill
at any moment leaves either a whole result or none; the artifact's digest is checked again on every
lookup. Artifacts bear the name of their content: equal results are stored once, and making one
anew never changes a file that an older run refers to.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from sciml_discover import payload
from sciml_discover.atomic import write_atomically
from sciml_discover.errors import DamagedArtifactError

T = TypeVar("T")

_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Artifact:
    """A reference to the stored result of a stage.

    Attributes:
        stage: name of the stage.
        key: digest of everything that determined the result.
        digest: sha256 of the stored bytes.
        path: where they lie.
    """

    stage: str
    key: str
    digest: str
    path: Path


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

    def find(self, stage: str, key: str) -> Artifact | None:
        """Return the whole artifact of a stage's key, or None if none was ever stored.

        Raises:
            DamagedArtifactError: if a reference is there, but not the bytes that it promises.
        """
        try:
            reference = self._reference(stage, key).read_bytes()
        except FileNotFoundError:
            return None
        artifact = Artifact(stage, key, digest := _digest_in(reference, stage), self._path(stage, digest))
        self._content(artifact)
        return artifact

    def put(self, stage: str, key: str, value: Any) -> Artifact:
        """Store a dataclass under a stage's key; see `payload.encode` for what it may hold."""
        content = payload.encode(value)
        digest = hashlib.sha256(content).hexdigest()
        path = self._path(stage, digest)
        write_atomically(path, content)
        reference = json.dumps({"stage": stage, "key": key, "digest": digest}, indent=1)
        write_atomically(self._reference(stage, key), reference.encode())
        return Artifact(stage, key, digest, path)

    def read(self, artifact: Artifact, kind: type[T]) -> T:
        """Return the value of an artifact, a dataclass of type ``kind``.

        Raises:
            DamagedArtifactError: if the bytes are not those that the reference promises.
        """
        return payload.decode(self._content(artifact), kind)

    @contextlib.contextmanager
    def locked(self, stage: str, key: str) -> Iterator[None]:
        """Hold a stage's key for one process or thread at a time. The kernel drops it on a kill."""
        path = self.root / "locks" / f"{stage}-{key}.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def checkpoint(self, stage: str, key: str) -> Path:
        """Return the folder in which work on a stage's key writes down how far it is; it need not exist."""
        return self.root / "checkpoints" / f"{stage}-{key}"

    def _reference(self, stage: str, key: str) -> Path:
        return self.root / "refs" / stage / f"{key}.json"

    def _path(self, stage: str, digest: str) -> Path:
        return self.root / "artifacts" / stage / f"{digest}.safetensors"

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


def _digest_in(reference: bytes, stage: str) -> str:
    """Return the digest that a reference names; the path is never taken from the file."""
    try:
        digest = json.loads(reference)["digest"]
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedArtifactError(f"a reference of stage {stage!r} cannot be read") from error
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
        raise DamagedArtifactError(f"a reference of stage {stage!r} names no digest")
    return digest
