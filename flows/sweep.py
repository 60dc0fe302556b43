"""The flow of a sweep: one experiment, many combinations of values, one table."""

from __future__ import annotations

import functools
import json
import multiprocessing
import os
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.futures import PrefectFuture, as_completed
from prefect.task_runners import ProcessPoolTaskRunner

from flows.bookkeeping import claim_run
from flows.combinations import Combination, plan
from flows.server_process import watch_parent
from flows.session import current_session
from flows.sweep_table import SweepRow, SweepTable
from sciml_discover.base import Progress, nobody_watches
from sciml_discover.result import DiscoveryResult
from sciml_discover.run_folders import new_run_id
from sciml_discover.runs import discover
from sciml_discover.store import make_key, write_atomically


@task(cache_policy=NO_CACHE, persist_result=False, task_run_name="{run_id}")
def run_combination(experiment: str, overrides: tuple[str, ...], out: str, device: str, run_id: str) -> None:
    """Run one combination; its result lies in the run's folder."""
    discover(experiment, out=out, overrides=overrides, device=device, run_id=run_id)


@flow(persist_result=False)
def sweep(
    experiment: str,
    over: list[str],
    overrides: list[str] | None = None,
    out: str = "runs",
    device: str = "auto",
    workers: int = 1,
) -> SweepTable:
    """Return the table of a sweep. Started again, it runs only what is not finished.

    Args:
        experiment: path of the experiment file.
        over: keys and their values, such as ``"data.synthetic.seed=0..19"``.
        overrides: keys with one value, for every combination.
        out: the folder of all runs and of the store they share.
        device: ``auto``, ``cpu`` or ``cuda``.
        workers: how many runs at the same time, each in a process of its own.
    """
    claim_run()
    caller = current_session()
    watch = caller.watch if caller else nobody_watches
    planned = plan(experiment, over, overrides or (), device)
    folder = Path(out) / "sweeps" / f"{planned[0].case}-{make_key([one.key for one in planned])[:10]}"
    rows = {one.key: row for one in planned if (row := _finished(Path(out), one)) is not None}
    watch(Progress("sweep", f"{len(rows)} finished before", len(rows), len(planned)))

    def table() -> SweepTable:
        return SweepTable(tuple(rows[one.key] for one in planned if one.key in rows), len(planned), folder)

    arguments = {"experiment": experiment, "out": out, "device": device}
    waiting = [one for one in planned if one.key not in rows]
    for combination, run_id, message in _run_all(waiting, arguments, workers):
        row = _row(combination, run_id, Path(out), message)
        rows[combination.key] = row
        if row.status != "failed":
            write_atomically(_record(Path(out), combination), json.dumps({"run": run_id}).encode())
        table().write(folder)
        watch(Progress("sweep", f"{_label(combination)}: {row.status}", len(rows), len(planned)))
    table().write(folder)
    return table()


def _run_all(
    waiting: Sequence[Combination], arguments: dict[str, Any], workers: int
) -> Iterator[tuple[Combination, str, str]]:
    """Run combinations and yield each, as it ends, with its run and what Prefect says about it."""
    runs = [(one, new_run_id(one.case)) for one in waiting]
    if workers == 1 or len(runs) < 2:
        for one, run_id in runs:
            call = {**arguments, "overrides": one.overrides, "run_id": run_id}
            state: State[None] = run_combination(**call, return_state=True)
            yield one, run_id, state.message or ""
        return
    threads = max(1, (os.cpu_count() or 1) // workers)
    prepare = functools.partial(_prepare_worker, os.getpid(), threads)
    with ProcessPoolTaskRunner(max_workers=workers, initializer=prepare) as runner:
        started: dict[PrefectFuture[None], tuple[Combination, str]] = {
            runner.submit(
                run_combination,
                {**arguments, "overrides": one.overrides, "run_id": run_id},
            ): (one, run_id)
            for one, run_id in runs
        }
        try:
            for future in as_completed(list(started)):
                yield *started[future], _message(future)
        except BaseException:
            # On the way out the pool waits for whatever its processes still have to do.
            for process in multiprocessing.active_children():
                process.kill()
            raise


def _message(future: PrefectFuture[None]) -> str:
    """Return what is to be said about a task run in another process, even if that process died."""
    try:
        future.wait()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return future.state.message or ""


def _prepare_worker(parent: int, threads: int) -> None:
    watch_parent(parent)
    # Ctrl-C reaches the whole group of processes; the parent alone says what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ["OMP_NUM_THREADS"] = str(threads)


def _record(out: Path, combination: Combination) -> Path:
    """Return the file that names the finished run of a combination, whichever sweep asked for it."""
    return out / "sweeps" / "finished" / f"{combination.key}.json"


def _finished(out: Path, combination: Combination) -> SweepRow | None:
    """Return the row of a combination that was finished before, if its run is still there."""
    record = _record(out, combination)
    if not record.exists():
        return None
    path = out / json.loads(record.read_bytes())["run"] / "result.json"
    if not path.exists():
        return None
    return SweepRow.from_result(combination.values, DiscoveryResult.from_file(path))


def _row(combination: Combination, run_id: str, out: Path, message: str) -> SweepRow:
    path = out / run_id / "result.json"
    if path.exists():
        return SweepRow.from_result(combination.values, DiscoveryResult.from_file(path))
    return SweepRow.failure(combination.values, run_id, message)


def _label(combination: Combination) -> str:
    return ", ".join(f"{key}={value}" for key, value in combination.values.items())
