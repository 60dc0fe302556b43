"""Files that are there whole or not at all."""

from __future__ import annotations

import os
import re
import secrets
from pathlib import Path

_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{12}")


def write_atomically(path: Path, content: bytes) -> None:
    """Write ``content`` so that ``path`` holds all of it or what it held before, even after a power cut.

    Raises:
        OSError: if the folder cannot be written to.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not from the tempfile module, whose files are their owner's alone.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    # The new name is the folder's to keep: what is written after this call is never there without it.
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def make_private(folder: Path) -> None:
    """Make a folder and what is missing above it, each of them its owner's alone."""
    missing = [folder]
    while not missing[-1].parent.exists():
        missing.append(missing[-1].parent)
    for one in reversed(missing):
        one.mkdir(mode=0o700, exist_ok=True)


def is_temporary(path: Path) -> bool:
    """Return whether a file's name is one that `write_atomically` gives to what is not whole yet."""
    return _TEMPORARY.fullmatch(path.name) is not None
