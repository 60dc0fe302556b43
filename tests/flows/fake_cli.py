"""The command line with the stand-ins for the verbs of all stages: ``python -m tests.flows.fake_cli run ...``.

``FAKE_STATUS`` is the verdict; ``FAKE_FAIL`` and ``FAKE_SLEEP`` name a stage that fails or hangs.
"""

from __future__ import annotations

import os
import sys
import time

import pytest

from flows.cli import main
from tests.fakes import install


def _before(stage: str) -> None:
    if stage == os.environ.get("FAKE_FAIL"):
        raise ZeroDivisionError("oops")
    if stage == os.environ.get("FAKE_SLEEP"):
        sys.stderr.write("asleep\n")
        sys.stderr.flush()
        time.sleep(60)


if __name__ == "__main__":
    fakes = install(pytest.MonkeyPatch())
    fakes.before = _before
    fakes.status = os.environ.get("FAKE_STATUS", "accepted")
    main()
