"""A disk that is full, a store that may only be read, or that is gone: told in one line, and the work is kept."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from sciml_discover.stages import STAGES
from tests.fakes import write_experiment
from tests.faults.counts import form_of
from tests.faults.zygote import Ended, Zygote

NAMES = [stage.name for stage in STAGES]
SIZES = {"small": (48,), "whole": tuple(range(4, 84, 4))}
"""Kilobytes of the disk; a run needs about eighty."""
LIMITS = {"small": (2,), "whole": (0, 1, 2, 3, 4, 5, 6, 8, 10, 12)}
"""Kilobytes of a file."""

NAMESPACE = ("unshare", "--user", "--map-root-user", "--mount")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    for name, values in (("size", SIZES), ("limit", LIMITS)):
        if name in metafunc.fixturenames:
            metafunc.parametrize(name, values[form_of(metafunc.config)])


@pytest.fixture(scope="module")
def mounting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zygote]:
    """Runs that can mount file systems, which nobody else sees."""
    probe = [*NAMESPACE, "mount", "-t", "tmpfs", "none", str(tmp_path_factory.mktemp("probe"))]
    try:
        subprocess.run(probe, check=True, capture_output=True, timeout=20)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this machine lets nobody mount a file system of his own")
    zygote = Zygote(tmp_path_factory.mktemp("mounting"), (), within=NAMESPACE)
    yield zygote
    zygote.close()


@pytest.fixture
def call(tmp_path: Path) -> tuple[str, str]:
    (tmp_path / "runs").mkdir()
    return str(write_experiment(tmp_path / "hares")), str(tmp_path / "runs")


def check(ended: Ended, reasons: tuple[str, ...]) -> None:
    assert ended.status == 0, ended.err
    found = json.loads(ended.out)
    if found["told"] != "accepted":
        assert any(reason in found["told"] for reason in reasons), found
        assert "\n" not in found["told"]
    assert found["again"] == "accepted"
    assert found["damages"] == 0
    # What was made before and whole is not made again; what was being made when it failed is.
    done = found["made"] if found["told"] == "accepted" else found["made"][:-1]
    assert [name for name in NAMES if name not in done] == found["made_again"]


@pytest.mark.faults("the disk full in the middle of a run (a file system of its own), then space freed")
def test_a_full_disk(mounting: Zygote, call: tuple[str, str], size: int) -> None:
    check(mounting.call("fill_disk", *call, size), ("No space left on device", "cannot be written to"))


@pytest.mark.faults("a limit on the size of files in the middle of a run, then lifted")
def test_a_limit_on_files(warm: Zygote, call: tuple[str, str], limit: int) -> None:
    check(warm.call("limit_files", *call, limit), ("File too large",))


@pytest.mark.faults("a store that may only be read")
def test_a_store_that_may_only_be_read(mounting: Zygote, call: tuple[str, str]) -> None:
    ended = mounting.call("lock_store", *call)
    assert ended.status == 0, ended.err
    found = json.loads(ended.out)
    assert (found["told"], found["made"]) == ("accepted", [])
    assert "Read-only file system" in found["new"]
    assert "Make the folder of runs writable" in found["new"]
    assert found["again"] == "accepted"
    assert found["damages"] == 0
