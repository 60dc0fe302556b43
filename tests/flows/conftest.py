"""Prefect for the tests of the flows: a home in a temporary folder, never the user's, and one server."""

from __future__ import annotations

import os
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.server import QUIET, LocalServer
from flows.staying_server import StayingServer, start_server

# Prefect reads its settings when it is imported, which the test modules do.
_FOLDER = tempfile.TemporaryDirectory(prefix="prefect-home-")
HOME = Path(_FOLDER.name)
os.environ.update(QUIET, PREFECT_HOME=str(HOME))
os.environ.pop("PREFECT_API_URL", None)


@pytest.fixture(scope="session")
def prefect_home() -> Path:
    """A home whose database is ready, so that further servers start quickly."""
    server = LocalServer(HOME)
    server.wait()
    server.stop()
    return HOME


@pytest.fixture(scope="session")
def api(prefect_home: Path) -> Iterator[str]:
    """The address of a server that all tests in this process share."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    server = LocalServer(prefect_home)
    server.wait()
    with temporary_settings({PREFECT_API_URL: server.url}):
        yield server.url
    server.stop()


def copy_database(home: Path, other: Path) -> None:
    """Give another home the database of one, so that its servers start as quickly."""
    with sqlite3.connect(home / "prefect.db") as ready, sqlite3.connect(other / "prefect.db") as copy:
        ready.backup(copy)
    ready.close()
    copy.close()


@pytest.fixture(scope="session")
def staying(prefect_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[StayingServer]:
    """A server that stays up, and plans schedules, until the last test has ended."""
    home = tmp_path_factory.mktemp("staying-home")
    copy_database(prefect_home, home)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_SERVER_SERVICES_SCHEDULER_RECENT_DEPLOYMENTS_LOOP_SECONDS", "0.5")
        server, begun = start_server(home)
    assert begun
    try:
        yield server
    finally:
        server.stop()
    assert not (home / "staying-server.json").exists()


@pytest.fixture
def lasting(staying: StayingServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[StayingServer]:
    """The same server as the one that commands and Prefect in this process use."""
    from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

    monkeypatch.setenv("PREFECT_API_URL", staying.url)
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", staying.password)
    with temporary_settings({PREFECT_API_URL: staying.url, PREFECT_API_AUTH_STRING: staying.password}):
        yield staying
