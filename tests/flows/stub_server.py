"""What `flows.server_process` does for a server that stays up, with nothing of Prefect behind it.

Answers every request with status 200; ``STUB_FAILS`` lets it end at once.
"""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

from flows.server_process import detach, recorded

if __name__ == "__main__":
    detach()
    if os.environ.get("STUB_FAILS"):
        sys.exit(1)
    listener = socket.socket(fileno=int(sys.argv[1]))
    with recorded(listener, Path(sys.argv[3])):
        while True:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
