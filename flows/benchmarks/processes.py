"""Runs in processes of their own: timed from start to exit, stopped when they take too long."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
"""Where the packages of this project lie."""

PARENT = "SCIML_DISCOVER_BENCHMARK_PARENT"
"""The environment variable that tells a worker whose end is its own end too."""


def run_module(python: str, module: str, arguments: Sequence[str], seconds: float) -> dict[str, Any]:
    """Run ``python -m module arguments`` and return the JSON line that it printed, with more about the run.

    Args:
        python: the interpreter.
        module: prints one JSON object on its last line.
        arguments: of the module.
        seconds: after which it is killed.

    Returns:
        What was printed, completed by ``status`` (``ok`` unless printed), ``reason``, ``figures``, ``words`` and
        ``seconds``, which gets ``process``: from start to exit.
    """
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), PARENT: str(os.getpid())}
    empty: dict[str, Any] = {"status": "ok", "reason": "", "figures": {}, "seconds": {}, "words": {}}
    begun = time.perf_counter()
    try:
        done = subprocess.run(
            [python, "-m", module, *arguments],
            capture_output=True,
            text=True,
            env=environment,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        reason = f"took longer than {seconds:g} s"
        return {**empty, "status": "failed", "reason": reason, "seconds": {"process": seconds}}
    except OSError as error:
        return {**empty, "status": "failed", "reason": f"{python} cannot be started: {error.strerror}"}
    took = {"process": round(time.perf_counter() - begun, 4)}
    try:
        printed = json.loads(done.stdout.splitlines()[-1])
        if done.returncode or not isinstance(printed, dict):
            raise ValueError
    except (IndexError, ValueError):
        last = (done.stderr.strip().splitlines() or ["it printed nothing"])[-1]
        reason = f"exit status {done.returncode}: {last}"
        return {**empty, "status": "failed", "reason": reason, "seconds": took}
    return {**empty, **printed, "seconds": {**printed.get("seconds", {}), **took}}


def missing_packages(python: str) -> list[str] | None:
    """Return which packages of the peers an interpreter lacks; None if it cannot be started."""
    answer = run_module(python, "flows.peers.packages", (), 60.0)
    return answer["missing"] if answer["status"] == "ok" else None
