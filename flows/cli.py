"""The command line ``sciml-discover``. Everything slow is imported inside the commands.

Exit status of ``run``: 0 accepted, 3 finished but rejected, 2 the input is wrong, 130 interrupted,
1 anything else. What a person reads goes to stderr, except for the commands whose only purpose is
to show something.
"""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows import schedule_commands
from flows.command_options import (
    ACCEPTED,
    FAILED,
    INTERRUPTED,
    REJECTED,
    Device,
    DeviceOption,
    ExperimentFile,
    JsonOption,
    OutFolder,
    Overrides,
    exits,
)
from flows.leaving import keep_interrupts, leave

if TYPE_CHECKING:
    from rich.console import RenderableType

app = typer.Typer(
    name="sciml-discover",
    help="Find the missing terms of a differential equation in data, and prove them by solving it again.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

benchmarks = typer.Typer(help="Measure the library against what it has to reach, and against other tools.")
app.add_typer(benchmarks, name="benchmark", no_args_is_help=True)

cache = typer.Typer(help="Look after the store that all runs share.")
app.add_typer(cache, name="cache", no_args_is_help=True)

app.add_typer(schedule_commands.app)

CaseNames = Annotated[
    str, typer.Option("--cases", metavar="NAMES", help="Names with commas between them; all if not given.")
]
Seeds = Annotated[
    str | None,
    typer.Option("--seeds", metavar="VALUES", help="Such as 0..19; each case's own if not given."),
]
AsDocument = Annotated[bool, typer.Option("--json", help="Print the JSON document on stdout.")]
RunName = Annotated[
    str,
    typer.Argument(metavar="RUN", help="Name of a run, its beginning, or its folder.", show_default=False),
]


class RunnerName(StrEnum):
    """Where the runs of a sweep are made."""

    threads = "threads"
    processes = "processes"
    dask = "dask"


class Language(StrEnum):
    """What a law can be exported to."""

    python = "python"
    julia = "julia"
    c = "c"
    latex = "latex"
    json = "json"


class StatusFilter(StrEnum):
    """How a run can have ended."""

    accepted = "accepted"
    rejected = "rejected"
    failed = "failed"
    unfinished = "unfinished"


class SortKey(StrEnum):
    """What the list of runs can be sorted by."""

    created = "created"
    case = "case"
    status = "status"
    holdout = "holdout"
    seconds = "seconds"


@app.command()
@exits
def run(
    experiment: ExperimentFile,
    overrides: Overrides = [],  # noqa: B006  (typer reads the default, nobody changes it)
    out: OutFolder = Path("runs"),
    from_stage: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="STAGE",
            help="Make this stage anew; those after it follow unless it gives the same.",
        ),
    ] = None,
    device: DeviceOption = Device.auto,
    as_json: Annotated[bool, typer.Option("--json", help="Print result.json on stdout.")] = False,
) -> int:
    """Run an experiment: from its data to a validated law.

    Exit status: 0 accepted, 3 rejected, 2 wrong input, 130 interrupted, 1 anything else.
    """
    from rich.console import Console

    from flows.launch import launch
    from flows.panels import run_panel

    console = Console(stderr=True)
    result = launch(experiment, overrides, out=out, from_stage=from_stage, device=device, console=console)
    console.print(run_panel(result, out / result.id))
    if as_json:
        sys.stdout.write(result.to_json())
    return {"accepted": ACCEPTED, "rejected": REJECTED, "failed": FAILED}[result.status]


@app.command()
@exits
def show(
    run: RunName,
    other: Annotated[
        str | None,
        typer.Argument(metavar="[RUN2]", help="A second one to compare it with.", show_default=False),
    ] = None,
    out: OutFolder = Path("runs"),
) -> int:
    """Show the result of a run, and where each stage's is from; or of two, side by side."""
    from rich.console import Console

    from flows.panels import compare_runs, run_panel
    from sciml_discover.provenance import stage_origins
    from sciml_discover.run_folders import find_folder_and_result

    found = [find_folder_and_result(name, out) for name in (run, other) if name is not None]
    results = [result for _, result in found]
    console = Console()
    for folder, result in found:
        console.print(run_panel(result, origins=stage_origins(folder)))
    if len(results) > 1:
        console.print(compare_runs(results))
    return 0


@app.command("list")
@exits
def list_command(
    status: Annotated[StatusFilter | None, typer.Option(help="Only runs that ended so.")] = None,
    case: Annotated[str | None, typer.Option(help="Only runs of this case.")] = None,
    sort: Annotated[SortKey, typer.Option(help="What to sort by.")] = SortKey.created,
    out: OutFolder = Path("runs"),
) -> int:
    """List all runs."""
    from rich.console import Console

    from flows.panels import runs_table, sorted_records
    from sciml_discover.run_folders import list_runs

    records = [
        record
        for record in list_runs(out)
        if status in (None, record.result.status if record.result else "unfinished")
        and case in (None, record.result.case if record.result else "")
    ]
    Console().print(runs_table(sorted_records(records, sort)))
    return 0


