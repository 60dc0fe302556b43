"""Prefect tasks: one thin file per stage. What a stage does stands in the library.

The house's own `task` decorator sets what every task shares. Prefect neither stores nor caches
anything: its result files are pickles or name the code that reads them, and its keys change from
run to run. The library's content store does both, and a result that was found there is shown as a
task run in state ``Cached``.

What time can cure (a shared folder that does not answer for a moment) is tried again, later each
time, and goes on from the stage's checkpoint. Nothing else is: wrong input and a full disk stay so.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import prefect
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.states import Completed
from prefect.tasks import Task

from sciml_discover.errors import may_pass
from sciml_discover.runs import Run
from sciml_discover.stages import StageOutcome
from sciml_discover.store import Artifact

StageTask = Task[[Run], "State[Artifact]"]

RETRY_SECONDS = (2.0, 10.0, 60.0)
"""How long to wait before each further attempt."""


def task(stage: Callable[[Run], StageOutcome]) -> StageTask:
    """Return the Prefect task of one stage, named after its function."""

    @functools.wraps(stage)
    def body(run: Run) -> State[Artifact]:
        outcome = stage(run)
        return Completed(name="Cached" if outcome.cached else "Completed", data=outcome.artifact)

    return prefect.task(
        name=stage.__name__,
        cache_policy=NO_CACHE,
        persist_result=False,
        retries=len(RETRY_SECONDS),
        retry_delay_seconds=list(RETRY_SECONDS),
        retry_condition_fn=worth_a_retry,
    )(body)


def worth_a_retry(_: Task[..., Any], __: Any, state: State[Any]) -> bool:
    """Return whether time can cure what a task run failed of."""
    error = state.result(raise_on_failure=False)
    return may_pass(error if isinstance(error, BaseException) else None)
