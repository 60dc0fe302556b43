"""The flow: from an experiment file to a validated law, one task per stage."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed

from flows.artifacts import publish, watched
from flows.bookkeeping import claim_run, close_stale_runs, untagged_tasks
from flows.deployed import deployment_name, name_run
from flows.last_finished import LastFinished
from flows.session import current_session
from sciml_discover.base import nobody_watches
from sciml_discover.experiment import Changes, load_experiment
from sciml_discover.run_folders import new_run_id
from sciml_discover.runs import Run
from sciml_discover.stages import STAGES, choose_device, determined_by
from tasks.data_stage import data
from tasks.regress_stage import regress
from tasks.report_stage import report
from tasks.sample_stage import sample
from tasks.select_stage import select
from tasks.train_stage import train
from tasks.validate_stage import validate

TASKS = {task.name: task for task in (data, train, sample, regress, select, validate, report)}


@flow(name="discover", persist_result=False)
def discover(
    experiment: Path,
    changes: Changes = Changes(),  # noqa: B008  (frozen)
    overrides: tuple[str, ...] = (),
    when_data_changes: bool = False,
    from_stage: Literal["data", "train", "sample", "regress", "select", "validate", "report"] | None = None,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    out: Path = Path("runs"),
    run_id: str = "",
) -> str:
    """Return the folder of a new run of an experiment, or of the last one if nothing was done.

    Args:
        experiment: Path of the experiment file.
        changes: Parts of the experiment that take the place of those in the file.
        overrides: Single keys with a value, such as train.starts=4; they come last.
        when_data_changes: Do nothing if experiment and data are those of the last finished run.
        from_stage: This stage is made anew even if the store has it, and so is whatever depends on it unless it gives
            the same bytes as before.
        device: Where tensors live; auto takes a GPU where one is visible.
        out: The folder of all runs and of the store they share.
        run_id: Name of the run; made here unless given.
    """
    loaded = load_experiment(experiment, overrides, changes)
    deployment = deployment_name()
    if deployment:
        close_stale_runs()  # a worker does not; the command line does before it calls the flow
    last = LastFinished(out, deployment or loaded.name)
    digest = determined_by(loaded, choose_device(device)) if when_data_changes else ""
    if digest and from_stage is None and (folder := last.with_digest(digest)) is not None:
        message = f"The data did not change since {folder.name}: nothing was done."
        # Whoever calls the flow gets the folder; the state is for those who look at the run.
        return Completed(name="Unchanged", message=message, data=str(folder))  # type: ignore[return-value]
    claim_run()
    if not run_id:
        run_id = new_run_id(loaded.name)
        name_run(run_id)
    caller = current_session()
    watch = caller.watch if caller else nobody_watches
    watches = watched(watch)
    shares = caller.shares() if caller else None
    with (
        untagged_tasks(),
        Run(
            loaded,
            out=out,
            from_stage=from_stage,
            device=device,
            watch=watches,
            run_id=run_id,
            seconds=shares,
        ) as run,
    ):
        states: dict[str, State] = {}
        for stage in STAGES:
            needed = [states[name] for name in stage.inputs]
            states[stage.name] = TASKS[stage.name](run, wait_for=needed, return_state=True)
            states[stage.name].result()
        result = run.finish()
    if digest:
        last.remember(digest, run.folder)
    publish(result, run.folder, watch)
    return str(run.folder)
