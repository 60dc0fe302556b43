"""What the tests of faults share, and the count of faults tried and survived."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from tests.faults.counts import Counts, document, form_of
from tests.faults.zygote import Zygote

COUNTS = pytest.StashKey[Counts]()
FIGURES = pytest.StashKey[dict[str, Any]]()

WARM = (
    "torch",
    "sympy",
    "scipy.integrate",
    "pysindy",
    "matplotlib.figure",
    "jinja2",
    "sciml_discover.report",
)


def pytest_configure(config: pytest.Config) -> None:
    config.stash[COUNTS], config.stash[FIGURES] = Counts(), {}
    for form, examples in {"small": 30, "whole": 500}.items():
        hypothesis.settings.register_profile(f"faults {form}", deadline=None, max_examples=examples)
    hypothesis.settings.load_profile(f"faults {form_of(config)}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    marker = item.get_closest_marker("faults")
    if marker is not None and marker.args:
        item.config.stash[COUNTS].add(marker.args[0], item.nodeid, report)
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    counts = config.stash[COUNTS]
    if not counts and not config.stash[FIGURES]:
        return
    terminalreporter.section(f"faults, {form_of(config)}")
    for row in counts.rows():
        terminalreporter.write_line(f"{row['survived']:4d} of {row['tried']:4d} survived: {row['fault']}")
    file = config.getoption("--faults-json")
    if file:
        path, form = Path(file), form_of(config)
        before = json.loads(path.read_text()) if path.exists() else None
        if before is not None and before["form"] != form:
            before = None
        content = document(counts, form, config.stash[FIGURES], before)
        path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")


@pytest.fixture(scope="session")
def whole_form(request: pytest.FixtureRequest) -> None:
    """Skip what takes too long for every day."""
    if form_of(request.config) != "whole":
        pytest.skip("takes long: --faults whole tries it")


@pytest.fixture(scope="session")
def figures(request: pytest.FixtureRequest) -> dict[str, Any]:
    """What is measured beside, for the JSON document."""
    return request.config.stash[FIGURES]


@pytest.fixture(scope="session")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zygote]:
    """Runs of all stages without the time that imports take."""
    zygote = Zygote(tmp_path_factory.mktemp("warm"), WARM)
    yield zygote
    zygote.close()
