"""What the commands ``sciml-discover cache ...`` show: tables for a person, dicts for a program."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.box import SIMPLE
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from flows.quantities import seconds_text, size_text
from sciml_discover.cache import CacheEntry, Damage, Pruned

SHOWN_RUNS = 3


def entries_table(entries: Sequence[CacheEntry]) -> Group:
    """Return the store's results and checkpoints, one row each, and what they add up to."""
    table = Table("stage", "name", box=SIMPLE, padding=(0, 1))
    table.add_column("size", justify="right", no_wrap=True)
    table.add_column("unused for", justify="right", no_wrap=True)
    table.add_column("runs that rest on it", overflow="fold")
    for entry in entries:
        name = entry.name[:12] if entry.kind == "result" else "checkpoint"
        style = "" if entry.runs else "dim"
        cells = (entry.stage, name, size_text(entry.bytes), seconds_text(entry.age), Text(_runs(entry)))
        table.add_row(*cells, style=style)
    return Group(*([table] if entries else []), Text(_total(entries)))


def entries_json(entries: Sequence[CacheEntry]) -> dict[str, Any]:
    """Return the same as JSON."""
    return {"bytes": sum(entry.bytes for entry in entries), "entries": [_entry(entry) for entry in entries]}


def damages_table(damages: Sequence[Damage]) -> RenderableType:
    """Return what is damaged, one row each."""
    if not damages:
        return Text("every result has its digest, every reference its result", style="green")
    table = Table("damaged", "file", box=SIMPLE, padding=(0, 1))
    for damage in damages:
        table.add_row(Text(damage.problem, style="red"), Text(str(damage.path), overflow="fold"))
    return Group(table, Text(f"{len(damages)} damaged; the next run that needs one of them makes it anew"))


def damages_json(damages: Sequence[Damage]) -> dict[str, Any]:
    """Return the same as JSON."""
    return {"damaged": [{"path": str(damage.path), "problem": damage.problem} for damage in damages]}


def pruned_table(pruned: Pruned, *, dry_run: bool) -> Group:
    """Return what went or would go, what stays because a run rests on it, and the space that it makes."""
    parts: list[RenderableType] = []
    if pruned.removed:
        parts.append(entries_table(pruned.removed))
    if pruned.leftovers:
        parts.append(Text(f"{len(pruned.leftovers)} files that killed processes or lost results left over"))
    if pruned.in_use:
        names = ", ".join(f"{entry.stage} {entry.name[:12]}" for entry in pruned.in_use)
        parts.append(Text(f"kept, because a running process uses it: {names}", style="yellow"))
    freed = "would free" if dry_run else "freed"
    parts.append(Text(f"{freed} {size_text(pruned.freed)}; {size_text(pruned.remaining)} remain"))
    return Group(*parts)


def pruned_json(pruned: Pruned, *, dry_run: bool) -> dict[str, Any]:
    """Return the same as JSON."""
    return {
        "dry_run": dry_run,
        "freed_bytes": pruned.freed,
        "remaining_bytes": pruned.remaining,
        "removed": [_entry(entry) for entry in pruned.removed],
        "in_use": [_entry(entry) for entry in pruned.in_use],
        "leftovers": [str(path) for path in pruned.leftovers],
    }


def _runs(entry: CacheEntry) -> str:
    more = len(entry.runs) - SHOWN_RUNS
    text = ", ".join(entry.runs[-SHOWN_RUNS:])
    return f"{text} and {more} more" if more > 0 else text


def _total(entries: Sequence[CacheEntry]) -> str:
    results = sum(entry.kind == "result" for entry in entries)
    checkpoints = len(entries) - results
    return f"{results} results, {checkpoints} checkpoints, {size_text(sum(one.bytes for one in entries))}"


def _entry(entry: CacheEntry) -> dict[str, Any]:
    return {
        "kind": entry.kind,
        "stage": entry.stage,
        "name": entry.name,
        "bytes": entry.bytes,
        "unused_seconds": round(entry.age),
        "runs": list(entry.runs),
    }
