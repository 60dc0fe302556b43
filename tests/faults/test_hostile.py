"""Hostile input is told in one line, with exit status 2, in seconds and in bounded memory; none of it is run."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from sciml_discover.experiment import load_experiment
from sciml_discover.readers import prepare_data
from tests.faults.counts import form_of
from tests.faults.hostile import FAMILIES, SCHEMA, Chance, write_good
from tests.faults.zygote import Zygote

MOST_SECONDS = 5.0
MOST_BYTES = 10**9
COUNTS = {"small": 1, "whole": 10}
"""Experiments of each family."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "family" in metafunc.fixturenames:
        count = COUNTS[form_of(metafunc.config)]
        cases = [
            pytest.param(
                name, number, marks=pytest.mark.faults(f"hostile input: {name}"), id=f"{name}-{number}"
            )
            for name in FAMILIES
            for number in range(count)
        ]
        metafunc.parametrize(("family", "number"), cases)


@pytest.fixture(scope="module")
def readers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zygote]:
    """The command line, with what is needed until the first stage that computes."""
    modules = ("flows.cli", "flows.launch", "rich.console", "scipy.integrate", "pyarrow.parquet")
    # Nobody answers there, so that no server is started: whatever is not refused ends with status 1.
    nowhere = {"PREFECT_API_URL": "http://127.0.0.1:9/api"}
    zygote = Zygote(tmp_path_factory.mktemp("hostile"), modules, nowhere)
    yield zygote
    zygote.close()


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    write_good(tmp_path / "case")
    yield tmp_path / "case"
    shutil.rmtree(tmp_path)


def test_hostile_input_is_refused(readers: Zygote, folder: Path, family: str, number: int) -> None:
    sets = FAMILIES[family](folder, Chance(family, number)) or []
    words = [word for one in sets for word in ("--set", one)]
    out = folder.parent / "runs"
    ended = readers.call(
        "command", "run", str(folder / "experiment.toml"), "--out", str(out), "--json", *words
    )
    assert ended.status == 2, ended
    assert ended.out == ""
    assert ended.err.startswith("sciml-discover: ")
    assert len(ended.err.splitlines()) == 1
    assert ended.err.rstrip("\n").isprintable()
    assert len(ended.err) < 2000
    assert ended.seconds < MOST_SECONDS
    assert ended.peak < MOST_BYTES
    assert not (folder.parent / "canary").exists()
    assert not list(out.glob("*/result.json"))


def test_what_is_spoilt_was_good(folder: Path) -> None:
    loaded = load_experiment(folder / "experiment.toml")
    prepare_data(loaded.experiment.data, loaded.experiment.system, folder, 0)


def test_every_whole_number_of_an_experiment_has_an_upper_bound() -> None:
    def unbounded(node: object, path: str = "") -> Iterator[str]:
        if isinstance(node, dict):
            if node.get("type") == "integer" and not node.keys() & {"maximum", "exclusiveMaximum", "enum"}:
                yield path
            for name, inner in node.items():
                yield from unbounded(inner, f"{path}/{name}")
        elif isinstance(node, list):
            for inner in node:
                yield from unbounded(inner, path)

    assert list(unbounded(SCHEMA)) == []
