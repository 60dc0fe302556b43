"""What a run says, in one document: `result.json`, its model, its schema, and how it is assembled.

The model below is the contract that other tools rely on; ``result.schema.json`` beside this file is
generated from it (`write_schema`). Numbers that are not finite are written as null, so that the
document is JSON in the strict sense.
"""

from __future__ import annotations

import functools
import importlib.metadata
import json
import math
import platform
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pydantic

from sciml_discover.errors import InputError

if TYPE_CHECKING:
    from sciml_discover.laws import Law, LawParameter, LawTerm
    from sciml_discover.next_measurement import NextMeasurement
    from sciml_discover.readers import PreparedData
    from sciml_discover.scores import Metrics
    from sciml_discover.selection import RankedLaws
    from sciml_discover.system import SystemOptions
    from sciml_discover.training import TrainingResult
    from sciml_discover.trajectories import Trajectory
    from sciml_discover.units import TermUnits, UnitTable
    from sciml_discover.validation import ModelScore, TruthComparison, ValidationReport

SCHEMA_FILE = Path(__file__).with_name("result.schema.json")

LIBRARIES = (
    "sciml-discover",
    "numpy",
    "scipy",
    "sympy",
    "torch",
    "torchdiffeq",
    "pysindy",
    "pydantic",
    "prefect",
)
"""Distributions whose versions a result records."""

Status = Literal["accepted", "rejected", "failed"]


class Record(pydantic.BaseModel):
    """Base of every object in a result: frozen, and unknown keys are refused."""

    model_config = pydantic.ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        allow_inf_nan=False,
        json_schema_serialization_defaults_required=True,
        protected_namespaces=(),
    )


class Reason(Record):
    """One condition of the verdict."""

    name: str
    """`chi_square`, `whiteness`, `holdout`, `skill`; or `failure` when a stage failed."""
    passed: bool
    """Whether the condition holds."""
    value: float | None
    """What was measured."""
    threshold: float | None
    """What it was held against."""
    message: str
    """The same as a sentence."""


class ParameterEstimate(Record):
    """A physical parameter of the known part, as refitted with the law."""

    value: float | None
    """The estimate, in `unit`."""
    stderr: float | None
    """Standard error, conditional on the structure of the law; null where the data do not determine it."""
    interval95: tuple[float | None, float | None] | None
    """95 % interval, conditional on the structure of the law; null for an end that was not found."""
    snapped: str | None = None
    """A simple number that the data cannot tell from the value, such as `1/2`."""
    unit: str | None
    """Unit of the value: as the experiment states it, or as it follows from the equations; null where neither does."""
    fixed: bool
    """Whether the experiment fixes it instead of learning it."""
    identifiable: bool
    """Whether the data determine it."""


class SuggestedMeasurement(Record):
    """Where one more value would say most about which law holds."""

    trajectory: str
    """The trajectory to continue or to repeat."""
    time: float
    """When to measure."""
    observable: str
    """What to measure."""
    spread: float | None
    """Standard deviation between the laws' predictions, in units of the noise of one value."""
    sentence: str
    """The same in words."""


class TermEstimate(Record):
    """One term of a discovered law: `coefficient * term`."""

    term: str
    """The term as text, in the names of the experiment."""
    coefficient: float | None
    """Its coefficient in full precision, in `unit`."""
    stderr: float | None
    """Standard error, conditional on the structure of the law; null where the data do not determine it."""
    interval95: tuple[float | None, float | None] | None
    """95 % interval, conditional on the structure of the law; null for an end that was not found."""
    snapped: str | None
    """A simple number that the data cannot tell from the coefficient, such as `1/2`."""
    inclusion: float | None
    """Probability that a law has this term, over all laws that were refitted: each weighs as much as its criterion
    says, `exp(-criterion/2)`."""
    parameters: dict[str, ParameterEstimate]
    """Numbers inside the term, such as a half-saturation; empty for a plain library term."""
    unit: str | None = None
    """Unit of the coefficient: that of the missing term over that of the term; null where the units are not known."""


class MissingLaw(Record):
    """What stands in one hole of the system."""

    expression: str
    """The law as text, digits following the errors."""
    expression_full: str
    """The law as text, every number in full precision."""
    terms: tuple[TermEstimate, ...]
    """Its terms."""


class InitialState(Record):
    """Where the refitted law starts on one trajectory."""

    time: float
    """Time of the first row."""
    values: dict[str, float | None]
    """Value per state."""


