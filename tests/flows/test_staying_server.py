from __future__ import annotations

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from flows import server
from flows.api import lasting_api, prefect_api
from flows.cli import app
from flows.server import ServerError
from flows.staying_server import StayingServer, find_server, record_in, start_server
from sciml_discover.errors import InputError
from sciml_discover.run_folders import list_runs
from tests.fakes import write_experiment
from tests.flows.conftest import copy_database

ROOT = Path(__file__).parents[2]
STUB = Path(__file__).with_name("stub_server.py")
NAMES = ("PREFECT_API_URL", "PREFECT_API_AUTH_STRING", "PREFECT_HOME", "NO_PROXY", "no_proxy")


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The state folder of runs in ``tmp_path``, whose servers are stubs and gone at the end."""
    monkeypatch.setattr(server, "SCRIPT", STUB)
    for name in NAMES:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    home = tmp_path / "runs" / ".prefect"
    home.mkdir(parents=True)
    yield home
    left = find_server(home)
    if left is not None:
        left.stop()


def test_a_server_stays_and_is_found_until_it_is_stopped(home: Path) -> None:
    assert find_server(home) is None
    started, begun = start_server(home)
    assert begun
    assert answers(started.port)
    assert record_in(home).stat().st_mode & 0o777 == 0o600
    again, begun_again = start_server(home)
    found = find_server(home)
    assert found is not None
    assert (begun_again, again.url, found.url) == (False, started.url, started.url)
    assert again.password == found.password == started.password
    started.stop()
    assert not answers(started.port)
    assert find_server(home) is None
    assert not record_in(home).exists()


def test_of_two_that_start_at_once_one_does(home: Path) -> None:
    outcomes: list[tuple[StayingServer, bool]] = []
    together = threading.Barrier(4)

    def start() -> None:
        together.wait()
        outcomes.append(start_server(home))

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(begun for _, begun in outcomes) == [False, False, False, True]
    assert len({found.process for found, _ in outcomes}) == 1


def test_the_record_of_a_killed_server_is_removed_and_said_so(
    home: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    started, _ = start_server(home)
    os.kill(started.process, signal.SIGKILL)
    while answers(started.port):
        time.sleep(0.01)
    assert record_in(home).exists()
    assert find_server(home) is None
    assert not record_in(home).exists()
    assert "was killed" in capfd.readouterr().err
    anew, begun = start_server(home)
    assert begun
    assert anew.process != started.process


def test_a_server_that_does_not_start_leaves_nothing(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STUB_FAILS", "1")
    with pytest.raises(ServerError, match=r"staying-server\.log"):
        start_server(home)
    assert find_server(home) is None
    monkeypatch.delenv("STUB_FAILS")
    assert start_server(home)[1]


def test_a_server_that_does_not_listen_to_reason_is_killed(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.staying_server.STOP_SECONDS", 0.3)
    started, _ = start_server(home)
    os.kill(started.process, signal.SIGSTOP)
    started.stop()
    assert find_server(home) is None
    assert not answers(started.port)


def test_a_record_of_another_machine_or_of_nothing_is_not_taken_for_a_server(home: Path) -> None:
    record_in(home).write_text('{"host": "elsewhere", "port": 1, "password": "", "process": 1}')
    assert find_server(home) is None
    assert record_in(home).exists()
    record_in(home).write_text("{")
    with pytest.raises(ServerError, match="remove it"):
        find_server(home)
    record_in(home).unlink()


def test_commands_use_it_and_need_no_server_of_their_own(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started, _ = start_server(home)
    monkeypatch.setattr("flows.api.LocalServer", None)
    with prefect_api(home.parent) as used:
        assert used is not None
        used.wait()
        assert os.environ["PREFECT_API_URL"] == started.url
        assert os.environ["PREFECT_API_AUTH_STRING"] == started.password
        assert os.environ["NO_PROXY"] == "127.0.0.1"
    assert not set(os.environ) & {"PREFECT_API_URL", "PREFECT_API_AUTH_STRING", "NO_PROXY"}


def test_what_outlives_a_command_needs_a_server_that_does(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match="sciml-discover server start"), lasting_api(home.parent):
        pass
    monkeypatch.setenv("PREFECT_API_URL", "http://example.invalid/api")
    with lasting_api(home.parent):
        assert os.environ["PREFECT_API_URL"] == "http://example.invalid/api"


def test_the_commands_say_what_they_did(home: Path) -> None:
    def call(name: str) -> tuple[int, str]:
        done = CliRunner().invoke(app, ["server", name, "--out", str(home.parent)])
        assert done.stdout == ""
        return done.exit_code, done.stderr

    assert call("status") == (1, "no server is running\n")
    assert call("stop") == (0, "no server is running\n")
    status, told = call("start")
    assert (status, "✔ started" in told) == (0, True)
    status, told = call("start")
    assert (status, "already running" in told) == (0, True)
    started = find_server(home)
    assert started is not None
    status, told = call("status")
    assert status == 0
    assert started.url in told
    assert started.password in told
    assert call("stop") == (0, f"stopped: {started.url}\n")
    assert call("status")[0] == 1


def asked(server: StayingServer, path: str) -> Any:
    """What the server answers to a question with its password."""
    request = urllib.request.Request(f"{server.url}{path}", b"{}", {"Content-Type": "application/json"})
    request.add_header("Authorization", f"Basic {base64.b64encode(server.password.encode()).decode()}")
    with urllib.request.urlopen(request) as reply:
        return json.load(reply)


def test_the_real_one_answers_only_who_knows_its_password(staying: StayingServer) -> None:
    request = urllib.request.Request(
        f"{staying.url}/flows/count", b"{}", {"Content-Type": "application/json"}
    )
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(request)
    assert asked(staying, "/flows/count") >= 0
    with urllib.request.urlopen(f"{staying.ui}/ui-settings") as reply:
        assert json.load(reply)["api_url"] == "/api"
    assert (staying.home / "prefect.db").stat().st_size > 0


def test_it_shows_the_runs_that_had_servers_of_their_own(prefect_home: Path, tmp_path: Path) -> None:
    home, out = tmp_path / "home", tmp_path / "runs"
    home.mkdir()
    copy_database(prefect_home, home)
    experiment = write_experiment(tmp_path / "hares")
    subprocess.run(
        [sys.executable, "-m", "tests.flows.fake_cli", "run", str(experiment), "--out", str(out)],
        cwd=ROOT,
        env={**os.environ, "PREFECT_HOME": str(home)},
        check=True,
        capture_output=True,
    )
    [record] = list_runs(out)
    server, _ = start_server(home)
    try:
        states = {run["name"]: run["state_type"] for run in asked(server, "/flow_runs/filter")}
        assert states[record.folder.name] == "COMPLETED"
    finally:
        server.stop()


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="Linux tells who listens where")
def test_no_other_machine_can_reach_it(staying: StayingServer) -> None:
    rows = [
        line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:] if line.split()[3] == "0A"
    ]
    addresses = {place.split(":")[0] for _, place, *_ in rows if int(place.split(":")[1], 16) == staying.port}
    assert addresses == {"0100007F"}  # 127.0.0.1
