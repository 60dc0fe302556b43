"""From a call of the command line to a finished flow: what happens before, beside and after Prefect."""

from __future__ import annotations

import contextlib
import importlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from rich.console import Console

from flows.api import prefect_api
from flows.combinations import plan, sweep_name
from flows.leaving import GOES_ON, make_haste
from flows.progress import shown_on
from flows.server import ServerError
from flows.session import Session, session
from sciml_discover.errors import InputError
from sciml_discover.experiment import load_experiment
from sciml_discover.result import DiscoveryResult
from sciml_discover.run_folders import new_run_id, store_in, writable_folder
from sciml_discover.stages import Bench, Inputs, Stage, choose_device, stage_named, stages_to_make

if TYPE_CHECKING:
    from prefect.client.schemas.objects import State

    from flows.sweep_table import SweepTable


PATIENCE = {
    # After a lost connection: 2, 4 and 8 seconds. Prefect's own five attempts take over a minute, twice.
    "PREFECT_CLIENT_MAX_RETRIES": "3",
    # Its reports of events that did not arrive are pages long.
    "PREFECT_LOGGING_INTERNAL_LEVEL": "CRITICAL",
}
"""How long Prefect tries to reach a server that is gone, unless the environment says otherwise."""


def launch(
    experiment: Path,
    overrides: Sequence[str],
    *,
    out: Path,
    from_stage: str | None,
    device: str,
    console: Console,
) -> DiscoveryResult:
    """Run the flow ``discover`` once and return its result, even if a stage failed.

    Everything that can be wrong with the input is found before the flow begins.

    Raises:
        InputError: if the experiment, its data or the output folder cannot be used.
    """
    loaded = load_experiment(experiment, overrides)
    if from_stage is not None:
        stage_named(from_stage)
    bench = Bench(loaded, choose_device(device))
    out = writable_folder(out)
    run_id = new_run_id(loaded.name)
    missing = stages_to_make(bench, store_in(out), from_stage)
    if missing:
        _ = bench.units  # wrong units are told before a server starts

    def prepare() -> None:
        if missing and not missing[0].inputs:
            # Reading the data twice costs nothing while the server starts, and a wrong column is
            # told at once instead of after it.
            missing[0].work(bench, Inputs())
        import_for(missing)

    with (
        _forced(from_stage),
        _prefect(out, "flows.discover", prepare) as clock,
        shown_on(console) as watch,
    ):
        from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

        from flows.bookkeeping import LOST_SERVER, gone
        from flows.discover import discover

        clock.watch = watch
        parameters = {
            "experiment": str(experiment),
            "overrides": list(overrides),
            "out": str(out),
            "from_stage": from_stage,
            "device": device,
            "run_id": run_id,
        }
        # Runs whose process is gone are found by that; waiting for the heartbeat's thread to end
        # would take a second.
        try:
            with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
                state = discover.with_options(flow_run_name=run_id)(**parameters, return_state=True)
        except LOST_SERVER as error:
            if not (out / run_id / "result.json").exists():
                raise
            make_haste()
            # Prefect's list of runs lacks the end of this one; nothing else does.
            console.print(f"{gone(error)} The result is whole.", highlight=False, soft_wrap=True)
            return DiscoveryResult.from_file(out / run_id)
        _settle(state)
    return _result_of(state, out / run_id)


def launch_sweep(
    experiment: Path,
    over: Sequence[str],
    overrides: Sequence[str],
    *,
    out: Path,
    device: str,
    runner: str,
    workers: int,
    dask_address: str | None,
    retries: int,
    console: Console,
) -> SweepTable:
    """Run the flow ``sweep`` once and return its table.

    Raises:
        InputError: if what to sweep over, an experiment, the runner or the output folder cannot be used.
    """
    from flows.runners import checked_runner
    from flows.sweep_rows import rows_without_work

    # Checked here, so that a mistake is told before a server starts.
    checked_runner(runner, workers, dask_address)
    planned = plan(experiment, over, overrides, device)
    out = writable_folder(out)

    def prepare() -> None:
        # While the server starts: the flow then finds finished whatever the store has.
        for _ in rows_without_work(planned, out, device):
            pass

    with _prefect(out, "flows.sweep", prepare) as clock, shown_on(console) as watch:
        from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

        from flows.sweep import sweep

        clock.watch = watch
        parameters = {
            "experiment": str(experiment),
            "over": list(over),
            "overrides": list(overrides),
            "out": str(out),
            "device": device,
            "runner": runner,
            "workers": workers,
            "dask_address": dask_address,
            "retries": retries,
        }
        with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):  # as in `launch`
            state = sweep.with_options(flow_run_name=sweep_name(planned))(**parameters, return_state=True)
        _settle(state)
    # What a flow says in a state of its own is the result of that state.
    return cast("SweepTable", state.result())