@app.command()
@exits
def export(
    run: RunName,
    to: Annotated[Language, typer.Option("--to", help="The language to write it in.")],
    law: Annotated[
        int, typer.Option("--law", min=0, metavar="N", help="0: the choice; 1 and up: its alternatives.")
    ] = 0,
    file: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Where to write it; stdout if not given.")
    ] = None,
    runs: Annotated[Path, typer.Option("--runs", help="The folder of all runs.")] = Path("runs"),
) -> int:
    """Write a law of a run as Python, Julia, C, LaTeX or JSON."""
    from sciml_discover.exports import export_law
    from sciml_discover.run_folders import find_run

    text = export_law(find_run(run, runs), to, law)
    if file is None:
        sys.stdout.write(text)
        return 0
    from sciml_discover.errors import InputError

    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(
            f"a file that cannot be written ({error.strerror})",
            where=f"--out {file}",
            expected="a file in a folder that exists",
        ) from error
    return 0


@app.command()
@exits
def sweep(
    experiment: ExperimentFile,
    over: Annotated[
        list[str],
        typer.Option(
            "--over",
            metavar="KEY=VALUES",
            help="A key and its values: data.synthetic.seed=0..19 or train.starts=1,2.",
        ),
    ],
    overrides: Overrides = [],  # noqa: B006
    out: OutFolder = Path("runs"),
    device: DeviceOption = Device.auto,
    runner: Annotated[
        RunnerName,
        typer.Option("--runner", help="Where runs are made. Dask needs the extra 'dask'."),
    ] = RunnerName.processes,
    workers: Annotated[int, typer.Option(min=1, help="How many runs at the same time.")] = 1,
    dask_address: Annotated[
        str | None,
        typer.Option(
            "--dask-address",
            metavar="ADDRESS",
            help="The scheduler of a Dask cluster that is there, such as tcp://10.0.0.5:8786; "
            "without it, one is started on this machine.",
        ),
    ] = None,
    retries: Annotated[
        int, typer.Option(min=0, help="How often a run that fails is tried again, unless its input is wrong.")
    ] = 0,
) -> int:
    """Run an experiment for every combination of values.

    Started again, it runs only what is not finished or has failed.
    """
    import time

    from rich.console import Console

    from flows.launch import launch_sweep
    from flows.panels import sweep_table

    console, begun = Console(stderr=True), time.perf_counter()
    table = launch_sweep(
        experiment,
        over,
        overrides,
        out=out,
        device=device,
        runner=runner,
        workers=workers,
        dask_address=dask_address,
        retries=retries,
        console=console,
    )
    console.print(sweep_table(table, time.perf_counter() - begun))
    return FAILED if table.failed else 0


@app.command()
@exits
def doctor(out: OutFolder = Path("runs"), as_json: JsonOption = False) -> int:
    """Check that runs will work here: packages, folder, disk, GPU, server; say what must be done.

    Exit status: 0 nothing must be done, 1 something must.
    """
    import dataclasses

    from rich.console import Console
    from rich.text import Text

    from flows.doctor import checks

    console, done = Console(), []
    for check in checks(out):
        done.append(check)
        if not as_json:
            mark = ("✔ ", "green") if check.ok else ("✘ ", "red")
            console.print(Text.assemble(mark, f"{check.name}: {check.found}"), soft_wrap=True)
            if check.do:
                console.print(Text(f"  do: {check.do}"), soft_wrap=True)
    if as_json:
        _print_json([{**dataclasses.asdict(check), "ok": check.ok} for check in done])
    return 0 if all(check.ok for check in done) else FAILED


@cache.command("list")
@exits
def cache_list(out: OutFolder = Path("runs"), as_json: JsonOption = False) -> int:
    """List what the store holds: stage, size, time since the last use, the runs that rest on it."""
    from flows.cache_tables import entries_json, entries_table
    from sciml_discover.cache import cache_entries

    entries = cache_entries(out)
    _tell(entries_table(entries), entries_json(entries) if as_json else None)
    return 0


@cache.command("verify")
@exits
def cache_verify(out: OutFolder = Path("runs"), as_json: JsonOption = False) -> int:
    """Check the digest of every result, and every reference.

    Exit status: 0 all are whole, 1 some are damaged.
    """
    from flows.cache_tables import damages_json, damages_table
    from sciml_discover.cache import verify

    damages = verify(out)
    _tell(damages_table(damages), damages_json(damages) if as_json else None)
    return FAILED if damages else 0


