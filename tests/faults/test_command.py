"""The whole command: Ctrl-C at any moment, and servers that are killed, missing or something else."""

from __future__ import annotations

import http.server
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from sciml_discover.run_folders import list_runs
from sciml_discover.stages import STAGES
from tests.fakes import write_experiment
from tests.faults.counts import form_of
from tests.faults.outcome import locks_left, processes_of
from tests.faults.zygote import ROOT

NAMES = [stage.name for stage in STAGES]
KEPT = "What is finished is kept; the same command goes on from there."
COUNTS = {
    "small": {"moment": 1, "stage": ["select"], "where": ["nobody"]},
    "whole": {
        "moment": 16,
        "stage": ["train", "sample", "select", "report"],
        "where": ["nobody", "website", "silent", "nonsense"],
    },
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    counts = COUNTS[form_of(metafunc.config)]
    if "moment" in metafunc.fixturenames:
        generator = random.Random("Ctrl-C")
        metafunc.parametrize("moment", [round(generator.random(), 3) for _ in range(counts["moment"])])
    for name in {"stage", "where"} & set(metafunc.fixturenames):
        metafunc.parametrize(name, counts[name])


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of Prefect that was used before."""
    folder = tmp_path_factory.mktemp("home")
    experiment = write_experiment(folder / "hares")
    with start(experiment, folder / "runs", folder) as process:
        assert process.wait(120) == 0
    return folder


def start(
    experiment: Path, out: Path, home: Path, stderr: int | IO[str] = subprocess.PIPE, /, **environment: str
) -> subprocess.Popen[str]:
    """Start the command with stand-ins for the verbs."""
    inherited = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
    return subprocess.Popen(
        [sys.executable, "-m", "tests.flows.fake_cli", "run", str(experiment), "--out", str(out)],
        cwd=ROOT,
        env={
            **inherited,
            "PREFECT_HOME": str(home),
            "COLUMNS": "200",
            "FAULTS_MARK": str(out),
            **environment,
        },
        stderr=stderr,
        text=True,
    )


@pytest.fixture
def case(tmp_path: Path) -> tuple[Path, Path]:
    return write_experiment(tmp_path / "hares"), tmp_path / "runs"


def finishes(case: tuple[Path, Path], home: Path) -> None:
    """The next run goes on to the end, and leaves nothing behind."""
    with start(*case, home) as process:
        _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert processes_of(str(case[1])) == []
    assert locks_left(case[1]) == []


@pytest.fixture(scope="module")
def seconds(home: Path) -> float:
    """How long the command takes until it leaves a stage of two seconds."""
    environment = {"FAKE_SLEEP": "select", "FAKE_SECONDS": "2", "FAKE_BEGIN": "begun\n"}
    with start(home / "hares" / "experiment.toml", home / "timed", home, **environment) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "begun\n"
        begun = time.monotonic()
        while "select   made in" not in process.stderr.readline():
            assert process.poll() is None
        seconds = time.monotonic() - begun
        process.kill()
    return seconds


@pytest.mark.usefixtures("whole_form")
@pytest.mark.faults(
    "Ctrl-C at a random moment of the command: gone within 3 s, exit status 130, then a rerun"
)
def test_ctrl_c_at_any_moment(case: tuple[Path, Path], home: Path, seconds: float, moment: float) -> None:
    told = case[0].with_name("told")
    pause = {"FAKE_SLEEP": "select", "FAKE_SECONDS": "2", "FAKE_BEGIN": "begun\n"}
    with told.open("w") as file, start(*case, home, file, **pause) as process:
        while not told.read_text():  # Python and the stand-ins are being imported
            assert process.poll() is None
            time.sleep(0.01)
        time.sleep(0.9 * moment * seconds)
        if "report   made in" in told.read_text() or process.poll() is not None:
            process.wait(60)
            pytest.skip("this one was quicker than the one that was timed, and had ended by then")
        process.send_signal(signal.SIGINT)
        sent = time.monotonic()
        process.wait(60)
        took = time.monotonic() - sent
    said = told.read_text()
    assert process.returncode == 130, said
    assert took < 3, took
    last = said.splitlines()[-1]
    assert last.startswith("sciml-discover: interrupted"), said
    assert "the same command" in last, said
    assert ("made in" in said) <= (KEPT in last), said
    assert "Traceback" not in said
    finishes(case, home)


def server_of(process: subprocess.Popen[str]) -> int:
    """Return the process id of the server that a command brought along."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
            command = (folder / "cmdline").read_text()
        except OSError:
            continue
        if parent == str(process.pid) and "server_process.py" in command:
            return int(folder.name)
    raise LookupError("no server")


@pytest.mark.usefixtures("whole_form")
@pytest.mark.faults("the command's server killed in mid-flow: the result is whole, and it is said")
def test_a_server_that_is_killed(case: tuple[Path, Path], home: Path, stage: str) -> None:
    # One attempt more, after two seconds, where there are three otherwise.
    patience = {"PREFECT_CLIENT_MAX_RETRIES": "1"}
    with start(*case, home, FAKE_SLEEP=stage, FAKE_SECONDS="3", **patience) as process:
        assert process.stderr is not None
        while "asleep" not in process.stderr.readline():
            assert process.poll() is None
        os.kill(server_of(process), signal.SIGKILL)
        _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert "does not answer any more" in said
    assert "The result is whole." in said
    assert "Traceback" not in said
    assert max(map(len, said.splitlines())) < 400
    (record,) = list_runs(case[1])
    assert record.result is not None
    assert record.result.accepted
    finishes(case, home)


@pytest.mark.usefixtures("whole_form")
@pytest.mark.faults("the command's server killed while it starts")
def test_a_server_that_is_killed_before_it_answers(case: tuple[Path, Path], home: Path) -> None:
    with start(*case, home) as process:
        while True:
            try:
                os.kill(server_of(process), signal.SIGKILL)
                break
            except LookupError:
                assert process.poll() is None
                time.sleep(0.01)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    assert len(said.splitlines()) == 1
    assert "did not start" in said
    assert "server.log" in said
    finishes(case, home)


class Website(http.server.BaseHTTPRequestHandler):
    """Something else than Prefect."""

    def do_GET(self) -> None:
        self.send_error(404)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def website() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Website) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/api"
        server.shutdown()
        thread.join()


