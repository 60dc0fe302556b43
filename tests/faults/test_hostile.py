"""Hostile input is told in one line, with exit status 2, in seconds and in bounded memory; none of it is run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sciml_discover.experiment import load_experiment
from sciml_discover.readers import prepare_data
from tests.faults.counts import form_of
from tests.faults.hostile import FAMILIES, SCHEMA, Chance, fingerprint, write_good
from tests.faults.outcome import processors_time
from tests.faults.zygote import ROOT, Zygote

MOST_SECONDS = 5.0
NOWHERE = {"PREFECT_API_URL": "http://127.0.0.1:9/api"}
"""Nobody answers there, so that no server is started: whatever is not refused ends with status 1."""
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
    zygote = Zygote(tmp_path_factory.mktemp("hostile"), modules, NOWHERE)
    yield zygote
    zygote.close()


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    write_good(tmp_path / "case")
    yield tmp_path / "case"
    shutil.rmtree(tmp_path)


def spoil(folder: Path, family: str, number: int) -> list[str]:
    """Spoil a good experiment, and return the words of the command that runs it."""
    sets = FAMILIES[family](folder, Chance(family, number)) or []
    out = folder.parent / "runs"
    overrides = [word for one in sets for word in ("--set", one)]
    return ["run", str(folder / "experiment.toml"), "--out", str(out), "--json", *overrides]


def is_refused(folder: Path, status: int, out: str, err: str) -> None:
    """Check how a command ended, and that nothing of the experiment was run."""
    assert (status, out) == (2, ""), err
    assert err.startswith("sciml-discover: ")
    assert len(err.splitlines()) == 1
    assert err.rstrip("\n").isprintable()
    assert len(err) < 2000
    assert not (folder.parent / "canary").exists()
    assert not list((folder.parent / "runs").glob("*/result.json"))


def test_hostile_input_is_refused(readers: Zygote, folder: Path, family: str, number: int) -> None:
    ended = readers.call("command", *spoil(folder, family, number))
    is_refused(folder, ended.status, ended.out, ended.err)
    assert ended.seconds < MOST_SECONDS
    assert ended.peak < MOST_BYTES


@pytest.mark.usefixtures("whole_form")
@pytest.mark.faults("hostile input from process start: told within 5 s of processor time")
@pytest.mark.parametrize("name", FAMILIES)
def test_hostile_input_is_refused_soon_after_the_start(folder: Path, name: str) -> None:
    words, before = spoil(folder, name, 0), processors_time()
    ended = subprocess.run(
        [sys.executable, "-m", "flows.cli", *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
        env={**os.environ, **NOWHERE, "COLUMNS": "200"},
    )
    busy = processors_time() - before
    is_refused(folder, ended.returncode, ended.stdout, ended.stderr)
    # Whatever else this machine does makes the wall clock run on.
    assert busy < MOST_SECONDS


@pytest.mark.faults
def test_no_two_hostile_experiments_are_the_same(tmp_path: Path) -> None:
    count, found = COUNTS["whole"], set()
    for name in FAMILIES:
        before = len(found)
        for number in range(count):
            write_good(tmp_path / "case")
            sets = FAMILIES[name](tmp_path / "case", Chance(name, number)) or []
            found.add(fingerprint(tmp_path / "case", sets))
            shutil.rmtree(tmp_path / "case")
        assert len(found) - before == count, name
    assert len(found) >= 200


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
