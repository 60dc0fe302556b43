"""Wrong inputs: one message that names the place and the fix, and exit status 2, never a traceback.

Every case is tried twice: through the library, and through the command line in this process. Two go
through a process of their own, as a user's shell would start it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from typer.testing import CliRunner

from flows.cli import app
from sciml_discover.errors import InputError
from sciml_discover.experiment import load_experiment
from sciml_discover.readers import input_digests, prepare_data

EXPERIMENT = """\
title = "bad on purpose"
[data]
files = ["pelts.csv"]
time = "year"
[data.noise]
sd = 1.0
[system.states]
hare = { positive = true }
lynx = { positive = true }
[system.parameters]
alpha = { value = 0.5, bounds = [0.0, 2.0] }
delta = { value = 0.8, bounds = [0.0, 2.0] }
[system.missing]
predation = ["hare", "lynx"]
growth = ["hare", "lynx"]
[system.equations]
hare = "alpha*hare - predation"
lynx = "growth - delta*lynx"
"""
ROWS = [
    "1900,30.0,4.0",
    "1901,47.2,6.1",
    "1902,70.2,9.8",
    "1903,77.4,35.2",
    "1904,36.3,59.4",
    "1905,20.6,41.7",
]
PELTS = "year,hare,lynx\n" + "\n".join(ROWS) + "\n"

Change = Callable[[Path], object]


@dataclass(frozen=True)
class Bad:
    """One wrong input.

    Attributes:
        name: what is wrong.
        spoil: makes it wrong, in a folder that holds a good experiment.
        where: the place that the message must begin with, after the name of the folder.
        pieces: what else the message must contain: what was found, and what to do.
        overrides: given with ``--set``.
    """

    name: str
    spoil: Change
    where: str
    pieces: tuple[str, ...]
    overrides: tuple[str, ...] = ()


def nothing(_: Path) -> None:
    """Leave the good experiment as it is."""


def toml(old: str, new: str) -> Change:
    """Replace a piece of the experiment file."""

    def change(folder: Path) -> None:
        text = (folder / "experiment.toml").read_text()
        assert old in text
        (folder / "experiment.toml").write_text(text.replace(old, new, 1))

    return change


def csv(old: str, new: str) -> Change:
    """Replace a piece of the data file, wherever it stands."""

    def change(folder: Path) -> None:
        assert old in PELTS
        (folder / "pelts.csv").write_text(PELTS.replace(old, new))

    return change


def data_file(name: str, content: bytes) -> Change:
    """Use another data file with this content."""

    def change(folder: Path) -> None:
        (folder / name).write_bytes(content)
        toml("pelts.csv", name)(folder)

    return change


def table(text: str) -> Change:
    """Append a table to the experiment file."""
    return toml('lynx = "growth - delta*lynx"\n', f'lynx = "growth - delta*lynx"\n{text}\n')


def columns(*, hare: Callable[[str], str]) -> Change:
    """Change every value of a column of the data file."""

    def change(folder: Path) -> None:
        cells = [row.split(",") for row in ROWS]
        rows = [f"{year},{hare(value)},{lynx}" for year, value, lynx in cells]
        (folder / "pelts.csv").write_text("year,hare,lynx\n" + "\n".join(rows) + "\n")

    return change


def link_outside(folder: Path) -> None:
    """Put a link in place of the data file that leads out of the folder."""
    (folder / "pelts.csv").rename(folder.parent / "elsewhere.csv")
    (folder / "pelts.csv").symlink_to(folder.parent / "elsewhere.csv")


def unreadable(folder: Path) -> None:
    """Put a folder in place of the data file."""
    (folder / "pelts.csv").unlink()
    (folder / "pelts.csv").mkdir()


def pickled(folder: Path) -> None:
    """Use an NPZ file that could only be read by running what is in it."""
    np.savez(folder / "pelts.npz", year=np.array([object()], dtype=object))
    toml("pelts.csv", "pelts.npz")(folder)


def stage(objective: str, optimizer: str, options: str = "") -> str:
    """Return a stage of training as it stands in the file."""
    more = f", {options}" if options else ""
    return f'{{ objective = {{ kind = "{objective}"{more} }}, optimizer = {{ kind = "{optimizer}" }} }}'


EQUATION = '"alpha*hare - predation"'
FILE = "experiment.toml: "

CASES = [
    # The experiment file as a file.
    Bad(
        "no such file",
        lambda folder: (folder / "experiment.toml").unlink(),
        "experiment.toml",
        ("no such file",),
    ),
    Bad("no TOML", toml("[data]", "[data"), "experiment.toml", ("not TOML", "line 2")),
    Bad(
        "no UTF-8",
        lambda folder: (folder / "experiment.toml").write_bytes(b'title = "\xff"'),
        "experiment.toml",
        ("not text", "Save it again in UTF-8"),
    ),
    # Keys and types.
    Bad("unknown table", toml("[data.noise]", "[noise]"), "experiment.toml", ("unknown key 'noise'",)),
    Bad(
        "unknown key",
        toml("time =", "tiem ="),
        f"{FILE}[data]",
        ("unknown key 'tiem'", "Did you mean 'time'?"),
    ),
    Bad(
        "missing key",
        toml("value = 0.5, ", ""),
        f"{FILE}[system.parameters.alpha]",
        ("no key 'value'", "Add it."),
    ),
    Bad(
        "text for a number",
        toml("0.5,", '"0.5",'),
        f"{FILE}[system.parameters.alpha] value",
        ("'0.5'", "number"),
    ),
    Bad(
        "zero starts",
        table("[train]\nstarts = 0"),
        f"{FILE}[train] starts",
        ("found 0", "greater than or equal to 1"),
    ),
    Bad(
        "unknown key set",
        nothing,
        f"{FILE}[train]",
        ("'startz'", "Did you mean 'starts'?"),
        ("train.startz=4",),
    ),
    Bad(
        "unknown preset",
        nothing,
        f"{FILE}[train] preset",
        ("'fast'", "'multiple_shooting'"),
        ("train.preset=fast",),
    ),
    Bad(
        "preset beside stages",
        nothing,
        f"{FILE}train",
        ("preset = 'single_shooting' beside stages", "Remove one of them"),
        ("train.preset=single_shooting", f"train.stages=[{stage('multiple_shooting', 'adam')}]"),
    ),
    Bad(
        "stages that never meet the equation",
        nothing,
        f"{FILE}train",
        ("end with derivative_matching", "Append a stage"),
        (f"train.stages=[{stage('derivative_matching', 'adam')}]",),
    ),
    Bad(
        "unknown objective",
        nothing,
        f"{FILE}[train] stages, entry 1: objective",
        ("'multiple_shoting'", "Did you mean 'multiple_shooting'?"),
        (f"train.stages=[{stage('multiple_shoting', 'adam')}]",),
    ),
    Bad(
        "unknown optimizer",
        nothing,
        f"{FILE}[train] stages, entry 2: optimizer",
        ("'lbgfs'", "Did you mean 'lbfgs'?"),
        (f"train.stages=[{stage('derivative_matching', 'adam')}, {stage('multiple_shooting', 'lbgfs')}]",),
    ),
    Bad(
        "unknown option of an objective",
        nothing,
        f"{FILE}[train] stages, entry 1: objective",
        ("'segments'", "Did you mean 'segment_length'?"),
        (f"train.stages=[{stage('multiple_shooting', 'adam', 'segments = 3')}]",),
    ),
    Bad(
        "unknown solver",
        nothing,
        f"{FILE}[train] stages, entry 1: objective.solver",
        ("'euler'", "'dopri5'"),
        ("train.stages=[" + stage("multiple_shooting", "adam", 'solver = "euler"') + "]",),
    ),
    Bad(
        "horizon that shrinks",
        nothing,
        f"{FILE}[train] stages, entry 1: objective.horizon",
        ("[1.0, 0.5]", "grow and end with 1.0"),
        (f"train.stages=[{stage('multiple_shooting', 'adam', 'horizon = [1.0, 0.5]')}]",),
    ),
    Bad(
        "solver of another optimizer",
        nothing,
        f"{FILE}[train] stages, entry 1",
        ("solver of multiple_shooting beside gauss_newton", "Remove it"),
        ("train.stages=[" + stage("multiple_shooting", "gauss_newton", 'solver = "dopri5"') + "]",),
    ),
    Bad(
        "bounds without the start value",
        toml("value = 0.5, bounds = [0.0, 2.0]", "value = 0.5, bounds = [1.0, 2.0]"),
        f"{FILE}[system.parameters] alpha",
        ("0.5", "outside bounds"),
    ),
    Bad("nonsense set", nothing, "override 'train.starts=[1'", ("'[1'", "TOML value"), ("train.starts=[1",)),
    # What this version cannot do.
    Bad(
        "events",
        table("[[system.events]]\nat = 1902"),
        f"{FILE}[system] events",
        ("cannot do yet", "Remove it"),
    ),
    Bad("grid", table("[system.grid]\nx = 9"), f"{FILE}[system] grid", ("cannot do yet", "Remove it")),
    Bad(
        "free parameter in an observable",
        table('[system.observables]\ntotal = "alpha*hare + lynx"'),
        f"{FILE}[system.observables] total",
        ("free parameter 'alpha'", "cannot do yet", "Fix alpha"),
    ),
    Bad(
        "missing term in an observable",
        table('[system.observables]\ntotal = "hare + growth"'),
        f"{FILE}[system.observables] total",
        ("missing term 'growth'", "cannot do yet", "Observe states"),
    ),
    # Controls and observables.
    Bad(
        "control in no equation",
        table("[system.controls]\nfeed = {}"),
        f"{FILE}[system.controls] feed",
        ("'feed' in no equation", "Use it in [system.equations]"),
    ),
    Bad(
        "control with the name of a parameter",
        table("[system.controls]\nalpha = {}"),
        f"{FILE}[system.controls] alpha",
        ("also in [system.parameters]", "Rename"),
    ),
    Bad(
        "unknown control",
        toml(EQUATION, '"alpha*hare - predation - fed"'),
        f"{FILE}[system.equations] hare",
        ("unknown name 'fed'", "column 26"),
    ),
    Bad(
        "unknown interpolation",
        table('[system.controls]\nfeed = { interpolation = "cubic" }'),
        f"{FILE}[system.controls.feed] interpolation",
        ("'cubic'", "'linear' or 'hold'"),
    ),
    Bad(
        "control without a column",
        lambda folder: (
            toml(EQUATION, '"alpha*hare - predation + feed"')(folder),
            table("[system.controls]\nfeed = {}")(folder),
        ),
        "pelts.csv",
        ("no column 'feed'", "the control 'feed'"),
    ),
    Bad(
        "control with a leading gap",
        lambda folder: (
            toml(EQUATION, '"alpha*hare - predation + feed"')(folder),
            table('[system.controls]\nfeed = { interpolation = "hold" }')(folder),
            (folder / "pelts.csv").write_text(
                "year,hare,lynx,feed\n" + "\n".join(f"{row},{i or ''}" for i, row in enumerate(ROWS)) + "\n"
            ),
        ),
        "pelts.csv, line 2, column 'feed'",
        ("no value of a control", "first row", "Fill it in"),
    ),
    Bad(
        "observable of an unknown name",
        table('[system.observables]\ntotal = "hare + lynks"'),
        f"{FILE}[system.observables] total",
        ("unknown name 'lynks' at column 8", "Did you mean 'lynx'?"),
    ),
    Bad(
        "observable with the name of another thing",
        table('[system.observables]\nhare = "hare + lynx"'),
        f"{FILE}[system.observables] hare",
        ("means something else", "Rename the observable"),
    ),
    Bad(
        "observable without a state",
        table('[system.observables]\nclock = "2*t"'),
        f"{FILE}[system.observables] clock",
        ("depends on no state", "Use some of hare, lynx"),
    ),
    Bad(
        "observable without a column",
        table('[system.observables]\ntotal = "hare + lynx"'),
        "pelts.csv",
        ("the column 'hare'", "names of observables and controls", "total"),
    ),
    Bad(
        "more unknown numbers than values",
        lambda folder: (
            toml("lynx = { positive = true }", "lynx = {}\na = {}\nb = {}\nc = {}")(folder),
            toml(EQUATION, '"alpha*hare - predation + a"\na = "b"\nb = "c"\nc = "-a"')(folder),
            (folder / "pelts.csv").write_text("year,hare\n" + "\n".join(row[:9] for row in ROWS) + "\n"),
        ),
        "[data]",
        ("6 measured training values for 5 unknown initial states and 2 free parameters", "Measure more"),
    ),
    # The system.
    Bad(
        "negative bounds",
        toml("[0.0, 2.0]", "[-2.0, -1.0]"),
        f"{FILE}[system.parameters] alpha",
        ("outside bounds",),
    ),
    Bad(
        "bounds reversed",
        toml("[0.0, 2.0]", "[2.0, 0.0]"),
        f"{FILE}[system.parameters] alpha",
        ("smaller bound",),
    ),
    Bad(
        "circular hole",
        toml('["hare", "lynx"]', '["growth"]'),
        f"{FILE}[system.missing] predation",
        ("circular",),
    ),
    Bad(
        "unknown input",
        toml('["hare", "lynx"]', '["hair"]'),
        f"{FILE}[system.missing]",
        ("Did you mean 'hare'?",),
    ),
    Bad(
        "unused hole",
        toml(" - predation", ""),
        f"{FILE}[system.missing] predation",
        ("in no equation", "Use it"),
    ),
    Bad("name of a function", toml("hare = {", "sin = {"), f"{FILE}[system.states] sin", ("'sin_'",)),
    Bad(
        "reserved name", toml("alpha = {", "lambda = {"), f"{FILE}[system.parameters] lambda", ("'lambda_'",)
    ),
    # Equations.
    Bad(
        "unknown name",
        toml(EQUATION, '"alpha*hair - predation"'),
        f"{FILE}[system.equations] hare",
        ("column 7",),
    ),
    Bad(
        "unknown function",
        toml(EQUATION, '"alpha*sinn(hare) - predation"'),
        f"{FILE}[system.equations] hare",
        ("unknown function 'sinn' at column 7", "Did you mean 'sin'?"),
    ),
    Bad(
        "power sign",
        toml(EQUATION, '"hare^2 - predation"'),
        f"{FILE}[system.equations] hare",
        ("Write ** for a",),
    ),
    Bad("import", toml(EQUATION, '''"__import__('os')"'''), f"{FILE}[system.equations] hare", ("column 1",)),
    Bad(
        "attribute",
        toml(EQUATION, '"hare.real"'),
        f"{FILE}[system.equations] hare",
        ("column 5", "Attribute"),
    ),
    Bad(
        "huge power",
        toml(EQUATION, '"hare**999"'),
        f"{FILE}[system.equations] hare",
        ("column 7", "-20 and 20"),
    ),
    Bad(
        "10 kB of brackets",
        toml(EQUATION, f'"{"(" * 5000 + ")" * 5000}"'),
        f"{FILE}[system.equations] hare",
        ("10000 characters", "Shorten it"),
    ),
    Bad(
        "extra term in an unknown name",
        table('[regress]\nlibrary = { extra = ["hare*fox"] }'),
        f"{FILE}[regress.library] extra",
        ("'fox' at column 6",),
    ),
    # Data files.
    Bad(
        "no data file",
        toml("pelts.csv", "pelt.csv"),
        "[data] files",
        ("'pelt.csv'", "Did you mean 'pelts.csv'?"),
    ),
    Bad(
        "path outside",
        toml("pelts.csv", "../pelts.csv"),
        "[data] files",
        ("outside the folder", "Copy the file"),
    ),
    Bad(
        "absolute path",
        toml("pelts.csv", "/etc/hostname"),
        "[data] files",
        ("outside the folder", "Copy the file"),
    ),
    Bad("link outside", link_outside, "[data] files", ("outside the folder", "Copy the file")),
    Bad("unreadable file", unreadable, "[data] files", ("the folder 'pelts.csv'", "a file")),
    Bad("unknown ending", data_file("pelts.xlsx", b"PK"), "pelts.xlsx", ("'.xlsx'", "Save it as CSV")),
    Bad("no Parquet", data_file("pelts.parquet", b"PAR1"), "pelts.parquet", ("not Parquet",)),
    Bad("pickled NPZ", pickled, "pelts.npz", ("not NPZ with plain arrays", "numpy.savez")),
    Bad("empty file", data_file("empty.csv", b""), "empty.csv", ("an empty file",)),
    Bad(
        "binary CSV",
        data_file("binary.csv", b"year,hare\n1,\xfe"),
        "binary.csv",
        ("line 2", "Save it again as CSV"),
    ),
    # Their columns and rows.
    Bad("wrong column", csv("hare", "hair"), "pelts.csv", ("column 'hair'", "Did you mean 'hare'?")),
    Bad("no time column", csv("year", "Year"), "pelts.csv", ("no column 'year'", "Did you mean 'Year'?")),
    Bad("column twice", csv("lynx", "hare"), "pelts.csv, line 1", ("'hare' twice",)),
    Bad("semicolons", csv(",", ";"), "pelts.csv, line 1", ("not separated by commas", "Save it again")),
    Bad("short row", csv(",9.8", ""), "pelts.csv, line 4", ("found 2 values", "keep its comma")),
    Bad(
        "text in a row",
        csv("77.4", "many"),
        "pelts.csv, line 5, column 'hare'",
        ("'many'", "Leave a missing"),
    ),
    Bad("infinity", csv("77.4", "inf"), "pelts.csv, line 5, column 'hare'", ("infinite", "finite number")),
    Bad(
        "unsorted times", csv("1903", "1899"), "pelts.csv, line 5, column 'year'", ("1899 after 1902", "Sort")
    ),
    Bad(
        "time twice",
        csv("1903", "1902"),
        "pelts.csv, line 5, column 'year'",
        ("again, as at line 4", "Average"),
    ),
    Bad("time missing", csv("1903", ""), "pelts.csv, line 5, column 'year'", ("no time", "Remove the row")),
    Bad(
        "NaN everywhere",
        columns(hare=lambda _: "NaN"),
        "column 'hare'",
        ("0 measured values", "Remove the column"),
    ),
    Bad("constant column", columns(hare=lambda _: "30"), "column 'hare'", ("constant column", "parameter")),
    # Hold-out and noise.
    Bad(
        "two rows",
        csv("\n".join(ROWS[2:]) + "\n", ""),
        "trajectory 'pelts'",
        ("2 rows to train on", "Add rows"),
    ),
    Bad(
        "all held out",
        nothing,
        "trajectory 'pelts'",
        ("0 rows", "hold out fewer"),
        ("data.holdout={ rows = 6 }",),
    ),
    Bad(
        "two hold-outs",
        nothing,
        f"{FILE}[data] holdout",
        ("one of",),
        ("data.holdout={ rows = 1, fraction = 0.1 }",),
    ),
    Bad(
        "negative noise",
        toml("sd = 1.0", "sd = -1.0"),
        f"{FILE}[data.noise] sd",
        ("found -1.0", "greater than 0"),
    ),
    Bad(
        "noise of nobody", toml("sd = 1.0", "sd = { fox = 1.0 }"), "[data.noise] sd", ("'fox'", "hare, lynx")
    ),
    Bad(
        "level per value of nobody",
        toml("sd = 1.0", "value = { fox = 0.1 }"),
        "[data.noise] value",
        ("'fox'", "hare, lynx"),
    ),
    Bad(
        "floor of nobody",
        toml("sd = 1.0", "value = 0.1\nfloor = { hair = 0.1 }"),
        "[data.noise] floor",
        ("'hair'", "Did you mean 'hare'"),
    ),
    Bad(
        "floor of nothing",
        toml("sd = 1.0", "value = 0.1\nfloor = 0.0"),
        f"{FILE}[data.noise] floor",
        ("found 0.0", "greater than 0"),
    ),
    Bad(
        "floor without noise per value",
        toml("sd = 1.0", "sd = 1.0\nfloor = 0.1"),
        f"{FILE}[data] noise",
        ("floor is given", "value = ..."),
    ),
    Bad(
        "unknown smoother",
        nothing,
        f"{FILE}[train] stages, entry 1: objective.smoother",
        ("'median'",),
        (
            'train.stages=[{ objective = { kind = "derivative_matching", smoother = { kind = "median" } }, '
            'optimizer = { kind = "adam" } }]',
        ),
    ),
    Bad(
        "even window",
        nothing,
        f"{FILE}[train] stages, entry 1: objective.smoother.window",
        ("a window of 8 rows", "odd"),
        (
            'train.stages=[{ objective = { kind = "derivative_matching", smoother = '
            '{ kind = "savitzky_golay", window = 8 } }, optimizer = { kind = "adam" } }]',
        ),
    ),
    Bad(
        "logarithm of zero",
        lambda folder: (toml("sd = 1.0", "lognormal = 0.1")(folder), csv("77.4", "0")(folder)),
        "trajectory 'pelts'",
        ("the value 0 of 'hare' at time 1903", "Use additive noise"),
    ),
    Bad(
        "no data at all", toml('files = ["pelts.csv"]', "files = []"), f"{FILE}[data]", ("neither files nor",)
    ),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with an experiment in which nothing is wrong."""
    home = tmp_path / "case"
    home.mkdir()
    (home / "experiment.toml").write_text(EXPERIMENT)
    (home / "pelts.csv").write_text(PELTS)
    (tmp_path / "pelts.csv").write_text(PELTS)
    return home


