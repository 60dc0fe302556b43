"""Where runs lie: names, the store that they share, and how they are found again."""

from __future__ import annotations

import datetime
import json
import secrets
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sciml_discover.errors import InputError, did_you_mean
from sciml_discover.result import DiscoveryResult
from sciml_discover.store import Store

DEFAULT_OUT = Path("runs")


@dataclass(frozen=True)
class RunRecord:
    """A run's folder and what can be read of its result.

    Attributes:
        folder: the run's folder.
        result: None if there is none yet (the run goes on, or was killed) or it cannot be read.
        problem: why there is no result; empty if there is one.
    """

    folder: Path
    result: DiscoveryResult | None
    problem: str


def now() -> str:
    """Return the time, UTC, ISO 8601, to the second."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def new_run_id(case: str) -> str:
    """Return a name that no other run has: case, time (UTC), a short random word."""
    stamp = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%SZ")
    return f"{case}-{stamp}-{secrets.token_hex(3)}"


def writable_folder(out: str | Path | None) -> Path:
    """Return the folder of all runs (``runs`` unless given), made if it is not there.

    Raises:
        InputError: if nothing can be written there.
    """
    folder = DEFAULT_OUT if out is None else Path(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".probe-{secrets.token_hex(6)}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InputError(
            f"the output folder {str(folder)!r}, which cannot be written to ({error.strerror})",
            where="--out",
            expected="a folder that can be made and written to",
        ) from error
    return folder


def store_in(out: Path) -> Store:
    """Return the store that all runs in ``out`` share."""
    return Store(out / ".store")


def list_runs(out: str | Path | None = None) -> list[RunRecord]:
    """Return all runs in a folder, oldest first."""
    folder = DEFAULT_OUT if out is None else Path(out)
    folders = [path.parent for path in folder.glob("*/experiment.toml")] if folder.is_dir() else []
    records = [_record(one) for one in folders]
    return sorted(records, key=lambda record: (record.result.created if record.result else "", record.folder))


def runs_by_digest(out: Path) -> defaultdict[tuple[str, str], tuple[str, ...]]:
    """Return the names of the runs that rest on a result, by its stage and digest."""
    runs: defaultdict[tuple[str, str], tuple[str, ...]] = defaultdict(tuple)
    for path in sorted(out.glob("*/artifacts.json")):
        for stage, record in read_artifacts(path.parent).items():
            runs[stage, str(record.get("digest"))] += (path.parent.name,)
    return runs


def read_artifacts(folder: Path) -> dict[str, dict[str, Any]]:
    """Return what a run's ``artifacts.json`` says of each stage; nothing if it cannot be read."""
    try:
        content = json.loads((folder / "artifacts.json").read_bytes())
    except (OSError, ValueError):
        return {}
    if not isinstance(content, dict):
        return {}
    return {stage: record for stage, record in content.items() if isinstance(record, dict)}


def find_run(name: str | Path, out: str | Path | None = None) -> DiscoveryResult:
    """Return the result of the run with a name, the beginning of one, or a folder.

    Raises:
        InputError: if there is none, several, or one without a result.
    """
    return find_folder_and_result(name, out)[1]


def find_folder_and_result(name: str | Path, out: str | Path | None = None) -> tuple[Path, DiscoveryResult]:
    """Return the folder and the result of the run with a name, the beginning of one, or a folder.

    Raises:
        InputError: if there is none, several, or one without a result.
    """
    path = Path(name)
    if (path / "result.json").is_file() or (path.name == "result.json" and path.is_file()):
        return path if path.is_dir() else path.parent, DiscoveryResult.from_file(path)
    records = list_runs(out)
    matches = [record for record in records if record.folder.name.startswith(str(name))]
    exact = [record for record in matches if record.folder.name == str(name)]
    folder = DEFAULT_OUT if out is None else Path(out)
    names = [record.folder.name for record in records]
    if len(exact or matches) != 1:
        raise InputError(
            f"{len(matches)} runs named {str(name)!r}" if matches else f"no run {str(name)!r}",
            where=str(folder),
            expected="the name of one run, its beginning, or its folder",
            do=did_you_mean(str(name), names) if len(names) < 20 else "`sciml-discover list` names them.",
        )
    record = (exact or matches)[0]
    if record.result is None:
        raise InputError(record.problem, where=str(record.folder), expected="a finished run")
    return record.folder, record.result


def _record(folder: Path) -> RunRecord:
    if not (folder / "result.json").exists():
        return RunRecord(folder, None, "no result: the run goes on, or it was killed")
    try:
        return RunRecord(folder, DiscoveryResult.from_file(folder), "")
    except InputError as error:
        return RunRecord(folder, None, str(error))