@cache.command("prune")
@exits
def cache_prune(
    older_than: Annotated[
        str | None,
        typer.Option("--older-than", metavar="TIME", help="Delete what was not used for so long: 7d, 12h."),
    ] = None,
    max_size: Annotated[
        str | None,
        typer.Option("--max-size", metavar="SIZE", help="Leave no more than this: 2GB. The oldest go first."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    out: OutFolder = Path("runs"),
    as_json: JsonOption = False,
) -> int:
    """Delete old results, and what killed processes left half done.

    Nothing goes that a running process uses; what goes is made anew when it is next needed.
    """
    from flows.cache_tables import pruned_json, pruned_table
    from flows.quantities import seconds, size
    from sciml_discover.cache import prune

    pruned = prune(
        out,
        older_than=None if older_than is None else seconds(older_than, "--older-than"),
        max_bytes=None if max_size is None else size(max_size, "--max-size"),
        dry_run=dry_run,
    )
    _tell(pruned_table(pruned, dry_run=dry_run), pruned_json(pruned, dry_run=dry_run) if as_json else None)
    return 0


@benchmarks.command("training")
@exits
def benchmark_training(
    cases: CaseNames = "",
    seeds: Seeds = None,
    peers: Annotated[
        bool, typer.Option("--peers/--no-peers", help="Run other tools in turn with this one.")
    ] = True,
    preset: Annotated[str, typer.Option("--preset", help="Of every row that names none.")] = "auto",
    peer_python: Annotated[
        str,
        typer.Option(
            "--peer-python",
            metavar="PATH",
            envvar="SCIML_DISCOVER_PEER_PYTHON",
            help="The interpreter that has the packages of the extra 'peers'.",
        ),
    ] = sys.executable,
    out: OutFolder = Path("runs"),
    as_json: AsDocument = False,
) -> int:
    """Train on problems whose truth is known, and compare with targets and peers.

    Exit status: 0 once all was measured, whatever was found; 2 wrong input; 130 interrupted; 1 anything else.
    """
    import json

    from rich.console import Console

    from flows.benchmarks.table import terminal_tables
    from flows.launch import launch_benchmark

    console = Console(stderr=True)
    document = launch_benchmark(
        cases, seeds, preset=preset, peers=peers, peer_python=peer_python, out=out, console=console
    )
    console.print(terminal_tables(document))
    if as_json:
        sys.stdout.write(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    return 0


@benchmarks.command("regression")
@exits
def benchmark_regression(
    bootstraps: Annotated[
        int, typer.Option(min=1, help="Draws of the samples; fewer are sooner done.")
    ] = 100,
    thresholds: Annotated[int, typer.Option(min=1, help="On the path of each draw.")] = 50,
    samples: Annotated[int, typer.Option(min=60, help="Of the term that is regressed on 56 others.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Of samples and draws.")] = 0,
    out: OutFolder = Path("runs"),
    as_json: AsDocument = False,
) -> int:
    """Compare batched thresholding with pysindy's ensembles, on the same draws.

    Exit status: 0 measured, whatever was found; 2 wrong input; 130 interrupted; 1 anything else.
    """
    import json

    from rich.console import Console

    from flows.launch import launch_regression_benchmark

    console = Console(stderr=True)
    document = launch_regression_benchmark(
        bootstraps=bootstraps, thresholds=thresholds, samples=samples, seed=seed, out=out, console=console
    )
    from flows.benchmark_regression import regression_table

    console.print(regression_table(document))
    if as_json:
        sys.stdout.write(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    return 0 if document["figures"] else FAILED


@benchmarks.command("recovery")
@exits
def benchmark_recovery(
    cases: CaseNames = "",
    rows: Annotated[
        list[str] | None,
        typer.Option(
            "--row", metavar="NAME", help="A row of a table, as it is called there; may be repeated."
        ),
    ] = None,
    seeds: Seeds = None,
    file: Annotated[
        Path | None,
        typer.Option(
            "--file",
            metavar="JSON",
            help="The document to begin or to go on with; what it has is not run again. "
            "Default: benchmarks/recovery.json in --out.",
        ),
    ] = None,
    out: OutFolder = Path("runs"),
    as_json: AsDocument = False,
) -> int:
    """Hide known laws, look for them in noisy data, and count what comes back.

    Exit status: 0 once all was measured, whatever was found; 2 wrong input; 130 interrupted; 1 anything else.
    """
    import json

    from rich.console import Console

    from flows.launch import launch_recovery_benchmark

    console = Console(stderr=True)
    document = launch_recovery_benchmark(cases, rows or (), seeds, file=file, out=out, console=console)
    from flows.recovery.tables import terminal_tables

    console.print(terminal_tables(document))
    if as_json:
        sys.stdout.write(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    return 0


@app.callback(invoke_without_command=True)
def _options(
    version: Annotated[bool, typer.Option("--version", help="Print the version.", is_eager=True)] = False,
) -> None:
    if version:
        from importlib import metadata

        typer.echo(metadata.version("sciml-discover"))
        raise typer.Exit


def _tell(table: RenderableType, document: dict[str, Any] | None) -> None:
    """Print a table, or a JSON document instead if there is one."""
    if document is not None:
        _print_json(document)
        return
    from rich.console import Console

    Console().print(table)


def _print_json(document: Any) -> None:
    import json

    sys.stdout.write(json.dumps(document, indent=1, ensure_ascii=False) + "\n")


def main() -> None:
    """Start the command line."""
    keep_interrupts()
    try:
        app()
    except SystemExit as end:
        leave(end.code, interrupted=INTERRUPTED)
        raise


if __name__ == "__main__":
    main()
