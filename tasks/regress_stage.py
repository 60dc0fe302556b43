"""The task of stage ``regress``."""

from __future__ import annotations

from sciml_discover.runs import Run
from sciml_discover.stages import StageOutcome
from tasks import task


@task
def regress(run: Run) -> StageOutcome:
    """Propose supports: which library terms may stand in each hole."""
    return run.stage("regress")
