"""Results for a person: the panel of a run, two runs side by side, the table of all runs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.box import SIMPLE
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from flows.sweep_table import SweepTable
from sciml_discover.provenance import StageOrigin
from sciml_discover.report.numbers import interval, number, percent, remark, with_error
from sciml_discover.result import Alternative, DiscoveryResult, ParameterEstimate, Scores, Selection
from sciml_discover.run_folders import RunRecord

Ends = tuple[float | None, float | None] | None

SHOWN_REASONS = 3
COLOURS = {"accepted": "green", "rejected": "yellow", "failed": "red"}


def run_panel(
    result: DiscoveryResult, folder: Path | None = None, origins: Sequence[StageOrigin] = ()
) -> Panel:
    """Return the result of a run: equations, numbers with errors, verdict, where it and its stages are from."""
    parts: list[RenderableType] = [_verdict(result)]
    if result.equations:
        parts += [Text(), _equations(result), Text(), _numbers(result), Text(), _errors(result)]
    rivals = [other for other in result.alternatives if other.rival]
    if rivals:
        parts += [Text(), _rivals(rivals)]
    if result.selection is not None:
        parts += [Text(), _search(result.selection, result.laws_per_second)]
    for sentence in result.identifiability:
        parts.append(Text(f"! {sentence}", style="yellow"))
    if result.next_measurement is not None:
        parts.append(Text(f"> {result.next_measurement.sentence}", style="cyan"))
    if origins:
        parts += [Text(), origins_table(origins)]
    parts += [Text(), Text(_where(result, folder), style="dim", overflow="fold")]
    colour = COLOURS[result.status]
    return Panel(Group(*parts), title=Text(result.title), border_style=colour, padding=(1, 2))


def origins_table(origins: Sequence[StageOrigin]) -> Table:
    """Return for each stage of a run how its result came there, and why."""
    table = Table("stage", "result", "why", box=None, padding=(0, 2, 0, 0))
    for origin in origins:
        how = f"cached from {origin.run or 'an earlier run'}" if origin.how == "cached" else origin.how
        table.add_row(Text(origin.stage), Text(how, overflow="fold"), Text(_why(origin), overflow="fold"))
    return table


def _why(origin: StageOrigin) -> str:
    more = len(origin.reasons) - SHOWN_REASONS
    text = "; ".join(origin.reasons[:SHOWN_REASONS]) + (f" and {more} more" if more > 0 else "")
    if origin.same_bytes:
        return f"{text}: the same bytes as in {origin.since}"
    return f"{text} (since {origin.since})" if origin.since else text


def compare_runs(results: Sequence[DiscoveryResult]) -> Table:
    """Return runs side by side, one column each."""
    table = Table(title="Side by side", title_justify="left")
    table.add_column("")
    for result in results:
        table.add_column(result.id, overflow="fold")
    rows: dict[str, list[str]] = {}
    for position, result in enumerate(results):
        for label, value in _comparable(result):
            rows.setdefault(label, [""] * len(results))[position] = value
    for label, values in rows.items():
        same = len(set(values)) == 1
        table.add_row(label, *values, style="dim" if same else "")
    return table


def runs_table(records: Iterable[RunRecord]) -> Table:
    """Return all runs, one row each: its name, below it what it found or why it did not."""
    table = Table("run", "status", box=SIMPLE, show_lines=False, padding=(0, 1))
    table.add_column("hold-out", justify="right", no_wrap=True)
    table.add_column("seconds", justify="right", no_wrap=True)
    for record in records:
        result = record.result
        if result is None:
            table.add_row(_name(record.folder.name, record.problem), "unfinished", "", "", style="dim")
            continue
        law = "; ".join(f"{hole} = {found.expression}" for hole, found in result.missing.items())
        holdout = result.metrics.holdout
        table.add_row(
            _name(result.id, result.reasons[0].message if result.status == "failed" else law),
            Text(result.status, style=COLOURS[result.status]),
            number(holdout.standardised if holdout else None),
            f"{sum(result.seconds.values()):.1f}",
        )
    return table


def _name(name: str, below: str) -> Text:
    return Text(name, overflow="fold").append(f"\n  {below}", style="dim")


def sorted_records(records: Iterable[RunRecord], key: str) -> list[RunRecord]:
    """Return runs by ``created``, ``case``, ``status``, ``holdout`` or ``seconds``; unfinished ones last."""

    def rank(record: RunRecord) -> tuple:
        result = record.result
        if result is None:
            return (True, "")
        holdout = result.metrics.holdout.standardised if result.metrics.holdout else None
        values = {
            "created": result.created,
            "case": result.case,
            "status": result.status,
            "holdout": math.inf if holdout is None else holdout,
            "seconds": sum(result.seconds.values()),
        }
        return (False, values[key])

    return sorted(records, key=rank)


def sweep_table(sweep: SweepTable, seconds: float) -> Group:
    """Return the rows of a sweep and what they have in common; it took ``seconds``."""
    columns: dict[str, list[RenderableType]] = {
        key.rsplit(".", 1)[-1]: [row.values.get(key, "") for row in sweep.rows]
        for key in dict.fromkeys(key for row in sweep.rows for key in row.values)
    }
    columns["status"] = [Text(row.status, style=COLOURS[row.status]) for row in sweep.rows]
    columns["structure"] = [
        {True: "true", False: "other", None: ""}[row.same_structure] for row in sweep.rows
    ]
    columns["largest error"] = [_percent(row.max_relative_error) for row in sweep.rows]
    columns["hold-out"] = ["" if row.holdout is None else number(row.holdout) for row in sweep.rows]
    columns["beyond"] = [_percent(row.extrapolation) for row in sweep.rows]
    columns["terms"] = ["" if row.complexity is None else str(row.complexity) for row in sweep.rows]
    columns["seconds"] = [f"{row.seconds:.1f}" for row in sweep.rows]
    columns["message"] = [Text(row.message) for row in sweep.rows]
    columns = {name: cells for name, cells in columns.items() if any(map(str, cells))}
    table = Table()
    for name in columns:
        table.add_column(name, overflow="fold", no_wrap=name != "message")
    for cells in zip(*columns.values(), strict=True):
        table.add_row(*cells)
    summary = Table.grid(padding=(0, 2))
    for name, value in sweep.summary().items():
        if value is not None:
            summary.add_row(name, str(value) if isinstance(value, int) else number(value))
    took = Text(f"{len(sweep.rows)} of {sweep.total} combinations, in {seconds:.1f} s")
    if sweep.failed:
        took.append(f"; {sweep.failed} failed: the same command runs them again", style=COLOURS["failed"])
    where = Text(f"{sweep.folder}/table.csv, table.json", style="dim", overflow="fold")
    return Group(table, summary, took, where)


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.2g} %"


def _verdict(result: DiscoveryResult) -> Text:
    text = Text()
    text.append(result.status.upper(), style=f"bold {COLOURS[result.status]}")
    if result.failed_stage:
        text.append(f" in stage {result.failed_stage}")
    for reason in result.reasons:
        text.append("\n")
        text.append("✔ " if reason.passed else "✘ ", style="green" if reason.passed else "red")
        text.append(reason.message)
    return text


def _equations(result: DiscoveryResult) -> Table:
    table = Table.grid(padding=(0, 1))
    for state, equation in result.equations.items():
        table.add_row(Text(f"d {state}/dt", style="bold"), "=", Text(equation, overflow="fold"))
    return table


def _numbers(result: DiscoveryResult) -> Table:
    table = Table("", "estimate", "95 % interval", "inclusion", "", box=None, padding=(0, 2, 0, 0))

    def add(label: str, value: str, ends: Ends, share: float | None, note: str) -> None:
        table.add_row(Text(label), Text(value, overflow="fold"), interval(ends), percent(share), note)

    for hole, law in result.missing.items():
        for term in law.terms:
            value = _in_unit(with_error(term.coefficient, term.stderr), term.unit)
            note = remark(identifiable=term.stderr is not None, snapped=term.snapped)
            add(f"{hole}: {term.term}", value, term.interval95, term.inclusion, note)
            for name, inner in term.parameters.items():
                add(f"{hole}: {name} in {term.term}", *_parameter(inner))
    for name, parameter in result.parameters.items():
        add(name, *_parameter(parameter))
    return table


def _parameter(found: ParameterEstimate) -> tuple[str, Ends, None, str]:
    value = _in_unit(with_error(found.value, found.stderr), found.unit)
    ends = None if found.fixed else found.interval95
    return value, ends, None, remark(found.fixed, found.identifiable, found.snapped)


def _search(found: Selection, per_second: float | None) -> Text:
    """Return how many laws were looked at, and what became of them."""
    speed = "" if per_second is None else f", {number(per_second)} per second"
    rejected = f"; {found.failed} of them were rejected" if found.failed else ""
    return Text(f"{found.compared} laws compared, {found.tried} fitted{speed}{rejected}", style="dim")


def _in_unit(number: str, unit: str | None) -> str:
    return number if unit in (None, "1") else f"{number} {unit}"


def _errors(result: DiscoveryResult) -> Table:
    table = Table(
        "relative L2 error", "training", "hold-out", "beyond the data", box=None, padding=(0, 2, 0, 0)
    )
    models: dict[str, Scores] = {"this law": result.metrics, **result.baselines}
    for name, scores in models.items():
        sets = (scores.train, scores.holdout, scores.extrapolation)
        errors = [number(one.relative_l2 if one else None) for one in sets]
        table.add_row(name.replace("_", " "), *errors, style="bold" if scores is result.metrics else "")
    return table


def _rivals(rivals: Sequence[Alternative]) -> Text:
    text = Text(f"The data cannot tell it from {len(rivals)} other law{'s' if len(rivals) > 1 else ''}:")
    for place, rival in enumerate(rivals, 1):
        law = "; ".join(f"{hole} = {expression}" for hole, expression in rival.missing.items())
        holdout = "" if rival.holdout_error is None else f", hold-out {number(rival.holdout_error)}"
        text.append(f"\n  {place}. {law}   (criterion +{number(rival.delta)}{holdout})")
    return text


def _where(result: DiscoveryResult, folder: Path | None) -> str:
    made = [name for name, cached in result.cached.items() if not cached]
    stages = f"made now: {', '.join(made)}" if made else "every stage was found in the store"
    if result.failed_stage and not made:
        stages = "nothing was made"
    file = result.report or "run.log"
    where = str(folder / file) if folder else f"{result.id}: {file}"
    return f"{where}\n{sum(result.seconds.values()):.1f} s; {stages}"


def _comparable(result: DiscoveryResult) -> Iterable[tuple[str, str]]:
    yield "status", result.status
    for state, equation in result.equations.items():
        yield f"d {state}/dt", equation
    for name, parameter in result.parameters.items():
        yield name, with_error(parameter.value, parameter.stderr)
    for hole, law in result.missing.items():
        for term in law.terms:
            yield f"{hole}: {term.term}", with_error(term.coefficient, term.stderr)
    if result.selection:
        yield "criterion", number(result.selection.criterion)
    for name in ("train", "holdout", "extrapolation"):
        scores = getattr(result.metrics, name)
        yield f"relative L2 error, {name}", number(scores.relative_l2 if scores else None)
    yield "seed", str(result.seed)
    yield "seconds", f"{sum(result.seconds.values()):.1f}"
