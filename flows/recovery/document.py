"""The JSON document of the benchmark: every run on a line of its own; what is there is not run again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flows.benchmarks.processes import ROOT
from flows.recovery.case import Run
from sciml_discover.errors import InputError
from sciml_discover.store import write_atomically

KEY = ("case", "row", "item", "seed")


def read_runs(file: Path) -> list[Run]:
    """Return the runs that a document has; none if it does not exist.

    Raises:
        InputError: the file is something else.
    """
    if not file.exists():
        return []
    try:
        document = json.loads(file.read_text())
        if document["benchmark"] != "recovery":
            raise KeyError
        return list(document["runs"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{file}, which is no document of this benchmark",
            where="--file",
            expected="a document that `sciml-discover benchmark recovery` wrote, or no file",
            do="Choose another file.",
        ) from error


def write_document(file: Path, head: dict[str, Any], runs: Sequence[Run]) -> None:
    """Write a document, each run on one line, so that a comparison of two shows which runs differ."""
    begin = json.dumps({**head, "runs": []}, indent=1, ensure_ascii=False).removesuffix("[]\n}")
    lines = ",\n".join("  " + json.dumps(run, ensure_ascii=False, allow_nan=False) for run in runs)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, f"{begin}[\n{lines}\n ]\n}}\n".encode())


def key_of(run: Run) -> tuple[Any, ...]:
    """Return what tells runs apart."""
    return tuple(run[name] for name in KEY)


def code_digest() -> str:
    """Return a digest of the library's source: runs of different code are not the same experiment."""
    digest = hashlib.sha256()
    folder = ROOT / "sciml_discover"
    for path in sorted(folder.rglob("*.py")):
        digest.update(path.relative_to(folder).as_posix().encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:10]