def launch_benchmark(
    cases: str,
    seeds: str | None,
    *,
    preset: str,
    peers: bool,
    peer_python: str,
    out: Path,
    console: Console,
) -> dict[str, Any]:
    """Run the flow ``benchmark`` once and return its document.

    Raises:
        InputError: if a case, a seed, the preset, the interpreter or the output folder cannot be used.
    """
    from flows.benchmarks.plan import check_request

    # Checked here, so that a mistake is told before a server starts.
    request = check_request(cases, seeds, preset, peers=peers, peer_python=peer_python)
    out = writable_folder(out)
    with _prefect(out, "flows.benchmark", lambda: None) as clock, shown_on(console) as watch:
        from flows.benchmark import benchmark

        clock.watch = watch
        parameters = {
            "cases": list(request.cases),
            "seeds": seeds,
            "preset": preset,
            "peers": peers,
            "peer_python": peer_python,
            "out": str(out),
        }
        state = benchmark(**parameters, return_state=True)
        _settle(state)
    return state.result()


def launch_regression_benchmark(
    *, bootstraps: int, thresholds: int, samples: int, seed: int, out: Path, console: Console
) -> dict[str, Any]:
    """Run the flow ``benchmark_regression`` once and return its document.

    Raises:
        InputError: if the output folder cannot be used.
    """
    out = writable_folder(out)
    flow = "flows.benchmark_regression"
    with _prefect(out, flow, lambda: None) as clock, shown_on(console) as watch:
        from flows.benchmark_regression import benchmark_regression

        clock.watch = watch
        state = benchmark_regression(
            bootstraps=bootstraps,
            thresholds=thresholds,
            samples=samples,
            seed=seed,
            out=str(out),
            return_state=True,
        )
        _settle(state)
    return state.result()


def launch_recovery_benchmark(
    cases: str, rows: Sequence[str], seeds: str | None, *, file: Path | None, out: Path, console: Console
) -> dict[str, Any]:
    """Run the flow ``benchmark_recovery`` once and return its document.

    Raises:
        InputError: if a case, a row, a seed, the file or the output folder cannot be used.
    """
    from flows.recovery.document import read_runs
    from flows.recovery.plan import check_request

    # Checked here, so that a mistake is told before a server starts.
    request = check_request(cases, rows, seeds)
    if file is not None:
        read_runs(file)
    out = writable_folder(out)
    with _prefect(out, "flows.benchmark_recovery", lambda: None) as clock, shown_on(console) as watch:
        from flows.benchmark_recovery import benchmark_recovery

        clock.watch = watch
        state = benchmark_recovery(
            cases=list(request.cases),
            rows=list(request.rows),
            seeds=seeds,
            file=None if file is None else str(file),
            out=str(out),
            return_state=True,
        )
        _settle(state)
    return state.result()


@contextlib.contextmanager
def _prefect(out: Path, flow: str, prepare: Callable[[], None]) -> Iterator[Session]:
    """Have a Prefect server; while it starts, ``prepare`` and import the module of a flow."""
    for name, value in PATIENCE.items():
        os.environ.setdefault(name, value)
    with prefect_api(out) as server:
        clock = Session()
        prepare()
        clock.imports = time.perf_counter() - clock.begun
        importlib.import_module(flow)
        from flows.bookkeeping import LOST_SERVER, check_api, claimed, close_stale_runs, gone

        if server is not None:
            server.wait()
        check_api()
        close_stale_runs()
        token = session.set(clock)
        try:
            with claimed():
                yield clock
        except LOST_SERVER as error:
            make_haste()
            raise ServerError(f"{gone(error)} {GOES_ON}") from error
        finally:
            session.reset(token)


@contextlib.contextmanager
def _forced(stage: str | None) -> Iterator[None]:
    """Say after Ctrl-C that the same command would make a stage again that was asked for with ``--from``."""
    try:
        yield
    except KeyboardInterrupt as error:
        if stage is None:
            raise
        without = (
            f"the same command without --from {stage} goes on from there, with it {stage} is made again."
        )
        raise KeyboardInterrupt(f"interrupted. What is finished is kept; {without}") from error


def import_for(stages: Sequence[Stage]) -> None:
    """Import what the work of some stages will need."""
    for name in dict.fromkeys(name for stage in stages for name in stage.modules):
        # The library imports lazily: only the access to an attribute executes the module.
        getattr(importlib.import_module(name), "__file__")  # noqa: B009


def _settle(state: State[Any]) -> None:
    from flows.bookkeeping import wait_until_recorded

    if state.state_details.flow_run_id is not None:
        wait_until_recorded(state.state_details.flow_run_id)


def _result_of(state: State[Any], folder: Path) -> DiscoveryResult:
    """Return the result that a flow left in its folder.

    Raises:
        Exception: what ended the flow, if that was wrong input or left no result.
    """
    end = state.result(raise_on_failure=False)
    if isinstance(end, InputError) or (
        isinstance(end, BaseException) and not (folder / "result.json").exists()
    ):
        raise end
    return DiscoveryResult.from_file(folder)
