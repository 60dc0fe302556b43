"""Rows of a sweep's table: what was finished before, what the store knows, what a run left behind."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from flows.combinations import Combination
from flows.sweep_table import SweepRow
from sciml_discover.errors import InputError
from sciml_discover.result import DiscoveryResult
from sciml_discover.run_folders import new_run_id, store_in
from sciml_discover.runs import discover
from sciml_discover.stages import Bench, choose_device, stages_to_make
from sciml_discover.store import write_atomically


def rows_without_work(
    planned: Sequence[Combination], out: Path, device: str
) -> Iterator[tuple[Combination, SweepRow]]:
    """Yield the combinations for which nothing has to be computed, and their rows.

    They were finished before, by whichever sweep; or the store has the results of all their stages,
    and a run is put together from those here.

    Args:
        planned: the combinations.
        out: the folder of all runs and of the store they share.
        device: ``auto``, ``cpu`` or ``cuda``.
    """
    store, chosen = store_in(out), choose_device(device)
    for one in planned:
        row = _finished(out, one)
        if row is None and not stages_to_make(Bench(one.loaded, chosen), store):
            run_id = new_run_id(one.case)
            discover(one.loaded, out=out, device=device, run_id=run_id)
            row = row_of(out, one, run_id)
        if row is not None:
            yield one, row


def row_of(out: Path, combination: Combination, run_id: str, message: str = "") -> SweepRow:
    """Return the row of a run that has ended, and write down that it is finished unless it failed.

    Args:
        out: the folder of all runs.
        combination: what was run.
        run_id: name of the run.
        message: what is known of its end, in case that it left no result.
    """
    path = out / run_id / "result.json"
    if not path.exists():
        return SweepRow.failure(combination.values, run_id, message)
    row = SweepRow.from_result(combination.values, DiscoveryResult.from_file(path))
    if row.status != "failed":
        write_atomically(_record(out, combination), json.dumps({"run": run_id}).encode())
    return row


def _record(out: Path, combination: Combination) -> Path:
    """Return the file that names the finished run of a combination, whichever sweep asked for it."""
    return out / "sweeps" / "finished" / f"{combination.key}.json"


def _finished(out: Path, combination: Combination) -> SweepRow | None:
    """Return the row of a combination that was finished before, if its run is still there."""
    try:
        run_id = json.loads(_record(out, combination).read_bytes())["run"]
        return SweepRow.from_result(combination.values, DiscoveryResult.from_file(out / run_id))
    except (FileNotFoundError, ValueError, KeyError, TypeError, InputError):
        return None  # it is not there, or cannot be read: the store will know
