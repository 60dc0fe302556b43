"""Locks between processes that the kernel drops when their holder dies, however it dies.

`flock` on a file: nothing to time out, no process id to check, no stale lock. The last holder
removes the file, so that none pile up; one that a killed process leaves behind is unlocked, and is
removed by whoever holds it next. A lock belongs to one opening of the file, so that it excludes
other threads as well as other processes (Linux and macOS).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path


def _nobody_minds() -> None:
    """Say nothing while waiting."""


@contextlib.contextmanager
def hold(
    path: Path, *, shared: bool = False, on_wait: Callable[[], object] = _nobody_minds
) -> Iterator[None]:
    """Hold a lock, alone or together with others that share it; wait for it if need be.

    Args:
        path: the lock's file; it and its folder are made.
        shared: whether others may hold it at the same time, if they share it too.
        on_wait: called once if the lock cannot be had at once.

    Raises:
        OSError: if the file cannot be made.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with hold(Path(folder) / "train.lock"), hold_if_free(Path(folder) / "train.lock") as free:
        ...         print(free)
        False
    """
    mode = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    try:
        descriptor = _acquire(path, mode | fcntl.LOCK_NB)
    except BlockingIOError:
        on_wait()
        descriptor = _acquire(path, mode)
    try:
        yield
    finally:
        _release(path, descriptor)


@contextlib.contextmanager
def hold_if_free(path: Path) -> Iterator[bool]:
    """Hold a lock alone if nobody else holds it; give whether that is so.

    Raises:
        OSError: if the file cannot be made.
    """
    try:
        descriptor = _acquire(path, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        yield False
        return
    try:
        yield True
    finally:
        _release(path, descriptor)


def _acquire(path: Path, mode: int) -> int:
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, mode)
            if _lies_at(descriptor, path):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        # Whoever held it before has removed the file meanwhile: a lock on it excludes nobody.
        os.close(descriptor)


def _release(path: Path, descriptor: int) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        pass  # others share it, and the last of them removes the file
    else:
        if _lies_at(descriptor, path):
            path.unlink(missing_ok=True)
    finally:
        os.close(descriptor)


def _lies_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
