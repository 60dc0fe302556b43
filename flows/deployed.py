"""What a flow run knows of the deployment that it comes from, and what it is called."""

from __future__ import annotations

from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun
from prefect.context import FlowRunContext
from prefect.runtime import deployment


def this_flow_run() -> FlowRun | None:
    """Return the flow run that this is called from; None where the flow's function is called alone, as in a test."""
    context = FlowRunContext.get()
    return None if context is None else context.flow_run


def deployment_name() -> str:
    """Return the name of the deployment that this flow run comes from; empty without one."""
    return deployment.name or ""


def name_run(name: str) -> None:
    """Call the flow run that this is called from by a name."""
    run = this_flow_run()
    if run is None:
        return
    with get_client(sync_client=True) as client:
        client.update_flow_run(run.id, name=name)
