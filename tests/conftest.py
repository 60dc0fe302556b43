"""What every test shares."""

from __future__ import annotations

import pytest

from tests.artifacts import SmallRun, small_run


@pytest.fixture(scope="session")
def run_artifacts() -> SmallRun:
    """The artifacts of a small run with hold-out rows and a known truth."""
    return small_run()
