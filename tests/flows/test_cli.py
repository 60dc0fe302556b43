from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

import jsonschema
import pytest
from typer.testing import CliRunner, Result

from flows.cli import app
from sciml_discover.errors import InputError
from sciml_discover.result import result_schema
from sciml_discover.run_folders import list_runs
from sciml_discover.runs import discover
from sciml_discover.stages import STAGES
from tests.fakes import EXPERIMENT, FakeVerbs, install, write_experiment

ROOT = Path(__file__).parent.parent.parent
NAMES = [stage.name for stage in STAGES]


@pytest.fixture
def experiment(tmp_path: Path) -> Path:
    path = write_experiment(tmp_path / "hares")
    rows = "".join(f"{row},{10 + row % 3},{5 + row % 4}\n" for row in range(12))
    (path.parent / "rows.csv").write_text(f"time,hare,lynx\n{rows}")
    return path


def start(*arguments: object, **environment: str) -> subprocess.Popen[str]:
    """Start the command line with stand-ins for the verbs of all stages."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.flows.fake_cli", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "200", **environment},
    )


def call(*arguments: object, **environment: str) -> tuple[int, str, str]:
    """Return exit status, stdout and stderr of the command line."""
    with start(*arguments, **environment) as process:
        out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def servers() -> list[str]:
    """Command lines of all local Prefect servers on the database of these tests, but for their own."""
    home, mine = f"PREFECT_HOME={os.environ['PREFECT_HOME']}", str(os.getpid())
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_text().rstrip("\0").split("\0")
            ours = home in (folder / "environ").read_text().split("\0")
        except (OSError, UnicodeDecodeError):
            continue  # it has just ended, or is none of our business
        if ours and "server_process.py" in " ".join(command) and command[-1] != mine:
            found.append(" ".join(command))
    return found


@pytest.mark.usefixtures("prefect_home")
def test_an_accepted_run_then_a_cached_one(experiment: Path, tmp_path: Path) -> None:
    out = tmp_path / "runs"
    status, stdout, stderr = call("run", experiment, "--out", out, "--json", "--set", "train.starts=2")
    result = json.loads(stdout)
    jsonschema.validate(result, result_schema())
    assert status == 0
    assert json.loads((out / result["id"] / "result.json").read_text()) == result
    assert result["cached"] == dict.fromkeys(NAMES, False)
    assert list(result["seconds"]) == ["imports", "prefect", *NAMES]
    assert "ACCEPTED" in stderr
    assert "0.8996*hare*lynx" in stderr
    assert str(out / result["id"]) in stderr
    assert "Traceback" not in stderr

    status, stdout, stderr = call("run", experiment, "--out", out, "--set", "train.starts=2")
    assert (status, stdout) == (0, "")
    assert "every stage was found in the store" in stderr
    assert servers() == []


@pytest.fixture
def verbs(monkeypatch: pytest.MonkeyPatch, api: str) -> FakeVerbs:
    """Stand-ins for the verbs, and the server that the command line then uses instead of its own."""
    monkeypatch.setenv("PREFECT_API_URL", api)
    monkeypatch.setattr("flows.launch.import_for", lambda _: None)
    return install(monkeypatch)


def test_a_run_that_finds_everything_imports_nothing_slow(
    experiment: Path, tmp_path: Path, verbs: FakeVerbs
) -> None:
    words = ["run", str(experiment), "--out", str(tmp_path / "runs"), "--json"]
    assert CliRunner().invoke(app, words).exit_code == 0
    slow = ("torch", "sympy", "pysindy", "sklearn", "scipy", "matplotlib", "pint", "pyarrow")
    code = (
        f"import sys\nfrom flows.cli import app\ntry: app({words!r})\nexcept SystemExit: pass\n"
        f"sys.stderr.write('imported:' + str([name for name in {slow!r} if name in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["cached"] == dict.fromkeys(NAMES, True)
    assert done.stderr.endswith("imported:[]"), done.stderr
    assert verbs.calls[-1] == NAMES[-1]


def test_a_rejected_run(experiment: Path, tmp_path: Path, verbs: FakeVerbs) -> None:
    verbs.status = "rejected"
    done = CliRunner().invoke(app, ["run", str(experiment), "--out", str(tmp_path / "runs")])
    assert (done.exit_code, done.stdout) == (3, "")
    assert "REJECTED" in done.stderr


def test_a_failing_stage(experiment: Path, tmp_path: Path, verbs: FakeVerbs) -> None:
    def fail(stage: str) -> None:
        if stage == "select":
            raise ZeroDivisionError("oops")

    verbs.before = fail
    out = tmp_path / "runs"
    done = CliRunner().invoke(app, ["run", str(experiment), "--out", str(out), "--json"])
    assert done.exit_code == 1
    assert json.loads(done.stdout)["failed_stage"] == "select"
    assert "ZeroDivisionError: oops" in done.stderr
    assert "Traceback" not in done.stderr
    (record,) = list_runs(out)
    assert 'raise ZeroDivisionError("oops")' in (record.folder / "run.log").read_text()


def test_wrong_input_found_by_a_stage(experiment: Path, tmp_path: Path, verbs: FakeVerbs) -> None:
    def refuse(stage: str) -> None:
        if stage == "train":
            raise InputError("too few rows", where="rows.csv", expected="more of them")

    verbs.before = refuse
    done = CliRunner().invoke(app, ["run", str(experiment), "--out", str(tmp_path / "runs"), "--json"])
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.endswith("sciml-discover: rows.csv: found too few rows; expected more of them.\n")


@pytest.mark.parametrize(
    ("changes", "arguments", "message"),
    [
        (("alpha*hare", "alpha*hair"), (), "hair"),
        (("delta = {", "delta = { speed = 1,"), (), "speed"),
        (("rows.csv", "../rows.csv"), (), "outside"),
        ((), ("--set", "train.stats=4"), "'starts'"),
        ((), ("--set", "train.starts"), "KEY=VALUE"),
        ((), ("--from", "trian"), "'train'"),
        ((), ("--device", "cuda"), "CUDA"),
        ((), ("--out", "rows.csv/runs"), "cannot be written"),
    ],
)
def test_wrong_input_is_told_at_once_and_starts_no_server(
    experiment: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: tuple[str, str] | tuple[()],
    arguments: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.chdir(experiment.parent)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr("flows.api.LocalServer", None)
    if changes:
        experiment.write_text(EXPERIMENT.replace(*changes))
    done = CliRunner().invoke(app, ["run", str(experiment), *arguments])
    assert (done.exit_code, done.stdout) == (2, "")
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (experiment.parent / "runs").exists() or not list_runs(experiment.parent / "runs")


@pytest.mark.usefixtures("prefect_home")
def test_wrong_data_are_wrong_input(experiment: Path, tmp_path: Path) -> None:
    (experiment.parent / "rows.csv").write_text("time,hair,lynx\n0,1,2\n")
    code = "from flows.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "run", str(experiment), "--out", str(tmp_path / "runs"), "--json"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r"sciml-discover: .*'hair'.*Did you mean 'hare'\?.*\n", done.stderr)
    assert servers() == []


@pytest.mark.usefixtures("prefect_home")
@pytest.mark.parametrize("kill", [signal.SIGINT, signal.SIGKILL])
def test_a_stopped_run_leaves_no_server_and_the_next_one_goes_on(
    experiment: Path, tmp_path: Path, kill: signal.Signals
) -> None:
    out = tmp_path / "runs"
    with start("run", experiment, "--out", out, FAKE_SLEEP="select") as process:
        assert process.stderr is not None
        while "asleep" not in process.stderr.readline():
            assert process.poll() is None
        process.send_signal(kill)
        sent = time.monotonic()
        process.wait(30)
        took = time.monotonic() - sent
        stderr = process.stderr.read()
    (record,) = list_runs(out)
    if kill == signal.SIGINT:
        assert process.returncode == 130
        assert took < 3
        assert "Traceback" not in stderr
        assert stderr.endswith(
            "interrupted. What is finished is kept; the same command goes on from there.\n"
        )
        assert record.result is not None
        assert record.result.reasons[0].message == "interrupted"
    else:
        assert record.result is None
        time.sleep(1)
    assert servers() == []

    status, stdout, _ = call("run", experiment, "--out", out, "--json")
    cached = json.loads(stdout)["cached"]
    assert status == 0
    assert [name for name in NAMES if cached[name]] == NAMES[:4]


@pytest.mark.usefixtures("prefect_home")
def test_what_was_forced_is_not_promised_to_go_on(experiment: Path, tmp_path: Path) -> None:
    with start(
        "run", experiment, "--from", "train", "--out", tmp_path / "runs", FAKE_SLEEP="select"
    ) as process:
        assert process.stderr is not None
        while "asleep" not in process.stderr.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        stderr = process.stderr.read()
        assert process.wait(30) == 130
    assert "the same command without --from train goes on from there" in stderr


def test_an_interrupt_that_a_finalizer_swallows_comes_again() -> None:
    code = (
        "import signal, time, weakref\n"
        "from flows.leaving import keep_interrupts\n"
        # Whoever runs the tests in the background may have them ignore Ctrl-C, and children inherit that.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "def interrupted(): raise KeyboardInterrupt\n"
        "class Thing: pass\n"
        "keep_interrupts()\n"
        "thing = Thing()\n"
        "weakref.finalize(thing, interrupted)\n"
        "try:\n    del thing\n    time.sleep(60)\n"
        "except KeyboardInterrupt: print('interrupted')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=20
    )
    assert (done.stdout, done.stderr) == ("interrupted\n", "")


def test_an_interrupt_after_the_end_does_not_change_the_status() -> None:
    code = (
        "import atexit, os, signal\nfrom flows import cli\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "atexit.register(lambda: os.kill(os.getpid(), signal.SIGINT))\n"
        "cli.main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "--version"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.fixture
def runs(experiment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two runs, the second one rejected, and the beginning of a third."""
    verbs = install(monkeypatch)
    out = tmp_path / "runs"
    discover(experiment, out=out, run_id="hares-1")
    verbs.status = "rejected"
    discover(experiment, out=out, run_id="hares-2", from_stage="validate")
    (out / "hares-3").mkdir()
    (out / "hares-3" / "experiment.toml").touch()
    return out


