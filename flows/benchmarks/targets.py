"""What a case has to reach, and whether it did: failures and time-outs count as not reaching it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
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
class Runs:
    """All runs of a case, as far as a target may want to see them.

    Attributes:
        mine: of the row that the target belongs to.
        rows: of every row, by its label.
        peers: of every peer, by its name.
    """

    mine: Sequence[Run]
    rows: Mapping[str, Sequence[Run]] = field(default_factory=dict)
    peers: Mapping[str, Sequence[Run]] = field(default_factory=dict)


@dataclass(frozen=True)
class Target:
    """Something to reach.

    Attributes:
        text: what, in words.
        judge: says whether all the runs reach it.
    """

    text: str
    judge: Callable[[Runs], Verdict]


def at_most(figure: str, limit: float, *, share: float = 1.0) -> Target:
    """Return the target that a figure is small enough in a share of all seeds."""
    return _in_share(figure, f"≤ {limit:g}", share, lambda value: value <= limit)


def at_least(figure: str, limit: float, *, share: float = 1.0) -> Target:
    """Return the target that a figure is large enough in a share of all seeds."""
    return _in_share(figure, f"≥ {limit:g}", share, lambda value: value >= limit)


def median_at_most(figure: str, limit: float) -> Target:
    """Return the target that the median over all seeds is small enough; a failure is infinitely bad."""

    def judge(runs: Runs) -> Verdict:
        values = [value_of(run, figure) for run in runs.mine]
        median = statistics.median(math.inf if value is None else value for value in values)
        return Verdict(median <= limit, f"{median:.3g}")

    return Target(f"median {figure} ≤ {limit:g}", judge)


def faster_than(seconds: str, peer: str, peer_seconds: str, ratio: float) -> Target:
    """Return the target that a median of seconds is at most a ratio of a peer's; a failure took for ever."""

    def judge(runs: Runs) -> Verdict:
        mine = [value_of(run, f"{seconds}_seconds") for run in runs.mine]
        theirs = [value_of(run, f"{peer_seconds}_seconds") for run in runs.peers.get(peer, ())]
        known = [value for value in theirs if value is not None]
        if not known:
            return Verdict(None, f"{peer} did not run")
        median = statistics.median(math.inf if value is None else value for value in mine)
        found = median / statistics.median(known)
        return Verdict(found <= ratio, f"{found:.3g}")

    return Target(f"median {seconds} seconds ≤ {ratio:.3g} of {peer}, {peer_seconds}", judge)


def grows_linearly(figure: str, smaller: str, factor: float, slack: float = 1.5) -> Target:
    """Return the target that a figure grows no faster than the size of the problem.

    Args:
        figure: what grows.
        smaller: label of the row with the smaller problem.
        factor: how many times larger this row's problem is.
        slack: what measuring may add.
    """

    def judge(runs: Runs) -> Verdict:
        mine = [value for run in runs.mine if (value := value_of(run, figure)) is not None]
        before = [value for run in runs.rows.get(smaller, ()) if (value := value_of(run, figure)) is not None]
        if not mine or not before:
            return Verdict(False, "not measured")
        found = statistics.median(mine) / statistics.median(before)
        return Verdict(found <= slack * factor, f"{found:.3g}")

    return Target(f"{figure} ≤ {slack * factor:g} times that of {smaller}", judge)


def value_of(run: Run, figure: str) -> float | None:
    """Return a figure of a run, or ``<name>_seconds``; None if the run failed or it is not finite."""
    if run["status"] != "ok":
        return None
    name = figure.removesuffix("_seconds")
    if figure != name and name in run["seconds"]:
        return float(run["seconds"][name])
    value = run["figures"].get(figure)
    return None if value is None else float(value)


def _in_share(figure: str, limit: str, share: float, good: Callable[[float], bool]) -> Target:
    def judge(runs: Runs) -> Verdict:
        values = [value_of(run, figure) for run in runs.mine]
        count = sum(value is not None and good(value) for value in values)
        return Verdict(count >= math.ceil(share * len(values) - 1e-9), f"{count}/{len(values)}")

    often = "every seed" if share == 1.0 else f"{share:.0%} of the seeds"
    return Target(f"{figure} {limit} in {often}", judge)
