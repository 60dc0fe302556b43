"""What is left after a fault: results to compare, locks, processes; and how busy processes were."""

from __future__ import annotations

import fcntl
import json
import resource
from pathlib import Path
from typing import Any

from sciml_discover.run_folders import store_in

OF_THE_RUN = ("id", "created", "seconds", "cached")
"""What two runs of one experiment may differ in."""


def last_result(out: Path) -> dict[str, Any]:
    """Return the result.json that was written last."""
    found = max(out.glob("*/result.json"), key=lambda path: path.stat().st_mtime_ns)
    return json.loads(found.read_text())


def comparable(result: dict[str, Any]) -> dict[str, Any]:
    """Return a result without what belongs to the run."""
    return {name: value for name, value in result.items() if name not in OF_THE_RUN}


def locks_left(out: Path) -> list[str]:
    """Return the names of lock files."""
    folder = store_in(out).root / "locks"
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def locks_held(out: Path) -> list[str]:
    """Return the names of lock files that somebody holds; they all stay."""
    return [name for name in locks_left(out) if _is_held(store_in(out).root / "locks" / name)]


def _is_held(path: Path) -> bool:
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def children_of(process: int) -> list[str]:
    """Return the command lines of a process's children, zombies left out."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            command = _command(folder)
        except OSError:
            continue  # it has just ended
        if parent == process and command:
            found.append(command)
    return found


def processes_of(mark: str) -> list[str]:
    """Return the command lines of all processes whose variable FAULTS_MARK has this value, zombies left out."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            ours = f"FAULTS_MARK={mark}".encode() in (folder / "environ").read_bytes().split(b"\0")
            command = _command(folder)
        except OSError:
            continue  # it has just ended, or is none of our business
        if ours and command:
            found.append(command)
    return found


def _command(folder: Path) -> str:
    return (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")


def processors_time() -> float:
    """Return the seconds that all children that have ended, and theirs, kept a processor busy."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
