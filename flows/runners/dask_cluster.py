"""Runs on a Dask cluster: one of this machine that lives as long as the sweep, or one that is there.

The workers of a cluster that is there need the same packages, the folder of runs and that of the
experiment under the same paths, and a Prefect server that they can reach: ``PREFECT_API_URL``.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from flows.runners.abstract import AbstractRunner, children_killed_on_error
from sciml_discover.errors import InputError

if TYPE_CHECKING:
    from prefect.task_runners import TaskRunner

CONNECT_SECONDS = 10


@dataclass(frozen=True)
class DaskCluster(AbstractRunner):
    """A Dask cluster: that at ``dask_address``, or else one of this machine with one thread a worker."""

    def check(self) -> None:
        """Refuse to go on without the packages, or without a scheduler where one should be."""
        if find_spec("prefect_dask") is None:
            raise InputError(
                "no package prefect-dask",
                where="--runner dask",
                expected="the extra 'dask' installed",
                do="Run `pip install -e '.[dask]'` where you cloned this package, or `pip install prefect-dask`.",
            )
        if self.dask_address is not None:
            from distributed import Client

            try:
                Client(self.dask_address, timeout=CONNECT_SECONDS, set_as_default=False).close()
            except (OSError, ValueError) as error:
                raise InputError(
                    f"no scheduler ({error})",
                    where=f"--dask-address {self.dask_address}",
                    expected="the address of a Dask scheduler, such as tcp://127.0.0.1:8786",
                ) from error

    @contextlib.contextmanager
    def open(self) -> Iterator[TaskRunner[Any]]:
        """Connect to the cluster, or start one; left by an error, it forgets what waits and ends its own."""
        from prefect_dask.task_runners import DaskTaskRunner

        # What it has to say of its connections is nothing that the reader of a table waits for.
        logging.getLogger("distributed").setLevel(logging.CRITICAL)
        if self.dask_address is not None:
            where: dict[str, Any] = {"address": self.dask_address}
        else:
            where = {
                "cluster_kwargs": {
                    "n_workers": self.workers,
                    "threads_per_worker": 1,
                    "dashboard_address": "127.0.0.1:0",  # unless told otherwise, every network sees it
                    "silence_logs": logging.CRITICAL,
                }
            }
        with DaskTaskRunner(**where) as runner, children_killed_on_error():
            yield runner
