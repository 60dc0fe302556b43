"""The flow of the benchmark of recovery: known laws are hidden, looked for, and compared with what came back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from flows.benchmark import machine
from flows.bookkeeping import claim_run, untagged_tasks
from flows.recovery.cases import CASES
from flows.recovery.document import code_digest, key_of, read_runs, write_document
from flows.recovery.plan import Planned, check_request
from flows.recovery.runner import runs_of
from flows.session import current_session
from sciml_discover.base import Progress, Watch, nobody_watches
from sciml_discover.result import library_versions


@dataclass
class Record:
    """The document while it grows.

    Attributes:
        file: where it lies.
        head: what stands above the runs.
        runs: made so far, those of earlier calls first.
    """

    file: Path
    head: dict[str, Any]
    runs: list[dict[str, Any]]

    def add(self, run: dict[str, Any]) -> None:
        """Add a run and write the document: a benchmark of hours that is stopped leaves what it measured."""
        self.runs.append(run)
        order = list(CASES)
        self.runs.sort(
            key=lambda one: (
                order.index(one["case"]) if one["case"] in order else len(order),
                *map(str, key_of(one)),
            )
        )
        write_document(self.file, self.head, self.runs)


@task(cache_policy=NO_CACHE, persist_result=False, task_run_name="{label}")
def run_row(label: str, planned: Planned, record: Record, watch: Watch) -> int:
    """Run what one row of a table still lacks and add it to the record; return how many runs failed."""
    code, failures = code_digest(), 0
    total = len(planned.units)
    for number, run in enumerate(runs_of(planned.case, planned.row, planned.units, planned.seconds)):
        record.add({**run, "code": code})
        failures += run["status"] == "failed"
        watch(Progress("benchmark", label, number + 1, total))
    return failures


@flow(persist_result=False)
def benchmark_recovery(
    cases: Sequence[str] | None = None,
    rows: Sequence[str] | None = None,
    seeds: str | None = None,
    file: str | None = None,
    out: str = "runs",
) -> dict[str, Any]:
    """Return the benchmark of recovery as a document; it also lies in ``file``.

    Runs that the file has already are not made again.

    Args:
        cases: names of cases; all of them if not given.
        rows: of their tables; all of them if not given.
        seeds: such as ``"1000..1019"``; each case's own if not given.
        file: the document to begin or to go on with; ``<out>/benchmarks/recovery.json`` if not given.
        out: the folder of all runs.
    """
    claim_run()
    caller = current_session()
    watch = caller.watch if caller else nobody_watches
    path = Path(file) if file else Path(out) / "benchmarks" / "recovery.json"
    runs = read_runs(path)
    request = check_request(cases or (), rows or (), seeds)
    head = {
        "benchmark": "recovery",
        "command": "sciml-discover benchmark recovery",
        "machine": machine(),
        "versions": library_versions(),
    }
    record = Record(path, head, runs)
    for planned in request.without({key_of(run) for run in runs}):
        with untagged_tasks():
            run_row(planned.label, planned, record, watch)
    write_document(path, head, record.runs)
    return {**head, "runs": record.runs, "file": str(path)}
