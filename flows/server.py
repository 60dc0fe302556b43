"""A local Prefect server for as long as one command runs: no network, nothing left behind.

Starting it takes seconds, so it is started before the heavy imports and awaited after them.
Nothing here imports Prefect.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

START_SECONDS = 120

QUIET = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_LOGGING_LEVEL": "CRITICAL",  # failures are told by the command line, traces are in run.log
    "PREFECT_LOGGING_TO_API_ENABLED": "false",
    "PREFECT_CLOUD_ENABLE_ORCHESTRATION_TELEMETRY": "false",
    "DO_NOT_TRACK": "1",
}
"""Settings that keep Prefect to itself, unless the environment says otherwise."""


class ServerError(Exception):
    """The local server did not start."""


class LocalServer:
    """A Prefect server in a child process.

    Args:
        home: folder of its database, the ``PREFECT_HOME``.
    """

    def __init__(self, home: Path) -> None:
        home.mkdir(parents=True, exist_ok=True)
        self._log = home / "server.log"
        with socket.create_server(("127.0.0.1", 0)) as listener, self._log.open("wb") as log:
            self.port: int = listener.getsockname()[1]
            script = Path(__file__).with_name("server_process.py")
            self._process = subprocess.Popen(
                # -P: the folder of the script must not come first among the places to import from.
                [sys.executable, "-P", str(script), str(listener.fileno()), str(os.getpid())],
                pass_fds=[listener.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for this process, which then stops the child
                env={
                    **os.environ,
                    "PREFECT_HOME": str(home),
                    "PREFECT_UI_ENABLED": "false",
                    "PREFECT__SERVER_EPHEMERAL": "1",
                    "PREFECT__SERVER_FINAL": "1",
                },
            )

    @property
    def url(self) -> str:
        """The address of the API."""
        return f"http://127.0.0.1:{self.port}/api"

    def wait(self) -> None:
        """Return when the server answers.

        Raises:
            ServerError: if it stopped, or does not answer within two minutes.
        """
        # The socket listens since before the child began, so that this call simply waits its turn.
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=START_SECONDS)
        try:
            connection.request("GET", "/api/health")
            status = connection.getresponse().status
        except OSError as error:
            raise ServerError(f"the local Prefect server did not start ({error}); see {self._log}") from error
        finally:
            connection.close()
        if status != http.HTTPStatus.OK:
            raise ServerError(f"the local Prefect server answers with status {status}; see {self._log}")

    def stop(self) -> None:
        """End the server, in a second at most: its database survives worse than a kill."""
        self._process.terminate()
        try:
            self._process.wait(1)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@contextlib.contextmanager
def prefect_api(out: Path) -> Iterator[LocalServer | None]:
    """Set the environment for Prefect, start a server unless ``PREFECT_API_URL`` names one, end it after.

    The database lies in ``PREFECT_HOME``, or else in ``.prefect`` of the folder of runs.
    """
    home = Path(os.environ.setdefault("PREFECT_HOME", str((out / ".prefect").resolve())))
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    if os.environ.get("PREFECT_API_URL"):
        yield None
        return
    server = LocalServer(home)
    os.environ["PREFECT_API_URL"] = server.url
    # A proxy of the outer world knows nothing of a server on this machine.
    for name in ("NO_PROXY", "no_proxy"):
        os.environ[name] = ",".join(filter(None, [os.environ.get(name), "127.0.0.1"]))
    try:
        yield server
    finally:
        server.stop()
        del os.environ["PREFECT_API_URL"]
