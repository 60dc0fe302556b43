"""Prefect tasks: one thin file per stage. What a stage does stands in the library.

The house's own `task` decorator sets what every task shares. Prefect neither stores nor caches
anything: its result files are pickles or name the code that reads them, and its keys change from
run to run. The library's content store does both, and a result that was found there is shown as a
task run in state ``Cached``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import prefect
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.states import Completed
from prefect.tasks import Task

from sciml_discover.runs import Run
from sciml_discover.stages import StageOutcome
from sciml_discover.store import Artifact

StageTask = Task[[Run], "State[Artifact]"]


def task(stage: Callable[[Run], StageOutcome]) -> StageTask:
    """Return the Prefect task of one stage, named after its function."""

    @functools.wraps(stage)
    def body(run: Run) -> State[Artifact]:
        outcome = stage(run)
        return Completed(name="Cached" if outcome.cached else "Completed", data=outcome.artifact)

    return prefect.task(name=stage.__name__, cache_policy=NO_CACHE, persist_result=False)(body)
