"""Where the runs of a sweep are made: threads, processes or a Dask cluster, behind one interface.

To add one: a module with a final class that inherits `AbstractRunner`, and its line in `RUNNERS`.
Nothing here imports Prefect or Dask before a runner is opened or checked.
"""

from __future__ import annotations

from flows.runners.abstract import AbstractRunner as AbstractRunner
from flows.runners.dask_cluster import DaskCluster
from flows.runners.processes import Processes
from flows.runners.threads import Threads
from sciml_discover.errors import InputError, did_you_mean

RUNNERS: dict[str, type[AbstractRunner]] = {"threads": Threads, "processes": Processes, "dask": DaskCluster}


def checked_runner(name: str, workers: int, dask_address: str | None) -> AbstractRunner:
    """Return the runner of that name.

    Args:
        name: one of `RUNNERS`.
        workers: how many runs it makes at the same time.
        dask_address: of the scheduler of a Dask cluster that is already there.

    Raises:
        InputError: if there is none of that name, or it cannot be used here.
    """
    if name not in RUNNERS:
        raise InputError(
            repr(name), where="--runner", expected=", ".join(RUNNERS), do=did_you_mean(name, RUNNERS)
        )
    runner = RUNNERS[name](workers, dask_address)
    runner.check()
    return runner
