from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from sciml_discover import payload
from sciml_discover.base import Progress
from sciml_discover.cache import verify
from sciml_discover.errors import DamagedArtifactError, InputError, failure_message
from sciml_discover.experiment import load_experiment
from sciml_discover.readers import PreparedData
from sciml_discover.run_folders import find_run, list_runs, new_run_id, writable_folder
from sciml_discover.runs import MOST_LOSSES, Run, StageEnded, discover
from sciml_discover.stages import STAGES
from tests.fakes import FakeVerbs, install, write_experiment

NAMES = [stage.name for stage in STAGES]
ROOT = Path(__file__).parent.parent


@pytest.fixture
def verbs(monkeypatch: pytest.MonkeyPatch) -> FakeVerbs:
    return install(monkeypatch)


@pytest.fixture
def experiment(tmp_path: Path) -> Path:
    return write_experiment(tmp_path / "hares")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "runs"


def only_folder(out: Path) -> Path:
    (record,) = list_runs(out)
    return record.folder


def test_a_run_leaves_everything_in_its_folder(experiment: Path, out: Path, verbs: FakeVerbs) -> None:
    result = discover(experiment, out=out, overrides=["train.starts=2"])
    folder = out / result.id
    assert result.id.startswith("hares-")
    assert sorted(path.name for path in folder.iterdir()) == [
        "artifacts.json",
        "experiment.toml",
        "report.html",
        "result.json",
        "run.log",
    ]
    assert json.loads((folder / "result.json").read_text()) == result.to_dict()
    assert (folder / "report.html").read_text() == "<html>Hare and lynx</html>"
    assert load_experiment(folder / "experiment.toml").experiment.train.starts == 2
    references = json.loads((folder / "artifacts.json").read_text())
    assert list(references) == NAMES
    assert all((folder / reference["path"]).resolve().is_file() for reference in references.values())
    assert result.accepted
    assert (result.seed, result.device, result.title) == (3, "cpu", "Hare and lynx")
    assert result.cached == dict.fromkeys(NAMES, False)
    assert list(result.seconds) == NAMES
    assert verbs.calls == NAMES


@pytest.mark.filterwarnings("always:the step was shortened")
def test_warnings_and_progress_are_in_the_log_and_nothing_is_printed(
    experiment: Path, out: Path, verbs: FakeVerbs, capfd: pytest.CaptureFixture[str]
) -> None:
    def warn(stage: str) -> None:
        if stage == "train":
            warnings.warn("the step was shortened", RuntimeWarning, stacklevel=1)

    verbs.before = warn
    result = discover(experiment, out=out)
    log = (out / result.id / "run.log").read_text()
    assert "train: RuntimeWarning: the step was shortened" in log
    assert "train: fitting" in log
    assert verbs.calls == NAMES
    assert capfd.readouterr() == ("", "")


def test_a_second_run_finds_everything(experiment: Path, out: Path, verbs: FakeVerbs) -> None:
    first = discover(experiment, out=out)
    events: list[Progress] = []
    second = discover(experiment, out=out, watch=events.append)
    assert verbs.calls == NAMES
    assert second.cached == dict.fromkeys(NAMES, True)
    assert second.id != first.id
    assert second.missing == first.missing
    assert [event.stage for event in events if isinstance(event, StageEnded) and event.cached] == NAMES


def test_changing_regress_reuses_the_training(experiment: Path, out: Path, verbs: FakeVerbs) -> None:
    discover(experiment, out=out)
    result = discover(experiment, out=out, overrides=["regress.library.polynomial_degree=2"])
    assert [name for name in NAMES if result.cached[name]] == ["data", "train", "sample", "validate"]
    assert verbs.calls == [*NAMES, "regress", "select", "report"]


def test_a_forced_stage_that_gives_the_same_leaves_all_after_it_in_the_store(
    experiment: Path, out: Path, verbs: FakeVerbs
) -> None:
    first = discover(experiment, out=out)
    result = discover(experiment, out=out, from_stage="train")
    assert [name for name in NAMES if not result.cached[name]] == ["train"]
    assert verbs.calls == [*NAMES, "train"]
    assert result.missing == first.missing


def test_a_forced_stage_that_gives_something_else_takes_what_depends_on_it_along(
    experiment: Path, out: Path, verbs: FakeVerbs
) -> None:
    discover(experiment, out=out)
    verbs.status = "rejected"  # the stand-in now answers otherwise, with the same key
    result = discover(experiment, out=out, from_stage="validate")
    assert verbs.calls == [*NAMES, "validate", "report"]
    assert result.status == "rejected"


