"""What Prefect's database says about runs: nothing unfinished without cause, nothing half recorded."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from pathlib import Path
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import StateType, TaskRun
from prefect.context import TagsContext, tags
from prefect.exceptions import PrefectHTTPStatusError
from prefect.settings import (
    PREFECT_API_REQUEST_TIMEOUT,
    PREFECT_API_URL,
    PREFECT_CLIENT_MAX_RETRIES,
    temporary_settings,
)
from prefect.states import Crashed

from flows.deployed import this_flow_run
from flows.server import ServerError

LOST_SERVER = (httpx.TransportError, PrefectHTTPStatusError)
"""What Prefect raises when its server is gone, or answers with errors, after all its attempts."""

ANSWER_SECONDS = 10.0

_RUNNING = FlowRunFilter(
    state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.RUNNING, StateType.PENDING]))
)


def check_api() -> None:
    """Make sure that a Prefect server answers, before anything relies on it.

    Raises:
        ServerError: if it does not.
    """
    url = PREFECT_API_URL.value()
    with (
        temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0, PREFECT_API_REQUEST_TIMEOUT: ANSWER_SECONDS}),
        get_client(sync_client=True) as client,
    ):
        problem = client.api_healthcheck()
    if problem is not None:
        raise ServerError(
            f"no Prefect server answers at PREFECT_API_URL = {url} ({_first_line(problem)}). Start it there, or unset "
            "PREFECT_API_URL: a run then brings its own."
        )


def gone(error: BaseException) -> str:
    """Return that the server is gone, as a sentence."""
    return f"The Prefect server at {PREFECT_API_URL.value()} does not answer any more ({_first_line(error)})."


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def process_tag() -> str:
    """Return the tag that tells which process runs a flow: host, process id, start of the process."""
    return f"{_host_prefix()}{os.getpid()}:{_started(os.getpid())}"


def claimed() -> contextlib.AbstractContextManager[set[str]]:
    """Tag the flow runs that begin inside with this process, from their first moment."""
    return tags(process_tag())


def claim_run() -> None:
    """Tag the flow run that this is called from with its process, if it was not: a worker's run is older than that."""
    run = this_flow_run()
    if run is None:
        return
    if process_tag() not in run.tags:
        with get_client(sync_client=True) as client:
            client.update_flow_run(run.id, tags=[*run.tags, process_tag()])


def untagged_tasks() -> TagsContext:
    """Keep the tags of a flow run from its tasks: each would ask the server for a place in the queue of each tag."""
    return TagsContext(current_tags=set())


def close_stale_runs() -> int:
    """Mark this host's flow runs as crashed whose process is gone, and return how many there were."""
    with get_client(sync_client=True) as client:
        stale = [run for run in client.read_flow_runs(flow_run_filter=_RUNNING) if _is_gone(run.tags)]
        for run in stale:
            state = Crashed(message="The process of this run has ended.")
            for task in _task_runs(client, run.id):
                if not _is_final(task):
                    client.set_task_run_state(task.id, state, force=True)
            client.set_flow_run_state(run.id, state, force=True)
    return len(stale)


def wait_until_recorded(flow_run_id: UUID, seconds: float = 5.0) -> bool:
    """Return when every task run of a flow run is in a final state, and whether it came to that.

    The states of task runs reach the server as events, some time after the tasks have ended; a
    server that is stopped at once would lose the last of them.
    """
    deadline = time.monotonic() + seconds
    try:
        with get_client(sync_client=True) as client:
            while not all(_is_final(task) for task in _task_runs(client, flow_run_id)):
                if time.monotonic() > deadline:
                    return False
                time.sleep(0.05)
    except LOST_SERVER:
        return False
    return True


def _task_runs(client: SyncPrefectClient, flow_run_id: UUID) -> list[TaskRun]:
    return client.read_task_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[flow_run_id])))


def _is_final(task: TaskRun) -> bool:
    return task.state is not None and task.state.is_final()


def _host_prefix() -> str:
    return f"process:{socket.gethostname()}:"


def _started(process: int) -> str:
    """Return when a process began, in clock ticks since boot; empty where that cannot be read."""
    try:
        # The name of the program, in parentheses, may itself hold spaces and parentheses.
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def _is_gone(own: list[str]) -> bool:
    """Return whether tags name a process of this host that is no longer there."""
    for tag in own:
        if tag.startswith(_host_prefix()):
            number, _, started = tag.removeprefix(_host_prefix()).partition(":")
            try:
                os.kill(int(number), 0)
            except ProcessLookupError:
                return True
            except PermissionError:
                pass  # it is there, and somebody else's
            return _started(int(number)) != started
    return False
