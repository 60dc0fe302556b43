"""Progress of a run on stderr: bars on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

from sciml_discover.base import Progress, Watch
from sciml_discover.runs import StageBegan, StageEnded

SECONDS_BETWEEN_LINES = 10.0


@contextlib.contextmanager
def shown_on(console: Console) -> Iterator[Watch]:
    """Show the progress on a console for as long as the context lasts."""
    if not console.is_terminal:
        yield Lines(console)
        return
    columns = (
        SpinnerColumn(finished_text="[green]✔[/]"),
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[count]:>9}"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    with Bars(*columns, console=console) as bars:
        yield StageBars(bars)


class StageBars:
    """One bar per stage."""

    def __init__(self, bars: Bars) -> None:
        self._bars = bars
        self._ids: dict[str, TaskID] = {}

    def __call__(self, event: Progress) -> None:
        """Show one event."""
        if event.stage not in self._ids:
            self._ids[event.stage] = self._bars.add_task(f"{event.stage:8}", total=None, count="", note="")
        bar = self._ids[event.stage]
        if isinstance(event, StageEnded):
            self._bars.update(bar, total=1, completed=1, count="", note=event.message)
        elif not isinstance(event, StageBegan):
            total, count = event.total or None, _count(event)
            self._bars.update(bar, total=total, completed=event.step, count=count, note=in_words(event))


class Lines:
    """A line when a stage ends, and one now and then while it runs."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._told = clock()

    def __call__(self, event: Progress) -> None:
        """Show one event, unless the last one was shown a moment ago."""
        ended = isinstance(event, StageEnded)
        if ended or (
            not isinstance(event, StageBegan) and self._clock() - self._told > SECONDS_BETWEEN_LINES
        ):
            self._told = self._clock()
            line = f"{event.stage:8} {in_words(event)} {_count(event)}"
            self._console.print(line.rstrip(), highlight=False, markup=False, soft_wrap=True)


def in_words(event: Progress) -> str:
    """Return what an event says, with its figure."""
    return event.message if event.value is None else f"{event.message} {event.value:.6g}"


def _count(event: Progress) -> str:
    return f"{event.step}/{event.total}" if event.total else ""
