"""Faults tried and survived: one test is one fault; the argument of its mark says of which kind."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from typing import Any

import pytest

from flows.recovery.document import code_digest


def form_of(config: pytest.Config) -> str:
    """Return how much is tried: ``"small"`` or ``"whole"``."""
    return str(config.getoption("--faults"))


class Counts:
    """The tests of faults so far.

    A test that is skipped has tried nothing.
    """

    def __init__(self) -> None:
        self._kinds: dict[str, str] = {}
        self._survived: dict[str, bool] = {}

    def __bool__(self) -> bool:
        return bool(self._survived)

    def add(self, kind: str, test: str, report: pytest.TestReport) -> None:
        """Add the report of one phase of a test."""
        if report.skipped or (report.when == "teardown" and test not in self._survived):
            self._survived.pop(test, None)
            return
        self._kinds[test] = kind
        self._survived[test] = self._survived.get(test, True) and not report.failed

    def rows(self) -> list[dict[str, Any]]:
        """Return one row for each kind, in the order in which they were first tried."""
        found: dict[str, list[bool]] = {}
        for test, survived in self._survived.items():
            found.setdefault(self._kinds[test], []).append(survived)
        return [{"fault": kind, "tried": len(each), "survived": sum(each)} for kind, each in found.items()]


def document(
    counts: Counts, form: str, figures: dict[str, Any], before: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Return the JSON document of one run of the suite.

    Args:
        counts: what was tried.
        form: ``"small"`` or ``"whole"``.
        figures: what was measured beside.
        before: an earlier document of the same form; kinds of faults that were not tried again stay as they were.
    """
    rows = {row["fault"]: row for row in (before or {}).get("faults", ())}
    rows |= {row["fault"]: {**row, "code": code_digest()} for row in counts.rows()}
    return {
        "form": form,
        "machine": {"cores": len(os.sched_getaffinity(0)), "system": platform.system()},
        "versions": {
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in ("torch", "prefect")},
        },
        "faults": list(rows.values()),
        "figures": {**(before or {}).get("figures", {}), **figures},
    }
