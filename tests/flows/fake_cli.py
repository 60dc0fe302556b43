"""The command line with stand-ins for the verbs of all stages, to be run as a module.

``FAKE_STATUS`` is the verdict; ``FAKE_FAIL`` and ``FAKE_SLEEP`` name a stage that fails or hangs, for a minute or
``FAKE_SECONDS``; ``FAKE_BEGIN`` is written when the command begins.
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
    if stage == os.environ.get("FAKE_FAIL"):
        raise ZeroDivisionError("oops")
    if stage == os.environ.get("FAKE_SLEEP"):
        sys.stderr.write("asleep\n")
        sys.stderr.flush()
        time.sleep(float(os.environ.get("FAKE_SECONDS", "60")))


if __name__ == "__main__":
    # Whoever runs the tests in the background may have them ignore Ctrl-C, and children inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    monkeypatch = pytest.MonkeyPatch()
    fakes = install(monkeypatch)
    monkeypatch.setattr(launch, "import_for", lambda _: None)  # the stand-ins need no torch
    fakes.before = _before
    fakes.status = os.environ.get("FAKE_STATUS", "accepted")
    sys.stderr.write(os.environ.get("FAKE_BEGIN", ""))
    sys.stderr.flush()
    main()