class Covariance(Record):
    """How the errors of the numbers of a law hang together, conditional on its structure."""

    names: tuple[str, ...]
    """The learnt parameters by name, then of each hole the coefficients as `hole: term` and the numbers inside terms as
    `hole: name in term`."""
    values: tuple[tuple[float | None, ...], ...]
    """One row per name; null where the data do not determine a number."""


class LawRecord(Record):
    """A law in full, with the numbers refitted with it."""

    equations: dict[str, str]
    """Right-hand side per state as text, digits following the errors."""
    equations_full: dict[str, str]
    """Right-hand side per state as text, every number in full precision."""
    parameters: dict[str, ParameterEstimate]
    """Physical parameters."""
    missing: dict[str, MissingLaw]
    """What stands in each hole."""
    initial_states: dict[str, InitialState]
    """Initial state per training trajectory."""
    covariance: Covariance
    """Of its numbers."""


class MetricSet(Record):
    """How a model does on one set of rows."""

    rms: dict[str, float | None]
    """Root mean square error per observable, in its unit."""
    relative_l2: float | None
    """L2 norm of the error over that of the values, all observables."""
    standardised: float | None
    """Root mean square of error / predictive standard deviation, all observables."""
    unexplained: float | None
    """Squared error over that of the best constant of each observable, both in units of the noise."""
    chi_square: float | None
    """Sum of squared errors over squared noise standard deviation."""
    n_values: int
    """Observed values counted."""


class Scores(Record):
    """A model on the rows it was fitted to, on hold-out rows, and against the truth beyond the data."""

    train: MetricSet | None
    """Training rows."""
    holdout: MetricSet | None
    """Hold-out rows; null without such rows."""
    extrapolation: MetricSet | None
    """Against the known truth of a synthetic experiment; null without truth."""


class Baseline(Scores):
    """The scores of a model that the law is compared with."""

    note: str
    """How it was made, or why a score is missing."""


class Alternative(Record):
    """Another law that was refitted to the same data."""

    missing: dict[str, str]
    """What stands in each hole, digits following the errors."""
    missing_full: dict[str, str]
    """The same, every number in full precision."""
    parameters: dict[str, float]
    """The physical parameters as refitted with this law."""
    rival: bool
    """Whether the criterion cannot tell it from the choice; otherwise it stands on the Pareto front."""
    criterion: float | None
    """Extended Bayesian information criterion; smaller is better."""
    delta: float | None
    """Criterion minus that of the choice."""
    chi_square: float | None
    """On the training rows."""
    holdout_error: float | None
    """Standardised error on the hold-out rows. Shown, never ranked on."""
    complexity: int
    """Number of terms over all holes."""
    source: str
    """Who proposed it; see `Selection.source`."""
    law: LawRecord | None = None
    """All of it, as the choice is described at the top level."""


class RejectedCandidate(Record):
    """A candidate law that was fitted, and cannot be the law."""

    missing: dict[str, tuple[str, ...]]
    """Terms per hole."""
    source: str
    """Who proposed it; see `Selection.source`."""
    reason: str
    """Why it is none."""


class Selection(Record):
    """How the law was chosen."""

    criterion: float | None
    """Extended Bayesian information criterion of the choice."""
    chi_square: float | None
    """On the training rows."""
    n_observed: int
    """Values that the fit used."""
    n_parameters: int
    """Free numbers of the fit, initial states included."""
    complexity: int
    """Number of terms over all holes."""
    source: str
    """Who proposed it: the regressors that did, as in `frols+bagging`; `exhaustive`: it is one of the short laws, all
    of which were compared; `search`: it is near the best of those; `hole by hole`: each hole was searched alone;
    `move`: a fitted law with terms added, dropped or swapped."""
    status: str
    """`converged`, or why the refit stopped."""
    compared: int
    """Laws that were looked at: what chi-square they could reach, from a linearization of the equation."""
    tried: int
    """Candidate laws that were fitted through the ODE, the promising ones as continuous trajectories."""
    failed: int
    """Candidates that were rejected: unstable ones, and those with a sign that they must not have."""
    rejected: tuple[RejectedCandidate, ...] = ()
    """The first of those, with the reason."""
    inclusion: dict[str, dict[str, float]] = {}
    """Per hole, the probability of every term, as far as it is not negligible."""