@pytest.mark.parametrize("harm", ["delete", "damage"])
@pytest.mark.parametrize("stage", NAMES)
def test_a_lost_artifact_is_made_again_and_nothing_else(
    experiment: Path, out: Path, verbs: FakeVerbs, stage: str, harm: str
) -> None:
    folder = out / discover(experiment, out=out).id
    path = folder / json.loads((folder / "artifacts.json").read_text())[stage]["path"]
    if harm == "delete":
        path.unlink()
    else:
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    verbs.calls.clear()
    result = discover(experiment, out=out)
    assert verbs.calls == [stage]
    assert [name for name in NAMES if not result.cached[name]] == [stage]
    log = (out / result.id / "run.log").read_text()
    assert f"{stage}: the stored result of '{stage}' is" in log


def test_a_rejected_law_is_a_result(experiment: Path, out: Path, verbs: FakeVerbs) -> None:
    verbs.status = "rejected"
    result = discover(experiment, out=out)
    assert result.status == "rejected"
    assert result.missing


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (InputError("text", where="rows.csv", expected="numbers"), "rows.csv: found text; expected numbers."),
        (ZeroDivisionError("oops"), "ZeroDivisionError: oops"),
        (KeyboardInterrupt(), "interrupted"),
    ],
    ids=["input", "bug", "ctrl-c"],
)
def test_a_failure_is_raised_and_written_down(
    experiment: Path, out: Path, verbs: FakeVerbs, error: BaseException, message: str
) -> None:
    def fail(stage: str) -> None:
        if stage == "select":
            raise error

    verbs.before = fail
    with pytest.raises(type(error)):
        discover(experiment, out=out)
    folder = only_folder(out)
    result = find_run(folder)
    assert (result.status, result.failed_stage) == ("failed", "select")
    assert result.reasons[0].message == message
    assert list(result.cached) == NAMES[:4]
    assert result.training is not None
    assert "Traceback" in (folder / "run.log").read_text()
    assert not (folder / "report.html").exists()


def lose(out: Path, *stages: str) -> None:
    for stage in stages:
        for path in (out / ".store" / "artifacts" / stage).iterdir():
            path.unlink()


def test_what_is_lost_while_the_run_goes_on_is_made_anew(
    experiment: Path, out: Path, verbs: FakeVerbs
) -> None:
    undisturbed = discover(experiment, out=out.with_name("others"))
    verbs.calls.clear()
    verbs.before = lambda _: lose(out, "data", "train") if verbs.calls == NAMES[:4] else None
    told: list[Progress] = []
    result = discover(experiment, out=out, watch=told.append)
    assert verbs.calls == [*NAMES[:4], "data", "train", *NAMES[4:]]
    assert (result.accepted, result.missing) == (True, undisturbed.missing)
    assert result.cached == dict.fromkeys(NAMES, False)
    records = json.loads((only_folder(out) / "artifacts.json").read_text())
    assert [name for name in NAMES if records[name]["lost"]] == ["data", "train"]
    assert any("is gone" in event.message and "made anew" in event.message for event in told)


def test_a_store_that_is_deleted_while_the_run_goes_on_is_made_anew(
    experiment: Path, out: Path, verbs: FakeVerbs
) -> None:
    def delete(stage: str) -> None:
        if stage == "report" and verbs.calls.count("report") == 1:
            shutil.rmtree(out / ".store")

    verbs.before = delete
    assert discover(experiment, out=out).accepted
    assert verify(out) == []
    verbs.before = lambda _: None
    assert discover(experiment, out=out).cached == dict.fromkeys(NAMES, True)


def test_what_is_lost_again_and_again_is_a_failure_that_is_written_down(
    experiment: Path, out: Path, verbs: FakeVerbs, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = payload.decode

    def decode(content: bytes, kind: type) -> object:
        if kind is PreparedData:
            raise DamagedArtifactError("it is gone")
        return read(content, kind)

    monkeypatch.setattr(payload, "decode", decode)
    with pytest.raises(DamagedArtifactError, match="gone"):
        discover(experiment, out=out)
    result = find_run(only_folder(out))
    assert (result.failed_stage, result.data) == ("train", None)
    assert verbs.calls == ["data"] * (1 + MOST_LOSSES)


def test_a_run_whose_log_cannot_be_written_goes_on(experiment: Path, out: Path, verbs: FakeVerbs) -> None:
    def block(stage: str) -> None:
        if stage == "train":
            (only_folder(out) / "run.log").unlink()
            (only_folder(out) / "run.log").mkdir()

    verbs.before = block
    assert discover(experiment, out=out).accepted


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device", "x"),
            "No space left on device: x. Free some space",
        ),
        (OSError(errno.EROFS, "Read-only file system", "x"), "Make the folder of runs writable"),
        (OSError(errno.EIO, "Input/output error"), "Input/output error."),
        (ZeroDivisionError("oops"), "ZeroDivisionError: oops"),
    ],
)
def test_a_failure_is_told_in_one_line(error: Exception, message: str) -> None:
    assert message in failure_message(error)
    assert "\n" not in failure_message(error)


