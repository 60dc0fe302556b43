"""From single runs to rows, and from rows to tables: for the terminal and, as Markdown, for the README."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from flows.benchmarks.cases import CASES
from flows.benchmarks.plan import OURS, Request
from flows.benchmarks.targets import Run, Runs, Verdict
from sciml_discover.report.numbers import number

TARGET_HEADS = ("case", "row", "to reach", "found", "reached")
FIGURE_HEADS = ("case", "row", "runs", "training, s", "start to exit, s", "figures: median (range)")
MARKS = {True: "yes", False: "no", None: "–"}
COLOURS = {True: "green", False: "red", None: "dim"}


def summarise(request: Request, runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Return the rows of all cases, as plain JSON: medians, failures with their reasons, targets.

    Args:
        request: what was to be run.
        runs: those made so far.
    """
    rows = []
    for name in request.cases:
        mine = [run for run in runs if run["case"] == name]
        by_row: dict[str, list[Run]] = {}
        for run in mine:
            by_row.setdefault(run["row"], []).append(run)
        peers = {row: found for row, found in by_row.items() if found[0]["tool"] != OURS}
        variants = request.variants_of(CASES[name])
        for row, found in by_row.items():
            context = Runs(found, by_row, peers)
            targets = variants[row].targets if row in variants else ()
            skipped = all(run["status"] == "skipped" for run in found)
            rows.append(
                {
                    "case": name,
                    "row": row,
                    "tool": found[0]["tool"],
                    "runs": len(found),
                    "ok": sum(run["status"] == "ok" for run in found),
                    "skipped": found[0]["reason"] if skipped else "",
                    "failures": dict(Counter(run["reason"] for run in found if run["status"] == "failed")),
                    "figures": _spread(found, "figures"),
                    "seconds": _spread(found, "seconds"),
                    "targets": [
                        {
                            "text": target.text,
                            **asdict(Verdict(None, "skipped") if skipped else target.judge(context)),
                        }
                        for target in targets
                    ],
                }
            )
    return rows


def _spread(runs: Sequence[Run], kind: str) -> dict[str, dict[str, float | int]]:
    """Return median, smallest and largest of every number of the runs that came to an end."""
    collected: dict[str, list[float]] = {}
    for run in runs:
        if run["status"] == "ok":
            for name, value in run[kind].items():
                if isinstance(value, int | float):
                    collected.setdefault(name, []).append(float(value))
    return {
        name: {
            "median": statistics.median(values),
            "low": min(values),
            "high": max(values),
            "count": len(values),
        }
        for name, values in collected.items()
    }


def target_lines(rows: Sequence[dict[str, Any]]) -> list[tuple[str, ...]]:
    """Return what was to be reached and whether it was, one line each, in the order of `TARGET_HEADS`."""
    return [
        (row["case"], row["row"], target["text"], target["found"], MARKS[target["met"]])
        for row in rows
        for target in row["targets"]
    ]


def figure_lines(rows: Sequence[dict[str, Any]]) -> list[tuple[str, ...]]:
    """Return what was measured, one line per row, in the order of `FIGURE_HEADS`."""
    lines = []
    for row in rows:
        figures = [f"{name} {_range(spread)}" for name, spread in row["figures"].items()]
        failed = [f"{count} failed: {reason}" for reason, count in row["failures"].items()]
        skipped = [f"skipped: {row['skipped']}"] if row["skipped"] else []
        lines.append(
            (
                row["case"],
                row["row"],
                f"{row['ok']}/{row['runs']}",
                _range(row["seconds"].get("train")),
                _range(row["seconds"].get("process")),
                "; ".join([*skipped, *figures, *failed]),
            )
        )
    return lines


def _range(spread: dict[str, float | int] | None) -> str:
    if spread is None:
        return ""
    middle = number(spread["median"])
    return (
        f"{middle} ({number(spread['low'])} to {number(spread['high'])})" if spread["count"] > 1 else middle
    )


def markdown(document: dict[str, Any]) -> str:
    """Return the tables of a benchmark, from its JSON document alone."""
    machine, versions = document["machine"], document["versions"]
    about = (
        f"Measured {document['date']} with `{document['command']}` on {machine['cores']} cores "
        f"({machine['processor']}), Python {versions['python']}, torch {versions.get('torch', 'not installed')}."
    )
    cases = "\n".join(f"- `{case['name']}`: {case['title']}" for case in document["cases"])
    targets = markdown_table(TARGET_HEADS, target_lines(document["rows"]))
    figures = markdown_table(FIGURE_HEADS, figure_lines(document["rows"]))
    return f"{about}\n\n{cases}\n\n{targets}\n{figures}"


def markdown_table(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    rows = [heads, ["---"] * len(heads), *lines]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |\n" for row in rows)


def terminal_tables(document: dict[str, Any]) -> Group:
    """Return the same tables for the terminal."""
    parts: list[RenderableType] = []
    lines = target_lines(document["rows"])
    met = [target["met"] for row in document["rows"] for target in row["targets"]]
    if lines:
        table = Table(*TARGET_HEADS, title="Targets", title_justify="left")
        for line, reached in zip(lines, met, strict=True):
            table.add_row(*map(Text, line[:-1]), Text(line[-1], style=COLOURS[reached]))
        parts.append(table)
    table = Table(title="Figures", title_justify="left")
    for head in FIGURE_HEADS:
        table.add_column(head, overflow="fold")
    for line in figure_lines(document["rows"]):
        table.add_row(*map(Text, line))
    parts += [table, Text(f"{document['file']}, .md", style="dim", overflow="fold")]
    return Group(*parts)


def between_marks(readme: str, begin: str, end: str, text: Callable[[], str]) -> str:
    """Return a README with a text between two marks, in the place of what was there; it is made once they are found.

    Raises:
        ValueError: the marks are not there.
    """
    before, first, rest = readme.partition(begin)
    _, last, after = rest.partition(end)
    if not first or not last:
        raise ValueError(f"{begin} and {end} are not in the README")
    return f"{before}{begin}\n{text()}{end}{after}"
