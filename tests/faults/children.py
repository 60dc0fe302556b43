"""What children of a zygote do."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sciml_discover import selection, training
from sciml_discover.cache import verify
from sciml_discover.checkpoint import Checkpoints, Saved
from sciml_discover.errors import failure_message
from sciml_discover.runs import discover
from tests.fakes import install


def run(experiment: str, out: str, *overrides: str, **options: Any) -> None:
    """Make one run without Prefect, with a checkpoint wherever there can be one, and print its folder."""
    # Checkpoints are five seconds apart, more than these runs take.
    for verb in (training.train, selection.select):
        verb.__wrapped__.__kwdefaults__["checkpoint_seconds"] = 0.0  # type: ignore[attr-defined]
    result = discover(experiment, out=out, overrides=overrides, **options)
    sys.stdout.write(f"{result.id}\n")


def run_until_a_checkpoint(experiment: str, out: str, stage: str) -> None:
    """Make one run that is killed as soon as a stage has written a checkpoint."""
    write = Checkpoints.write

    def write_last(self: Checkpoints, saved: Saved) -> None:
        write(self, saved)
        if self._stage == stage:
            os.kill(os.getpid(), signal.SIGKILL)

    pytest.MonkeyPatch().setattr(Checkpoints, "write", write_last)
    run(experiment, out)


def leave_behind(seconds: float) -> None:
    """Start a process in a session of its own, and do not wait for it."""
    subprocess.Popen(["sleep", str(seconds)], start_new_session=True)


def run_stand_ins(experiment: str, out: str, *overrides: str) -> None:
    """Make one run with stand-ins for the verbs."""
    install(pytest.MonkeyPatch())
    discover(experiment, out=out, overrides=overrides)


def command(*words: str) -> None:
    """Run the command line."""
    from flows.cli import app

    app(list(words))


def fill_disk(experiment: str, out: str, kilobytes: int) -> None:
    """Run on a file system of some size, and again on a larger one; print what was told and what was kept."""
    verbs = install(pytest.MonkeyPatch())
    mount("-t", "tmpfs", "-o", f"size={kilobytes}k", "none", out)
    told = attempt(experiment, out)
    made = list(verbs.calls)
    mount("-o", "remount,size=10m", out)
    verbs.calls.clear()
    again = attempt(experiment, out)
    report(told=told, made=made, again=again, made_again=verbs.calls, damages=len(verify(out)))


def limit_files(experiment: str, out: str, kilobytes: int) -> None:
    """The same with a limit on the size of a file."""
    verbs = install(pytest.MonkeyPatch())
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (kilobytes * 1024, unlimited[1]))
    told = attempt(experiment, out)
    made = list(verbs.calls)
    resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    verbs.calls.clear()
    again = attempt(experiment, out)
    report(told=told, made=made, again=again, made_again=verbs.calls, damages=len(verify(out)))


def lock_store(experiment: str, out: str) -> None:
    """Run, make the store read-only, run the same and something new, and make it writable again."""
    verbs = install(pytest.MonkeyPatch())
    store = str(Path(out) / ".store")
    attempt(experiment, out)
    mount("--bind", store, store)
    mount("-o", "remount,bind,ro", store)
    verbs.calls.clear()
    cached = attempt(experiment, out)
    made = list(verbs.calls)
    new = attempt(experiment, out, "train.starts=3")
    mount("-o", "remount,bind,rw", store)
    again = attempt(experiment, out, "train.starts=3")
    report(told=cached, made=made, new=new, again=again, damages=len(verify(out)))


def mount(*words: str) -> None:
    """Change the file systems of the zygote's namespace."""
    subprocess.run(["mount", *words], check=True)


def attempt(experiment: str, out: str, *overrides: str) -> str:
    """Return the verdict of a run, or why it failed as it is told."""
    try:
        return discover(experiment, out=out, overrides=overrides).status
    except Exception as error:
        return failure_message(error)


def report(**found: Any) -> None:
    """Print what was found."""
    sys.stdout.write(json.dumps(found))
