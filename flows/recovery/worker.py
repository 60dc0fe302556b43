"""Runs of one row of a case in one process: ``python -m flows.recovery.worker CASE ROW ITEM:SEED ...``.

Prints one JSON line per run, as it ends. A discovery that fails is a result too.
"""

from __future__ import annotations

import json
import os
import sys
import textwrap
import traceback
from collections.abc import Sequence
from typing import Any

from flows.benchmarks.measurement import CannotRun
from flows.benchmarks.processes import PARENT
from flows.benchmarks.worker import LONGEST_REASON, limit_memory, plain
from flows.server_process import watch_parent


def main(arguments: Sequence[str]) -> None:
    """Make the runs and print what each left."""
    case, row, *units = arguments
    for unit in units:
        item, _, seed = unit.rpartition(":")
        sys.stdout.write(json.dumps(measure(case, row, item, int(seed)), allow_nan=False) + "\n")
        sys.stdout.flush()


def measure(case: str, row: str, item: str, seed: int) -> dict[str, Any]:
    """Return what one run left, as plain JSON: ``status`` is ``ok``, ``failed`` or ``skipped``."""
    from flows.recovery.cases import CASES

    nothing: dict[str, Any] = {"figures": {}, "seconds": {}, "words": {}}
    try:
        measured = CASES[case].measure(row, item, seed)
    except CannotRun as error:
        return {"status": "skipped", "reason": str(error), **nothing}
    except Exception as error:
        sys.stderr.write(traceback.format_exc())
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        return {"status": "failed", "reason": textwrap.shorten(reason, LONGEST_REASON), **nothing}
    return {
        "status": "failed" if measured.failure else "ok",
        "reason": measured.failure,
        "figures": {key: rounded(value) for key, value in measured.figures.items()},
        "seconds": {key: round(value, 3) for key, value in measured.seconds.items()},
        "words": measured.words,
    }


def rounded(value: Any) -> Any:
    """Return a figure without digits that nobody reads; None where it is not finite."""
    value = plain(value)
    return float(f"{value:.5g}") if isinstance(value, float) else value


if __name__ == "__main__":
    if os.environ.get(PARENT):
        watch_parent(int(os.environ[PARENT]))
    limit_memory()
    main(sys.argv[1:])
