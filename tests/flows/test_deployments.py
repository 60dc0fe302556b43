from __future__ import annotations

import datetime
import os
import subprocess
import sys
import zoneinfo
from pathlib import Path
from uuid import UUID

import pytest
import yaml
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Running
from typer.testing import CliRunner, Result

from flows.bookkeeping import process_tag
from flows.cli import app
from flows.deployments import ENTRYPOINT, POOL
from flows.staying_server import StayingServer
from sciml_discover.result import DiscoveryResult
from sciml_discover.runs import discover
from sciml_discover.stages import STAGES
from tests.fakes import install, write_experiment

ROOT = Path(__file__).parent.parent.parent
NAMES = [stage.name for stage in STAGES]

pytestmark = [
    # Prefect's own clients leave these behind.
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
]


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(one) for one in arguments])


def planned(name: str) -> list[datetime.datetime]:
    """When Prefect will run a deployment."""
    with get_client(sync_client=True) as client:
        deployment = client.read_deployment_by_name(f"discover/{name}")
        runs = client.read_flow_runs()
    mine = [run for run in runs if run.deployment_id == deployment.id]
    assert all(run.state_type == StateType.SCHEDULED for run in mine)
    return [run.expected_start_time for run in mine if run.expected_start_time is not None]


@pytest.mark.usefixtures("lasting")
def test_a_schedule_has_scheduled_runs(tmp_path: Path) -> None:
    experiment = write_experiment(tmp_path / "weekly")
    berlin = zoneinfo.ZoneInfo("Europe/Berlin")
    arguments = ("schedule", experiment, "--timezone", "Europe/Berlin", "--out", tmp_path / "runs")

    done = call(*arguments, "--cron", "0 6 * * 1-5", "--set", "train.starts=2", "--when-data-changes")
    assert (done.exit_code, done.stdout) == (0, "")
    assert "✔ discover/weekly: next on" in done.stderr
    times = planned("weekly")
    assert times
    assert {(time.astimezone(berlin).hour, time.minute) for time in times} == {(6, 0)}
    assert all(time.astimezone(berlin).weekday() < 5 for time in times)

    with get_client(sync_client=True) as client:
        deployment = client.read_deployment_by_name("discover/weekly")
        assert client.read_work_pool(POOL).type == "process"
    assert deployment.parameters == {
        "experiment": str(experiment),
        "overrides": ["train.starts=2"],
        "when_data_changes": True,
        "device": "auto",
        "out": str(tmp_path / "runs"),
    }
    form = deployment.parameter_openapi_schema
    assert form is not None
    assert form["definitions"]["TrainOptions"]["properties"]["starts"]["title"] == "starts"
    assert form["definitions"]["Changes"]["properties"]["train"]["title"] == "train"

    assert call(*arguments, "--cron", "30 7 * * *").exit_code == 0
    # The server may have been planning by the old schedule just then.
    assert {(time.astimezone(berlin).hour, time.minute) for time in planned("weekly")} == {(7, 30)}

    other = call("schedule", write_experiment(tmp_path / "other" / "weekly"), "--cron", "0 6 * * *")
    assert (other.exit_code, other.stdout) == (2, "")
    assert "--name" in other.stderr


