from __future__ import annotations

import io

from rich.console import Console

from flows.progress import Lines, shown_on
from sciml_discover.base import Progress
from sciml_discover.runs import StageBegan, StageEnded

EVENTS = [
    StageBegan("train", "began"),
    Progress("train", "multiple_shooting x lbfgs", 3, 20, 0.125),
    StageEnded("train", "made in 2.50 s", cached=False, seconds=2.5),
    StageBegan("sample", "began"),
    StageEnded("sample", "found in the store", cached=True, seconds=0.0),
]


def test_elsewhere_than_on_a_terminal_a_stage_is_a_line() -> None:
    file = io.StringIO()
    with shown_on(Console(file=file, width=40)) as watch:
        for event in EVENTS:
            watch(event)
    assert file.getvalue() == "train    made in 2.50 s\nsample   found in the store\n"


def test_long_work_is_told_now_and_then() -> None:
    file, now = io.StringIO(), [0.0]
    watch = Lines(Console(file=file, width=40), clock=lambda: now[0])
    for second in range(30):
        now[0] = float(second)
        watch(Progress("train", "fitting", second, 30, 0.5))
    assert file.getvalue() == "train    fitting 0.5 11/30\ntrain    fitting 0.5 22/30\n"


def test_on_a_terminal_a_stage_is_a_bar() -> None:
    file = io.StringIO()
    with shown_on(Console(file=file, force_terminal=True, width=120, legacy_windows=False)) as watch:
        for event in EVENTS:
            watch(event)
    shown = file.getvalue()
    assert "train" in shown
    assert "made in 2.50 s" in shown
    assert "found in the store" in shown
