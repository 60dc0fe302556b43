"""The flow of the benchmark: every case over its seeds, each run in a process of its own, one table."""

from __future__ import annotations

import json
import os
import platform
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from flows.benchmarks.plan import OURS, Planned, Request, check_request, describe
from flows.benchmarks.processes import missing_packages, run_module
from flows.benchmarks.table import markdown, summarise
from flows.bookkeeping import claim_run, untagged_tasks
from flows.session import current_session
from sciml_discover.base import Progress, nobody_watches
from sciml_discover.result import library_versions
from sciml_discover.store import write_atomically

EXTRA = "pip install 'sciml-discover[peers]'"


@task(cache_policy=NO_CACHE, persist_result=False, task_run_name="{label}")
def run_process(
    label: str,  # noqa: ARG001 - the name of the task's run
    python: str,
    module: str,
    arguments: list[str],
    seconds: float,
) -> dict[str, Any]:
    """Run one process and return what it measured."""
    return run_module(python, module, arguments, seconds)


@flow(persist_result=False)
def benchmark(
    cases: list[str] | None = None,
    seeds: str | None = None,
    preset: str = "auto",
    peers: bool = True,
    peer_python: str = sys.executable,
    out: str = "runs",
) -> dict[str, Any]:
    """Return the benchmark of the training as a document; it also lies in ``<out>/benchmarks/training``.

    A run that fails or takes too long is a failure of its case, with the reason, and ends nothing.

    Args:
        cases: names of cases; all of them if not given.
        seeds: such as ``"0..19"``; each case's own if not given.
        preset: of every row that names none.
        peers: whether other tools run too.
        peer_python: the interpreter that has their packages.
        out: the folder of all runs.
    """
    claim_run()
    caller = current_session()
    watch = caller.watch if caller else nobody_watches
    request = check_request(cases or (), seeds, preset, peers=peers, peer_python=peer_python)
    begun = datetime.now().astimezone()
    file = Path(out) / "benchmarks" / "training" / f"{begun:%Y-%m-%d-%H%M%S}.json"
    document: dict[str, Any] = {
        "benchmark": "training",
        "date": f"{begun:%Y-%m-%d}",
        "command": command_of(request),
        "options": {"cases": list(request.cases), "seeds": seeds, "preset": preset, "peers": peers},
        "machine": machine(),
        "versions": library_versions(),
        "cases": describe(request),
        "file": str(file),
    }
    planned = list(request.runs())
    lacking = missing_packages(peer_python) if any(one.tool != OURS for one in planned) else []
    runs: list[dict[str, Any]] = []
    for one in planned:
        watch(Progress("benchmark", one.label, len(runs), len(planned)))
        with untagged_tasks():
            found = _run(one, sys.executable if one.tool == OURS else peer_python, lacking)
        runs.append({"case": one.case, "row": one.row, "tool": one.tool, "seed": one.seed, **found})
        # After every run: a benchmark of hours that is stopped leaves what it measured.
        document |= {"rows": summarise(request, runs), "runs": runs}
        _write(file, document)
    watch(Progress("benchmark", f"{len(runs)} runs", len(runs), len(planned)))
    return document


def _run(one: Planned, python: str, lacking: list[str] | None) -> dict[str, Any]:
    if one.tool != OURS and lacking != []:
        what = f"{python} cannot be started" if lacking is None else f"{', '.join(lacking)} not installed"
        reason = f"{what}: {EXTRA}"
        return {"status": "skipped", "reason": reason, "figures": {}, "seconds": {}, "words": {}}
    return run_process(one.label, python, one.module, list(one.arguments), one.seconds)


def _write(file: Path, document: dict[str, Any]) -> None:
    text = json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    write_atomically(file, text.encode())
    write_atomically(file.with_suffix(".md"), markdown(document).encode())


def command_of(request: Request) -> str:
    """Return the command line that asks for the same."""
    words = ["sciml-discover", "benchmark", "training", "--cases", ",".join(request.cases)]
    if request.seeds is not None:
        words += ["--seeds", ",".join(map(str, request.seeds))]
    words += ["--preset", request.preset, "--peers" if request.peers else "--no-peers"]
    return " ".join(words)


def machine() -> dict[str, Any]:
    """Return what the seconds depend on."""
    return {
        "cores": os.cpu_count(),
        "processor": _processor(),
        "system": platform.platform(),
        "threads": {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")},
    }


def _processor() -> str:
    """Return the name of the processor, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
