"""What a sweep runs: every combination of the values of some keys."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sciml_discover.errors import InputError
from sciml_discover.experiment import LoadedExperiment, load_experiment
from sciml_discover.readers import input_digests
from sciml_discover.result import library_versions
from sciml_discover.stages import STAGES, choose_device
from sciml_discover.store import make_key

MOST_COMBINATIONS = 10_000

_RANGE = re.compile(r"(-?\d+)\.\.(-?\d+)")
_OPENING, _CLOSING = "[{", "]}"


@dataclass(frozen=True)
class Combination:
    """One run of a sweep.

    Attributes:
        values: the swept keys and their values.
        overrides: those of the whole sweep, then these.
        key: digest of everything that determines the result, to find a finished run again.
        loaded: the experiment.
    """

    values: dict[str, str]
    overrides: tuple[str, ...]
    key: str
    loaded: LoadedExperiment

    @property
    def case(self) -> str:
        """Name of the experiment."""
        return self.loaded.name

    @property
    def label(self) -> str:
        """The values for a person, by the last words of their keys."""
        return ", ".join(f"{key.rpartition('.')[2]}={value}" for key, value in self.values.items())


def plan(
    experiment: str | Path, over: Sequence[str], overrides: Sequence[str], device: str
) -> tuple[Combination, ...]:
    """Return all combinations of a sweep, each with its experiment checked.

    Raises:
        InputError: if what to sweep over, or the experiment of any combination, cannot be used.
    """
    chosen = choose_device(device)
    found: list[Combination] = []
    for values in combinations(over):
        changed = (*overrides, *(f"{key}={value}" for key, value in values.items()))
        loaded = load_experiment(experiment, changed)
        found.append(Combination(values, changed, _key(loaded, chosen), loaded))
    return tuple(found)


def sweep_name(planned: Sequence[Combination]) -> str:
    """Return the name of a sweep: the same for the same combinations, in the same order."""
    return f"{planned[0].case}-{make_key([one.key for one in planned])[:10]}"


def combinations(over: Sequence[str]) -> list[dict[str, str]]:
    """Return every combination of values, one dict of key to value each; the last key varies fastest.

    Args:
        over: such as ``"data.synthetic.seed=0..19"`` (both ends included) or ``"train.starts=1,2"``.

    Raises:
        InputError: if one of them cannot be read, or there are too many combinations.

    Example:
        >>> combinations(["seed=0..1", "train.starts=4"])
        [{'seed': '0', 'train.starts': '4'}, {'seed': '1', 'train.starts': '4'}]
    """
    axes: dict[str, list[str]] = {}
    for text in over:
        key, equals, values = (part.strip() for part in text.partition("="))
        if not key or not equals or not values:
            raise InputError(
                repr(text), where="--over", expected="KEY=VALUES, such as data.synthetic.seed=0..19"
            )
        if key in axes:
            raise InputError(f"the key {key!r} twice", where="--over", expected="each key once")
        axes[key] = expand(values, where=f"--over {key}")
    count = 1
    for values in axes.values():
        count *= len(values)
    if count > MOST_COMBINATIONS:
        raise InputError(
            f"{count} combinations", where="--over", expected=f"at most {MOST_COMBINATIONS} combinations"
        )
    return [dict(zip(axes, row, strict=True)) for row in itertools.product(*axes.values())]


def _key(loaded: LoadedExperiment, device: str) -> str:
    """Return the digest of everything that determines a run's result."""
    return make_key(
        [
            loaded.text,
            input_digests(loaded.experiment.data, loaded.folder),
            [[stage.name, stage.version] for stage in STAGES],
            library_versions(),
            device,
        ]
    )


def expand(text: str, *, where: str) -> list[str]:
    """Return the values that a text such as ``"0..3"`` or ``"1,2"`` lists.

    Raises:
        InputError: if it cannot be read.
    """
    values: list[str] = []
    for part in _split(text):
        if not part:
            raise InputError(f"an empty value in {text!r}", where=where, expected="values between commas")
        ends = _RANGE.fullmatch(part)
        if not ends:
            values.append(part)
            continue
        first, last = int(ends[1]), int(ends[2])
        if not 0 <= last - first < MOST_COMBINATIONS:
            raise InputError(
                f"the range {part!r}",
                where=where,
                expected=f"the smaller end first, and at most {MOST_COMBINATIONS} values",
            )
        values += [str(number) for number in range(first, last + 1)]
    return values


def _split(text: str) -> list[str]:
    """Split at the commas that stand outside brackets and quotes."""
    parts, depth, quote = [""], 0, ""
    for character in text:
        if quote:
            quote = "" if character == quote else quote
        elif character in "\"'":
            quote = character
        elif character == "," and depth == 0:
            parts.append("")
            continue
        else:
            depth += (character in _OPENING) - (character in _CLOSING)
        parts[-1] += character
    return [part.strip() for part in parts]
