"""The cases of the benchmark of recovery, by name. To add one, add an entry; nothing else changes."""

from __future__ import annotations

from flows.recovery.case import Case
from flows.recovery.networks import THREE_HOLES
from flows.recovery.odebench import HALF_KNOWN, NO_PHYSICS
from flows.recovery.rational import RATIONAL
from flows.recovery.refusals import REFUSALS
from flows.recovery.scenarios import SCENARIO_1, SCENARIO_2
from flows.recovery.speed import SPEED

CASES: dict[str, Case] = {
    "scenario_1": SCENARIO_1,
    "scenario_2": SCENARIO_2,
    "three_holes": THREE_HOLES,
    "half_known": HALF_KNOWN,
    "no_physics": NO_PHYSICS,
    "rational": RATIONAL,
    "refusals": REFUSALS,
    "speed": SPEED,
}