def test_show_one_run_or_two(runs: Path) -> None:
    one = CliRunner().invoke(app, ["show", "hares-1", "--out", str(runs)])
    assert one.exit_code == 0
    assert "ACCEPTED" in one.stdout
    assert re.search(r"train +computed +no earlier run has made it", one.stdout)
    assert "cached from hares-1" in CliRunner().invoke(app, ["show", "hares-2", "--out", str(runs)]).stdout
    two = CliRunner().invoke(app, ["show", "hares-1", "hares-2", "--out", str(runs)])
    assert two.exit_code == 0
    assert "Side by side" in two.stdout
    assert "rejected" in two.stdout
    none = CliRunner().invoke(app, ["show", "hares-9", "--out", str(runs)])
    assert (none.exit_code, none.stdout) == (2, "")
    assert "Did you mean 'hares-" in none.stderr


def test_list_filters_and_sorts(runs: Path) -> None:
    def listed(*arguments: str) -> list[str]:
        done = CliRunner().invoke(app, ["list", "--out", str(runs), *arguments], env={"COLUMNS": "200"})
        assert done.exit_code == 0
        return re.findall(r"hares-\d", done.stdout)

    assert listed() == ["hares-1", "hares-2", "hares-3"]
    assert listed("--status", "rejected") == ["hares-2"]
    assert listed("--status", "unfinished") == ["hares-3"]
    assert listed("--case", "hares", "--sort", "status") == ["hares-1", "hares-2"]
    assert listed("--case", "wolves") == []
    for key in ("created", "case", "holdout", "seconds"):
        assert set(listed("--sort", key)) == {"hares-1", "hares-2", "hares-3"}


