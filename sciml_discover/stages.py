"""The one list of stages: what each reads, what determines its result, and how it is found again.

    data -> train -> sample -> regress -> select -> validate -> report

A stage's key is its version, the layout of its result, its own part of the experiment and the digests
of its inputs' bytes. So a change reaches only the stages that it concerns, and a stage that gives the
same bytes as before leaves everything after it in the store. Whoever drives the stages
(`runs.discover`, a flow engine) calls `run_stage` for each in turn.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np

from sciml_discover import payload, readers, regressors, residual_samples, selection, training, validation
from sciml_discover.base import Progress, Watch, nobody_watches
from sciml_discover.constraints import HoleOptions, LawOptions, build_constraints, build_libraries
from sciml_discover.errors import DamagedArtifactError, InputError, LostInputError, did_you_mean
from sciml_discover.experiment import LoadedExperiment
from sciml_discover.expressions import names_used, parse_expression
from sciml_discover.library import LibraryOptions, instances
from sciml_discover.readers import PreparedData
from sciml_discover.regressors import Supports
from sciml_discover.residual_samples import ResidualSamples
from sciml_discover.result import library_versions
from sciml_discover.selection import RankedLaws
from sciml_discover.store import Artifact, Store, make_key
from sciml_discover.system import System, SystemOptions
from sciml_discover.training import TrainingResult
from sciml_discover.units import SystemUnits, UnitTable, units_stated
from sciml_discover.validation import ValidationReport

if TYPE_CHECKING:
    import sympy

T = TypeVar("T")
Device = Literal["cpu", "cuda"]


@dataclass(frozen=True)
class RenderedReport:
    """The report as one self-contained page, and the units in it, which result.json names too."""

    html: str
    units: UnitTable


@dataclass(frozen=True)
class Bench:
    """What every stage of a run works with.

    Attributes:
        loaded: the experiment.
        device: where tensors live.
        watch: who is told of the progress.
    """

    loaded: LoadedExperiment
    device: Device = "cpu"
    watch: Watch = nobody_watches

    @cached_property
    def system(self) -> System:
        """The system with its holes, parsed once."""
        return System.from_options(self.loaded.experiment.system)

    @cached_property
    def units(self) -> SystemUnits | None:
        """The units of the system, equations and wanted terms checked once; None if it states none.

        What is wrong with the libraries and with what is known of the laws is told first.

        Raises:
            InputError: if no law could be what is asked for, a unit cannot be read, or an equation or a term of the
                library is inconsistent.
        """
        self._check_laws()
        system, laws = self.loaded.experiment.system, self.loaded.experiment.regress
        if not units_stated(system):
            return None
        units = SystemUnits(system)
        for hole, inputs in system.missing.items():
            for where, term in _wanted_terms(laws, hole, inputs):
                units.check_term(term, hole, where=where)
        return units

    def _check_laws(self) -> None:
        """Refuse libraries and constraints that no data could put right."""
        regress, longest = self.loaded.experiment.regress, self.loaded.experiment.select.most_terms
        libraries = build_libraries(self.system, regress)
        if any(isinstance(regressor, regressors.Implicit) for regressor in regress.regressors):
            return  # its terms may be named too, and nobody knows them yet
        nothing = [np.zeros(len(library), dtype=bool) for library in libraries]
        build_constraints(self.system, libraries, regress, nothing, longest)


def _wanted_terms(laws: LawOptions, hole: str, inputs: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield the candidate terms of a hole that somebody asked for by name, with the place where.

    What the hole forbids nobody asks for there, however it is written.
    """
    of_hole = laws.holes.get(hole, HoleOptions())
    library, place = laws.library, "[regress.library]"
    if of_hole.library is not None:
        library, place = of_hole.library, f"[regress.holes.{hole}.library]"

    def read(text: str, where: str) -> sympy.Expr:
        return parse_expression(text, [*inputs, *library.inner], where=where, exponents=library.inner)

    forbidden = [read(text, f"[regress.holes.{hole}] forbidden") for text in of_hole.forbidden]
    for where, text in _asked_for(library, inputs, place):
        # Where nothing is forbidden nothing is parsed again: that would take time before every run.
        if not forbidden or read(text, where) not in forbidden:
            yield where, text


def _asked_for(library: LibraryOptions, inputs: Sequence[str], place: str) -> Iterator[tuple[str, str]]:
    """Yield the terms of a library that are there by name, with the place where."""
    for function in library.functions:
        yield from ((f"{place} functions", f"{function}({name})") for name in inputs)
    for text in library.extra:
        if names_used(text, where=f"{place} extra") <= {*inputs, *library.inner}:
            yield f"{place} extra", text
    for template in library.templates:
        for text in instances(template, inputs, library.inner):
            yield f"{place} templates", text


