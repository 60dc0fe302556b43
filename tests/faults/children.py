"""What children of a zygote do."""

from __future__ import annotations

import sys
from typing import Any

from sciml_discover import training
from sciml_discover.runs import discover


def run(experiment: str, out: str, *overrides: str, **options: Any) -> None:
    """Make one run without Prefect, with a checkpoint after every iteration, and print its folder."""
    # Checkpoints are five seconds apart, more than these runs take.
    training.train.__wrapped__.__kwdefaults__["checkpoint_seconds"] = 0.0  # type: ignore[attr-defined]
    result = discover(experiment, out=out, overrides=overrides, **options)
    sys.stdout.write(f"{result.id}\n")


def command(*words: str) -> None:
    """Run the command line."""
    from flows.cli import app

    app(list(words))
