"""The table of a sweep: one row per combination, what they have in common, files to keep."""

from __future__ import annotations

import csv
import io
import json
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from sciml_discover.result import DiscoveryResult
from sciml_discover.store import write_atomically


@dataclass(frozen=True)
class SweepRow:
    """One combination of a sweep.

    Attributes:
        values: the swept keys and their values.
        run: name of the run.
        status: ``"accepted"``, ``"rejected"`` or ``"failed"``.
        message: why it failed or was rejected.
        same_structure: whether every equation has exactly the terms of the truth; None without truth.
        relative_errors: of the coefficients, per term of the truth.
        holdout: standardised error on the hold-out rows.
        extrapolation: relative L2 error against the truth beyond the data.
        complexity: number of terms.
        seconds: wall-clock time of the run.
    """

    values: dict[str, str]
    run: str
    status: str
    message: str
    same_structure: bool | None
    relative_errors: dict[str, float | None]
    holdout: float | None
    extrapolation: float | None
    complexity: int | None
    seconds: float

    @classmethod
    def from_result(cls, values: Mapping[str, str], result: DiscoveryResult) -> SweepRow:
        """Return the row of a run's result."""
        scores = result.metrics
        return cls(
            values=dict(values),
            run=result.id,
            status=result.status,
            message="; ".join(reason.message for reason in result.reasons if not reason.passed),
            same_structure=result.truth.same_structure if result.truth else None,
            relative_errors=dict(result.truth.relative_errors) if result.truth else {},
            holdout=scores.holdout.standardised if scores.holdout else None,
            extrapolation=scores.extrapolation.relative_l2 if scores.extrapolation else None,
            complexity=result.selection.complexity if result.selection else None,
            seconds=round(sum(result.seconds.values()), 3),
        )

    @classmethod
    def failure(cls, values: Mapping[str, str], run: str, message: str) -> SweepRow:
        """Return the row of a run that left no result."""
        return cls(dict(values), run, "failed", message, None, {}, None, None, None, 0.0)

    @property
    def max_relative_error(self) -> float | None:
        """The largest coefficient error; None without truth, or where a term of it was not found."""
        sizes = [abs(error) if error is not None else None for error in self.relative_errors.values()]
        known = [size for size in sizes if size is not None]
        return max(known) if known and len(known) == len(sizes) else None


@dataclass(frozen=True)
class SweepTable:
    """All rows of a sweep so far, how many there will be, and where the table lies."""

    rows: tuple[SweepRow, ...]
    total: int
    folder: Path

    def count(self, status: str) -> int:
        """Return how many combinations ended with a status."""
        return sum(row.status == status for row in self.rows)

    @property
    def failed(self) -> int:
        """How many combinations failed."""
        return self.count("failed")

    def summary(self) -> dict[str, float | int | None]:
        """Return counts, and medians over the combinations that did not fail."""
        finished = [row for row in self.rows if row.status != "failed"]
        names = dict.fromkeys(name for row in finished for name in row.relative_errors)
        errors = {
            f"median |relative error| {name}": _median(
                abs(error) for row in finished if (error := row.relative_errors.get(name)) is not None
            )
            for name in names
        }
        return {
            "combinations": self.total,
            "done": len(self.rows),
            "accepted": self.count("accepted"),
            "rejected": self.count("rejected"),
            "failed": self.failed,
            "same structure": sum(row.same_structure is True for row in finished),
            "accepted with the same structure": sum(
                row.same_structure is True and row.status == "accepted" for row in finished
            ),
            "median largest relative error": _median(row.max_relative_error for row in finished),
            **errors,
            "median hold-out error": _median(row.holdout for row in finished),
            "median extrapolation error": _median(row.extrapolation for row in finished),
            "median seconds": _median(row.seconds for row in finished),
        }

    def write(self, folder: Path) -> None:
        """Write ``table.csv`` and ``table.json``."""
        document = {"summary": self.summary(), "rows": [asdict(row) for row in self.rows]}
        text = json.dumps(document, indent=1, ensure_ascii=False) + "\n"
        write_atomically(folder / "table.json", text.encode())
        write_atomically(folder / "table.csv", self._csv().encode())

    def _csv(self) -> str:
        if not self.rows:
            return ""
        flat = [_flat(row) for row in self.rows]
        names = list(dict.fromkeys(name for row in flat for name in row))
        file = io.StringIO()
        writer = csv.DictWriter(file, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(flat)
        return file.getvalue()


def _flat(row: SweepRow) -> dict[str, object]:
    """Return a row for a file with one value per column."""
    fields = asdict(row)
    values, errors = fields.pop("values"), fields.pop("relative_errors")
    return {
        **values,
        **fields,
        "max_relative_error": row.max_relative_error,
        **{f"relative_error {name}": error for name, error in errors.items()},
    }


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None