def test_export_prints_a_law_or_writes_it(runs: Path, tmp_path: Path) -> None:
    def export(*arguments: str) -> Result:
        return CliRunner().invoke(app, ["export", "hares-1", "--runs", str(runs), *arguments])

    done = export("--to", "python")
    assert (done.exit_code, done.stderr) == (0, "")
    compile(done.stdout, "law.py", "exec")
    file = tmp_path / "law.py"
    written = export("--to", "python", "--out", str(file))
    assert (written.exit_code, written.stdout, written.stderr) == (0, "", "")
    assert file.read_text(encoding="utf-8") == done.stdout
    rival = export("--to", "julia", "--law", "1")
    assert "# Alternative 1" in rival.stdout
    for wrong in (
        ["--to", "cobol"],
        ["--to", "c", "--law", "7"],
        ["--to", "c", "--law", "-1"],
        ["--to", "c", "--out", str(tmp_path / "no" / "such" / "folder.c")],
        [],
    ):
        refused = export(*wrong)
        assert (refused.exit_code, refused.stdout) == (2, ""), wrong


def test_the_cache_is_listed_verified_and_pruned(runs: Path) -> None:
    def cache(*arguments: str) -> Result:
        return CliRunner().invoke(app, ["cache", *arguments, "--out", str(runs)], env={"COLUMNS": "200"})

    table = cache("list")
    assert table.exit_code == 0
    assert re.search(r"^ +train +\w{12} +[\d.]+ k?B +\d+ s +hares-1, hares-2", table.stdout, re.MULTILINE)
    assert "8 results, 0 checkpoints" in table.stdout
    listed = json.loads(cache("list", "--json").stdout)
    assert sum(entry["bytes"] for entry in listed["entries"]) == listed["bytes"]
    assert [entry["runs"] for entry in listed["entries"] if entry["stage"] == "validate"] == [
        ["hares-1"],
        ["hares-2"],
    ]

    assert cache("verify").exit_code == 0
    (broken,) = (runs / ".store" / "artifacts" / "train").iterdir()
    broken.write_bytes(broken.read_bytes()[:-1])
    verified = cache("verify")
    assert verified.exit_code == 1
    assert "1 damaged" in verified.stdout
    assert [Path(one["path"]) for one in json.loads(cache("verify", "--json").stdout)["damaged"]] == [broken]

    assert "freed 0 B" in cache("prune").stdout
    dry = json.loads(cache("prune", "--max-size", "0B", "--dry-run", "--json").stdout)
    assert (dry["dry_run"], len(dry["removed"]), dry["remaining_bytes"]) == (True, 8, 0)
    assert "freed 0 B" in cache("prune", "--older-than", "1h").stdout
    assert broken.exists()
    assert re.search(
        r"^freed \d+\.\d kB; 0 B remain", cache("prune", "--max-size", "0B").stdout, re.MULTILINE
    )
    assert not broken.exists()
    assert cache("verify").exit_code == 0
    for wrong in (["--older-than", "7"], ["--older-than", "7 moons"], ["--max-size", "-1GB"]):
        refused = cache("prune", *wrong)
        assert (refused.exit_code, refused.stdout) == (2, "")
        assert wrong[0] in refused.stderr


def test_there_are_no_commands_that_pretend() -> None:
    done = CliRunner().invoke(app, ["--help"])
    assert set(re.findall(r"^│ (\w+)  ", done.stdout, re.MULTILINE)) == {
        "run",
        "show",
        "list",
        "export",
        "sweep",
        "benchmark",
        "cache",
        "doctor",
        "schedule",
        "deploy",
        "prefect",
        "server",
    }
    for missing in ("report", "init", "ui"):
        assert CliRunner().invoke(app, [missing]).exit_code == 2


def test_help_is_quick_and_the_version_is_told() -> None:
    code = (
        "import sys\nfrom flows.cli import app\n"
        "try: app(['--help'])\nexcept SystemExit: pass\n"
        "slow = ('numpy', 'pydantic', 'prefect', 'torch', 'sympy')\n"
        "print('imported:', *(name for name in slow if name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "Usage" in done.stdout
    assert done.stdout.endswith("imported:\n")
    version = CliRunner().invoke(app, ["--version"])
    assert (version.exit_code, version.stdout) == (0, f"{metadata.version('sciml-discover')}\n")
