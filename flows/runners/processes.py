"""Runs in processes of this machine: each computes alone, and may die alone."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flows.runners.abstract import AbstractRunner, children_killed_on_error, refuse_dask_address
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

        with (
            ProcessPoolTaskRunner(
                max_workers=self.workers, initializer=_prepare, initargs=(os.getpid(),)
            ) as runner,
            children_killed_on_error(),
        ):
            yield runner


def _prepare(parent: int) -> None:
    watch_parent(parent)
    # Ctrl-C reaches the whole group of processes; the parent alone says what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
