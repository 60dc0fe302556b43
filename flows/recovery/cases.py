"""The cases of the benchmark of recovery, by name. To add one, add an entry; nothing else changes."""

from __future__ import annotations

from flows.recovery.case import Case
from flows.recovery.scenarios import SCENARIO_1, SCENARIO_2

CASES: dict[str, Case] = {
    "scenario_1": SCENARIO_1,
    "scenario_2": SCENARIO_2,
}
