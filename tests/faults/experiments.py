"""A small experiment for the real stages: growth up to a capacity, what slows it down missing."""

from __future__ import annotations

import math
from pathlib import Path

LOGISTIC = """\
title = "Growth up to a capacity"

[data]
files = ["rows.csv"]

[system.states]
n = { positive = true }

[system.parameters]
r = { value = 0.8, fixed = true }

[system.missing]
crowding = ["n"]

[system.equations]
n = "r*n - crowding"

[train]
starts = 2
"""


def write_logistic(folder: Path) -> Path:
    """Write the experiment with its data into a folder, and return its file."""
    folder.mkdir(parents=True)
    rows = ["time,n"]
    for step in range(25):
        time = step / 2
        # The noise is no more random than the rest: 0.5 % of the mean.
        value = 10 / (1 + 19 * math.exp(-0.8 * time)) + 0.03 * math.sin(7.3 * step**2)
        rows.append(f"{time},{value:.6f}")
    (folder / "rows.csv").write_text("\n".join(rows) + "\n")
    path = folder / "experiment.toml"
    path.write_text(LOGISTIC)
    return path
