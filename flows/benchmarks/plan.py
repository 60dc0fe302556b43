"""What a benchmark will run, in which order, once everything that the user asked for has been checked."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, get_args

from flows.asked import chosen_cases, chosen_seeds
from flows.benchmarks.cases import CASES, Case, Variant
from sciml_discover.errors import InputError, did_you_mean
from sciml_discover.training import TrainOptions

OURS = "sciml_discover"


@dataclass(frozen=True)
class Planned:
    """One run that is still to be made.

    Attributes:
        case: name of the case.
        row: the row of the table that it belongs to.
        tool: `OURS` or the name of a peer.
        seed: of noise and weights.
        module: what is run as a process.
        arguments: of the module.
        seconds: how long it may take.
    """

    case: str
    row: str
    tool: str
    seed: int
    module: str
    arguments: tuple[str, ...]
    seconds: float

    @property
    def label(self) -> str:
        """The run in words."""
        return f"{self.case}, {self.row}, seed {self.seed}"


@dataclass(frozen=True)
class Request:
    """What the user asked for, checked.

    Attributes:
        cases: names of the cases.
        seeds: for every case that has several; None is each case's own number.
        preset: of every row that names none.
        peers: whether other tools run too.
    """

    cases: tuple[str, ...]
    seeds: tuple[int, ...] | None
    preset: str
    peers: bool

    def seeds_of(self, case: Case) -> tuple[int, ...]:
        """Return the seeds of a case: the first one only where a single run says it all."""
        seeds = tuple(range(case.seeds)) if self.seeds is None else self.seeds
        return seeds[:1] if case.seeds == 1 else seeds

    def variants_of(self, case: Case) -> dict[str, Variant]:
        """Return the rows of a case by their labels; two that come to the same are one."""
        rows: dict[str, Variant] = {}
        for variant in case.variants:
            rows.setdefault(variant.label(self.preset), variant)
        return rows

    def runs(self) -> Iterator[Planned]:
        """Yield all runs, the peers' between our own, so that all see the same load of the machine."""
        for name in self.cases:
            case = CASES[name]
            for seed in self.seeds_of(case):
                ours = [
                    Planned(
                        name, label, OURS, seed, "flows.benchmarks.worker",
                        (
                            name, str(seed), variant.preset or self.preset,
                            *(f"{key}={value}" for key, value in variant.settings.items()),
                        ),
                        case.seconds,
                    )
                    for label, variant in self.variants_of(case).items()
                ]  # fmt: skip
                peers = [
                    Planned(
                        name, peer, peer, seed, f"flows.peers.{peer}", (str(seed), str(case.noise)),
                        case.seconds,
                    )
                    for peer in (case.peers if self.peers else ())
                ]  # fmt: skip
                for pair in zip_longest(ours, peers):
                    yield from (planned for planned in pair if planned is not None)


def check_request(
    cases: Sequence[str] | str, seeds: str | None, preset: str, *, peers: bool, peer_python: str
) -> Request:
    """Return what the user asked for.

    Args:
        cases: names, or a text with commas between them; nothing means all.
        seeds: such as ``"0..19"``.
        preset: of the training.
        peers: whether other tools run too.
        peer_python: the interpreter that has their packages.

    Raises:
        InputError: at the first thing that cannot be used.
    """
    names = chosen_cases(cases, CASES)
    presets = get_args(TrainOptions.model_fields["preset"].annotation)
    if preset not in presets:
        raise InputError(
            repr(preset),
            where="--preset",
            expected="a preset of the training",
            do=did_you_mean(preset, presets),
        )
    if peers and shutil.which(peer_python) is None:
        raise InputError(
            f"{peer_python!r}", where="--peer-python", expected="a Python interpreter that can be started"
        )
    return Request(names, chosen_seeds(seeds), preset, peers)


def describe(request: Request) -> list[dict[str, Any]]:
    """Return the cases of a request as they stand in the JSON file."""
    return [
        {
            "name": name,
            "title": CASES[name].title,
            "seeds": list(request.seeds_of(CASES[name])),
            "seconds_allowed": CASES[name].seconds,
        }
        for name in request.cases
    ]
