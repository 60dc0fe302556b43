"""The commands that let others start runs: schedules, deployments, and the server that they need."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.command_options import (
    DONE,
    FAILED,
    Device,
    DeviceOption,
    ExperimentFile,
    OutFolder,
    Overrides,
    WhenDataChanges,
    exits,
)

if TYPE_CHECKING:
    from rich.console import Console

    from flows.staying_server import StayingServer

app = typer.Typer()

server = typer.Typer(help="A local Prefect server that stays up: pages to look at, and no start-up for runs.")
app.add_typer(server, name="server", no_args_is_help=True)

WORKER = "sciml-discover prefect worker start --pool sciml-discover --type process"


@app.command()
@exits
def schedule(
    experiment: ExperimentFile,
    cron: Annotated[
        str,
        typer.Option("--cron", metavar="TEXT", help='When to run, such as "0 6 * * 1-5": weekdays at six.'),
    ],
    timezone: Annotated[
        str, typer.Option("--timezone", metavar="NAME", help="In which that is, such as Europe/Berlin.")
    ] = "UTC",
    when_data_changes: WhenDataChanges = False,
    overrides: Overrides = [],  # noqa: B006  (typer reads the default, nobody changes it)
    name: Annotated[
        str | None,
        typer.Option("--name", help="Of the deployment; that of the experiment unless given."),
    ] = None,
    device: DeviceOption = Device.auto,
    out: OutFolder = Path("runs"),
) -> int:
    """Run an experiment again and again: a Prefect deployment with a schedule.

    It needs a server that stays up, and a worker; both are told if they are not there.
    """
    from flows.api import lasting_api
    from flows.deployments import deployment_of, register, wait_until_scheduled

    deployment = deployment_of(
        experiment,
        overrides,
        out=out,
        device=device,
        name=name,
        when_data_changes=when_data_changes,
        cron=cron,
        timezone=timezone,
    )
    console = _console()
    with lasting_api(out):
        from flows.bookkeeping import check_api  # reads the address of the server when it is imported

        check_api()
        times = wait_until_scheduled(register(deployment))
    if not times:
        console.print("[red]✘[/] The server plans no run. `sciml-discover doctor` may say why.")
        return FAILED
    console.print(f"[green]✔[/] {deployment.full_name}: next on {times[0]:%Y-%m-%d at %H:%M %Z}")
    console.print(f"  work:   {WORKER}")
    console.print(f"  look:   sciml-discover prefect deployment schedule ls {deployment.full_name}")
    console.print(f"  remove: sciml-discover prefect deployment delete {deployment.full_name}")
    return DONE


@app.command()
@exits
def deploy(
    experiments: Annotated[
        list[Path],
        typer.Argument(metavar="EXPERIMENT...", help="Experiment files (TOML).", show_default=False),
    ],
    file: Annotated[Path, typer.Option("--file", metavar="YAML", help="The file to write.")] = Path(
        "prefect.yaml"
    ),
    when_data_changes: WhenDataChanges = False,
    overrides: Overrides = [],  # noqa: B006
    device: DeviceOption = Device.auto,
    out: OutFolder = Path("runs"),
) -> int:
    """Write a prefect.yaml of experiments, for those who keep their deployments in a file.

    Schedules and much else can be added there by hand; Prefect itself puts it into effect.
    """
    from flows.deployments import deployment_of, write_prefect_yaml

    deployments = [
        deployment_of(one, overrides, out=out, device=device, when_data_changes=when_data_changes)
        for one in experiments
    ]
    write_prefect_yaml(deployments, file)
    console = _console()
    console.print(f"[green]✔[/] {file}: {', '.join(one.full_name for one in deployments)}")
    console.print(f"  1. a worker, if none runs: {WORKER}")
    console.print(
        f"  2. the file takes effect: sciml-discover prefect --no-prompt deploy --all --prefect-file {file}"
    )
    console.print(f"  3. a run: sciml-discover prefect deployment run {deployments[0].full_name}")
    return DONE


@app.command(
    context_settings={
        "allow_extra_args": True,
        "allow_interspersed_args": False,
        "ignore_unknown_options": True,
        "help_option_names": [],
    }
)
@exits
def prefect(
    context: typer.Context,
    out: OutFolder = Path("runs"),
) -> int:
    """Run Prefect's own command line on the server in use: workers, deployments, past runs."""
    from flows.api import lasting_api
    from flows.server import PRIVATE

    with lasting_api(out, PRIVATE):
        sys.stdout.flush()
        # -P: nothing is imported from the folder in which somebody happens to be.
        os.execv(sys.executable, [sys.executable, "-P", "-m", "prefect", *context.args])
    return DONE


@server.command()
@exits
def start(out: OutFolder = Path("runs")) -> int:
    """Start the server, unless it runs. Every command with the same --out then uses it."""
    from flows.server import prefect_home
    from flows.staying_server import start_server

    found, begun = start_server(prefect_home(out))
    _tell("started" if begun else "already running", found)
    return DONE


@server.command()
@exits
def stop(out: OutFolder = Path("runs")) -> int:
    """Stop the server. What is scheduled waits for the next one."""
    found = _find(out)
    if found is not None:
        found.stop()
        _console().print(f"stopped: {found.url}")
    return DONE


@server.command()
@exits
def status(out: OutFolder = Path("runs")) -> int:
    """Say whether the server runs, and where. Exit status: 0 it does, 1 it does not."""
    found = _find(out)
    if found is None:
        return FAILED
    found.wait()
    _tell("running", found)
    return DONE


def _find(out: Path) -> StayingServer | None:
    """Return the server that runs; if there is none, say so."""
    from flows.server import prefect_home
    from flows.staying_server import find_server

    found = find_server(prefect_home(out))
    if found is None:
        _console().print("no server is running")
    return found


def _tell(how: str, found: StayingServer) -> None:
    console = _console()
    console.print(f"[green]✔[/] {how}: {found.url} (process {found.process})")
    console.print(f"  pages:    {found.ui}")
    console.print(f"  password: {found.password}")


def _console() -> Console:
    from rich.console import Console

    return Console(stderr=True, highlight=False, soft_wrap=True)
