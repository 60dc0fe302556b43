"""What the last finished run of a schedule was made from, so that nothing is done where nothing changed."""

from __future__ import annotations

import json
from pathlib import Path

from sciml_discover.atomic import write_atomically
from sciml_discover.store import make_key


class LastFinished:
    """The last run of a schedule that came to a verdict.

    Args:
        out: the folder of all runs.
        schedule: its name.
    """

    def __init__(self, out: Path, schedule: str) -> None:
        self._out = out
        # A name may hold anything, a file name may not.
        self._record = out / ".schedules" / f"{make_key([schedule])}.json"
        self._schedule = schedule

    def with_digest(self, digest: str) -> Path | None:
        """Return the folder of that run if it was made from what has a digest, and is still there."""
        try:
            content = json.loads(self._record.read_bytes())
            folder = self._out / content["run"]
            same = content["digest"] == digest
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None  # there was none, or nobody can tell: then it is made again
        return folder if same and (folder / "result.json").is_file() else None

    def remember(self, digest: str, folder: Path) -> None:
        """Write down a run that has just come to a verdict."""
        content = {"schedule": self._schedule, "digest": digest, "run": folder.name}
        write_atomically(self._record, (json.dumps(content, indent=1) + "\n").encode())
