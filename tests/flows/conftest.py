"""Prefect for the tests of the flows: a home in a temporary folder, never the user's, and one server."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.server import QUIET, LocalServer

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
