"""The runs of a sweep that have to be made: handed to a crew, settled as they end, tried again."""

from __future__ import annotations

import contextlib
import secrets
import time
from collections import Counter
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.futures import PrefectFuture, PrefectWrappedFuture, as_completed
from prefect.states import Completed

from flows.combinations import Combination
from flows.runners import AbstractRunner
from flows.runners.threads import stop_if_told
from flows.sweep_rows import row_of
from flows.sweep_table import SweepRow
from sciml_discover.errors import InputError
from sciml_discover.run_folders import new_run_id
from sciml_discover.runs import discover
from sciml_discover.threads import at_most_threads, usable_cores

AnyFuture = PrefectWrappedFuture[Any, Any]

RETRY_SECONDS = 1.0
"""Before the first retry; twice as long before each further one."""


@task(cache_policy=NO_CACHE, persist_result=False, task_run_name="{label}")
def run_combination(
    label: str,  # noqa: ARG001  (what the Prefect UI shows)
    experiment: str,
    overrides: tuple[str, ...],
    out: str,
    device: str,
    run_id: str,
) -> State[str]:
    """Run one combination; return the name of the run, in whose folder its result lies."""
    stop_if_told()
    if (Path(out) / run_id).exists():  # Dask has begun it before, on a worker that died
        run_id = f"{run_id}-again-{secrets.token_hex(3)}"
    result = discover(
        experiment, out=out, overrides=overrides, device=device, run_id=run_id, watch=stop_if_told
    )
    return Completed(message=f"{run_id}: {result.status}", data=run_id)


@dataclass(frozen=True)
class Work:
    """How the runs of a sweep are made.

    Attributes:
        crew: who makes them.
        call: the arguments that all of them share.
        out: the folder of all runs.
        retries: how often a run that fails is tried again.
    """

    crew: AbstractRunner
    call: dict[str, str]
    out: Path
    retries: int

    def rows(self, waiting: Iterable[Combination]) -> Generator[tuple[Combination, SweepRow]]:
        """Make the run of each combination, and yield its row as it ends; if it is tried again, again.

        To be closed by whoever does not want all of them: that stops what still runs.
        """
        left = {one.key: one for one in waiting}
        tries: Counter[str] = Counter()
        pause = RETRY_SECONDS
        while left:
            handed, idle = list(left.values()), list[tuple[Combination, SweepRow]]()
            with contextlib.closing(self._ends(handed)) as ends:
                for combination, run_id, future in ends:
                    begun = (self.out / run_id).exists()
                    name, message, error = _outcome(run_id, future)
                    row = row_of(self.out, combination, name, message)
                    if not begun:  # it waited for a process that died, or for a cluster that is gone
                        idle.append((combination, row))
                        continue
                    tries[combination.key] += 1
                    last = isinstance(error, InputError) or tries[combination.key] > self.retries
                    if last or row.status != "failed":
                        del left[combination.key]
                    yield combination, row
            if len(idle) == len(handed):  # and would be again
                yield from idle
                return
            if left:
                time.sleep(pause)
                pause *= 2

    def _ends(self, waiting: Iterable[Combination]) -> Generator[tuple[Combination, str, AnyFuture]]:
        """Have the crew make each run, and yield its name and its future as it ends."""
        threads = max(1, usable_cores() // self.crew.workers)
        with at_most_threads(threads), self.crew.open() as runner:
            started: dict[PrefectFuture[Any], tuple[Combination, str, AnyFuture]] = {}
            for one in waiting:
                run_id = new_run_id(one.case)
                call = {**self.call, "overrides": one.overrides, "label": one.label, "run_id": run_id}
                future = runner.submit(run_combination, call)
                started[future] = (one, run_id, future)
            for future in as_completed(list(started)):
                yield started[future]


def _outcome(run_id: str, future: AnyFuture) -> tuple[str, str, BaseException | None]:
    """Return the name of a run that has ended, what is to be said about it, and the error that ended it."""
    error = future.wrapped_future.exception()
    if error is not None:  # the process died before it could say anything
        return run_id, f"{type(error).__name__}: {error}", error
    future.wait()
    state, end = future.state, future.state.result(raise_on_failure=False)
    if isinstance(end, BaseException):
        return run_id, state.message or "", end
    return end, "", None
