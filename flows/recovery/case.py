"""What a case is: rows of a table, runs that fill them, columns that sum them up."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from flows.benchmarks.measurement import Measurement

Run = dict[str, Any]
"""A run in the JSON document: ``case``, ``row``, ``item``, ``seed``, ``status``, ``reason``, ``figures``, ``seconds``,
``words``, ``code``."""


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Attributes:
        title: its head.
        text: from the row's name and its runs, failures too, to the cell.
    """

    title: str
    text: Callable[[str, Sequence[Run]], str]


def no_items() -> tuple[str, ...]:
    """Return one run per seed."""
    return ("",)


@dataclass(frozen=True)
class Case:
    """One table.

    Attributes:
        title: above it.
        rows: its rows.
        measure: makes one run, from row, item and seed.
        columns: of the table.
        seeds: of each row, unless others are asked for.
        seconds: a run may take; longer is a failure.
        items: what each row is run on, such as systems.
        note: below the table.
    """

    title: str
    rows: tuple[str, ...]
    measure: Callable[[str, str, int], Measurement]
    columns: tuple[Column, ...]
    seeds: tuple[int, ...]
    seconds: float
    items: Callable[[], tuple[str, ...]] = no_items
    note: str = ""


def share(title: str, figure: str, among: Callable[[Run], bool] = lambda _: True) -> Column:
    """Return a column that counts the runs in which a figure is true; what failed is counted as not.

    Args:
        title: its head.
        figure: its name.
        among: which runs are the denominator.
    """

    def text(_: str, runs: Sequence[Run]) -> str:
        chosen = [run for run in runs if among(run)]
        return (
            f"{sum(bool(run['figures'].get(figure)) for run in chosen)} of {len(chosen)}" if chosen else "–"
        )

    return Column(title, text)


def constant(title: str, texts: dict[str, str]) -> Column:
    """Return a column that is known beforehand, by row."""
    return Column(title, lambda row, _: texts.get(row, ""))


def median(title: str, figure: str, unit: str = "", factor: float = 1.0) -> Column:
    """Return a column with the median of a figure, of the runs that have it."""

    def text(_: str, runs: Sequence[Run]) -> str:
        values = [run["figures"][figure] for run in runs if run["figures"].get(figure) is not None]
        return f"{factor * statistics.median(values):.2g}{unit}" if values else "–"

    return Column(title, text)


def succeeded(figure: str) -> Callable[[Run], bool]:
    """Return whether a figure of a run is true."""
    return lambda run: bool(run["figures"].get(figure))


def _seconds(_: str, runs: Sequence[Run]) -> str:
    values = [run["seconds"]["discovery"] for run in runs if "discovery" in run["seconds"]]
    return f"{statistics.median(values):.1f} s" if values else "–"


SECONDS = Column("one discovery, median", _seconds)

EXACT = share("exactly the true terms", "exact")
