from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.states import Running

from flows.bookkeeping import claimed, close_stale_runs, process_tag
from flows.discover import TASKS, discover
from flows.session import Session, session
from sciml_discover import runs
from sciml_discover.base import Progress
from sciml_discover.errors import InputError, SolveError
from sciml_discover.result import DiscoveryResult
from sciml_discover.run_folders import list_runs
from sciml_discover.stages import STAGES
from tasks import RETRY_SECONDS
from tests.fakes import FakeVerbs, install, write_experiment
from tests.flows.prefect_states import read_task_runs, task_states
from tests.processes import Process

NAMES = [stage.name for stage in STAGES]

pytestmark = [
    pytest.mark.usefixtures("api"),
    # Prefect's own clients leave these behind.
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture
def verbs(monkeypatch: pytest.MonkeyPatch) -> FakeVerbs:
    return install(monkeypatch)


@pytest.fixture
def call(tmp_path: Path) -> dict[str, Any]:
    return {"experiment": str(write_experiment(tmp_path / "hares")), "out": str(tmp_path / "runs")}


def result_of(state: State) -> DiscoveryResult:
    return DiscoveryResult.from_file(Path(state.result()))


def test_every_stage_has_its_task_and_can_be_chosen_in_the_form() -> None:
    assert list(TASKS) == NAMES
    choices = discover.parameters.properties["from_stage"]["anyOf"]
    assert [choice.get("enum") for choice in choices] == [NAMES, None]


def test_the_api_shows_what_the_result_says(call: dict[str, Any], verbs: FakeVerbs) -> None:
    cold = discover(**call, return_state=True)
    assert task_states(cold) == {name: ["Completed"] for name in NAMES}
    assert result_of(cold).cached == dict.fromkeys(NAMES, False)

    warm = discover(**call, return_state=True)
    assert task_states(warm) == {name: ["Cached"] for name in NAMES}
    assert result_of(warm).cached == dict.fromkeys(NAMES, True)

    folder = Path(warm.result())
    artifact = folder / json.loads((folder / "artifacts.json").read_text())["train"]["path"]
    artifact.unlink()
    again = discover(**call, return_state=True)
    assert task_states(again) == {name: ["Completed" if name == "train" else "Cached"] for name in NAMES}
    assert [name for name, cached in result_of(again).cached.items() if not cached] == ["train"]

    changed = {**call, "overrides": ["regress.library.polynomial_degree=2"], "from_stage": "validate"}
    forced = discover(**changed, return_state=True)
    # The report holds the experiment's text; that of validation is forced, and gives the same.
    made = {"regress", "select", "validate", "report"}
    assert task_states(forced) == {name: ["Completed" if name in made else "Cached"] for name in NAMES}
    assert {name for name, cached in result_of(forced).cached.items() if not cached} == made
    assert verbs.calls == [*NAMES, "train", "regress", "select", "validate", "report"]


def test_the_library_finds_what_the_flow_stored(call: dict[str, Any], verbs: FakeVerbs) -> None:
    made = discover(**call, return_state=True)
    found = runs.discover(call["experiment"], out=call["out"])
    assert found.cached == dict.fromkeys(NAMES, True)
    assert found.missing == result_of(made).missing
    assert verbs.calls == NAMES


def test_the_flow_waits_for_a_process_of_the_library_until_that_is_killed(
    call: dict[str, Any], verbs: FakeVerbs
) -> None:
    other = Process(Path(call["experiment"]), Path(call["out"]), sleeps="train")
    assert other.line() == "ready"
    other.begin()
    assert other.line() == "asleep"
    waited: list[str] = []

    def watch(event: Progress) -> None:
        if "waiting" in event.message:
            waited.append(event.stage)
            other.popen.kill()

    token = session.set(Session(watch=watch))
    try:
        state = discover(**call, return_state=True)
    finally:
        session.reset(token)
        other.popen.kill()
        other.rest()
    assert waited == ["train"]
    assert task_states(state) == {name: ["Cached" if name == "data" else "Completed"] for name in NAMES}
    assert verbs.calls == NAMES[1:]


def test_a_task_depends_on_those_whose_results_it_reads(call: dict[str, Any], verbs: FakeVerbs) -> None:
    state = discover(**call, return_state=True)
    runs = read_task_runs(state)
    names = {run.id: name for name, run in runs}
    needs = {
        name: {names[one.id] for one in run.task_inputs["wait_for"]}  # type: ignore[union-attr]
        for name, run in runs
        if "wait_for" in run.task_inputs
    }
    assert needs == {stage.name: set(stage.inputs) for stage in STAGES if stage.inputs}
    assert verbs.calls == NAMES


@pytest.mark.parametrize(
    "error", [ZeroDivisionError("oops"), InputError("text", where="rows.csv", expected="numbers")]
)
def test_a_failing_stage_fails_its_task_and_the_flow(
    call: dict[str, Any], verbs: FakeVerbs, error: Exception, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(stage: str) -> None:
        if stage == "sample":
            raise error

    verbs.before = fail
    state = discover(**call, return_state=True)
    assert state.is_failed()
    assert state.result(raise_on_failure=False) is error
    ran = {"data": ["Completed"], "train": ["Completed"], "sample": ["Failed"]}
    assert task_states(state) == {name: ran.get(name, []) for name in NAMES}
    (record,) = list_runs(call["out"])
    assert record.result is not None
    assert (record.result.status, record.result.failed_stage) == ("failed", "sample")
    assert "Traceback" not in "".join(capfd.readouterr())


@pytest.mark.parametrize(
    ("error", "attempts"),
    [
        (OSError(errno.ESTALE, "Stale file handle"), 3),
        (OSError(errno.ENOSPC, "No space left on device"), 1),
        (InputError("text", where="rows.csv", expected="numbers"), 1),
        (SolveError("no solution"), 1),
    ],
)
def test_only_what_time_can_cure_is_tried_again(
    call: dict[str, Any],
    verbs: FakeVerbs,
    error: Exception,
    attempts: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(stage: str) -> None:
        if stage == "train" and verbs.calls.count("train") < 3:
            raise error

    verbs.before = fail
    train = TASKS["train"]
    assert train.retry_delay_seconds == sorted(RETRY_SECONDS)
    monkeypatch.setitem(TASKS, "train", train.with_options(retry_delay_seconds=[0.01, 0.02, 0.04]))
    state = discover(**call, return_state=True)
    assert verbs.calls.count("train") == attempts
    assert state.is_completed() == (attempts == 3)
    assert task_states(state)["train"] == ["Completed" if attempts == 3 else "Failed"]
    (run,) = [run for name, run in read_task_runs(state) if name == "train"]
    assert run.run_count == attempts


def test_the_session_of_the_command_line_reaches_the_flow(call: dict[str, Any], verbs: FakeVerbs) -> None:
    events: list[Progress] = []
    token = session.set(Session(watch=events.append, imports=0.25))
    try:
        result = result_of(discover(**call, return_state=True))
    finally:
        session.reset(token)
    assert {event.stage for event in events} == set(NAMES)
    assert result.seconds["imports"] == 0.25
    assert list(result.seconds) == ["imports", "prefect", *NAMES]
    assert verbs.calls == NAMES


def test_the_process_is_told_by_the_flow_run_and_not_by_its_tasks(
    call: dict[str, Any], verbs: FakeVerbs
) -> None:
    state = discover(**call, return_state=True)
    assert all(run.tags == [] for _, run in read_task_runs(state))
    assert state.state_details.flow_run_id is not None
    with get_client(sync_client=True) as client:
        assert client.read_flow_run(state.state_details.flow_run_id).tags == [process_tag()]
    assert verbs.calls == NAMES


@pytest.mark.usefixtures("verbs")
def test_a_flow_run_is_claimed_from_its_first_moment(call: dict[str, Any]) -> None:
    seen: list[list[str]] = []

    def before(flow: object, flow_run: FlowRun, state: object) -> None:
        del flow, state
        seen.append(flow_run.tags)

    with claimed():
        state = discover.with_options(on_running=[before])(**call, return_state=True)
    assert seen == [[process_tag()]]
    assert all(run.tags == [] for _, run in read_task_runs(state))


def test_a_schedule_needs_nothing_but_the_experiment() -> None:
    assert discover.parameters.required == ["experiment"]


def test_runs_of_processes_that_are_gone_are_closed(call: dict[str, Any], verbs: FakeVerbs) -> None:
    gone = process_tag().rsplit(":", 1)[0] + ":1"
    ids = {}
    with get_client(sync_client=True) as client:
        for label, tags in {"gone": [gone], "alive": [process_tag()], "other": []}.items():
            run = client.create_flow_run(discover, parameters=call, state=Running(), tags=tags)
            ids[label] = run.id
        task_run = client.create_task_run(
            task=TASKS["train"], flow_run_id=ids["gone"], dynamic_key="0", state=Running()
        )
    assert close_stale_runs() == 1
    with get_client(sync_client=True) as client:
        states = {label: client.read_flow_run(one).state_type for label, one in ids.items()}
        assert client.read_task_run(task_run.id).state_type == StateType.CRASHED
    assert states == {"gone": StateType.CRASHED, "alive": StateType.RUNNING, "other": StateType.RUNNING}
    assert close_stale_runs() == 0
    assert verbs.calls == []