class Inputs:
    """The results that a stage declares as its inputs, by their type.

    Args:
        values: the results.
        checkpoint: the folder in which long work may write how far it is.

    Raises:
        KeyError: on access to one that is not declared: the stage's key would not know of it.
    """

    def __init__(self, *values: Any, checkpoint: Path | None = None) -> None:
        self.checkpoint = checkpoint
        self._values = {type(value): value for value in values}

    def __getitem__(self, kind: type[T]) -> T:
        return self._values[kind]


@dataclass(frozen=True)
class Ingredients:
    """Everything that determines the result of a stage.

    Attributes:
        stage: its name.
        version: its version.
        layout: of its result, as JSON.
        options: its part of the experiment, as JSON.
        inputs: digests of the results that it reads, by the names of their stages.
    """

    stage: str
    version: int
    layout: Any
    options: Any
    inputs: dict[str, str]

    @cached_property
    def key(self) -> str:
        """The digest of all this."""
        kind = [self.stage, self.version, self.layout]
        return make_key([kind, self.options, [[name, digest] for name, digest in self.inputs.items()]])


@dataclass(frozen=True)
class Stage:
    """One arrow of the pipeline.

    Attributes:
        name: the word after ``--from``.
        version: raised by hand whenever the same inputs give another result than before.
        inputs: names of the stages whose results it reads.
        gives: the dataclass that it returns.
        options: the part of the experiment that determines the result, JSON-able.
        work: makes the result.
        modules: the slow imports of the work, for whoever has time to spare before it.
    """

    name: str
    version: int
    inputs: tuple[str, ...]
    gives: type
    options: Callable[[LoadedExperiment, Device], Any]
    work: Callable[[Bench, Inputs], Any]
    modules: tuple[str, ...] = ()

    def ingredients(
        self, loaded: LoadedExperiment, device: Device, digests: Mapping[str, str]
    ) -> Ingredients:
        """Return what determines this stage's result; ``digests`` are those of its inputs' artifacts."""
        inputs = {name: digests[name] for name in self.inputs}
        options = self.options(loaded, device)
        return Ingredients(self.name, self.version, payload.layout(self.gives), options, inputs)

    def key(self, loaded: LoadedExperiment, device: Device, digests: Mapping[str, str]) -> str:
        """Return the key of this stage's result; ``digests`` are those of its inputs' artifacts."""
        return self.ingredients(loaded, device, digests).key


def _data_options(loaded: LoadedExperiment, _: Device) -> Any:
    experiment = loaded.experiment
    return {
        "data": experiment.data.model_dump(mode="json"),
        "files": readers.input_digests(experiment.data, loaded.folder),
        "system": experiment.system.model_dump(mode="json", include={"states", "observables", "controls"}),
        **_parameters_in_data(experiment.system),
        "seed": experiment.seed,
    }


def _parameters_in_data(system: SystemOptions) -> dict[str, Any]:
    """Return what data depend on of the parameters: how many are free, and values in observables."""
    used = {name for text in system.observed_expressions.values() for name in names_used(text, where="")}
    return {
        "free": sum(not parameter.fixed for parameter in system.parameters.values()),
        "fixed": {name: item.value for name, item in system.parameters.items() if name in used},
    }


def _train_options(loaded: LoadedExperiment, device: Device) -> Any:
    experiment = loaded.experiment
    return {
        **_system_options(loaded, device),
        "train": experiment.train.model_dump(mode="json"),
        "seed": experiment.seed,
        "device": device,
        "dtype": "float64",
    }


def _system_options(loaded: LoadedExperiment, _: Device) -> Any:
    return {"system": loaded.experiment.system.model_dump(mode="json")}


def _regress_options(loaded: LoadedExperiment, device: Device) -> Any:
    return {
        **_system_options(loaded, device),
        "regress": loaded.experiment.regress.model_dump(mode="json"),
        "seed": loaded.experiment.seed,
    }


def _select_options(loaded: LoadedExperiment, device: Device) -> Any:
    experiment = loaded.experiment
    return {
        **_system_options(loaded, device),
        "select": experiment.select.model_dump(mode="json"),
        **experiment.regress.model_dump(mode="json", include=set(LawOptions.model_fields)),
    }


def _validate_options(loaded: LoadedExperiment, device: Device) -> Any:
    experiment = loaded.experiment
    return {
        **_system_options(loaded, device),
        "validate": experiment.validate_.model_dump(mode="json"),
        "truth": experiment.data.model_dump(mode="json", include={"synthetic"}),
    }


