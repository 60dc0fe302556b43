"""Prefect servers on this machine: no network, reached with a password that is made for each.

One that lives as long as one command takes seconds to start, so it is started before the heavy
imports and awaited after them. Which server a command uses is decided in `flows.api`. Nothing here
imports Prefect.
"""

from __future__ import annotations

import http.client
import os
import secrets
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

HOST = "127.0.0.1"
SCRIPT = Path(__file__).with_name("server_process.py")
START_SECONDS = 120

PRIVATE = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_CLOUD_ENABLE_ORCHESTRATION_TELEMETRY": "false",
    "DO_NOT_TRACK": "1",
}
"""Settings that keep Prefect to itself, unless the environment says otherwise."""

QUIET = {
    **PRIVATE,
    "PREFECT_LOGGING_LEVEL": "CRITICAL",  # failures are told by the command line, traces are in run.log
    "PREFECT_LOGGING_TO_API_ENABLED": "false",
}
"""The same for commands that tell of runs themselves."""


class ServerError(Exception):
    """A server on this machine did not start, or does not stop."""


class Server:
    """Where a Prefect server on this machine listens.

    Args:
        port: of the API.
        log: where to look if it does not answer.
    """

    def __init__(self, port: int, log: Path) -> None:
        self.port = port
        self._log = log

    @property
    def url(self) -> str:
        """The address of the API."""
        return f"http://{HOST}:{self.port}/api"

    def wait(self) -> None:
        """Return when the server answers.

        Raises:
            ServerError: if it stopped, or does not answer within two minutes.
        """
        # The socket listens since before the process began, so that this call simply waits its turn.
        connection = http.client.HTTPConnection(HOST, self.port, timeout=START_SECONDS)
        try:
            connection.request("GET", "/api/health")
            status = connection.getresponse().status
        except OSError as error:
            # Refused: nobody listens any more, so the process has ended.
            what = "did not start" if isinstance(error, ConnectionError) else "does not answer"
            raise ServerError(f"the local Prefect server {what} ({error}); see {self._log}") from error
        finally:
            connection.close()
        if status != http.HTTPStatus.OK:
            raise ServerError(f"the local Prefect server answers with status {status}; see {self._log}")


class LocalServer(Server):
    """A Prefect server in a child process, which ends with this one.

    Args:
        home: folder of its database, the ``PREFECT_HOME``.
        plans: whether it plans the runs of schedules, as one that stays up does.
    """

    def __init__(self, home: Path, *, plans: bool = False) -> None:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        log = home / "server.log"
        environment = {"PREFECT_HOME": str(home), "PREFECT_UI_ENABLED": "false"}
        if not plans:
            environment["PREFECT__SERVER_EPHEMERAL"] = "1"
        with free_port() as listener, log.open("wb") as file:
            super().__init__(listener.getsockname()[1], log)
            self._process = server_process(listener, str(os.getpid()), log=file, environment=environment)

    def stop(self) -> None:
        """End the server, in a second at most: its database survives worse than a kill."""
        self._process.terminate()
        try:
            self._process.wait(1)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def free_port() -> socket.socket:
    """Return a socket that listens on a port that nobody else uses, for this machine alone."""
    return socket.create_server((HOST, 0))


def server_process(
    listener: socket.socket,
    *arguments: str,
    log: BinaryIO,
    environment: dict[str, str],
    kept: tuple[int, ...] = (),
) -> subprocess.Popen[bytes]:
    """Return the process of a server that has just begun; see `flows.server_process`.

    Args:
        listener: the socket that it serves.
        arguments: how long it lives.
        log: where its output goes.
        environment: changes of this process's.
        kept: further descriptors that it inherits.
    """
    return subprocess.Popen(
        # -P: the folder of the script must not come first among the places to import from.
        [sys.executable, "-P", str(SCRIPT), str(listener.fileno()), *arguments],
        pass_fds=[listener.fileno(), *kept],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        start_new_session=True,  # Ctrl-C is for this process, which then stops the child
        env={**os.environ, **environment, "PREFECT__SERVER_FINAL": "1"},
    )


def prefect_home(out: Path, settings: Mapping[str, str] = QUIET) -> Path:
    """Set what keeps Prefect to itself, and return the folder of its database.

    That is ``PREFECT_HOME``, or else ``.prefect`` in the folder of runs.
    """
    home = Path(os.environ.setdefault("PREFECT_HOME", str((out / ".prefect").resolve())))
    for name, value in settings.items():
        os.environ.setdefault(name, value)
    return home


def new_password() -> str:
    """Return what a new server asks of its clients: other users of this machine can reach its port."""
    return f"sciml-discover:{secrets.token_urlsafe(18)}"
