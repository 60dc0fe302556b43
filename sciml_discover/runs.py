"""Runs: one experiment, once, in a folder of its own; and `discover`, which makes one."""

from __future__ import annotations

import contextlib
import json
import os
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from sciml_discover.atomic import write_atomically
from sciml_discover.base import Progress, Watch, nobody_watches
from sciml_discover.errors import DamagedArtifactError, InputError, LostInputError, failure_message
from sciml_discover.experiment import Experiment, LoadedExperiment, load_experiment
from sciml_discover.readers import PreparedData
from sciml_discover.result import DiscoveryResult, assemble_result, failed_result, library_versions
from sciml_discover.run_folders import new_run_id, now, store_in, writable_folder
from sciml_discover.selection import RankedLaws
from sciml_discover.stages import (
    STAGES,
    Bench,
    RenderedReport,
    StageOutcome,
    choose_device,
    read_input,
    run_stage,
    stage_named,
)
from sciml_discover.store import make_key
from sciml_discover.training import TrainingResult
from sciml_discover.validation import ValidationReport
from sciml_discover.warned import warnings_told

T = TypeVar("T")

MOST_LOSSES = 8
"""How often stored results may be lost while one stage needs them."""


@dataclass(frozen=True)
class StageBegan(Progress):
    """A stage of a run began."""


@dataclass(frozen=True, kw_only=True)
class StageEnded(Progress):
    """A stage of a run ended well."""

    cached: bool
    seconds: float


def discover(
    experiment: str | Path | Experiment | LoadedExperiment,
    *,
    out: str | Path | None = None,
    overrides: Sequence[str] = (),
    from_stage: str | None = None,
    device: str = "auto",
    watch: Watch = nobody_watches,
    run_id: str | None = None,
) -> DiscoveryResult:
    """Return the law that an experiment leads to, with its verdict.

    Args:
        experiment: an experiment file, or what it says.
        out: the folder of all runs and of the store they share; ``runs`` unless given.
        overrides: such as ``"train.starts=4"``.
        from_stage: this stage is made anew even if the store has it, and so is whatever depends on it unless
            it gives the same bytes as before.
        device: ``"auto"``, ``"cpu"`` or ``"cuda"``.
        watch: who is told of the progress.
        run_id: name of the run; made here unless given.

    Raises:
        InputError: if the experiment or its data cannot be used.
    """
    loaded = as_loaded(experiment, overrides)
    with Run(loaded, out=out, from_stage=from_stage, device=device, watch=watch, run_id=run_id) as run:
        for stage in STAGES:
            run.stage(stage.name)
        return run.finish()


def as_loaded(
    experiment: str | Path | Experiment | LoadedExperiment, overrides: Sequence[str] = ()
) -> LoadedExperiment:
    """Return an experiment with its folder and its text, whatever it was given as.

    Raises:
        InputError: if the file or an override cannot be used, or overrides are given without a file.
    """
    if isinstance(experiment, str | Path):
        return load_experiment(experiment, overrides)
    if overrides:
        raise InputError(
            f"overrides {list(overrides)} beside an experiment that is no file",
            where="discover",
            expected="overrides of an experiment file only",
            do="Change the experiment itself.",
        )
    if isinstance(experiment, LoadedExperiment):
        return experiment
    return LoadedExperiment.from_experiment(experiment)


