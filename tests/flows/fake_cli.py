"""The command line with stand-ins for the verbs of all stages, to be run as a module.

``FAKE_STATUS`` is the verdict; ``FAKE_FAIL`` and ``FAKE_SLEEP`` name a stage that fails or hangs, for a minute or
``FAKE_SECONDS``; ``FAKE_BEGIN`` is written when the command begins. ``FAKE_DIES`` is a file that does not exist: the
first training to find that makes it, and dies with its process. ``FAKE_CALLS`` is a file that gets a line for each call
of a verb. The processes of a pool and of Dask have the stand-ins too.
"""

from __future__ import annotations

import os
import signal
import sys
import time

import pytest

from flows import launch
from flows.cli import main
from tests.fakes import install


def _before(stage: str) -> None:
    if "FAKE_CALLS" in os.environ:
        with open(os.environ["FAKE_CALLS"], "a") as calls:
            calls.write(f"{stage} {os.getpid()} {os.environ.get('OMP_NUM_THREADS')}\n")
    if stage == "train" and "FAKE_DIES" in os.environ:
        _die_once(os.environ["FAKE_DIES"])
    if stage == os.environ.get("FAKE_FAIL"):
        raise ZeroDivisionError("oops")
    if stage == os.environ.get("FAKE_SLEEP"):
        sys.stderr.write("asleep\n")
        sys.stderr.flush()
        time.sleep(float(os.environ.get("FAKE_SECONDS", "60")))


def _die_once(marker: str) -> None:
    try:
        os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return
    os.kill(os.getpid(), signal.SIGKILL)


def _install() -> None:
    monkeypatch = pytest.MonkeyPatch()
    fakes = install(monkeypatch)
    monkeypatch.setattr(launch, "import_for", lambda _: None)  # the stand-ins need no torch
    fakes.before = _before
    fakes.status = os.environ.get("FAKE_STATUS", "accepted")


if __name__ == "__mp_main__":
    _install()

if __name__ == "__main__":
    # Whoever runs the tests in the background may have them ignore Ctrl-C, and children inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _install()
    sys.stderr.write(os.environ.get("FAKE_BEGIN", ""))
    sys.stderr.flush()
    main()