class TrainingHistory(Record):
    """One row per recorded iteration of the best start, column by column."""

    stage: tuple[str, ...]
    """Objective and optimizer."""
    iteration: tuple[int, ...]
    """Iterations since the start of training."""
    loss: tuple[float | None, ...]
    """The objective per observed value; comparable within a stage only."""
    events: tuple[str, ...] = ()
    """What went otherwise than planned: the stage, the iteration and what happened, in order."""


class Training(Record):
    """How the universal differential equation was trained."""

    status: str
    """`converged`, `iteration_limit` or `diverged`."""
    message: str
    """The same as a sentence."""
    loss: float | None
    """Final objective per observed value."""
    chi_square: float | None
    """Of the re-solved trajectory on the training rows."""
    history: TrainingHistory
    """The course of the loss."""
    notes: tuple[str, ...]
    """What the training noticed, such as a rate that the network absorbs."""


class NoiseLevel(Record):
    """Measurement noise of one observable."""

    sd: float | None
    """Standard deviation, of the value or of its logarithm, or as a fraction of each value."""
    kind: Literal["additive", "value", "lognormal"]
    """Whether the noise is of one size, in proportion to each value, or of its logarithm."""
    floor: float | None = None
    """Smallest standard deviation of noise in proportion to each value, in the unit of the observable."""
    estimated: bool
    """Whether the data had to say it."""


class TrajectorySummary(Record):
    """The rows of one trajectory."""

    name: str
    """Its label."""
    start: float
    """Time of the first row."""
    end: float
    """Time of the last row, hold-out included."""
    train_rows: int
    """Rows that the fit used."""
    holdout_rows: int
    """Rows that only the validation read."""


class DataSummary(Record):
    """What the data were."""

    observables: tuple[str, ...]
    """Names of what was measured."""
    trajectories: tuple[TrajectorySummary, ...]
    """The rows of each trajectory."""
    holdout: str
    """`none`, `time` or `trajectory`."""
    noise: dict[str, NoiseLevel]
    """Noise per observable."""
    provenance: tuple[str, ...]
    """Where the data came from, as sentences."""


class Truth(Record):
    """The choice against the truth of a synthetic experiment."""

    same_structure: bool
    """Whether every equation has exactly the terms of the truth."""
    relative_errors: dict[str, float | None]
    """Coefficient error over true value, per term of the truth."""