class Run:
    """One run of an experiment: its folder, its stages so far, its result.

    Used as a context manager, it writes down why it failed if it does. The folder holds
    ``experiment.toml`` as run, ``result.json``, ``report.html``, ``artifacts.json`` (which results of
    stages in the store it rests on, where they come from, and what determined them) and ``run.log``.

    Args:
        loaded: the experiment.
        out: the folder of all runs and of the store they share; ``runs`` unless given.
        from_stage: this stage is made anew even if the store has it, and so is whatever depends on it unless
            it gives the same bytes as before.
        device: ``"auto"``, ``"cpu"`` or ``"cuda"``.
        watch: who is told of the progress.
        run_id: name of the run; made here unless given.
        seconds: shares of the wall-clock time before the run, such as imports, by name.

    Raises:
        InputError: if the folder cannot be written to, or a word is unknown.
    """

    def __init__(
        self,
        loaded: LoadedExperiment,
        *,
        out: str | Path | None = None,
        from_stage: str | None = None,
        device: str = "auto",
        watch: Watch = nobody_watches,
        run_id: str | None = None,
        seconds: Mapping[str, float] | None = None,
    ) -> None:
        self._forced = None if from_stage is None else stage_named(from_stage).name
        self._watch = watch
        self._seconds_before = dict(seconds or {})
        self._current = STAGES[0].name
        self._last_logged = ("", "")
        self.loaded = loaded
        self.bench = Bench(loaded, choose_device(device), self._tell)
        self.created = now()
        self.id = run_id or new_run_id(loaded.name)
        root = writable_folder(out)
        self.store = store_in(root)
        self._keeping = contextlib.ExitStack()
        self.folder = root / self.id
        self.folder.mkdir()
        self.outcomes: dict[str, StageOutcome] = {}
        write_atomically(self.folder / "experiment.toml", loaded.text.encode())
        self._log(f"run {self.id} of {loaded.experiment.title!r} on {self.bench.device}")

    def __enter__(self) -> Run:
        # What this run rests on is not pruned before it ends.
        self._keeping.enter_context(self.store.keeping())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._keeping:
            if error is not None:
                self._fail(error)

    def stage(self, name: str) -> StageOutcome:
        """Find or make the result of one stage; those that it needs must have gone before.

        Raises:
            InputError: if the experiment or its data turn out to be unusable.
        """
        self._current = name
        self.bench.watch(StageBegan(name, "began"))
        # In the log instead of between the progress bars.
        with warnings_told(self._log_warning):
            forced = name == self._forced
            outcome = self._with_whole_inputs(lambda: self._run_stage(name, force=forced))
        self.outcomes[name] = outcome
        how = "found in the store" if outcome.cached else f"made in {outcome.seconds:.2f} s"
        self.bench.watch(StageEnded(name, how, cached=outcome.cached, seconds=outcome.seconds))
        return outcome

    def _run_stage(self, name: str, *, force: bool) -> StageOutcome:
        artifacts = {done: outcome.artifact for done, outcome in self.outcomes.items()}
        return run_stage(stage_named(name), self.bench, artifacts, self.store, force=force, run=self.id)

    def _with_whole_inputs(self, work: Callable[[], T]) -> T:
        """Return what work on stored results gives; what is lost by then is made anew, and the work begun again."""
        lost, losses = None, 0
        while True:
            try:
                if lost is not None:
                    self._renew(lost)
                return work()
            except LostInputError as error:
                lost, losses = error, losses + 1
                if losses > MOST_LOSSES:
                    raise
                self._tell(Progress(error.stage, f"{error}; it is made anew"))

    def _renew(self, lost: LostInputError) -> None:
        """Make a lost result again, and before and after it whatever else is not there any more."""
        for name in list(self.outcomes):
            again = self._run_stage(name, force=name == lost.stage)
            if not again.cached:
                self.outcomes[name] = replace(again, lost=str(lost) if name == lost.stage else again.lost)

    def finish(self) -> DiscoveryResult:
        """Write the result of a run whose every stage is done, and return it."""
        self._current = "result"
        return self._with_whole_inputs(self._finish)

    def _finish(self) -> DiscoveryResult:
        report = self._value("report", RenderedReport)
        result = assemble_result(
            run_id=self.id,
            created=self.created,
            case=self.loaded.name,
            title=self.loaded.experiment.title,
            seed=self.loaded.experiment.seed,
            device=self.bench.device,
            data=self._value("data", PreparedData),
            trained=self._value("train", TrainingResult),
            laws=self._value("select", RankedLaws),
            validation=self._value("validate", ValidationReport),
            seconds=self._seconds(),
            cached=self._cached(),
            versions=library_versions(),
            system=self.loaded.experiment.system,
            units=report.units,
        )
        write_atomically(self.folder / "report.html", report.html.encode())
        self._write(result)
        return result

    def _value(self, name: str, kind: type[T]) -> T:
        return read_input(self.store, self.outcomes[name].artifact, kind)

    def _value_if_whole(self, name: str, kind: type[T]) -> T | None:
        """Return a stage's result, or None if it was not made, or if its loss is what ended the run."""
        if name not in self.outcomes:
            return None
        try:
            return self._value(name, kind)
        except DamagedArtifactError:
            return None

    def _seconds(self) -> dict[str, float]:
        stages = {name: round(outcome.seconds, 4) for name, outcome in self.outcomes.items()}
        return {**self._seconds_before, **stages}

    def _cached(self) -> dict[str, bool]:
        return {name: outcome.cached for name, outcome in self.outcomes.items()}

    def _fail(self, error: BaseException) -> None:
        """Write down in the run's folder why the run ended without a law."""
        self._log(f"{self._current}: failed\n{''.join(traceback.format_exception(error))}")
        result = failed_result(
            run_id=self.id,
            created=self.created,
            case=self.loaded.name,
            title=self.loaded.experiment.title,
            seed=self.loaded.experiment.seed,
            device=self.bench.device,
            stage=self._current,
            message=failure_message(error),
            seconds=self._seconds(),
            cached=self._cached(),
            versions=library_versions(),
            data=self._value_if_whole("data", PreparedData),
            trained=self._value_if_whole("train", TrainingResult),
        )
        # What ended the run is what must be told, even where it cannot be written down: a full disk, perhaps.
        with contextlib.suppress(OSError):
            self._write(result)

    def _write(self, result: DiscoveryResult) -> None:
        references = {name: self._record(outcome) for name, outcome in self.outcomes.items()}
        text = json.dumps(references, indent=1) + "\n"
        write_atomically(self.folder / "artifacts.json", text.encode())
        write_atomically(self.folder / "result.json", result.to_json().encode())
        self._log(f"result: {result.status}")

    def _record(self, outcome: StageOutcome) -> dict[str, Any]:
        """Return what ``artifacts.json`` says of a stage: its result, how it came here, and why."""
        artifact, ingredients = outcome.artifact, outcome.ingredients
        return {
            "key": artifact.key,
            "digest": artifact.digest,
            "path": os.path.relpath(artifact.path, self.folder),
            "how": "cached" if outcome.cached else "forced" if outcome.forced else "computed",
            "run": artifact.run,
            "lost": outcome.lost,
            "version": ingredients.version,
            "layout": make_key(ingredients.layout),
            "options": ingredients.options,
            "inputs": ingredients.inputs,
        }

    def _tell(self, event: Progress) -> None:
        """Pass an event on, and log it unless it only counts the last one's steps."""
        if (event.stage, event.message) != self._last_logged:
            self._last_logged = (event.stage, event.message)
            self._log(f"{event.stage}: {event.message}")
        self._watch(event)

    def _log(self, text: str) -> None:
        # No work ends for the want of its log.
        with contextlib.suppress(OSError), (self.folder / "run.log").open("a", encoding="utf-8") as file:
            file.write(f"{now()} {text}\n")

    def _log_warning(self, category: type[Warning], text: str) -> None:
        self._log(f"{self._current}: {category.__name__}: {text}")
