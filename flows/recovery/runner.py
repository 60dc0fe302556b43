"""Runs in worker processes, several in one, each with a time of its own."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import Any

from flows.benchmarks.processes import PARENT, ROOT
from flows.recovery.case import Run

START_SECONDS = 60.0
"""What a process may take longer for its first run: imports."""

PER_PROCESS = 25
"""Runs in one process; then a fresh one, so that no process grows without end."""

MODULE = "flows.recovery.worker"

Unit = tuple[str, int]
"""What a row is run on, and the seed."""


def runs_of(
    case: str, row: str, units: Sequence[Unit], seconds: float, module: str = MODULE
) -> Iterator[Run]:
    """Yield a run for every unit, as each ends; one that fails or takes too long is a failure, and ends nothing.

    Args:
        case: its name.
        row: of its table.
        units: what is run.
        seconds: that each may take.
        module: the worker; it prints a JSON line per unit.
    """
    left = list(units)
    while left:
        batch = left[:PER_PROCESS]
        done = 0
        for found in _process(module, case, row, batch, seconds):
            item, seed = batch[done]
            yield {"case": case, "row": row, "item": item, "seed": seed, **found}
            done += 1
        left = left[done:]


def _process(
    module: str, case: str, row: str, units: Sequence[Unit], seconds: float
) -> Iterator[dict[str, Any]]:
    """Yield what one process prints about its units; ends after the first that breaks it."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), PARENT: str(os.getpid())}
    words = [f"{item}:{seed}" for item, seed in units]
    process = subprocess.Popen(
        [sys.executable, "-m", module, case, row, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    lines: queue.Queue[str | None] = queue.Queue()
    errors: list[str] = []
    readers = [
        threading.Thread(target=_read, args=(process.stdout, lines.put), daemon=True),
        threading.Thread(
            target=_read, args=(process.stderr, lambda line: errors.append(line or "")), daemon=True
        ),
    ]
    for reader in readers:
        reader.start()
    try:
        limit = seconds + START_SECONDS
        for _ in units:
            try:
                line = lines.get(timeout=limit)
            except queue.Empty:
                yield _failed(f"took longer than {seconds:g} s")
                return
            if line is None:
                readers[1].join(timeout=5.0)
                last = ([text.strip() for text in errors if text.strip()] or ["it printed nothing"])[-1]
                yield _failed(f"exit status {process.wait()}: {last}")
                return
            yield json.loads(line)
            limit = seconds
    finally:
        process.kill()
        process.wait()
        for reader in readers:
            reader.join(timeout=5.0)
        for pipe in (process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()


def _read(pipe: Any, put: Any) -> None:
    """Hand on the lines of a pipe, and None at its end."""
    for line in pipe:
        put(line)
    put(None)


def _failed(reason: str) -> dict[str, Any]:
    return {"status": "failed", "reason": reason, "figures": {}, "seconds": {}, "words": {}}
