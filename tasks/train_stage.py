"""The task of stage ``train``."""

from __future__ import annotations

from sciml_discover.runs import Run
from sciml_discover.stages import StageOutcome
from tasks import task


@task
def train(run: Run) -> StageOutcome:
    """Train the universal differential equation."""
    return run.stage("train")