@pytest.fixture
def no_server() -> Iterator[None]:
    """An address at which nobody answers, so that no server is started; the environment is restored."""
    with mock.patch.dict(os.environ, {"PREFECT_API_URL": "http://127.0.0.1:9/api"}):
        yield


def read(folder: Path, *overrides: str) -> None:
    """Do all that happens to an input before the first stage that computes."""
    loaded = load_experiment(folder / "experiment.toml", overrides)
    experiment = loaded.experiment
    input_digests(experiment.data, loaded.folder)
    prepare_data(experiment.data, experiment.system, loaded.folder, experiment.seed)


def test_the_good_experiment_is_good(folder: Path) -> None:
    read(folder)


def test_there_are_at_least_twenty_with_names_of_their_own() -> None:
    assert len({case.name for case in CASES}) == len(CASES) >= 20


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_library_names_the_place_and_the_fix(folder: Path, case: Bad) -> None:
    case.spoil(folder)
    with pytest.raises(InputError) as caught:
        read(folder, *case.overrides)
    message = str(caught.value).removeprefix(f"{folder}/")
    assert message.startswith(f"{case.where}: found ") or message.startswith(f"{case.where} ")
    for piece in case.pieces:
        assert piece in message
    assert "; expected " in message
    assert "\n" not in message
    assert len(message) < 600


