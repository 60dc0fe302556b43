"""From the runs to tables: Markdown for the README, the same for the terminal.

``python -m flows.recovery.tables [DOCUMENT README]`` writes the tables of a document into a README, between two marks.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from flows.benchmarks.processes import ROOT
from flows.benchmarks.table import between_marks, markdown_table
from flows.recovery.case import Case, Run
from flows.recovery.cases import CASES

BEGIN, END = "<!-- recovery: begin -->", "<!-- recovery: end -->"

DOCUMENT, README = ROOT / "data" / "benchmarks" / "recovery.json", ROOT / "README.md"


def heads(case: Case) -> tuple[str, ...]:
    """Return the heads of a case's table."""
    return ("row", *(column.title for column in case.columns), "seeds", "failed")


def lines(case: Case, runs: Sequence[Run]) -> list[tuple[str, ...]]:
    """Return the lines of a case's table, one for each row that has runs."""
    found = []
    for row in case.rows:
        mine = [run for run in runs if run["row"] == row and run["status"] != "skipped"]
        if mine:
            cells = (column.text(row, mine) for column in case.columns)
            failures = sum(run["status"] == "failed" for run in mine)
            found.append((row, *cells, seeds_text(mine), str(failures)))
    return found


def seeds_text(runs: Sequence[Run]) -> str:
    """Return the seeds of some runs, such as ``1000-1019``."""
    seeds = sorted({run["seed"] for run in runs})
    spans: list[list[int]] = []
    for seed in seeds:
        if spans and seed == spans[-1][1] + 1:
            spans[-1][1] = seed
        else:
            spans.append([seed, seed])
    return ", ".join(f"{low}-{high}" if high > low else str(low) for low, high in spans)


def markdown(document: dict[str, Any]) -> str:
    """Return all tables of a document."""
    parts = [_about(document)]
    for name, case in CASES.items():
        runs = [run for run in document["runs"] if run["case"] == name]
        table = lines(case, runs)
        if table:
            parts.append(f"**{case.title}** (`--cases {name}`)\n\n{markdown_table(heads(case), table)}")
            if case.note:
                parts.append(case.note + "\n")
    return "\n".join(parts)


def _about(document: dict[str, Any]) -> str:
    machine, versions = document["machine"], document["versions"]
    codes = sorted({run["code"] for run in document["runs"]})
    several = f" The runs are of {len(codes)} states of the library." if len(codes) > 1 else ""
    return (
        f"{len(document['runs'])} runs on {machine['cores']} cores ({machine['processor']}), one thread each, "
        f"Python {versions['python']}, torch {versions.get('torch', 'not installed')}.{several} "
        "A run that fails or takes too long counts as not recovered. *One discovery*: all stages from training to "
        "the verdict, in one process, after imports, without the report.\n"
    )


def with_tables(readme: str, document: dict[str, Any]) -> str:
    """Return a README with the tables of a document between the two marks.

    Raises:
        ValueError: the marks are not there.
    """
    return between_marks(readme, BEGIN, END, lambda: markdown(document))


def terminal_tables(document: dict[str, Any]) -> Group:
    """Return the tables for the terminal."""
    parts: list[RenderableType] = []
    for name, case in CASES.items():
        rows = lines(case, [run for run in document["runs"] if run["case"] == name])
        if rows:
            # Too many columns for a terminal: what the table has beside each other stands here in one cell.
            table = Table("row", "figures", title=case.title, title_justify="left")
            for row, *cells in rows:
                pairs = zip(heads(case)[1:], cells, strict=True)
                table.add_row(Text(row), Text("; ".join(f"{head}: {cell}" for head, cell in pairs if cell)))
            parts.append(table)
    return Group(*parts, Text(document["file"], style="dim", overflow="fold"))


def main(arguments: Sequence[str]) -> None:
    """Write the tables of a document into a README."""
    document, readme = map(Path, arguments or (DOCUMENT, README))
    readme.write_text(with_tables(readme.read_text(), json.loads(document.read_text())))


if __name__ == "__main__":
    main(sys.argv[1:])
