"""The README's table of faults, from the document that the whole suite writes.

``pytest -m faults --faults whole --faults-json data/benchmarks/faults.json`` tries every fault, and
``python -m tests.faults.table`` puts what was found into the README, between two marks.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flows.benchmarks.processes import ROOT
from flows.benchmarks.table import between_marks, markdown_table

BEGIN, END = "<!-- faults: begin -->", "<!-- faults: end -->"
DOCUMENT, README = ROOT / "data" / "benchmarks" / "faults.json", ROOT / "README.md"


def markdown(document: dict[str, Any]) -> str:
    """Return the table of a document, and where it was made."""
    hostile = [row for row in document["faults"] if row["fault"].startswith("hostile input: ")]
    others = [row for row in document["faults"] if row not in hostile]
    rows = [(row["fault"], str(row["tried"]), str(row["survived"])) for row in others]
    if hostile:
        kinds = ", ".join(row["fault"].removeprefix("hostile input: ") for row in hostile)
        sums = (str(sum(row[key] for row in hostile)) for key in ("tried", "survived"))
        rows.append((f"hostile experiments: {kinds}", *sums))  # type: ignore[arg-type]
    machine, versions = document["machine"], document["versions"]
    codes = {row["code"] for row in document["faults"]}
    several = f" Tried with {len(codes)} states of the library." if len(codes) > 1 else ""
    about = (
        f"{sum(row['tried'] for row in document['faults'])} faults on {machine['cores']} cores ({machine['system']}), "
        f"Python {versions['python']}, Prefect {versions['prefect']}, torch {versions['torch']}.{several}"
    )
    for what, found in document["figures"].items():
        wall, busy = (statistics.median(found[key]) for key in ("seconds", "processor seconds"))
        about += (
            f" A {what}: {wall:.1f} s from process start to exit, {busy:.1f} s of processor time (medians)."
        )
    return f"{markdown_table(('fault', 'tried', 'survived'), rows)}\n{about}\n"


def with_table(readme: str, document: dict[str, Any]) -> str:
    """Return a README with the table of a document between the two marks.

    Raises:
        ValueError: the marks are not there.
    """
    return between_marks(readme, BEGIN, END, lambda: markdown(document))


def main(arguments: Sequence[str]) -> None:
    """Write the table of a document into a README."""
    document, readme = map(Path, arguments or (DOCUMENT, README))
    readme.write_text(with_table(readme.read_text(), json.loads(document.read_text())))


if __name__ == "__main__":
    main(sys.argv[1:])
