"""The process of the local Prefect server. It dies with the process that started it.

Run as a script with two arguments: the number of the listening socket that it inherits, and the
process id of its parent.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import socket
import sys
import threading
import time
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


def serve(descriptor: int) -> None:
    """Serve the Prefect API on an inherited listening socket until told to stop."""
    # Only one server at a time may bring a fresh database into shape.
    lock = (Path(os.environ["PREFECT_HOME"]) / "server-start.lock").open("w")
    fcntl.flock(lock, fcntl.LOCK_EX)
    import uvicorn

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            lock.close()

    # A client that computes for minutes must find its connection as it left it: when the server
    # closes one while a request is on its way, the client's retries can take a minute.
    patience = {"timeout_keep_alive": 24 * 3600}
    config: dict[str, Any] = {"factory": True, "log_level": "error", "lifespan": "on", **patience}
    server = Server(uvicorn.Config("prefect.server.api.server:create_app", **config))
    server.run(sockets=[socket.socket(fileno=descriptor)])


if __name__ == "__main__":
    die_with(int(sys.argv[2]))
    serve(int(sys.argv[1]))
