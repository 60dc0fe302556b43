"""What every test shares."""

from __future__ import annotations

import pytest

from tests.artifacts import SmallRun, small_run


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("faults", "the tests marked faults")
    group.addoption("--faults", choices=("small", "whole"), default="small", help="how many faults to try")
    group.addoption("--faults-json", metavar="FILE", help="write what was tried and survived")


@pytest.fixture(scope="session")
def run_artifacts() -> SmallRun:
    """The artifacts of a small run with hold-out rows and a known truth."""
    return small_run()
