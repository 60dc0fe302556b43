"""The task of stage ``report``."""

from __future__ import annotations

from sciml_discover.runs import Run
from sciml_discover.stages import StageOutcome
from tasks import task


@task
def report(run: Run) -> StageOutcome:
    """Render the report."""
    return run.stage("report")