class DiscoveryResult(Record):
    """The content of result.json."""

    schema_version: Literal[1] = 1
    """Version of this document's structure."""
    id: str
    """Name of the run, and of its folder."""
    created: str
    """When the run started, ISO 8601, UTC."""
    case: str
    """Short name of the experiment."""
    title: str
    """Title of the experiment."""
    status: Status
    """The verdict; `failed` when a stage could not finish."""
    reasons: tuple[Reason, ...]
    """Every condition of the verdict, or the one failure."""
    failed_stage: str | None = None
    """Which stage failed, if one did."""
    equations: dict[str, str] = {}
    """Right-hand side per state as text, digits following the errors."""
    equations_full: dict[str, str] = {}
    """Right-hand side per state as text, every number in full precision."""
    controls: tuple[str, ...] = ()
    """Names of the measured inputs that the equations may use."""
    parameters: dict[str, ParameterEstimate] = {}
    """Physical parameters as refitted with the law."""
    missing: dict[str, MissingLaw] = {}
    """What was found in each hole."""
    covariance: Covariance | None = None
    """How the errors of the law's numbers hang together."""
    known: dict[str, str] = {}
    """Right-hand side per state as the experiment states it, with the names of parameters and missing terms."""
    units: dict[str, str] = {}
    """Units of states, controls, holes, observables, and of time as `t`: stated, or following from the equations."""
    initial_states: dict[str, InitialState] = {}
    """Initial state per training trajectory, as refitted with the law."""
    metrics: Scores = Scores(train=None, holdout=None, extrapolation=None)
    """How the law does, re-solved by an independent solver."""
    alternatives: tuple[Alternative, ...] = ()
    """Rivals first, then the rest of the Pareto front."""
    baselines: dict[str, Baseline] = {}
    """`known_only`, `ude`, `sindy_on_data`, `constant`."""
    identifiability: tuple[str, ...] = ()
    """Sentences that name degeneracies and what the data do not determine."""
    next_measurement: SuggestedMeasurement | None = None
    """The value that would tell the rivals apart best; null without rivals."""
    truth: Truth | None = None
    """Comparison with the known truth; null for measured data."""
    selection: Selection | None = None
    """How the law was chosen."""
    training: Training | None = None
    """How the universal differential equation was trained."""
    data: DataSummary | None = None
    """What the data were."""
    report: str | None = None
    """The report's file, relative to the run's folder."""
    seconds: dict[str, float] = {}
    """Wall-clock seconds per stage of this run."""
    cached: dict[str, bool] = {}
    """Per stage, whether its artifact was found in the store."""
    versions: dict[str, str] = {}
    """Versions of the libraries that matter."""
    seed: int
    """Seed of the run."""
    device: str
    """`cpu` or `cuda`."""

    @property
    def accepted(self) -> bool:
        """Whether the law passed every condition of the verdict."""
        return self.status == "accepted"

    @property
    def laws_per_second(self) -> float | None:
        """Candidate laws fitted per second of the choice; None where that was found in the store."""
        seconds = self.seconds.get("select")
        if self.selection is None or not seconds or self.cached.get("select", True):
            return None
        return self.selection.tried / seconds

    def to_dict(self) -> dict[str, Any]:
        """Return the content of result.json as plain dicts, lists, strings, numbers and None."""
        return self.model_dump(mode="json")

    def to_json(self) -> str:
        """Return the text of result.json."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    @classmethod
    def from_file(cls, path: str | Path) -> DiscoveryResult:
        """Read a result.json, or the one in a run's folder.

        Raises:
            InputError: if there is no such file, or it is not a result.
        """
        path = Path(path)
        if path.is_dir():
            path = path / "result.json"
        expected = "a result.json that this version of sciml-discover wrote"
        try:
            return cls.model_validate_json(path.read_bytes())
        except OSError as error:
            raise InputError(
                f"no readable file ({error.strerror})",
                where=str(path),
                expected=expected,
                do="`sciml-discover list` names the runs there are.",
            ) from error
        except pydantic.ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(str(part) for part in first["loc"])
            found = f"{first['msg']} at {place!r}" if place else first["msg"]
            raise InputError(found, where=str(path), expected=expected) from error


def assemble_result(
    *,
    run_id: str,
    created: str,
    case: str,
    title: str,
    seed: int,
    device: str,
    data: PreparedData,
    trained: TrainingResult,
    laws: RankedLaws,
    validation: ValidationReport,
    seconds: Mapping[str, float],
    cached: Mapping[str, bool],
    versions: Mapping[str, str],
    system: SystemOptions,
    units: UnitTable,
    report: str | None = "report.html",
) -> DiscoveryResult:
    """Return the result of a finished run, from the artifacts of its stages."""
    trajectories = data.train.trajectories
    choice = _law(laws.laws[0], trajectories, units)
    return DiscoveryResult.model_validate(
        {
            "id": run_id,
            "created": created,
            "case": case,
            "title": title,
            "status": validation.status,
            "reasons": tuple(
                Reason(
                    name=reason.name,
                    passed=reason.passed,
                    value=_finite(reason.value),
                    threshold=_finite(reason.threshold),
                    message=reason.message,
                )
                for reason in validation.reasons
            ),
            **dict(choice),
            "known": {name: system.equations[name] for name in system.states},
            "controls": data.train.controls,
            "units": {name: text for name, text in units.names.items() if name not in choice.parameters},
            "metrics": _scores(validation.law),
            "alternatives": tuple(
                _alternative(other, _law(other, trajectories, units), rank <= laws.n_rivals, error)
                for rank, (other, error) in enumerate(zip(laws.laws, validation.rivals_holdout, strict=True))
                if rank > 0
            ),
            "baselines": {
                name: Baseline(**dict(_scores(score)), note=score.note)
                for name, score in validation.baselines.items()
            },
            "identifiability": laws.identifiability,
            "next_measurement": _suggested(validation.next_measurement),
            "truth": _truth(validation.truth),
            "selection": _selection(laws),
            "training": _training(trained),
            "data": _data_summary(data),
            "report": report,
            "seconds": dict(seconds),
            "cached": dict(cached),
            "versions": dict(versions),
            "seed": seed,
            "device": device,
        }
    )


def failed_result(
    *,
    run_id: str,
    created: str,
    case: str,
    title: str,
    seed: int,
    device: str,
    stage: str,
    message: str,
    seconds: Mapping[str, float],
    cached: Mapping[str, bool],
    versions: Mapping[str, str],
    data: PreparedData | None = None,
    trained: TrainingResult | None = None,
) -> DiscoveryResult:
    """Return the result of a run whose ``stage`` failed: what is known of it, the rest null or empty."""
    return DiscoveryResult(
        id=run_id,
        created=created,
        case=case,
        title=title,
        status="failed",
        reasons=(Reason(name="failure", passed=False, value=None, threshold=None, message=message),),
        failed_stage=stage,
        training=_training(trained) if trained is not None else None,
        data=_data_summary(data) if data is not None else None,
        seconds=dict(seconds),
        cached=dict(cached),
        versions=dict(versions),
        seed=seed,
        device=device,
    )


def library_versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that matter, without importing any of them."""
    return dict(_library_versions())


