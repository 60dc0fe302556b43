"""Why each stage of a run was made, or where it was found: read from what runs write down of their keys."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sciml_discover.run_folders import read_artifacts

LONGEST_VALUE = 40
"""A value of more characters is not shown: that it changed is all that is said."""

_MISSING = object()


@dataclass(frozen=True)
class StageOrigin:
    """Where the result of a stage of a run comes from.

    Attributes:
        stage: name of the stage.
        how: ``"computed"``, ``"cached"`` or ``"forced"``.
        run: the run that made it; empty if that is not known.
        reasons: why it was not found, or what changed; or why it was found although its inputs were made anew.
        since: the run that it changed since; empty if it was compared with none.
        same_bytes: whether that run had the same result, bit for bit, so that nothing after it need change.
    """

    stage: str
    how: str
    run: str
    reasons: tuple[str, ...] = ()
    since: str = ""
    same_bytes: bool = False


def stage_origins(folder: Path) -> list[StageOrigin]:
    """Return where the result of each stage of a run comes from, in the order in which they ran.

    A stage that was computed is compared with the same stage of the runs before it in the same
    folder of runs: with one of the same key, or else with that from which least changed, the
    latest first.

    Args:
        folder: the run's folder. What cannot be read in it, or in its neighbours, is left out.
    """
    folder = folder.resolve()  # "." has neither name nor neighbours
    earlier = [(other.name, read_artifacts(other)) for other in _runs_before(folder)]
    records = read_artifacts(folder)
    return [_origin(folder.name, stage, records, earlier) for stage in records]


def _runs_before(folder: Path) -> list[Path]:
    """Return the folders of the runs that began before a run, the latest first."""
    # The experiment is the first thing that a run writes down, and never written again.
    begun = {path.parent: path.stat().st_mtime_ns for path in folder.parent.glob("*/experiment.toml")}
    before = [other for other in begun if begun[other] < begun.get(folder, 0)]
    return sorted(before, key=lambda other: begun[other], reverse=True)


def _origin(
    run: str,
    stage: str,
    records: Mapping[str, Mapping[str, Any]],
    earlier: list[tuple[str, dict[str, dict[str, Any]]]],
) -> StageOrigin:
    record = records[stage]
    how, maker, lost = (str(record.get(name, "")) for name in ("how", "run", "lost"))
    if how == "cached":
        return StageOrigin(stage, how, maker, tuple(_unchanged_inputs(record, records)))
    others = [(name, records[stage]) for name, records in earlier if stage in records]
    since, before = min(others, key=lambda other: _distance(other[1], record), default=("", {}))
    if lost:
        reasons = [lost]
    elif how == "forced":
        reasons = ["asked for"]
    elif not since:
        reasons = ["no earlier run has made it"]
    elif before.get("key") == record.get("key"):
        reasons = ["made before, but no longer in the store"]
    else:
        reasons = list(_changes(before, record))
    same_bytes = bool(since) and before.get("digest") == record.get("digest")
    return StageOrigin(stage, how, maker or run, tuple(reasons), since, same_bytes)


def _unchanged_inputs(record: Mapping[str, Any], records: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Yield why a stage was found although inputs of it were made anew: its key has the digests of their bytes."""
    inputs = record.get("inputs")
    for name in inputs if isinstance(inputs, dict) else ():
        if records.get(name, {}).get("how") in ("computed", "forced"):
            yield f"{name} was made anew and gave the same bytes"


def _distance(before: Mapping[str, Any], now: Mapping[str, Any]) -> int:
    return -1 if before.get("key") == now.get("key") else len(list(_changes(before, now)))


def _changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """Yield what differs between the ingredients of two keys of one stage, in words."""
    if before.get("version") != now.get("version"):
        yield f"version {now.get('version')} of the stage, was {before.get('version')}"
    if before.get("layout") != now.get("layout"):
        yield "another layout of the result"
    for path, old, new in _differences(before.get("options"), now.get("options"), ()):
        yield _change_of_option(path, old, new)
    for path, _, _ in _differences(before.get("inputs"), now.get("inputs"), ()):
        yield f"another result of {'.'.join(path)}"


def _change_of_option(path: tuple[str, ...], old: Any, new: Any) -> str:
    if path[:1] == ("files",):
        return f"other bytes in {'.'.join(path[1:])}"
    name = "the experiment's text" if path == ("text",) else ".".join(path)
    if old is _MISSING or new is _MISSING:
        return f"{name} {'added' if old is _MISSING else 'removed'}"
    shown = [repr(value) for value in (new, old)]
    if max(map(len, shown)) > LONGEST_VALUE:
        return f"{name} changed"
    return f"{name} = {shown[0]}, was {shown[1]}"


def _differences(old: Any, new: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any, Any]]:
    """Yield the places, as far inside as possible, where two JSON values differ, and what stands there."""
    if isinstance(old, list) and isinstance(new, list):
        old, new = (dict(enumerate(items)) for items in (old, new))
    if isinstance(old, dict) and isinstance(new, dict):
        for name in dict.fromkeys([*old, *new]):
            yield from _differences(old.get(name, _MISSING), new.get(name, _MISSING), (*path, str(name)))
        if list(old) != list(new) and set(old) == set(new):
            yield (*path, "order"), list(old), list(new)
    elif old is _MISSING or new is _MISSING or old != new or type(old) is not type(new):
        yield path, old, new
