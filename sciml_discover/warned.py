"""Warnings of one thread, told to whoever asked for them, while other threads have theirs told elsewhere.

`warnings.catch_warnings` changes the whole process: of two runs in two threads each would get the
other's warnings, and the later end would undo the earlier one's restoration.
"""

from __future__ import annotations

import contextlib
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

Tell = Callable[[type[Warning], str], object]

_lock = threading.Lock()
_of_thread = threading.local()


class _Hook:
    """What stands in for the process's way to show warnings as long as anybody asks for them."""

    def __init__(self) -> None:
        self.users = 0
        self.caught = contextlib.ExitStack()

    def enter(self) -> None:
        with _lock:
            if self.users == 0:
                self.caught.enter_context(warnings.catch_warnings())
                self.show_elsewhere = warnings.showwarning
                warnings.showwarning = self.show
            self.users += 1

    def leave(self) -> None:
        with _lock:
            self.users -= 1
            if self.users == 0:
                self.caught.close()

    def show(self, message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
        tell: Tell | None = getattr(_of_thread, "tell", None)
        if tell is None:
            self.show_elsewhere(message, category, *place, **more)
        else:
            tell(category, str(message))


_hook = _Hook()


@contextlib.contextmanager
def warnings_told(tell: Tell) -> Iterator[None]:
    """Call ``tell`` with the category and the text of each warning of this thread, instead of showing it."""
    before = getattr(_of_thread, "tell", None)
    _hook.enter()
    _of_thread.tell = tell
    try:
        yield
    finally:
        _of_thread.tell = before
        _hook.leave()