@functools.cache  # reading them takes longer than finding all stages of a run in the store
def _library_versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # the library also works without Prefect, and from a source tree
    return versions


def result_schema() -> dict[str, Any]:
    """Return the JSON schema of result.json."""
    schema = DiscoveryResult.model_json_schema(mode="serialization")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def write_schema(path: Path = SCHEMA_FILE) -> None:
    """Write the JSON schema of result.json to ``path``: the file that is shipped, unless told otherwise."""
    path.write_text(json.dumps(result_schema(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _finite(value: float | None) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None


def _ends(interval: tuple[float, float] | None) -> tuple[float | None, float | None] | None:
    return None if interval is None else (_finite(interval[0]), _finite(interval[1]))


def _finite_values(values: Mapping[str, float]) -> dict[str, float | None]:
    return {name: _finite(value) for name, value in values.items()}


def _law(law: Law, trajectories: Iterable[Trajectory], units: UnitTable) -> LawRecord:
    return LawRecord(
        equations=law.equations,
        equations_full=law.equations_full,
        parameters={
            name: _parameter(parameter, units.names.get(name)) for name, parameter in law.parameters.items()
        },
        missing={
            hole: MissingLaw(
                expression=law.expressions[hole],
                expression_full=law.expressions_full[hole],
                terms=tuple(_term(term, units.of_term(hole, term.term)) for term in terms),
            )
            for hole, terms in law.missing.items()
        },
        initial_states=_initial_states(law, trajectories),
        covariance=_covariance(law),
    )


def _covariance(law: Law) -> Covariance:
    """Return the covariance without the initial states, which stand last in that of the fit."""
    names = [name for name, parameter in law.parameters.items() if not parameter.fixed]
    for hole, terms in law.missing.items():
        names += [f"{hole}: {term.term}" for term in terms]
        names += [f"{hole}: {name} in {term.term}" for term in terms for name in term.inner]
    block = law.covariance[: len(names), : len(names)]
    return Covariance(
        names=tuple(names), values=tuple(tuple(_finite(value) for value in row) for row in block.tolist())
    )


def _parameter(parameter: LawParameter, derived_unit: str | None) -> ParameterEstimate:
    return ParameterEstimate(
        value=_finite(parameter.estimate.value),
        stderr=_finite(parameter.estimate.stderr),
        interval95=_ends(parameter.estimate.interval95),
        snapped=parameter.estimate.snapped,
        unit=parameter.unit or derived_unit,
        fixed=parameter.fixed,
        identifiable=parameter.identifiable,
    )


def _term(term: LawTerm, units: TermUnits) -> TermEstimate:
    return TermEstimate(
        term=term.term,
        coefficient=_finite(term.coefficient.value),
        stderr=_finite(term.coefficient.stderr),
        interval95=_ends(term.coefficient.interval95),
        snapped=term.coefficient.snapped,
        inclusion=term.inclusion,
        parameters={
            name: ParameterEstimate(
                value=_finite(inner.value),
                stderr=_finite(inner.stderr),
                interval95=_ends(inner.interval95),
                snapped=inner.snapped,
                unit=units.inner.get(name),
                fixed=False,
                identifiable=inner.stderr is not None,
            )
            for name, inner in term.inner.items()
        },
        unit=units.coefficient,
    )


def _suggested(found: NextMeasurement | None) -> SuggestedMeasurement | None:
    if found is None:
        return None
    return SuggestedMeasurement(
        trajectory=found.trajectory,
        time=found.time,
        observable=found.observable,
        spread=_finite(found.spread),
        sentence=found.sentence,
    )


def _initial_states(law: Law, trajectories: Iterable[Trajectory]) -> dict[str, InitialState]:
    return {
        trajectory.name: InitialState(
            time=float(trajectory.times[0]),
            values={
                state: _finite(value) for state, value in zip(law.equations, initial.tolist(), strict=True)
            },
        )
        for trajectory, initial in zip(trajectories, law.initial_states, strict=True)
    }


def _metric_set(metrics: Metrics | None) -> MetricSet | None:
    if metrics is None:
        return None
    return MetricSet(
        rms=_finite_values(metrics.rms),
        relative_l2=_finite(metrics.relative_l2),
        standardised=_finite(metrics.standardised),
        unexplained=_finite(metrics.unexplained),
        chi_square=_finite(metrics.chi_square),
        n_values=metrics.n_values,
    )


def _scores(score: ModelScore) -> Scores:
    return Scores(
        train=_metric_set(score.train),
        holdout=_metric_set(score.holdout),
        extrapolation=_metric_set(score.extrapolation),
    )


def _alternative(law: Law, record: LawRecord, rival: bool, holdout_error: float | None) -> Alternative:
    return Alternative(
        missing=law.expressions,
        missing_full=law.expressions_full,
        parameters={name: item.estimate.value for name, item in law.parameters.items()},
        rival=rival,
        criterion=_finite(law.criterion),
        delta=_finite(law.delta),
        chi_square=_finite(law.chi_square),
        holdout_error=_finite(holdout_error),
        complexity=law.complexity,
        source=law.source,
        law=record,
    )


def _truth(truth: TruthComparison | None) -> Truth | None:
    if truth is None:
        return None
    return Truth(
        same_structure=truth.same_structure,
        relative_errors=_finite_values(truth.relative_errors),
    )


def _selection(laws: RankedLaws) -> Selection:
    law = laws.laws[0]
    return Selection(
        criterion=_finite(law.criterion),
        chi_square=_finite(law.chi_square),
        n_observed=law.n_observed,
        n_parameters=law.n_parameters,
        complexity=law.complexity,
        source=law.source,
        status=law.status,
        compared=laws.compared,
        tried=laws.tried,
        failed=laws.failed,
        rejected=tuple(
            RejectedCandidate(missing=one.missing, source=one.source, reason=one.reason)
            for one in laws.rejected
        ),
        inclusion=laws.inclusion,
    )


def _training(trained: TrainingResult) -> Training:
    return Training(
        status=trained.status,
        message=trained.message,
        loss=_finite(trained.loss),
        chi_square=_finite(trained.chi_square),
        history=TrainingHistory(
            stage=trained.history.stage,
            iteration=tuple(int(step) for step in trained.history.iteration),
            loss=tuple(_finite(loss) for loss in trained.history.loss.tolist()),
            events=tuple(map(str, trained.history.events)),
        ),
        notes=trained.notes,
    )


def _data_summary(data: PreparedData) -> DataSummary:
    noise = data.noise
    return DataSummary(
        observables=data.train.observables,
        trajectories=tuple(_trajectory_summaries(data)),
        holdout=data.kind_of_holdout,
        noise={
            name: NoiseLevel(
                sd=_finite(sd),
                kind="lognormal" if noise.lognormal[k] else "additive" if noise.floors is None else "value",
                floor=None if noise.floors is None else float(noise.floors[k]),
                estimated=noise.estimated,
            )
            for k, (name, sd) in enumerate(zip(noise.observables, noise.sd.tolist(), strict=True))
        },
        provenance=data.provenance,
    )


def _trajectory_summaries(data: PreparedData) -> Iterable[TrajectorySummary]:
    # Held out by time, a trajectory stands in both datasets under one name; held out whole, in one.
    train = {trajectory.name: trajectory for trajectory in data.train.trajectories}
    held = {trajectory.name: trajectory for trajectory in data.holdout.trajectories} if data.holdout else {}
    for name in dict.fromkeys((*train, *held)):
        parts = [part[name] for part in (train, held) if name in part]
        yield TrajectorySummary(
            name=name,
            start=float(parts[0].times[0]),
            end=float(parts[-1].times[-1]),
            train_rows=len(train[name].times) if name in train else 0,
            holdout_rows=len(held[name].times) if name in held else 0,
        )
