"""How far long work is, written down, so that it can be killed at any moment and goes on from there.

A checkpoint is one safetensors file, written atomically: tensors by name, and in its metadata numbers and texts as
JSON, the key of the work that it belongs to, and a digest of all of it. One of other work is never used; a damaged
one is told of and left aside.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pydantic
import safetensors.numpy

from sciml_discover.atomic import make_private, write_atomically
from sciml_discover.base import Progress, Watch, lazy_import

if TYPE_CHECKING:
    import torch
else:
    torch = lazy_import("torch")

T = TypeVar("T")

FORMAT = 1
"""Raised whenever checkpoints of before cannot be gone on with."""


@dataclasses.dataclass(frozen=True)
class Saved:
    """What a checkpoint holds.

    Attributes:
        notes: numbers and texts, JSON-able.
        tensors: by name.
    """

    notes: dict[str, Any]
    tensors: dict[str, np.ndarray]


class Checkpoints:
    """The checkpoint of one piece of work, in a folder of its own.

    Args:
        folder: where it lies; None: nothing is written, and nothing is found.
        key: of everything that determines the work's result; see `fingerprint`.
        seconds: least time between two writes.
        stage: name of the pipeline stage, for the progress events.
        watch: told of damaged checkpoints, of ones that are gone on with, and of a folder that cannot be written to.
    """

    def __init__(self, folder: Path | None, key: str, seconds: float, stage: str, watch: Watch) -> None:
        self._folder, self._key, self._seconds = folder, key, seconds
        self._stage, self._watch = stage, watch
        self._last = time.monotonic()

    @property
    def due(self) -> bool:
        """Whether the last write is long enough ago for another."""
        return self._folder is not None and time.monotonic() - self._last >= self._seconds

    def read(self) -> Saved | None:
        """Return what was written last for this work, or None if there is nothing that can be used."""
        if self._folder is None:
            return None
        try:
            content = self._path(self._folder).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            self._watch(Progress(self._stage, f"the checkpoint cannot be read ({error}); beginning anew"))
            return None
        try:
            saved, key = _decode(content)
        except (safetensors.SafetensorError, ValueError, KeyError, TypeError) as error:
            self._watch(Progress(self._stage, f"the checkpoint is damaged ({error}); beginning anew"))
            return None
        if key != self._key:
            return None
        self._watch(Progress(self._stage, "going on from a checkpoint"))
        return saved

    def write(self, saved: Saved) -> None:
        """Replace what was written before."""
        if self._folder is None:
            return
        try:
            # The store may have been deleted meanwhile, and is to come back as it was.
            make_private(self._folder)
            write_atomically(self._path(self._folder), _encode(saved, self._key))
        except OSError as error:
            # The work itself is not in danger.
            self._watch(Progress(self._stage, f"no checkpoint can be written: {error}"))
            self._folder = None
        self._last = time.monotonic()

    def _path(self, folder: Path) -> Path:
        return folder / "checkpoint.safetensors"


def _encode(saved: Saved, key: str) -> bytes:
    notes = json.dumps(saved.notes, ensure_ascii=True, allow_nan=False)
    tensors = {name: np.asarray(array, order="C") for name, array in saved.tensors.items()}
    digest = fingerprint(key, notes, tensors)
    return safetensors.numpy.save(tensors, {"notes": notes, "key": key, "digest": digest})


def _decode(content: bytes) -> tuple[Saved, str]:
    tensors = safetensors.numpy.load(content)
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
    # The order in which a file names its tensors is not that in which they were given.
    if header["digest"] != fingerprint(header["key"], header["notes"], tensors):
        raise ValueError("its bytes are not those that were written")
    return Saved(json.loads(header["notes"]), tensors), header["key"]


def fingerprint(*values: Any) -> str:
    """Return a digest of values: arrays, dataclasses, options, and what is made of them.

    Everything else counts by its type and its representation, which must not name an address in memory.
    """
    digest = hashlib.sha256()
    for value in values:
        _feed(digest, value)
    return digest.hexdigest()


def _feed(digest: Any, value: Any) -> None:
    if isinstance(value, np.ndarray):
        digest.update(f"array {value.dtype.str} {value.shape} ".encode())
        digest.update(np.ascontiguousarray(value).tobytes())
    elif isinstance(value, pydantic.BaseModel):
        digest.update(f"{type(value).__name__} {value.model_dump_json()} ".encode())
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        digest.update(f"{type(value).__name__} ".encode())
        for field in dataclasses.fields(value):
            digest.update(f"{field.name} ".encode())
            _feed(digest, getattr(value, field.name))
    elif isinstance(value, Mapping):
        digest.update(f"mapping {len(value)} ".encode())
        # Files hold tensors in an order of their own.
        names = sorted(value) if all(isinstance(item, np.ndarray) for item in value.values()) else value
        for name in names:
            _feed(digest, name)
            _feed(digest, value[name])
    elif isinstance(value, tuple | list):
        digest.update(f"sequence {len(value)} ".encode())
        for item in value:
            _feed(digest, item)
    else:
        digest.update(f"{type(value).__name__} {value!r} ".encode())


def software() -> tuple[str, ...]:
    """Return what determines the bits of a result beside its input: the versions of the format and of torch."""
    return str(FORMAT), metadata.version("torch")


def tensors_of(value: Any, name: str = "") -> dict[str, np.ndarray]:
    """Return all tensors in a dataclass of tensors, nested ones too, by their dotted names.

    Whatever else is in it is left out.
    """
    if isinstance(value, torch.Tensor):
        return {name: value.detach().cpu().numpy()}
    found: dict[str, np.ndarray] = {}
    if not dataclasses.is_dataclass(value):
        return found
    for field in dataclasses.fields(value):
        found |= tensors_of(getattr(value, field.name), f"{name}.{field.name}".lstrip("."))
    return found


def with_tensors(like: T, tensors: Mapping[str, np.ndarray], name: str = "") -> T:
    """Return a dataclass like another, with the tensors that `tensors_of` gave, on the devices of the other's.

    Whatever is no tensor is the other's.

    Raises:
        KeyError: if one is not among them.
    """
    if isinstance(like, torch.Tensor):
        # A copy in memory that torch aligned: results can depend on it in the last bit.
        return torch.as_tensor(tensors[name]).to(like.device, copy=True)
    if not dataclasses.is_dataclass(like):
        return like
    parts = {
        field.name: with_tensors(getattr(like, field.name), tensors, f"{name}.{field.name}".lstrip("."))
        for field in dataclasses.fields(like)  # pyright: ignore[reportArgumentType]
    }
    return type(like)(**parts)
