"""Runs in threads of this process: nothing to start, everything shared, and one Python lock."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flows.runners.abstract import AbstractRunner, refuse_dask_address
from sciml_discover.base import Progress

if TYPE_CHECKING:
    from prefect.task_runners import TaskRunner

_told_to_stop = threading.Event()


@dataclass(frozen=True)
class Threads(AbstractRunner):
    """Threads of this process."""

    def check(self) -> None:
        """Refuse what belongs to another runner."""
        refuse_dask_address(self, "threads")

    @contextlib.contextmanager
    def open(self) -> Iterator[TaskRunner[Any]]:
        """Open a pool of threads; left by an error, it has every run end at its next step, and does not wait for it."""
        from prefect.task_runners import ThreadPoolTaskRunner

        _told_to_stop.clear()
        with contextlib.ExitStack() as at_end:
            runner = at_end.enter_context(ThreadPoolTaskRunner(max_workers=self.workers))
            try:
                yield runner
            except BaseException:
                # Nobody can end a thread from outside, and the end of the pool would wait for all of them.
                _told_to_stop.set()
                at_end.pop_all()
                raise


def stop_if_told(_: Progress | None = None) -> None:
    """End the run that this watches, or that is about to begin, when the threads of its process were told to stop."""
    if _told_to_stop.is_set():
        raise KeyboardInterrupt