@pytest.mark.usefixtures("no_server")
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_command_line_says_it_once_and_exits_with_2(folder: Path, case: Bad) -> None:
    case.spoil(folder)
    sets = [word for override in case.overrides for word in ("--set", override)]
    out = folder.parent / "runs"
    command = ["run", str(folder / "experiment.toml"), "--out", str(out), "--device", "cpu", "--json", *sets]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 2, done.output
    assert done.stdout == ""
    assert done.stderr.count("sciml-discover: ") == 1
    assert len(done.stderr.strip().splitlines()) == 1
    assert "Traceback" not in done.stderr
    for piece in case.pieces:
        assert piece in done.stderr
    assert not list(out.glob("*/result.json"))


@pytest.mark.usefixtures("no_server")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "{folder}/pelts.csv"], "cannot be written to"),
        (["--out", "{folder}/pelts.csv/runs"], "cannot be written to"),
        (["--from", "trian"], "Did you mean 'train'?"),
        (["--device", "tpu"], "tpu"),
        (["--sett", "train.starts=2"], "--sett"),
    ],
)
def test_wrong_arguments_of_the_command_line(folder: Path, arguments: list[str], message: str) -> None:
    words = [word.format(folder=folder) for word in arguments]
    done = CliRunner().invoke(app, ["run", str(folder / "experiment.toml"), *words])
    assert done.exit_code == 2, done.output
    assert done.stdout == ""
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["unknown function", "NaN everywhere"])
def test_a_shell_sees_the_same(folder: Path, name: str) -> None:
    next(case for case in CASES if case.name == name).spoil(folder)
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", "run", "experiment.toml", "--json", "--out", "../runs"],
        cwd=folder,
        env={
            **os.environ,
            "PYTHONPATH": str(Path(__file__).resolve().parents[1]),
            "PREFECT_API_URL": "http://127.0.0.1:9/api",
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 1
    assert "found" in done.stderr