def test_after_a_failure_the_next_run_goes_on_from_there(
    experiment: Path, out: Path, verbs: FakeVerbs
) -> None:
    def fail(stage: str) -> None:
        if stage == "validate":
            raise ZeroDivisionError

    verbs.before = fail
    with pytest.raises(ZeroDivisionError):
        discover(experiment, out=out)
    verbs.before = lambda _: None
    verbs.calls.clear()
    assert discover(experiment, out=out).accepted
    assert verbs.calls == ["validate", "report"]


def test_wrong_words_leave_no_folder(experiment: Path, out: Path) -> None:
    with pytest.raises(InputError, match="'select'"):
        discover(experiment, out=out, from_stage="selekt")
    with pytest.raises(InputError, match="auto, cpu or cuda"):
        discover(experiment, out=out, device="tpu")
    assert not out.exists()


def test_a_folder_that_cannot_be_written_to_is_wrong_input(experiment: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written to"):
        discover(experiment, out=tmp_path / "file" / "runs")


def test_the_default_folder_is_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert writable_folder(None) == Path("runs")
    assert os.listdir(tmp_path / "runs") == []


def test_an_experiment_can_be_given_instead_of_its_file(
    experiment: Path, out: Path, verbs: FakeVerbs
) -> None:
    loaded = load_experiment(experiment)
    assert discover(loaded, out=out).accepted
    assert discover(experiment, out=out).cached == dict.fromkeys(NAMES, True)
    assert verbs.calls == NAMES
    with pytest.raises(InputError, match="overrides"):
        discover(loaded, out=out, overrides=["seed=1"])


def test_runs_are_found_by_name_beginning_and_folder(experiment: Path, out: Path, verbs: FakeVerbs) -> None:
    loaded = load_experiment(experiment)
    for run_id in ("hares-a1", "hares-a2", "hares-b"):
        discover(loaded, out=out, run_id=run_id)
    assert verbs.calls == NAMES
    assert find_run("hares-a1", out).id == "hares-a1"
    assert find_run("hares-b", out).id == "hares-b"
    assert find_run(out / "hares-a2").id == "hares-a2"
    assert find_run(out / "hares-a2" / "result.json").id == "hares-a2"
    with pytest.raises(InputError, match="2 runs"):
        find_run("hares-a", out)
    with pytest.raises(InputError, match="'hares-b'"):
        find_run("hare-b", out)
    with pytest.raises(InputError, match="no run"):
        find_run("hares-b", out / "elsewhere")


def test_unfinished_and_unreadable_runs_are_listed_as_such(
    experiment: Path, out: Path, verbs: FakeVerbs
) -> None:
    done = discover(experiment, out=out)
    with Run(load_experiment(experiment), out=out, run_id="unfinished"):
        pass
    Run(load_experiment(experiment), out=out, run_id="broken")
    (out / "broken" / "result.json").write_text("{}")
    records = {record.folder.name: record for record in list_runs(out)}
    assert set(records) == {done.id, "unfinished", "broken"}
    assert records[done.id].result == done
    assert "no result" in records["unfinished"].problem
    assert "result.json" in records["broken"].problem
    with pytest.raises(InputError, match="no result"):
        find_run("unfinished", out)
    assert verbs.calls == NAMES


def test_names_of_runs_differ() -> None:
    assert len({new_run_id("case") for _ in range(100)}) == 100


CACHED_RUN = """
import sys
import warnings
from pathlib import Path
from sciml_discover.runs import discover

result = discover(sys.argv[1], out=sys.argv[2])
assert all(result.cached.values()), result.cached
heavy = ("torch", "sympy", "pysindy", "scipy", "matplotlib", "prefect")
print("imported:", *(name for name in heavy if name in sys.modules))
"""


def test_a_run_that_finds_everything_imports_nothing_slow(
    experiment: Path, out: Path, verbs: FakeVerbs
) -> None:
    discover(experiment, out=out)
    done = subprocess.run(
        [sys.executable, "-c", CACHED_RUN, str(experiment), str(out)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stderr, done.stdout.strip()) == ("", "imported:")
    assert verbs.calls == NAMES
