"""How long the command takes, from process start to exit, when the store has everything."""

from __future__ import annotations

import os
import socket
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.experiments import write_logistic
from tests.faults.outcome import processors_time
from tests.faults.zygote import ROOT

AIMS = {"own server": 10.0, "staying server": 4.0}
TIMES = 5

pytestmark = [pytest.mark.faults, pytest.mark.usefixtures("whole_form")]


def run(folder: Path, **environment: str) -> tuple[float, float]:
    """Return the seconds that one run takes, and how much of the processors' time it takes with its server."""
    inherited = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
    experiment, out = folder / "logistic" / "experiment.toml", folder / "runs"
    before, begun = processors_time(), time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "flows.cli", "run", str(experiment), "--out", str(out)],
        cwd=ROOT,
        env={**inherited, "PREFECT_HOME": str(folder / "home"), "OMP_NUM_THREADS": "1", **environment},
        check=True,
        capture_output=True,
    )
    return time.perf_counter() - begun, processors_time() - before


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the experiment, everything of which is in the store."""
    folder = tmp_path_factory.mktemp("cached")
    write_logistic(folder / "logistic")
    run(folder)
    return folder


@pytest.fixture(scope="module")
def staying(folder: Path) -> Iterator[str]:
    """The address of a server that stays up."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    environment = {"PREFECT_HOME": str(folder / "home"), "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    with subprocess.Popen(
        [sys.executable, "-m", "prefect", "server", "start", "--port", str(port), "--no-services"],
        env={**os.environ, **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as server:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/api/health", timeout=5).close()
                break
            except (urllib.error.URLError, TimeoutError):
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/api"
        server.terminate()


def check(server: str, found: list[tuple[float, float]], figures: dict[str, Any]) -> None:
    wall, busy = zip(*found, strict=True)
    figures[f"cached rerun, {server}"] = {
        "seconds": [round(one, 2) for one in wall],
        "processor seconds": [round(one, 2) for one in busy],
    }
    # Whatever else this machine does makes the wall clock run on.
    assert statistics.median(busy) < AIMS[server]


def test_with_its_own_server(folder: Path, figures: dict[str, Any]) -> None:
    check("own server", [run(folder) for _ in range(TIMES)], figures)


def test_with_a_server_that_stays(folder: Path, staying: str, figures: dict[str, Any]) -> None:
    run(folder, PREFECT_API_URL=staying)
    check("staying server", [run(folder, PREFECT_API_URL=staying) for _ in range(TIMES)], figures)
