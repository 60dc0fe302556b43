"""The flow of a sweep: one experiment, many combinations of values, one table."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed

from flows.bookkeeping import claim_run, untagged_tasks
from flows.combinations import plan, sweep_name
from flows.runners import checked_runner
from flows.session import current_session
from flows.sweep_rows import rows_without_work
from flows.sweep_table import SweepTable
from flows.sweep_work import Work
from sciml_discover.base import Progress, nobody_watches

TABLE_SECONDS = 1.0
"""At least between two versions of the table's files while runs end: each holds all rows."""


@flow(persist_result=False)
def sweep(
    experiment: str,
    over: list[str],
    overrides: list[str] | None = None,
    out: str = "runs",
    device: str = "auto",
    runner: str = "processes",
    workers: int = 1,
    dask_address: str | None = None,
    retries: int = 0,
) -> State[SweepTable]:
    """Return the table of a sweep. Started again, it runs only what is not finished.

    Args:
        experiment: path of the experiment file.
        over: keys and their values, such as ``"data.synthetic.seed=0..19"``.
        overrides: keys with one value, for every combination.
        out: the folder of all runs and of the store they share.
        device: ``auto``, ``cpu`` or ``cuda``.
        runner: where runs are made: ``threads``, ``processes`` or ``dask``.
        workers: how many runs at the same time.
        dask_address: of the scheduler of a Dask cluster that is already there.
        retries: how often a run that fails is tried again, unless its input is wrong.
    """
    claim_run()
    caller = current_session()
    watch = caller.watch if caller else nobody_watches
    crew = checked_runner(runner, workers, dask_address)
    planned = plan(experiment, over, overrides or (), device)
    folder = Path(out) / "sweeps" / sweep_name(planned)
    rows = {one.key: row for one, row in rows_without_work(planned, Path(out), device)}
    found = len(rows)
    watch(Progress("sweep", f"{found} known before", found, len(planned)))

    def table() -> SweepTable:
        return SweepTable(tuple(rows[one.key] for one in planned if one.key in rows), len(planned), folder)

    # Tasks may run elsewhere, where another folder is the current one.
    call = {"experiment": str(Path(experiment).resolve()), "out": str(Path(out).resolve()), "device": device}
    work = Work(crew, call, Path(out), retries)
    left = (one for one in planned if one.key not in rows)
    with untagged_tasks(), contextlib.closing(work.rows(left)) as ends:
        written = 0.0
        for combination, row in ends:
            rows[combination.key] = row
            if time.monotonic() - written > TABLE_SECONDS:
                table().write(folder)
                written = time.monotonic()
            watch(Progress("sweep", f"{combination.label}: {row.status}", len(rows), len(planned)))
    table().write(folder)
    made = len(planned) - found
    return Completed(
        message=f"{found} known before, {made} run, {table().failed} of them failed", data=table()
    )