def _report_options(loaded: LoadedExperiment, device: Device) -> Any:
    return {
        **_system_options(loaded, device),
        "title": loaded.experiment.title,
        "text": loaded.text,
        "versions": library_versions(),
    }


def _data(bench: Bench, _: Inputs) -> PreparedData:
    experiment = bench.loaded.experiment
    return readers.prepare_data(experiment.data, experiment.system, bench.loaded.folder, experiment.seed)


def _train(bench: Bench, inputs: Inputs) -> TrainingResult:
    experiment = bench.loaded.experiment
    return training.train(
        bench.system,
        inputs[PreparedData],
        experiment.train,
        seed=experiment.seed,
        device=bench.device,
        watch=bench.watch,
        checkpoint=inputs.checkpoint,
    )


def _sample(bench: Bench, inputs: Inputs) -> ResidualSamples:
    return residual_samples.sample_residual(
        bench.system, inputs[PreparedData], inputs[TrainingResult], watch=bench.watch
    )


def _regress(bench: Bench, inputs: Inputs) -> Supports:
    experiment = bench.loaded.experiment
    return regressors.regress(
        bench.system,
        inputs[ResidualSamples],
        experiment.regress,
        seed=experiment.seed,
        watch=bench.watch,
    )


def _select(bench: Bench, inputs: Inputs) -> RankedLaws:
    experiment = bench.loaded.experiment
    return selection.select(
        bench.system,
        inputs[PreparedData],
        inputs[TrainingResult],
        inputs[Supports],
        experiment.select,
        laws=experiment.regress,
        watch=bench.watch,
        checkpoint=inputs.checkpoint,
    )


def _validate(bench: Bench, inputs: Inputs) -> ValidationReport:
    experiment = bench.loaded.experiment
    return validation.validate(
        bench.system,
        inputs[PreparedData],
        inputs[TrainingResult],
        inputs[RankedLaws],
        experiment.validate_,
        truth=readers.true_system(experiment.data),
        watch=bench.watch,
    )


def _report(bench: Bench, inputs: Inputs) -> RenderedReport:
    from sciml_discover.report import render_report

    units = _unit_table(bench.units, inputs[RankedLaws])
    return RenderedReport(
        render_report(
            title=bench.loaded.experiment.title,
            data=inputs[PreparedData],
            trained=inputs[TrainingResult],
            samples=inputs[ResidualSamples],
            laws=inputs[RankedLaws],
            validation=inputs[ValidationReport],
            system=bench.system,
            experiment_text=bench.loaded.text,
            versions=library_versions(),
            units=units,
        ),
        units,
    )


def _unit_table(units: SystemUnits | None, laws: RankedLaws) -> UnitTable:
    """Return the units of all numbers in all laws, none if the system states none."""
    terms = {
        hole: {term.term for law in laws.laws for term in law.missing[hole]} for hole in laws.laws[0].missing
    }
    return units.table({hole: sorted(texts) for hole, texts in terms.items()}) if units else UnitTable()


STAGES: tuple[Stage, ...] = (
    Stage("data", 3, (), PreparedData, _data_options, _data, ("scipy.integrate",)),
    Stage("train", 6, ("data",), TrainingResult, _train_options, _train, ("torch", "sympy")),
    Stage("sample", 2, ("data", "train"), ResidualSamples, _system_options, _sample, ("torch", "sympy")),
    Stage("regress", 5, ("sample",), Supports, _regress_options, _regress, ("sympy", "pysindy")),
    Stage(
        "select", 12, ("data", "train", "regress"), RankedLaws, _select_options, _select, ("torch", "sympy")
    ),
    Stage(
        "validate",
        4,
        ("data", "train", "select"),
        ValidationReport,
        _validate_options,
        _validate,
        ("sympy", "scipy.integrate", "pysindy"),
    ),
    Stage(
        "report",
        4,
        ("data", "train", "sample", "select", "validate"),
        RenderedReport,
        _report_options,
        _report,
        ("sympy", "matplotlib.figure", "jinja2"),
    ),
)
"""The stages in the order in which they run."""


def determined_by(loaded: LoadedExperiment, device: Device) -> str:
    """Return the digest of everything that determines the results of all stages, data included."""
    return make_key([[stage.name, stage.version, stage.options(loaded, device)] for stage in STAGES])


@dataclass(frozen=True)
class StageOutcome:
    """How one stage of a run went.

    Attributes:
        artifact: where its result lies.
        cached: whether it was found in the store instead of made.
        seconds: wall-clock time, the look-up included.
        ingredients: what determined it.
        forced: whether it was made anew although it may have been in the store.
        lost: what was wrong with the stored result that it replaces; empty if nothing was.
    """

    artifact: Artifact
    cached: bool
    seconds: float
    ingredients: Ingredients
    forced: bool = False
    lost: str = ""


