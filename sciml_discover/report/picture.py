"""The first figure of a report as an image of its own."""

from __future__ import annotations

import re
from pathlib import Path

from sciml_discover.errors import InputError
from sciml_discover.report.figures import COLOURS


def picture(run: str | Path) -> str:
    """Return the overview of a run, on a white ground, as SVG.

    Args:
        run: the folder of a finished run.

    Raises:
        InputError: if the run has no report with that figure.
    """
    report = Path(run) / "report.html"
    try:
        page = report.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(
            f"no readable file ({error.strerror})", where=str(report), expected="the report of a finished run"
        ) from error
    match = re.search(r'<svg id="figure-overview".*?</svg>', page, flags=re.DOTALL)
    if match is None:
        raise InputError(
            "a page without the overview figure", where=str(report), expected="a report of this version"
        )
    text = match.group()
    for colour, value in COLOURS.items():
        text = text.replace(f"var(--{colour})", value)
    ground = f'<rect width="100%" height="100%" style="fill: {COLOURS["paper"]}"/>'
    head, _, rest = text.partition(">")
    head = head.replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"', 1)
    return f"{head}>\n {ground}{rest}\n"


def save_picture(run: str | Path, path: str | Path) -> None:
    """Write the overview of a run, on a white ground, as an SVG file.

    Args:
        run: the folder of a finished run.
        path: the file to write.

    Raises:
        InputError: if the run has no report with that figure.
    """
    Path(path).write_text(picture(run), encoding="utf-8")
