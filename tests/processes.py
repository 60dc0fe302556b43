"""Runs with stand-ins for the verbs, each in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent

RUN = """
import os, sys, time
from pathlib import Path
import pytest
from sciml_discover.runs import discover
from tests.fakes import install

experiment, out, sleeps = sys.argv[1:]

def before(stage):
    with open(Path(experiment).with_name("calls"), "a") as calls:
        calls.write(f"{stage}\\n")
    if stage == sleeps:
        print("asleep", flush=True)
        time.sleep(60)
    time.sleep(0.1)

install(pytest.MonkeyPatch()).before = before
print("ready", flush=True)
sys.stdin.readline()
result = discover(experiment, out=out, watch=lambda event: "waiting" in event.message and print("waits", flush=True))
print(result.status)
"""


class Process:
    """A process that waits for `begin` and then makes one run with stand-ins for the verbs."""

    def __init__(self, experiment: Path, out: Path, sleeps: str = "nowhere") -> None:
        self.popen = subprocess.Popen(
            [sys.executable, "-c", RUN, str(experiment), str(out), sleeps],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    def line(self) -> str:
        assert self.popen.stdout is not None
        return self.popen.stdout.readline().strip()

    def begin(self) -> None:
        assert self.popen.stdin is not None
        self.popen.stdin.write("\n")
        self.popen.stdin.flush()

    def rest(self) -> list[str]:
        return self.popen.communicate(timeout=60)[0].split()