def stage_named(name: str) -> Stage:
    """Return the stage of that name.

    Raises:
        InputError: if there is none.
    """
    for stage in STAGES:
        if stage.name == name:
            return stage
    names = [stage.name for stage in STAGES]
    raise InputError(
        f"no stage {name!r}",
        where="the stage to start from",
        expected=f"one of {', '.join(names)}",
        do=did_you_mean(name, names) if len(name) > 2 else "",
    )


def run_stage(
    stage: Stage,
    bench: Bench,
    artifacts: Mapping[str, Artifact],
    store: Store,
    *,
    force: bool = False,
    run: str = "",
) -> StageOutcome:
    """Find the result of a stage in the store, or make it and store it.

    Args:
        stage: which one.
        bench: what it works with.
        artifacts: those of the stages before it, by name.
        store: where results lie.
        force: whether to make it anew even if it is there.
        run: name of the run, under which a new result is filed.

    Raises:
        InputError: if the experiment or its data turn out to be unusable.
        LostInputError: if a result that it needs is gone or damaged by now.
    """
    started = time.perf_counter()
    digests = {name: artifact.digest for name, artifact in artifacts.items()}
    ingredients = stage.ingredients(bench.loaded, bench.device, digests)
    key, lost = ingredients.key, ""

    def on_wait() -> None:
        bench.watch(Progress(stage.name, "another run is making this result; waiting for it"))

    def on_loss(event: Progress) -> None:
        nonlocal lost
        lost = event.message
        bench.watch(event)

    artifact = None if force else find_whole(store, stage.name, key, on_loss)
    cached = artifact is not None
    if artifact is None:
        with store.locked(stage.name, key, on_wait=on_wait):
            artifact = None if force else find_whole(store, stage.name, key)
            cached = artifact is not None
            if artifact is None:
                _ = bench.units  # checked before any work is done
                inputs = Inputs(
                    *(read_input(store, artifacts[name], stage_named(name).gives) for name in stage.inputs),
                    checkpoint=store.checkpoint(stage.name, key),
                )
                artifact = store.put(stage.name, key, stage.work(bench, inputs), run=run)
                store.remove_checkpoint(stage.name, key)
    seconds = time.perf_counter() - started
    return StageOutcome(artifact, cached, seconds, ingredients, force, lost)


def read_input(store: Store, artifact: Artifact, kind: type[T]) -> T:
    """Return the stored result of an earlier stage.

    Raises:
        LostInputError: if it is gone or damaged by now.
    """
    try:
        return store.read(artifact, kind)
    except DamagedArtifactError as error:
        raise LostInputError(artifact.stage, str(error)) from error


def find_whole(store: Store, name: str, key: str, watch: Watch = nobody_watches) -> Artifact | None:
    """Return a stage's stored result, or None if there is none or it is damaged, which is told."""
    try:
        return store.find(name, key)
    except DamagedArtifactError as error:
        watch(Progress(name, f"{error}; it is made anew"))
        return None


def stages_to_make(bench: Bench, store: Store, from_stage: str | None = None) -> tuple[Stage, ...]:
    """Return the stages whose results are not in the store, as far as can be told before they run.

    After the first of them, or ``from_stage``, the keys are unknown, so all that follow count.
    """
    artifacts: dict[str, Artifact] = {}
    for position, stage in enumerate(STAGES):
        digests = {name: artifacts[name].digest for name in stage.inputs}
        key = stage.key(bench.loaded, bench.device, digests)
        artifact = find_whole(store, stage.name, key)
        if artifact is None or stage.name == from_stage:
            return STAGES[position:]
        artifacts[stage.name] = artifact
    return ()


def choose_device(wanted: str) -> Device:
    """Return ``"cpu"`` or ``"cuda"``; ``"auto"`` takes the GPU where one is visible.

    This looks for the driver's device file instead of asking torch, because the device is part of
    the keys, and a run whose every stage is in the store must not import torch.

    Raises:
        InputError: if the word is unknown, or ``"cuda"`` is wanted and there is none.
    """
    where = "the device"
    if wanted not in ("auto", "cpu", "cuda"):
        raise InputError(repr(wanted), where=where, expected="auto, cpu or cuda")
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES", "all") in ("", "-1")
    with_cuda = Path("/dev/nvidiactl").exists() and not hidden and "+cpu" not in metadata.version("torch")
    if wanted == "cuda" and not with_cuda:
        raise InputError(
            "no CUDA device (or a torch built without CUDA)",
            where=where,
            expected="a visible NVIDIA GPU and a torch that can use it",
            do="Use --device auto or --device cpu.",
        )
    return "cuda" if with_cuda and wanted != "cpu" else "cpu"
