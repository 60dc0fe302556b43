"""The task of stage ``sample``."""

from __future__ import annotations

from sciml_discover.runs import Run
from sciml_discover.stages import StageOutcome
from tasks import task


@task
def sample(run: Run) -> StageOutcome:
    """Sample what the network learnt in each hole."""
    return run.stage("sample")
