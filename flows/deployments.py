"""Experiments as Prefect deployments: what a worker runs, when, and with which parameters.

One description serves both ways to Prefect: the file ``prefect.yaml``, and the API.
"""

from __future__ import annotations

import contextlib
import datetime
import shlex
import sys
import time
import uuid
import zoneinfo
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sciml_discover.atomic import write_atomically
from sciml_discover.errors import InputError
from sciml_discover.experiment import load_experiment
from sciml_discover.readers import input_digests
from sciml_discover.stages import choose_device

if TYPE_CHECKING:
    from prefect.client.schemas.schedules import CronSchedule

POOL = "sciml-discover"
"""The work pool of all deployments, whose workers run each flow in a process of its own."""
ENTRYPOINT = "flows.discover.discover"
FIRES_SECONDS = 60.0
"""For the server to see a new deployment: it looks every five seconds."""


@dataclass(frozen=True)
class Deployment:
    """An experiment that Prefect may run.

    Attributes:
        name: unlike that of any other deployment.
        title: what is investigated.
        experiment: the experiment file, absolute.
        parameters: of the flow ``discover``, JSON-able, paths absolute.
        cron: when it runs; never by itself if empty.
        timezone: in which.
    """

    name: str
    title: str
    experiment: Path
    parameters: dict[str, Any]
    cron: str = ""
    timezone: str = "UTC"

    @property
    def full_name(self) -> str:
        """What Prefect's command line calls it."""
        return f"discover/{self.name}"

    @property
    def pull_steps(self) -> list[dict[str, Any]]:
        """What a worker does to get hold of the code: nothing but going to the experiment's folder."""
        folder = str(self.experiment.parent)
        return [{"prefect.deployments.steps.set_working_directory": {"directory": folder}}]

    @property
    def job_variables(self) -> dict[str, Any]:
        """How a worker of a process pool starts the flow: with the Python that has these packages."""
        # -P: nothing is imported from the folder of the experiment.
        return {"command": shlex.join([sys.executable, "-P", "-m", "prefect.engine"])}

    def entry(self) -> dict[str, Any]:
        """Return its entry in a ``prefect.yaml``."""
        schedules = {"schedules": [{"cron": self.cron, "timezone": self.timezone}]} if self.cron else {}
        return {
            "name": self.name,
            "description": self.title,
            "entrypoint": ENTRYPOINT,
            "parameters": self.parameters,
            **schedules,
            "work_pool": {"name": POOL, "job_variables": self.job_variables},
            "pull": self.pull_steps,
        }


def deployment_of(
    experiment: Path,
    overrides: Sequence[str] = (),
    *,
    out: Path,
    device: str = "auto",
    name: str | None = None,
    when_data_changes: bool = False,
    cron: str = "",
    timezone: str = "UTC",
) -> Deployment:
    """Return the deployment of an experiment, everything checked that can be checked now.

    Raises:
        InputError: if the experiment, a word or the name cannot be used.
    """
    loaded = load_experiment(experiment, overrides)
    input_digests(loaded.experiment.data, loaded.folder)  # the files are there
    choose_device(device)
    name = loaded.name if name is None else name
    if not name.strip() or set(name) & set("/%&><"):
        raise InputError(f"the name {name!r}", where="--name", expected="a text without any of / % & > <")
    parameters = {
        "experiment": str(Path(experiment).resolve()),
        "overrides": list(overrides),
        "when_data_changes": when_data_changes,
        "device": str(device),
        "out": str(out.resolve()),
    }
    path = Path(parameters["experiment"])
    return Deployment(name, loaded.experiment.title, path, parameters, cron, timezone)


def schedule_of(deployment: Deployment) -> CronSchedule:
    """Return when a deployment runs, as Prefect says it.

    Raises:
        InputError: if the text or the time zone means nothing.
    """
    from prefect._vendor.croniter import croniter
    from prefect.client.schemas.schedules import CronSchedule

    try:
        zoneinfo.ZoneInfo(deployment.timezone)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise InputError(
            f"the time zone {deployment.timezone!r}",
            where="--timezone",
            expected="a name of the IANA time zone database, such as UTC or Europe/Berlin",
        ) from error
    try:
        schedule = CronSchedule(cron=deployment.cron, timezone=deployment.timezone)
        # A day that never comes, such as 30 February, would stop Prefect's planning of everything.
        croniter(deployment.cron).get_next()
    except ValueError as error:
        raise InputError(
            f"the schedule {deployment.cron!r}",
            where="--cron",
            expected="minute, hour, day of month, month and day of week that come, "
            'such as "0 6 * * 1-5" or "*/30 * * * *"',
        ) from error
    return schedule


def prefect_yaml(deployments: Sequence[Deployment], before: str = "", where: str = "prefect.yaml") -> str:
    """Return the ``prefect.yaml`` of some deployments.

    Args:
        deployments: whose entries are made, or made anew.
        before: the file as it was. Its other deployments stay, and of these whatever was added by hand.
        where: its name, for messages.

    Raises:
        InputError: if two have the same name, or the file is not one to which they can be added.
    """
    import prefect
    import yaml

    names = [one.name for one in deployments]
    for one in deployments:
        if names.count(one.name) > 1:
            raise InputError(
                f"two experiments called {one.name!r}",
                where=str(one.experiment),
                expected="a name of its own for each: that of its folder, or of its file",
                do="Deploy them one by one, each with --name.",
            )
    document: dict[str, Any] = {"name": POOL, "prefect-version": prefect.__version__, "deployments": []}
    if before.strip():
        document = _own_document(before, where) | {"prefect-version": prefect.__version__}
    entries = {one.name: one.entry() for one in deployments}
    kept = [old | entries.pop(old["name"], {}) for old in document["deployments"]]
    document["deployments"] = [*kept, *entries.values()]
    return yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=110)


