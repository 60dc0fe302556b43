"""The flow: from an experiment file to a validated law, one task per stage."""

from __future__ import annotations

from prefect import flow
from prefect.client.schemas.objects import State

from flows.bookkeeping import claim_run
from flows.session import current_session
from sciml_discover.base import nobody_watches
from sciml_discover.experiment import load_experiment
from sciml_discover.runs import Run
from sciml_discover.stages import STAGES
from tasks.data_stage import data
from tasks.regress_stage import regress
from tasks.report_stage import report
from tasks.sample_stage import sample
from tasks.select_stage import select
from tasks.train_stage import train
from tasks.validate_stage import validate

TASKS = {task.name: task for task in (data, train, sample, regress, select, validate, report)}


@flow(name="discover", flow_run_name="{run_id}", persist_result=False)
def discover(
    experiment: str,
    overrides: list[str] | None = None,
    out: str = "runs",
    from_stage: str | None = None,
    device: str = "auto",
    run_id: str = "",
) -> str:
    """Return the folder of a new run of an experiment.

    Args:
        experiment: path of the experiment file.
        overrides: such as ``"train.starts=4"``.
        out: the folder of all runs and of the store they share.
        from_stage: this stage is made anew even if the store has it, and so is whatever depends on it unless
            it gives the same bytes as before.
        device: ``auto``, ``cpu`` or ``cuda``.
        run_id: name of the run; made here unless given.
    """
    claim_run()
    caller = current_session()
    with Run(
        load_experiment(experiment, overrides or ()),
        out=out,
        from_stage=from_stage,
        device=device,
        watch=caller.watch if caller else nobody_watches,
        run_id=run_id or None,
        seconds=caller.shares() if caller else None,
    ) as run:
        states: dict[str, State] = {}
        for stage in STAGES:
            needed = [states[name] for name in stage.inputs]
            states[stage.name] = TASKS[stage.name](run, wait_for=needed, return_state=True)
            states[stage.name].result()
        run.finish()
    return str(run.folder)
