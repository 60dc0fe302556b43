"""A local Prefect server that stays up: every later command finds it and need not start its own.

Its process holds a lock for as long as it lives, so that nobody takes a killed one for alive and
of two that start at once only one does. Beside the lock lies a record of where it listens and of
the password that it asks for, which only its owner can read. Nothing here imports Prefect.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from flows.server import HOST, Server, ServerError, free_port, new_password, server_process

BEGIN_SECONDS = 10.0
"""From the start of its process until it says where it listens: nothing heavy is imported before."""
STOP_SECONDS = 10.0
"""For what it is doing when it is told to stop; then it is killed."""


class StayingServer(Server):
    """A server that was started before, by this process or another.

    Attributes:
        home: the state folder, where its database lies.
        password: what its clients have to send, user and password with a colon between them.
        process: its process id.
    """

    def __init__(self, home: Path, port: int, password: str, process: int) -> None:
        super().__init__(port, log_in(home))
        self.home = home
        self.password = password
        self.process = process

    @property
    def ui(self) -> str:
        """The address of the user interface, for a browser on this machine."""
        return f"http://{HOST}:{self.port}"

    def stop(self) -> None:
        """End the server: what it is doing is finished, unless that takes long.

        Raises:
            ServerError: if its process does not end.
        """
        for how in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.process, how)
            if _comes_true(lambda: not _is_alive(self.home), STOP_SECONDS):
                record_in(self.home).unlink(missing_ok=True)
                return
        raise ServerError(f"process {self.process} does not end")


def record_in(home: Path) -> Path:
    """Return the file that says where the server of a state folder listens."""
    return home / "staying-server.json"


def log_in(home: Path) -> Path:
    """Return the file of what the server of a state folder has to say."""
    return home / "staying-server.log"


def find_server(home: Path) -> StayingServer | None:
    """Return the server that stays up for a state folder, or None.

    A record that a killed server left behind is removed, and said so on stderr.
    """
    server = _recorded(home)
    if server is None or _is_alive(home):
        return server
    record_in(home).unlink(missing_ok=True)
    sys.stderr.write(
        f"sciml-discover: the Prefect server at {server.url} was killed; its record is removed\n"
    )
    return None


def start_server(home: Path) -> tuple[StayingServer, bool]:
    """Return the server that stays up for a state folder, and whether it was started now.

    Raises:
        ServerError: if it does not start.
    """
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _lock_if_free(home) as lock:
        if lock is None:
            # Whoever has the lock says where it listens as soon as its process has begun.
            if not _comes_true(lambda: _recorded(home) is not None, BEGIN_SECONDS):
                raise ServerError(f"another server is just being started or stopped in {home}; try again")
            server = _recorded(home)
            if server is None:
                raise ServerError(f"the server in {home} has just been stopped; try again")
            server.wait()
            return server, False
        record_in(home).unlink(missing_ok=True)
        _begin(home, lock)
    _comes_true(lambda: _recorded(home) is not None or not _is_alive(home), BEGIN_SECONDS)
    server = _recorded(home)
    if server is None:
        raise ServerError(f"the local Prefect server did not start; see {log_in(home)}")
    try:
        server.wait()
    except BaseException:
        server.stop()
        raise
    return server, True


def _begin(home: Path, lock: int) -> None:
    environment = {
        "PREFECT_HOME": str(home),
        "PREFECT_SERVER_API_AUTH_STRING": new_password(),
        "PREFECT_UI_API_URL": "/api",  # wherever the browser found the page
        "PREFECT_UI_STATIC_DIRECTORY": str(home / "ui"),  # the packages may be read-only
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    }
    with free_port() as listener, log_in(home).open("wb") as log:
        record = str(record_in(home))
        server_process(listener, "stay", record, log=log, environment=environment, kept=(lock,)).wait()


def _recorded(home: Path) -> StayingServer | None:
    """Return the server that the record in a state folder tells of, if it is one of this machine."""
    try:
        record: dict[str, Any] = json.loads(record_in(home).read_bytes())
        if record["host"] != socket.gethostname():
            return None
        return StayingServer(home, int(record["port"]), str(record["password"]), int(record["process"]))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError) as error:
        raise ServerError(f"{record_in(home)} cannot be read ({error}); remove it") from error


def _is_alive(home: Path) -> bool:
    with _lock_if_free(home, shared=True) as lock:
        return lock is None


@contextlib.contextmanager
def _lock_if_free(home: Path, *, shared: bool = False) -> Iterator[int | None]:
    """Give the descriptor of the server's lock, or None if its process holds it.

    Not one of `sciml_discover.locks`: the server's process inherits it, and it ends with the last
    process that has the descriptor.
    """
    descriptor = os.open(home / "staying-server.lock", os.O_RDWR | os.O_CREAT, 0o600)
    mode = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB

    def try_once() -> bool:
        try:
            fcntl.flock(descriptor, mode)
        except BlockingIOError:
            return False
        return True

    try:
        # Others may hold it for the moment in which they look whether a server lives.
        yield descriptor if try_once() or (not shared and _comes_true(try_once, 0.2)) else None
    finally:
        os.close(descriptor)


def _comes_true(condition: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True
