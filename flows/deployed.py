"""What a flow run knows of the deployment that it comes from, and what it is called."""

from __future__ import annotations

from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext
from prefect.runtime import deployment


def deployment_name() -> str:
    """Return the name of the deployment that this flow run comes from; empty without one."""
    return deployment.name or ""


def name_run(name: str) -> None:
    """Call the flow run that this is called from by a name."""
    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        return  # the flow's function is called alone, as in a test
    with get_client(sync_client=True) as client:
        client.update_flow_run(context.flow_run.id, name=name)
