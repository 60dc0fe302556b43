"""What the Prefect API tells about the tasks of a flow run."""

from __future__ import annotations

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import State, TaskRun

from flows.bookkeeping import wait_until_recorded
from sciml_discover.stages import STAGES


def read_task_runs(state: State) -> list[tuple[str, TaskRun]]:
    """What the API tells of each task run of a flow run, with the name of its task."""
    flow_run_id = state.state_details.flow_run_id
    assert flow_run_id is not None
    assert wait_until_recorded(flow_run_id)
    chosen = FlowRunFilter(id=FlowRunFilterId(any_=[flow_run_id]))
    with get_client(sync_client=True) as client:
        return [(run.name.rsplit("-", 1)[0], run) for run in client.read_task_runs(flow_run_filter=chosen)]


def task_states(state: State) -> dict[str, list[str]]:
    """The names of the states of each task's runs."""
    found: dict[str, list[str]] = {stage.name: [] for stage in STAGES}
    for name, run in read_task_runs(state):
        found[name].append(run.state_name or "")
    return found
