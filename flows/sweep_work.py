"""The runs of a sweep that have to be made: handed to a crew, settled as they end, tried again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
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
) -> State[None]:
    """Run one combination; its result lies in the run's folder."""
    result = discover(
        experiment, out=out, overrides=overrides, device=device, run_id=run_id, watch=stop_if_told
    )
    return Completed(message=f"{run_id}: {result.status}")


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

    def do(self, waiting: Iterable[Combination], ended: Callable[[Combination, SweepRow], object]) -> None:
        """Make the run of each combination, and tell of each as it ends; of one that is tried again, again."""
        left = {one.key: one for one in waiting}
        tries = dict.fromkeys(left, 0)
        pause = RETRY_SECONDS

        def settle(combination: Combination, run_id: str, future: AnyFuture) -> None:
            message, error = _end(future)
            row = row_of(self.out, combination, run_id, message)
            # When a process dies, those that wait for its pool never begin.
            tries[combination.key] += (self.out / run_id).exists()
            if (
                row.status != "failed"
                or isinstance(error, InputError)
                or tries[combination.key] > self.retries
            ):
                del left[combination.key]
            ended(combination, row)

        while left:
            before = sum(tries.values())
            self._once(list(left.values()), settle)
            if sum(tries.values()) == before:
                return  # nothing can be begun at all
            if left:
                time.sleep(pause)
                pause *= 2

    def _once(
        self, waiting: list[Combination], settle: Callable[[Combination, str, AnyFuture], object]
    ) -> None:
        """Have the crew make each run, and settle each as it ends."""
        with at_most_threads(max(1, usable_cores() // self.crew.workers)), self.crew.open() as runner:
            started: dict[PrefectFuture[Any], tuple[Combination, str, AnyFuture]] = {}
            for one in waiting:
                run_id = new_run_id(one.case)
                call = {**self.call, "overrides": one.overrides, "label": one.label, "run_id": run_id}
                future = runner.submit(run_combination, call)
                started[future] = (one, run_id, future)
            for future in as_completed(list(started)):
                settle(*started[future])


def _end(future: AnyFuture) -> tuple[str, BaseException | None]:
    """Return what is to be said about a run that has ended, and the error that ended it, if one did."""
    error = future.wrapped_future.exception()
    if error is not None:  # the process died before it could say anything
        return f"{type(error).__name__}: {error}", error
    future.wait()
    state = future.state
    return state.message or "", state.result(raise_on_failure=False) if state.is_failed() else None
