"""What one run of a case leaves: plain numbers, ready for JSON."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

Figure = float | int | bool | None
"""A number; None where it is not finite or was not reached."""


@dataclass(frozen=True)
class Measurement:
    """One run of one case.

    Attributes:
        figures: how good it is, and how fast where the case measures that itself.
        seconds: what took how long, ``train`` and a second, warm ``train_again`` among them.
        words: status and notes of the training, for people.
        failure: why there are no figures although the training came to an end.
    """

    figures: dict[str, Figure]
    seconds: dict[str, float] = field(default_factory=dict)
    words: dict[str, Any] = field(default_factory=dict)
    failure: str = ""


class CannotRun(Exception):
    """A case cannot be run on this machine; its message says what is missing."""