@pytest.mark.usefixtures("lasting")
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--cron", "at noon"), "minute, hour, day of month, month and day of week"),
        (("--cron", "0 25 * * *"), "minute, hour, day of month, month and day of week"),
        (("--cron", "0 6 30 2 *"), "minute, hour, day of month, month and day of week that come"),
        (("--cron", "0 6 * * *", "--timezone", "Mars/Olympus"), "Europe/Berlin"),
        (("--cron", "0 6 * * *", "--timezone", "../../etc/passwd"), "Europe/Berlin"),
        (("--cron", "0 6 * * *", "--name", "a/b"), "a text without"),
        (("--cron", "0 6 * * *", "--set", "train.stats=1"), "'starts'"),
    ],
)
def test_what_cannot_be_scheduled_is_told(tmp_path: Path, arguments: tuple[str, ...], expected: str) -> None:
    done = call("schedule", write_experiment(tmp_path / "never"), *arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    assert expected in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_missing_file_of_data_is_told_when_it_is_deployed(tmp_path: Path) -> None:
    experiment = write_experiment(tmp_path / "never")
    (experiment.parent / "rows.csv").unlink()
    done = call("deploy", experiment, "--file", tmp_path / "prefect.yaml")
    assert (done.exit_code, done.stdout) == (2, "")
    assert "rows.csv" in done.stderr
    assert not (tmp_path / "prefect.yaml").exists()


def test_a_schedule_without_a_server_says_where_it_looked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = write_experiment(tmp_path / "hares")
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        done = call("schedule", experiment, "--cron", "0 3 * * *", "--out", tmp_path / "runs")
    assert (done.exit_code, done.stdout) == (1, "")
    assert "no Prefect server answers at PREFECT_API_URL = http://127.0.0.1:9/api" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_what_was_added_to_a_file_by_hand_stays_there(tmp_path: Path) -> None:
    file = tmp_path / "prefect.yaml"
    hares, foxes = (write_experiment(tmp_path / name) for name in ("hares", "foxes"))
    assert call("deploy", hares, "--file", file).exit_code == 0
    document = yaml.safe_load(file.read_text())
    document["deployments"][0] |= {"tags": ["night"], "schedules": [{"cron": "0 3 * * *"}]}
    file.write_text(yaml.safe_dump(document))
    assert call("deploy", foxes, "--file", file).exit_code == 0
    assert call("deploy", hares, "--file", file, "--set", "train.starts=2").exit_code == 0
    one, two = yaml.safe_load(file.read_text())["deployments"]
    assert (one["name"], two["name"]) == ("hares", "foxes")
    assert (one["tags"], one["schedules"]) == (["night"], [{"cron": "0 3 * * *"}])
    assert one["parameters"]["overrides"] == ["train.starts=2"]


@pytest.mark.parametrize(
    "text",
    [
        "name: another-project\ndeployments: []\n",
        "a: [\n",
        "just words\n",
        "name: sciml-discover\ndeployments: 3\n",
    ],
)
def test_a_file_of_something_else_is_left_alone(tmp_path: Path, text: str) -> None:
    file = tmp_path / "prefect.yaml"
    file.write_text(text)
    done = call("deploy", write_experiment(tmp_path / "hares"), "--file", file)
    assert (done.exit_code, done.stdout) == (2, "")
    assert "--file" in done.stderr
    assert file.read_text() == text


def test_experiments_of_one_name_are_not_deployed_together(tmp_path: Path) -> None:
    two = [write_experiment(tmp_path / folder / "hares") for folder in ("a", "b")]
    done = call("deploy", *two, "--file", tmp_path / "prefect.yaml")
    assert (done.exit_code, done.stdout) == (2, "")
    assert "two experiments called 'hares'" in done.stderr


def prefect_command(*arguments: str) -> None:
    """Run Prefect's command line as a person would, through ours."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PREFECT_LOGGING_LEVEL": "INFO"}
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", "prefect", *arguments],
        cwd=ROOT,
        env=environment,
        timeout=150,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def processes_of(folder: Path) -> list[str]:
    """Command lines of all processes that know a folder, but for this one."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            knows = str(folder) in (process / "environ").read_text()
            command = (process / "cmdline").read_text().replace("\0", " ")
        except (OSError, UnicodeDecodeError):
            continue  # it has just ended, or is none of our business
        if knows and int(process.name) != os.getpid():
            found.append(command)
    return found


def test_a_worker_runs_what_prefect_yaml_deploys(
    lasting: StayingServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = write_experiment(tmp_path / "worked")
    out, file = tmp_path / "runs", tmp_path / "prefect.yaml"
    with monkeypatch.context() as stand_ins:
        # The store then has what the stand-ins made, so that the worker's process, which knows
        # nothing of them, finds every stage there.
        install(stand_ins)
        discover(experiment, out=out, run_id="first")

    deployed = call("deploy", experiment, "--file", file, "--out", out)
    assert deployed.exit_code == 0, deployed.stderr
    (entry,) = yaml.safe_load(file.read_text())["deployments"]
    assert entry["entrypoint"] == ENTRYPOINT
    assert sys.executable in entry["work_pool"]["job_variables"]["command"]
    steps = [name for step in entry["pull"] for name in step]
    assert steps == ["prefect.deployments.steps.set_working_directory"]

    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "client-home"))
    if not _has_pool():
        prefect_command("work-pool", "create", POOL, "--type", "process")
    prefect_command("--no-prompt", "deploy", "--all", "--prefect-file", str(file))
    with get_client(sync_client=True) as client:
        deployment = client.read_deployment_by_name("discover/worked")
        flow_run = client.create_flow_run_from_deployment(deployment.id)
        gone = process_tag().rsplit(":", 1)[0] + ":1"
        killed = client.create_flow_run_from_deployment(deployment.id, state=Running(), tags=[gone])
    prefect_command("worker", "start", "--pool", POOL, "--type", "process", "--run-once")

    ended = _read(flow_run.id)
    assert ended.state is not None
    assert ended.state.is_completed(), ended.state
    result = DiscoveryResult.from_file(out / ended.name)
    assert (result.id, result.status) == (ended.name, "accepted")
    assert result.cached == dict.fromkeys(NAMES, True)
    assert _read(killed.id).state_type == StateType.CRASHED  # its process is gone
    assert processes_of(tmp_path / "client-home") == []
    assert lasting.home.is_dir()


def _has_pool() -> bool:
    with get_client(sync_client=True) as client:
        return any(pool.name == POOL for pool in client.read_work_pools())


def _read(flow_run_id: UUID) -> FlowRun:
    with get_client(sync_client=True) as client:
        (run,) = client.read_flow_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[flow_run_id])))
    return run
