"""The flow of the benchmark of regression: one process that does the same work twice, batched and with pysindy."""

from __future__ import annotations

import json
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

from prefect import flow
from rich.console import Group
from rich.table import Table
from rich.text import Text

from flows.benchmark import machine, run_process
from flows.bookkeeping import claim_run
from flows.session import current_session
from sciml_discover.base import Progress, nobody_watches
from sciml_discover.result import library_versions
from sciml_discover.store import write_atomically

RATIO = 30.0
"""How many times faster than pysindy the batch has to be."""

SECONDS = ("batched", "batched_again", "pysindy")

LONGEST = 3600.0
"""Seconds after which the process is stopped."""


@flow(persist_result=False)
def benchmark_regression(
    bootstraps: int = 100, thresholds: int = 50, samples: int = 1000, seed: int = 0, out: str = "runs"
) -> dict[str, Any]:
    """Return the benchmark of regression as a document; it also lies in ``<out>/benchmarks/regression``.

    Args:
        bootstraps: draws of the samples.
        thresholds: on the path of each.
        samples: of the learnt term.
        seed: of samples and draws.
        out: the folder of all runs.
    """
    claim_run()
    caller = current_session()
    watch = caller.watch if caller else nobody_watches
    begun = datetime.now().astimezone()
    file = Path(out) / "benchmarks" / "regression" / f"{begun:%Y-%m-%d-%H%M%S}.json"
    options = {"bootstraps": bootstraps, "thresholds": thresholds, "samples": samples, "seed": seed}
    label = f"{bootstraps} bootstraps x {thresholds} thresholds x {samples} samples"
    watch(Progress("benchmark", label, 0, 1))
    arguments = [str(value) for value in options.values()]
    found = run_process(label, sys.executable, "flows.benchmarks.regression", arguments, LONGEST)
    figures = found["figures"]
    words = " ".join(f"--{name} {value}" for name, value in options.items())
    document: dict[str, Any] = {
        "benchmark": "regression",
        "date": f"{begun:%Y-%m-%d}",
        "command": f"sciml-discover benchmark regression {words}",
        "options": options,
        "machine": machine(),
        "versions": library_versions(),
        **found,
        "targets": {
            f"at least {RATIO:g} times faster": bool(figures) and figures["ratio"] >= RATIO,
            "the same supports": bool(figures) and figures["same_supports"] == figures["supports"],
        },
        "file": str(file),
    }
    text = json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    write_atomically(file, text.encode())
    watch(Progress("benchmark", found["reason"] or "1 run", 1, 1))
    return document


def regression_table(document: dict[str, Any]) -> Group:
    """Return the document as a table for the terminal."""
    options, figures, seconds = document["options"], document["figures"], document["seconds"]
    size = f"{options['bootstraps']} bootstraps, {options['thresholds']} thresholds, {options['samples']} samples"
    if not figures:
        return Group(Text(f"{size}: nothing was measured, {document['reason']}"))
    table = Table("seconds", *SECONDS, title=f"{size}, {figures['terms']} terms", title_justify="left")
    table.add_row("", *(f"{seconds[name]:.3g}" for name in SECONDS))
    said = (
        f"{figures['ratio']:.0f} times faster; "
        f"{figures['same_supports']} of {figures['supports']} supports are the same"
    )
    return Group(table, Text(said), Text(document["file"], style="dim", overflow="fold"))
