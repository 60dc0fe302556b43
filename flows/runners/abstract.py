"""What every runner can do."""

from __future__ import annotations

import contextlib
import multiprocessing
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sciml_discover.errors import InputError

if TYPE_CHECKING:
    from prefect.task_runners import TaskRunner


@dataclass(frozen=True)
class AbstractRunner(ABC):
    """Where the runs of a sweep are made.

    Attributes:
        workers: how many runs are made at the same time.
        dask_address: of the scheduler of a Dask cluster that is already there.
    """

    workers: int = 1
    dask_address: str | None = None

    @abstractmethod
    def check(self) -> None:
        """Raise an `InputError` if this runner cannot be used here: before anything is started."""

    @abstractmethod
    def open(self) -> AbstractContextManager[TaskRunner[Any]]:
        """Return a context with a Prefect task runner. Left by an error, it drops what still runs."""


@contextlib.contextmanager
def children_killed_on_error() -> Iterator[None]:
    """Kill the processes that were begun inside if an error ends it: on its way out it would wait for them."""
    others = set(multiprocessing.active_children())
    try:
        yield
    except BaseException:
        for process in set(multiprocessing.active_children()) - others:
            process.kill()
        raise


def refuse_dask_address(runner: AbstractRunner, name: str) -> None:
    """Raise an `InputError` if a runner that has no use for it was given the address of a scheduler."""
    if runner.dask_address is not None:
        raise InputError(
            f"--dask-address beside --runner {name}",
            where="--dask-address",
            expected="it with --runner dask only",
        )
