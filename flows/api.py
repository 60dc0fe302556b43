"""Which Prefect server a command uses: the environment's, the one that stays up, or one of its own.

Nothing here imports Prefect.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from flows.server import HOST, QUIET, LocalServer, Server, new_password, prefect_home
from flows.staying_server import find_server


@contextlib.contextmanager
def prefect_api(out: Path, *, plans: bool = False) -> Iterator[Server | None]:
    """Have a Prefect API in the environment: that of ``PREFECT_API_URL``, the staying server's, or an own one.

    A server that comes out must be waited for; None is given where the environment names one.
    ``plans`` says whether schedules must have an effect there.
    """
    home = prefect_home(out)
    if os.environ.get("PREFECT_API_URL"):
        yield None
        return
    staying = find_server(home)
    if staying is not None:
        with _in_environment(staying, staying.password):
            yield staying
        return
    password = new_password()
    with _environment(PREFECT_SERVER_API_AUTH_STRING=password):
        server = LocalServer(home, plans=True) if plans else LocalServer(home)
    try:
        with _in_environment(server, password):
            yield server
    finally:
        server.stop()


@contextlib.contextmanager
def lasting_api(out: Path, settings: Mapping[str, str] = QUIET) -> Iterator[None]:
    """Have a Prefect API in the environment that is still there when this process is not.

    Raises:
        InputError: if there is none.
    """
    from sciml_discover.errors import InputError

    home = prefect_home(out, settings)
    if os.environ.get("PREFECT_API_URL"):
        yield
        return
    staying = find_server(home)
    if staying is None:
        raise InputError(
            "no Prefect server that stays up",
            where=str(home),
            expected="one that was started there, or the address of another in PREFECT_API_URL",
            do=f"Start one: `sciml-discover server start --out {out}`.",
        )
    staying.wait()
    with _in_environment(staying, staying.password):
        yield


@contextlib.contextmanager
def _in_environment(server: Server, password: str) -> Iterator[None]:
    # A proxy of the outer world knows nothing of a server on this machine.
    direct = {name: ",".join(filter(None, [os.environ.get(name), HOST])) for name in ("NO_PROXY", "no_proxy")}
    with _environment(PREFECT_API_URL=server.url, PREFECT_API_AUTH_STRING=password, **direct):
        yield


@contextlib.contextmanager
def _environment(**changes: str) -> Iterator[None]:
    """Change environment variables for as long as the context lasts."""
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
