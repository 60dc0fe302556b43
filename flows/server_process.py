"""The process of a Prefect server on this machine.

Run as a script with two or three arguments: the number of the listening socket that it inherits, and
either the process id of its parent, with which it dies, or ``stay`` and the file in which it says
where it listens for as long as it does.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_PR_SET_PDEATHSIG = 1


def die_with(parent: int) -> None:
    """Make sure that this process ends when its parent does, even by kill -9."""
    if sys.platform != "linux":
        watch_parent(parent)
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the line above
        os._exit(1)


def watch_parent(parent: int) -> None:
    """End this process within a second of its parent's end.

    Unlike what `die_with` asks of the kernel, this does not mind which thread of the parent began
    this process, nor whether that thread goes on.
    """
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def detach() -> None:
    """Go on in a process that is nobody's child, so that nobody has to wait for its end."""
    if os.fork():
        os._exit(0)


@contextlib.contextmanager
def recorded(listener: socket.socket, record: Path) -> Iterator[None]:
    """Say in a file, which only its owner can read, where this process listens, until it is told to stop."""
    os.umask(0o077)  # for the database and the log as well
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    content = {
        "host": socket.gethostname(),
        "port": listener.getsockname()[1],
        "password": os.environ["PREFECT_SERVER_API_AUTH_STRING"],
        "process": os.getpid(),
    }
    temporary = record.with_suffix(".new")
    try:
        temporary.write_text(json.dumps(content))
        temporary.replace(record)
        yield
    finally:
        record.unlink(missing_ok=True)


def serve(listener: socket.socket) -> None:
    """Serve the Prefect API on a listening socket until told to stop."""
    # Only one server at a time may bring a fresh database into shape.
    lock = (Path(os.environ["PREFECT_HOME"]) / "server-start.lock").open("w")
    fcntl.flock(lock, fcntl.LOCK_EX)
    import uvicorn

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            lock.close()

    config: dict[str, Any] = {
        "factory": True,
        "log_level": "error",
        "lifespan": "on",
        # A client that computes for minutes must find its connection as it left it: when the server
        # closes one while a request is on its way, the client's retries can take a minute.
        "timeout_keep_alive": 24 * 3600,
        "timeout_graceful_shutdown": 3,
    }
    server = Server(uvicorn.Config("prefect.server.api.server:create_app", **config))
    server.run(sockets=[listener])


if __name__ == "__main__":
    inherited = socket.socket(fileno=int(sys.argv[1]))
    if sys.argv[2] == "stay":
        detach()
        with recorded(inherited, Path(sys.argv[3])):
            serve(inherited)
    else:
        die_with(int(sys.argv[2]))
        serve(inherited)
