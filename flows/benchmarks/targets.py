"""What a case has to reach, and whether it did: failures and time-outs count as not reaching it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

Run = dict[str, Any]
"""One run as it stands in the JSON file: ``status``, ``figures``, ``seconds`` and more."""


@dataclass(frozen=True)
class Verdict:
    """Whether a target was reached.

    Attributes:
        met: None where it cannot be said, for want of a peer.
        found: what was found, in words.
    """

    met: bool | None
    found: str


@dataclass(frozen=True)
class Target:
    """Something to reach.

    Attributes:
        text: what, in words.
        judge: ``(runs of the row, runs of each peer) -> Verdict``.
    """

    text: str
    judge: Callable[[Sequence[Run], dict[str, Sequence[Run]]], Verdict]


def at_most(figure: str, limit: float, *, share: float) -> Target:
    """Return the target that a figure is small enough in a share of all seeds."""
    return _in_share(figure, f"<= {limit:g}", share, lambda value: value <= limit)


def at_least(figure: str, limit: float, *, share: float) -> Target:
    """Return the target that a figure is large enough in a share of all seeds."""
    return _in_share(figure, f">= {limit:g}", share, lambda value: value >= limit)


def median_at_most(figure: str, limit: float) -> Target:
    """Return the target that the median over all seeds is small enough; a failure is infinitely bad."""

    def judge(runs: Sequence[Run], _: dict[str, Sequence[Run]]) -> Verdict:
        median = statistics.median(
            math.inf if (value := value_of(run, figure)) is None else value for run in runs
        )
        return Verdict(median <= limit, f"{median:.3g}")

    return Target(f"median {figure} <= {limit:g}", judge)


def faster_than(seconds: str, peer: str, peer_seconds: str, ratio: float) -> Target:
    """Return the target that the median of seconds is at most a ratio of a peer's median."""

    def judge(runs: Sequence[Run], peers: dict[str, Sequence[Run]]) -> Verdict:
        mine = [value for run in runs if (value := value_of(run, f"{seconds}_seconds")) is not None]
        theirs = [
            value
            for run in peers.get(peer, ())
            if (value := value_of(run, f"{peer_seconds}_seconds")) is not None
        ]
        if not theirs:
            return Verdict(None, f"{peer} did not run")
        if not mine:
            return Verdict(False, "no run came to an end")
        found = statistics.median(mine) / statistics.median(theirs)
        return Verdict(found <= ratio, f"1/{1 / found:.3g}")

    return Target(f"median {seconds} seconds <= {ratio:.3g} of {peer} ({peer_seconds})", judge)


def value_of(run: Run, figure: str) -> float | None:
    """Return a figure of a run, ``<name>_seconds`` for its seconds; None if the run failed or it is not finite."""
    if run["status"] != "ok":
        return None
    name = figure.removesuffix("_seconds")
    if figure != name and name in run["seconds"]:
        return run["seconds"][name]
    value = run["figures"].get(figure)
    return None if value is None else float(value)


def _in_share(figure: str, limit: str, share: float, good: Callable[[float], bool]) -> Target:
    def judge(runs: Sequence[Run], _: dict[str, Sequence[Run]]) -> Verdict:
        values = [value_of(run, figure) for run in runs]
        count = sum(value is not None and good(value) for value in values)
        return Verdict(count >= math.ceil(share * len(runs) - 1e-9), f"{count}/{len(runs)}")

    return Target(f"{figure} {limit} in {share:.0%} of seeds", judge)
