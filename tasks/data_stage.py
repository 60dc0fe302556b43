"""The task of stage ``data``."""

from __future__ import annotations

from sciml_discover.runs import Run
from sciml_discover.stages import StageOutcome
from tasks import task


@task
def data(run: Run) -> StageOutcome:
    """Read the measured rows, split off the hold-out, measure the noise."""
    return run.stage("data")
