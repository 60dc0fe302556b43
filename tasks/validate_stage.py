"""The task of stage ``validate``."""

from __future__ import annotations

from sciml_discover.runs import Run
from sciml_discover.stages import StageOutcome
from tasks import task


@task
def validate(run: Run) -> StageOutcome:
    """Judge the law on rows that it never saw, with an independent solver."""
    return run.stage("validate")