def _own_document(text: str, where: str) -> dict[str, Any]:
    """Return a ``prefect.yaml`` that `prefect_yaml` made, as it is now."""
    import yaml

    expected, do = (
        "one that `sciml-discover deploy` made",
        "Give another file with --file, or move this one away.",
    )
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        line = str(error).splitlines()[0]
        raise InputError(f"a file that is no YAML ({line})", where=where, expected=expected, do=do) from error
    if not isinstance(document, dict) or document.get("name") != POOL:
        found = (
            f"of {document['name']!r}"
            if isinstance(document, dict) and "name" in document
            else "of something else"
        )
        raise InputError(f"a file {found}", where=where, expected=expected, do=do)
    entries = document.setdefault("deployments", [])
    if not isinstance(entries, list) or not all(isinstance(one, dict) and "name" in one for one in entries):
        raise InputError("deployments without names", where=where, expected=expected, do=do)
    return document


def write_prefect_yaml(deployments: Sequence[Deployment], path: Path) -> None:
    """Write the ``prefect.yaml`` of some deployments, or add them to the one that is there; see `prefect_yaml`.

    Raises:
        InputError: if two have the same name, or the file cannot be read, added to or written.
    """
    try:
        before = path.read_text(encoding="utf-8") if path.exists() else ""
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"a file that cannot be read ({error})", where=str(path), expected="YAML") from error
    content = prefect_yaml(deployments, before, str(path)).encode()
    try:
        write_atomically(path, content)
    except OSError as error:
        raise InputError(
            f"a file that cannot be written ({error.strerror})", where=str(path), expected="a writable folder"
        ) from error


def register(deployment: Deployment) -> uuid.UUID:
    """Tell the Prefect API of a deployment, and make the work pool if there is none; return its id.

    Raises:
        InputError: if the schedule means nothing, or there is a deployment of that name of another experiment.
    """
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import DeploymentScheduleCreate, WorkPoolCreate
    from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
    from prefect.workers.process import ProcessWorker

    from flows.discover import discover

    # None leaves the schedules that there are.
    schedules = None
    if deployment.cron:
        schedules = [DeploymentScheduleCreate(schedule=schedule_of(deployment), active=True)]
    with get_client(sync_client=True) as client:
        with contextlib.suppress(ObjectNotFound):
            there = client.read_deployment_by_name(deployment.full_name).parameters.get("experiment")
            if there != deployment.parameters["experiment"]:
                raise InputError(
                    f"a deployment {deployment.name!r} of another experiment, {there}",
                    where="the Prefect API",
                    expected="a name of its own for each",
                    do="Choose another with --name, or delete that one: "
                    f"`sciml-discover prefect deployment delete {deployment.full_name}`.",
                )
        with contextlib.suppress(ObjectAlreadyExists):
            template = ProcessWorker.get_default_base_job_template()
            client.create_work_pool(WorkPoolCreate(name=POOL, type="process", base_job_template=template))
        return client.create_deployment(
            client.create_flow(discover),
            deployment.name,
            description=deployment.title,
            entrypoint=ENTRYPOINT,
            parameters=deployment.parameters,
            parameter_openapi_schema=discover.parameters.model_dump_for_openapi(),
            enforce_parameter_schema=True,
            schedules=schedules,
            work_pool_name=POOL,
            job_variables=deployment.job_variables,
            pull_steps=deployment.pull_steps,
        )


def wait_until_scheduled(
    deployment_id: uuid.UUID, seconds: float = FIRES_SECONDS
) -> Sequence[datetime.datetime]:
    """Return when a deployment will run, as soon as the server has scheduled that; nothing if it does not.

    A server that was planning by an older schedule when a new one came keeps those runs, and would start them:
    they are deleted.
    """
    from prefect.client.orchestration import get_client
    from prefect.client.schemas import filters
    from prefect.client.schemas.objects import StateType

    of_it = filters.DeploymentFilter(id=filters.DeploymentFilterId(any_=[deployment_id]))
    scheduled = filters.FlowRunFilter(
        state=filters.FlowRunFilterState(type=filters.FlowRunFilterStateType(any_=[StateType.SCHEDULED]))
    )
    deadline = time.monotonic() + seconds
    with get_client(sync_client=True) as client:
        schedules = {one.id for one in client.read_deployment(deployment_id).schedules}
        while True:
            runs = client.read_flow_runs(deployment_filter=of_it, flow_run_filter=scheduled)
            planned = [(run.created_by.id, run) for run in runs if run.auto_scheduled and run.created_by]
            now = datetime.datetime.now(datetime.UTC)
            due = (run.expected_start_time for schedule, run in planned if schedule in schedules)
            times = sorted(one for one in due if one is not None and one > now)
            if times or time.monotonic() > deadline:
                for schedule, run in planned:
                    if schedule not in schedules:
                        client.delete_flow_run(run.id)
                return times
            time.sleep(0.2)


def a_schedule_fires() -> bool:
    """Return whether the server of the Prefect API plans the runs of a new schedule, which is then deleted."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import DeploymentScheduleCreate
    from prefect.client.schemas.schedules import CronSchedule

    yearly = DeploymentScheduleCreate(schedule=CronSchedule(cron="0 0 1 1 *", timezone="UTC"), active=True)
    with get_client(sync_client=True) as client:
        flow_id = client.create_flow_from_name("doctor")
        deployment_id = client.create_deployment(flow_id, f"doctor-{uuid.uuid4()}", schedules=[yearly])
        try:
            return bool(wait_until_scheduled(deployment_id))
        finally:
            client.delete_deployment(deployment_id)
            client.delete_flow(flow_id)
