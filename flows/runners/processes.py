"""Runs in processes of this machine: each computes alone, and may die alone."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flows.runners.abstract import AbstractRunner, refuse_dask_address
from flows.server_process import watch_parent

if TYPE_CHECKING:
    from prefect.task_runners import TaskRunner


@dataclass(frozen=True)
class Processes(AbstractRunner):
    """Processes of this machine."""

    def check(self) -> None:
        """Refuse what belongs to another runner."""
        refuse_dask_address(self, "processes")

    @contextlib.contextmanager
    def open(self) -> Iterator[TaskRunner[Any]]:
        """Open a pool of processes; left by an error, it kills them."""
        from prefect.task_runners import ProcessPoolTaskRunner

        others = set(multiprocessing.active_children())
        with ProcessPoolTaskRunner(
            max_workers=self.workers, initializer=_prepare, initargs=(os.getpid(),)
        ) as runner:
            try:
                yield runner
            except BaseException:
                # On the way out the pool waits for whatever its processes still have to do.
                for process in set(multiprocessing.active_children()) - others:
                    process.kill()
                raise


def _prepare(parent: int) -> None:
    watch_parent(parent)
    # Ctrl-C reaches the whole group of processes; the parent alone says what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
