"""A process that has imported everything slow, and forks one child per request: runs without start-up.

It is run as a module, reads requests as JSON lines on stdin and answers each with one on stdout; `Zygote` is its other
end. Whatever a child leaves running becomes a child of this process, in whatever session it is.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.faults.outcome import children_of

ROOT = Path(__file__).resolve().parents[2]

SUBREAPER = 36
"""PR_SET_CHILD_SUBREAPER of Linux's prctl."""

MOST_MEMORY = 8 * 2**30
"""Address space of a child, so that a test that fails does not take the machine with it."""


@dataclass(frozen=True)
class Ended:
    """How a child ended.

    Attributes:
        status: its exit status; minus the signal that ended it.
        seconds: from the fork to its end.
        peak: most resident memory, in bytes.
        out: what it wrote to stdout.
        err: what it wrote to stderr.
    """

    status: int
    seconds: float
    peak: int
    out: str
    err: str


class Zygote:
    """The process, and what asks it for runs.

    Args:
        folder: where children's output goes.
        modules: what is imported before the first fork.
        environment: beside that of this process.
        within: words of a command that runs it, such as one that gives it a namespace of its own.
    """

    def __init__(
        self,
        folder: Path,
        modules: Sequence[str],
        environment: Mapping[str, str] | None = None,
        within: Sequence[str] = (),
    ) -> None:
        self._folder = folder
        threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        self._process = subprocess.Popen(
            [*within, sys.executable, "-m", "tests.faults.zygote", *modules],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, **threads, "MPLBACKEND": "Agg", "COLUMNS": "200", **(environment or {})},
        )

    def call(
        self,
        function: str,
        *arguments: Any,
        kill_after: float | None = None,
        limit: float = 120.0,
        **keywords: Any,
    ) -> Ended:
        """Call a function of `tests.faults.children` in a child, and return how that ended.

        Args:
            function: its name.
            arguments: JSON.
            kill_after: seconds until SIGKILL; None: it is left alone.
            limit: seconds until it is killed because something is wrong.
            keywords: JSON.
        """
        seconds = limit if kill_after is None else kill_after
        return self.call_all([(function, arguments, keywords, seconds)])[0]

    def call_all(self, calls: Sequence[tuple[str, Sequence[Any], Mapping[str, Any], float]]) -> list[Ended]:
        """Call functions in as many children at the same time: names, arguments, keywords, seconds until SIGKILL."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"calls": calls, "folder": str(self._folder)}) + "\n")
        self._process.stdin.flush()
        return [
            Ended(
                **answer,
                out=(self._folder / f"out{number}").read_text(errors="replace"),
                err=(self._folder / f"err{number}").read_text(errors="replace"),
            )
            for number, answer in enumerate(json.loads(self._process.stdout.readline()))
        ]

    def left_running(self, within: float = 3.0) -> list[str]:
        """Return the command lines of what children left running, after some seconds to end in."""
        deadline = time.monotonic() + within
        while (left := children_of(self._process.pid)) and time.monotonic() < deadline:
            time.sleep(0.05)
        return left

    def close(self) -> None:
        """End the process."""
        self._process.communicate(timeout=30)


def _fork(
    function: str, arguments: Sequence[Any], keywords: dict[str, Any], folder: Path, number: int
) -> int:
    """Begin a call in a child of this process, and return its id."""
    child = os.fork()
    if child == 0:
        _redirect(folder, number)
        called = getattr(importlib.import_module("tests.faults.children"), function)
        os._exit(_status(lambda: called(*arguments, **keywords)))
    return child


def _answer(request: dict[str, Any]) -> list[dict[str, Any]]:
    """Make the calls of a request, and return how they ended."""
    begun, folder = time.monotonic(), Path(request["folder"])
    calls, answers = request["calls"], {}
    children = {
        _fork(function, arguments, keywords, folder, number): number
        for number, (function, arguments, keywords, _) in enumerate(calls)
    }
    while children:
        time.sleep(0.001)
        took = time.monotonic() - begun
        for child, number in list(children.items()):
            if took > calls[number][3]:
                os.kill(child, signal.SIGKILL)
            done, status, usage = os.wait4(child, os.WNOHANG)
            if done:
                del children[child]
                ended = {"status": os.waitstatus_to_exitcode(status), "seconds": took}
                answers[number] = {**ended, "peak": usage.ru_maxrss * 1024}
    return [answers[number] for number in range(len(calls))]


def _redirect(folder: Path, number: int) -> None:
    for descriptor, name in ((1, f"out{number}"), (2, f"err{number}")):
        file = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(file, descriptor)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))


def _status(call: Callable[[], object]) -> int:
    """Return the exit status that the call would give its process, as `sys.exit` has it."""
    try:
        call()
    except SystemExit as end:
        code = end.code
        return code if isinstance(code, int) else int(code is not None)
    except BaseException:
        traceback.print_exc()
        return 70
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0


def main(modules: Sequence[str]) -> None:
    """Import, then answer requests until stdin ends."""
    ctypes.CDLL(None).prctl(SUBREAPER, 1, 0, 0, 0)
    importlib.import_module("tests.faults.children")
    for name in modules:
        importlib.import_module(name)
    for line in sys.stdin:
        answer = json.dumps(_answer(json.loads(line)))
        sys.__stdout__.write(answer + "\n")  # type: ignore[union-attr]
        sys.__stdout__.flush()  # type: ignore[union-attr]


if __name__ == "__main__":
    main(sys.argv[1:])
