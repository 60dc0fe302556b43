"""What the benchmark of recovery will run, once everything that the user asked for has been checked."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from flows.asked import chosen_cases, chosen_seeds
from flows.recovery.cases import CASES
from flows.recovery.runner import Unit
from sciml_discover.errors import InputError, did_you_mean


@dataclass(frozen=True)
class Planned:
    """The runs of one row that are still to be made.

    Attributes:
        case: name of the case.
        row: of its table.
        units: items and seeds.
        seconds: how long each may take.
    """

    case: str
    row: str
    units: tuple[Unit, ...]
    seconds: float

    @property
    def label(self) -> str:
        """The row in words."""
        return f"{self.case}, {self.row}, {len(self.units)} runs"


@dataclass(frozen=True)
class Request:
    """What the user asked for, checked.

    Attributes:
        cases: names of the cases.
        rows: of their tables; empty is all.
        seeds: for every case; None is each case's own.
    """

    cases: tuple[str, ...]
    rows: tuple[str, ...]
    seeds: tuple[int, ...] | None

    def without(self, done: Collection[tuple[Any, ...]]) -> Iterator[Planned]:
        """Yield the rows with the runs that are not done; see `flows.recovery.document.key_of`."""
        for name in self.cases:
            case = CASES[name]
            for row in case.rows:
                if self.rows and row not in self.rows:
                    continue
                units = [(item, seed) for seed in self.seeds or case.seeds for item in case.items()]
                missing = tuple(unit for unit in units if (name, row, *unit) not in done)
                if missing:
                    yield Planned(name, row, missing, case.seconds)


def check_request(cases: Sequence[str] | str, rows: Sequence[str], seeds: str | None) -> Request:
    """Return what is to be run.

    Raises:
        InputError: there is no such case or row, or the seeds are no whole numbers.
    """
    chosen = chosen_cases(cases, CASES)
    known = [row for name in chosen for row in CASES[name].rows]
    for row in rows:
        if row not in known:
            raise InputError(
                f"the row {row!r}", where="--row", expected="; ".join(known), do=did_you_mean(row, known)
            )
    return Request(chosen, tuple(rows), chosen_seeds(seeds))
