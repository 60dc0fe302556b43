from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flows import server
from flows.api import prefect_api
from flows.server import LocalServer, ServerError

ROOT = Path(__file__).parent.parent.parent


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_a_server_answers_and_is_gone_after_stop(prefect_home: Path) -> None:
    local = LocalServer(prefect_home)
    local.wait()
    assert answers(local.port)
    assert local.url == f"http://127.0.0.1:{local.port}/api"
    local.stop()
    assert not answers(local.port)


def test_a_server_that_cannot_start_says_where_to_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server.sys, "executable", "/bin/false")
    local = LocalServer(tmp_path)
    with pytest.raises(ServerError, match=r"server\.log"):
        local.wait()
    local.stop()


def test_the_home_is_in_the_folder_of_runs_unless_the_environment_names_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Quiet:
        url = "http://127.0.0.1:1/api"

        def __init__(self, home: Path) -> None:
            homes.append(home)

        def stop(self) -> None:
            homes.append(Path("stopped"))

    homes: list[Path] = []
    monkeypatch.setattr("flows.api.LocalServer", Quiet)
    for name in ("PREFECT_HOME", "PREFECT_API_URL", "NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    with prefect_api(tmp_path / "runs"):
        assert os.environ["PREFECT_API_URL"] == Quiet.url
        assert os.environ["NO_PROXY"] == "127.0.0.1"
    assert homes == [tmp_path / "runs" / ".prefect", Path("stopped")]
    assert "PREFECT_API_URL" not in os.environ

    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "home"))
    with prefect_api(tmp_path / "runs"):
        pass
    assert homes[2] == tmp_path / "home"


def test_no_server_is_started_where_the_environment_names_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://example.invalid/api")
    with prefect_api(tmp_path) as started:
        assert started is None
    assert os.environ["PREFECT_API_URL"] == "http://example.invalid/api"


def test_a_killed_parent_takes_the_server_with_it(prefect_home: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from flows.server import LocalServer\n"
        "server = LocalServer(Path(sys.argv[1])); print(server.port, flush=True)\n"
        "server.wait(); print('up', flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(prefect_home)], stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as parent:
        assert parent.stdout is not None
        port = int(parent.stdout.readline())
        assert parent.stdout.readline() == "up\n"
        assert answers(port)
        parent.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 5
    while answers(port) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not answers(port)
