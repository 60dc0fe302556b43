"""What the commands have in common: their options, and how they end."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, ParamSpec

import typer

from flows.leaving import GOES_ON

DONE, ACCEPTED, FAILED, WRONG_INPUT, REJECTED, INTERRUPTED = 0, 0, 1, 2, 3, 130
"""Exit statuses."""

P = ParamSpec("P")

ExperimentFile = Annotated[Path, typer.Argument(help="The experiment file (TOML).", show_default=False)]
Overrides = Annotated[
    list[str], typer.Option("--set", metavar="KEY=VALUE", help="Override a key, such as train.starts=4.")
]
OutFolder = Annotated[Path, typer.Option("--out", help="The folder of all runs and of what they share.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON on stdout instead.")]
WhenDataChanges = Annotated[
    bool,
    typer.Option(
        "--when-data-changes", help="Do nothing if experiment and data are those of the last finished run."
    ),
]


class Device(StrEnum):
    """Where tensors live."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


DeviceOption = Annotated[Device, typer.Option("--device", help="Where tensors live.")]


def exits(command: Callable[P, int]) -> Callable[P, None]:
    """Return a command that ends with the status that its function returns, or that an error calls for."""

    @functools.wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            status = command(*args, **kwargs)
        except KeyboardInterrupt as error:
            complain(str(error) or f"interrupted. {GOES_ON}")
            status = INTERRUPTED
        except BrokenPipeError:
            raise  # whoever read the output has gone; click ends quietly
        except Exception as error:
            from sciml_discover.errors import InputError, failure_message, was_interrupted

            status = WRONG_INPUT if isinstance(error, InputError) else FAILED
            if was_interrupted(error):
                status = INTERRUPTED
            complain(f"interrupted. {GOES_ON}" if status == INTERRUPTED else failure_message(error))
        raise typer.Exit(status)

    return wrapped


def complain(message: str) -> None:
    """Tell a person on stderr what is wrong."""
    sys.stderr.write(f"sciml-discover: {message}\n")
