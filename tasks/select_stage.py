"""The task of stage ``select``."""

from __future__ import annotations

from sciml_discover.runs import Run
from sciml_discover.stages import StageOutcome
from tasks import task


@task
def select(run: Run) -> StageOutcome:
    """Refit candidate laws to the data through the ODE and choose."""
    return run.stage("select")
