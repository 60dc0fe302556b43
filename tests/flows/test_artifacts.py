from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
from prefect.client.schemas.objects import Artifact, State

from flows import artifacts
from flows.artifacts import artifacts_of, law_rows, number_rows
from flows.discover import discover
from flows.session import Session, session
from sciml_discover.base import Progress
from sciml_discover.result import DiscoveryResult
from tests.artifacts import SmallRun
from tests.fakes import FakeVerbs, install, write_experiment

PAGE = '<html><svg id="figure-overview" role="img"><path style="fill: var(--law)"/></svg></html>'


@pytest.fixture
def verbs(monkeypatch: pytest.MonkeyPatch) -> FakeVerbs:
    return install(monkeypatch)


@pytest.fixture
def call(tmp_path: Path) -> dict[str, Any]:
    return {"experiment": write_experiment(tmp_path / "hares"), "out": tmp_path / "runs"}


def shown(state: State) -> list[Artifact]:
    """The artifacts of a flow run."""
    flow_run_id = state.state_details.flow_run_id
    assert flow_run_id is not None
    chosen = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[flow_run_id]))
    with get_client(sync_client=True) as client:
        return client.read_artifacts(artifact_filter=chosen)


def test_what_is_shown_of_a_run(run_artifacts: SmallRun, tmp_path: Path) -> None:
    result = run_artifacts.result(case="Hares & lynx")
    (tmp_path / "report.html").write_text(PAGE)
    found = {one.key: one for one in artifacts_of(result, tmp_path)}
    kinds = {key: one.type for key, one in found.items()}
    assert kinds == {
        "hares---lynx-law": "markdown",
        "hares---lynx-numbers": "table",
        "hares---lynx-laws": "table",
        "hares---lynx-picture": "image",
    }
    assert all(re.fullmatch("[a-z0-9-]+", key or "") for key in found)
    law = str(found["hares---lynx-law"].data)
    assert "d hare/dt = " in law
    assert all(reason.message in law for reason in result.reasons)
    assert f"file://{tmp_path}/report.html" in law
    _, _, drawn = str(found["hares---lynx-picture"].data).partition("base64,")
    assert "var(--" not in base64.b64decode(drawn).decode()


def test_the_tables_have_every_number_and_every_law(run_artifacts: SmallRun) -> None:
    result = run_artifacts.result()
    numbers = number_rows(result)
    terms = sum(len(law.terms) for law in result.missing.values())
    assert len(numbers) >= terms + len(result.parameters)
    assert [row["note"] for row in numbers if row["number"] == "delta"] == ["fixed"]
    assert "±" in numbers[0]["estimate"] or "(" in numbers[0]["estimate"]
    laws = law_rows(result)
    assert laws[0]["role"] == "choice"
    assert len(laws) == 1 + len(result.alternatives)
    assert {row["role"] for row in laws[1:]} <= {"rival", "front"}
    json.dumps([numbers, laws], allow_nan=False)


def test_a_report_without_the_figure_shows_no_picture(run_artifacts: SmallRun, tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text("<html></html>")
    assert [one.type for one in artifacts_of(run_artifacts.result(), tmp_path)].count("image") == 0


@pytest.mark.usefixtures("api")
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_run_shows_them_and_how_far_training_is(
    call: dict[str, Any], verbs: FakeVerbs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(artifacts, "SECONDS_BETWEEN_UPDATES", 0.0)
    state = discover(**call, return_state=True)
    found = {one.key: one for one in shown(state)}
    assert set(found) == {"hares-law", "hares-numbers", "hares-laws", "train-progress"}
    assert found["train-progress"].data == 50.0
    assert found["train-progress"].task_run_id is not None
    result = DiscoveryResult.from_file(Path(state.result()))
    assert result.equations["hare"] in str(found["hares-law"].data)
    assert verbs.calls


@pytest.mark.usefixtures("api")
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_what_prefect_refuses_fails_no_run(
    call: dict[str, Any], verbs: FakeVerbs, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**_: object) -> None:
        raise OSError("no room")

    monkeypatch.setattr(artifacts, "SECONDS_BETWEEN_UPDATES", 0.0)
    monkeypatch.setattr(artifacts, "ArtifactCreate", refuse)
    told: list[str] = []

    def watch(event: Progress) -> None:
        told.append(event.message)

    token = session.set(Session(watch=watch))
    try:
        state = discover(**call, return_state=True)
    finally:
        session.reset(token)
    assert state.is_completed()
    assert "not all is shown in Prefect (OSError: no room)" in told
    assert verbs.calls