@pytest.fixture
def silent() -> Iterator[str]:
    """Somebody who listens and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/api"


@pytest.mark.faults("PREFECT_API_URL pointing nowhere, at something else, or at nonsense")
def test_an_address_where_no_prefect_is(
    case: tuple[Path, Path], tmp_path: Path, where: str, website: str, silent: str
) -> None:
    address = {"nobody": "http://127.0.0.1:9/api", "website": website, "silent": silent}.get(where, where)
    begun = time.monotonic()
    with start(*case, tmp_path / "home", PREFECT_API_URL=address) as process:
        _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    assert len(said.splitlines()) == 1, said
    assert f"no Prefect server answers at PREFECT_API_URL = {address}" in said
    assert "unset PREFECT_API_URL" in said
    assert time.monotonic() - begun < 25
    assert not list(case[1].glob("*/result.json"))


@pytest.mark.usefixtures("whole_form")
@pytest.mark.faults("Prefect's own port taken by somebody else")
def test_a_port_that_is_taken(case: tuple[Path, Path], home: Path) -> None:
    try:
        taken = socket.create_server(("127.0.0.1", 4200))
    except OSError:
        taken = socket.socket()  # somebody has it anyway
    with taken:
        finishes(case, home)
    (record,) = list_runs(case[1])
    assert record.result is not None
    assert json.loads((record.folder / "result.json").read_text())["status"] == "accepted"
