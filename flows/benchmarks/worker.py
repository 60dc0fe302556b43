"""One run of one case in a process of its own: ``python -m flows.benchmarks.worker CASE SEED PRESET [KEY=VALUE ...]``.

Prints one JSON line on stdout. A fit that fails is a result too; only what nobody can measure ends with a
traceback and another exit status than zero.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import resource
import sys
import textwrap
import time
import traceback
from collections.abc import Sequence
from typing import Any

from flows.benchmarks.processes import PARENT
from flows.server_process import watch_parent

LONGEST_REASON = 200
"""Characters of the reason of a failure; stderr has all of it."""

LARGEST_SHARE = 0.7
"""Share of the machine's memory that a run may take: beyond it the run fails, not the machine."""


HEAVY = ("torch", "sympy", "scipy.integrate", "scipy.optimize")
"""Imported before the clock of a training starts, as the peers' scripts do; the library would do so at first use."""


def main(arguments: Sequence[str]) -> None:
    """Run one case and print what was measured."""
    name, seed, preset, *rest = arguments
    settings = dict(item.split("=", 1) for item in rest)
    sys.stdout.write(json.dumps(measure(name, int(seed), preset, settings), allow_nan=False) + "\n")


def measure(name: str, seed: int, preset: str, settings: dict[str, str]) -> dict[str, Any]:
    """Return what running a case left, as plain JSON: ``status`` is ``ok``, ``failed`` or ``skipped``."""
    begun = time.perf_counter()
    from flows.benchmarks.cases import CASES
    from flows.benchmarks.measurement import CannotRun

    record: dict[str, Any] = {"status": "ok", "reason": "", "figures": {}, "seconds": {}, "words": {}}
    for module in HEAVY:
        importlib.import_module(module)
    imported = time.perf_counter()
    try:
        measured = CASES[name].measure(seed, preset, settings)
    except CannotRun as error:
        return {**record, "status": "skipped", "reason": str(error)}
    except Exception as error:
        sys.stderr.write(traceback.format_exc())
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        return {**record, "status": "failed", "reason": textwrap.shorten(reason, LONGEST_REASON)}
    seconds = {"imports": imported - begun, **measured.seconds}
    return {
        "status": "failed" if measured.failure else "ok",
        "reason": measured.failure,
        "figures": {key: plain(value) for key, value in measured.figures.items()},
        "seconds": {key: round(value, 4) for key, value in seconds.items()},
        "words": {key: plain(value) for key, value in measured.words.items()},
    }


def limit_memory() -> None:
    """Make this process fail where it would take nearly all memory of the machine."""
    if sys.platform == "linux":
        most = int(LARGEST_SHARE * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_DATA, (most if hard < 0 else min(most, hard), hard))


def plain(value: Any) -> Any:
    """Return a value that JSON can hold: None for a number that is not finite."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


if __name__ == "__main__":
    if os.environ.get(PARENT):
        watch_parent(int(os.environ[PARENT]))
    limit_memory()
    main(sys.argv[1:])
