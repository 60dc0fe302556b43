"""The judge: an independent solver, rows that were never seen, baselines, a verdict with reasons."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pydantic

from sciml_discover.base import Options, Progress, Watch, nobody_watches
from sciml_discover.baselines import known_only, sindy_on_data
from sciml_discover.criterion import misfit_p_value
from sciml_discover.expressions import MAX_RESULT_LENGTH, TIME, parse_expression
from sciml_discover.forecasts import (
    AbstractModel,
    Forecast,
    LawModel,
    UdeModel,
    dense_grid,
    forecast,
    scored_holdout,
    truth_path,
)
from sciml_discover.next_measurement import NextMeasurement, suggest_measurement
from sciml_discover.noise import Noise
from sciml_discover.scores import Metrics, best_constant, constant_metrics, measure, whiteness
from sciml_discover.simplify import canonical_terms, equations_with_numbers, same_structure
from sciml_discover.threads import single_threaded
from sciml_discover.trajectories import Dataset, Trajectory

if TYPE_CHECKING:
    import sympy

    from sciml_discover.laws import Law
    from sciml_discover.readers import PreparedData
    from sciml_discover.selection import RankedLaws
    from sciml_discover.system import System
    from sciml_discover.systems import KnownSystem
    from sciml_discover.training import TrainingResult


class ValidateOptions(Options):
    """Thresholds of the verdict."""

    chi_square_p: float = pydantic.Field(default=0.001, ge=0, lt=1)
    """Smallest p-value of the re-solved chi-square."""
    whiteness_p: float = pydantic.Field(default=0.001, ge=0, lt=1)
    """Smallest p-value of the whiteness test of each observable's residuals."""
    holdout_error: pydantic.PositiveFloat = 2.0
    """Largest standardised error on the hold-out rows."""
    unexplained: float = pydantic.Field(default=0.5, gt=0, le=1)
    """Largest unexplained variance, as a fraction of the best constant's."""
    extrapolate_to: float | None = None
    """Time up to which the law is compared with the known truth of a synthetic experiment."""


@dataclass(frozen=True)
class ModelScore:
    """A model in the comparison table; metrics are None where it could not be solved or has no rows.

    ``note`` says why a metric is missing or how the model was made.
    """

    train: Metrics | None
    holdout: Metrics | None
    extrapolation: Metrics | None
    note: str


@dataclass(frozen=True)
class Reason:
    """One condition of the verdict.

    ``name`` is ``"chi_square"``, ``"whiteness"``, ``"holdout"`` or ``"skill"``.
    """

    name: str
    passed: bool
    value: float | None
    threshold: float
    message: str


@dataclass(frozen=True)
class Curve:
    """A model re-solved over one trajectory, dense in time, for plotting.

    ``model`` is ``"law"``, ``"ude"``, ``"known_only"`` or ``"sindy_on_data"``; ``values`` has shape
    ``(times, observables)``. ``learnt`` curves stop where the solver stopped.
    """

    model: str
    trajectory: str
    times: np.ndarray
    values: np.ndarray


@dataclass(frozen=True)
class TruthComparison:
    """The choice against the truth of a synthetic experiment.

    Attributes:
        same_structure: whether every equation has exactly the terms of the truth.
        relative_errors: coefficient error / true value per ``"state: term"`` of the truth.
    """

    same_structure: bool
    relative_errors: dict[str, float]


@dataclass(frozen=True)
class ValidationReport:
    """What the judge says.

    Attributes:
        status: ``"accepted"`` or ``"rejected"``.
        reasons: the four conditions, in order; hold-out only where there are such rows.
        law: scores of the choice.
        rivals_holdout: standardised hold-out error of each of ``RankedLaws.laws``; None without hold-out.
        baselines: ``known_only``, ``ude``, ``sindy_on_data``, ``constant``.
        curves: every model, dense in time.
        truth: None for measured data.
        next_measurement: which value would tell the rivals apart; None without rivals.
    """

    status: str
    reasons: tuple[Reason, ...]
    law: ModelScore
    rivals_holdout: tuple[float | None, ...]
    baselines: dict[str, ModelScore]
    curves: tuple[Curve, ...]
    truth: TruthComparison | None
    next_measurement: NextMeasurement | None


@single_threaded
def validate(
    system: System,
    data: PreparedData,
    trained: TrainingResult,
    laws: RankedLaws,
    options: ValidateOptions,
    *,
    truth: KnownSystem | None = None,
    watch: Watch = nobody_watches,
) -> ValidationReport:
    """Judge the chosen law by an independent solver, on training and hold-out rows, beside its baselines.

    Held out by time, a model goes on from its fitted trajectory. Held out by trajectory, only its initial state is
    fitted, to the first quarter of the rows, and the rest is scored.

    Args:
        system: the known physics with its holes.
        data: training rows, hold-out rows, noise.
        trained: the universal differential equation, one of the baselines.
        laws: the choice and its rivals.
        options: thresholds of the verdict.
        truth: the system that made simulated data.
        watch: called once per model.
    """
    choice = laws.laws[0]
    model = LawModel.of(system, choice, data)
    watch(Progress("validate", "baselines", 0, 3))
    models: dict[str, AbstractModel | str] = {
        "known_only": known_only(system, data, trained),
        "ude": UdeModel(system, trained, data),
        "sindy_on_data": sindy_on_data(system, data),
    }
    watch(Progress("validate", "solving", 1, 3))
    forecasts = {"law": forecast(model, data)}
    forecasts |= {
        name: forecast(baseline, data)
        for name, baseline in models.items()
        if isinstance(baseline, AbstractModel)
    }
    scores = {name: _score(found, data) for name, found in forecasts.items()}
    scores |= {
        name: ModelScore(None, None, None, note) for name, note in models.items() if isinstance(note, str)
    }
    law_score = scores.pop("law")
    extrapolation, comparison = None, None
    if truth is not None:
        comparison = compare_with_truth(choice, truth)
        if options.extrapolate_to is not None:
            extrapolation = _extrapolate(model, truth, data, options.extrapolate_to)
            law_score = ModelScore(law_score.train, law_score.holdout, extrapolation, law_score.note)
    rows = scored_holdout(data)
    train = constant_metrics(data.train, data.train, data.noise)
    holdout = None if rows is None else constant_metrics(data.train, rows, data.noise)
    scores["constant"] = ModelScore(train, holdout, None, "the mean of the training rows")
    watch(Progress("validate", "rivals on the hold-out", 2, 3))
    reasons = _reasons(choice, forecasts["law"], law_score, data, options)
    return ValidationReport(
        status="accepted" if all(reason.passed for reason in reasons) else "rejected",
        reasons=reasons,
        law=law_score,
        rivals_holdout=tuple(_holdout_error(system, law, data) for law in laws.laws),
        baselines=scores,
        curves=tuple(
            Curve(name, trajectory, times, values)
            for name, item in {"law": model, **models}.items()
            if isinstance(item, AbstractModel)
            for trajectory, times, values in dense_grid(item, data)
        ),
        truth=comparison,
        next_measurement=suggest_measurement(system, laws.laws[: 1 + laws.n_rivals], data),
    )


def _score(found: Forecast, data: PreparedData) -> ModelScore:
    # The constant knows as much as the law does: the training rows.
    constant = best_constant(data.train, data.noise)
    train = measure(data.train, found.train, None, data.noise, constant)
    holdout, rows = None, scored_holdout(data)
    if rows is not None and found.holdout is not None:
        holdout = measure(rows, found.holdout, found.holdout_sd, data.noise, constant)
    return ModelScore(train, holdout, None, found.note)


def _holdout_error(system: System, law: Law, data: PreparedData) -> float | None:
    if data.holdout is None:
        return None
    score = _score(forecast(LawModel.of(system, law, data), data), data).holdout
    return None if score is None else score.standardised


def _reasons(
    law: Law, found: Forecast, score: ModelScore, data: PreparedData, options: ValidateOptions
) -> tuple[Reason, ...]:
    reasons = [
        _chi_square_reason(law, found, score, data.noise, options),
        _whiteness_reason(found, data, options),
    ]
    if data.holdout is not None:
        error = None if score.holdout is None else score.holdout.standardised
        passed = error is not None and error <= options.holdout_error
        text = _unscored("hold-out", found.holdout)
        if error is not None:
            text = f"error on the hold-out rows is {error:.2f} times what the noise and the fit allow"
        reasons.append(Reason("holdout", passed, error, options.holdout_error, text))
    rows = {"training": score.train, **({"hold-out": score.holdout} if data.holdout is not None else {})}
    fractions = {name: metrics.unexplained for name, metrics in rows.items() if metrics is not None}
    solved = len(fractions) == len(rows)
    worst = max(fractions.values()) if solved else None
    failed = next((name for name in rows if name not in fractions), "")
    text = _unscored(failed, {"training": found.train, "hold-out": found.holdout}.get(failed))
    if solved:
        parts = " and ".join(f"{100 * value:.2g} % on {name} rows" for name, value in fractions.items())
        text = f"variance left unexplained, against the best constant of the training rows: {parts}"
    passed = worst is not None and worst <= options.unexplained
    reasons.append(Reason("skill", passed, worst, options.unexplained, text))
    return tuple(reasons)


def _unscored(rows: str, prediction: list[np.ndarray] | None) -> str:
    """Return why some rows say nothing about the law: it has no prediction there, or one without a size."""
    if prediction is None:
        return f"the law could not be solved over the {rows} rows"
    return f"what the law predicts for the {rows} rows has no finite value, or no logarithm where that was measured"


def _chi_square_reason(
    law: Law, found: Forecast, score: ModelScore, noise: Noise, options: ValidateOptions
) -> Reason:
    """Compare the misfit with the law-free noise: chi-square, or F where that noise is itself an estimate."""
    freedom = law.n_observed - law.n_parameters
    threshold = options.chi_square_p
    if score.train is None:
        return Reason("chi_square", False, None, threshold, _unscored("training", found.train))
    if freedom <= 0:
        text = f"{law.n_parameters} free numbers for {law.n_observed} values: nothing is left to test"
        return Reason("chi_square", False, None, threshold, text)
    chi_square = score.train.chi_square
    misfit = np.array([score.train.chi_squares[name] for name in noise.observables])
    counts = np.array([score.train.counts[name] for name in noise.observables])
    p_value, test = misfit_p_value(misfit, counts, freedom, noise)
    passed = p_value > threshold
    text = f"chi-square {chi_square:.4g} for {freedom} degrees of freedom, p = {p_value:.2g} ({test})"
    return Reason("chi_square", passed, p_value, threshold, text if passed else f"structure missing: {text}")


def _whiteness_reason(found: Forecast, data: PreparedData, options: ValidateOptions) -> Reason:
    threshold = options.whiteness_p
    if found.train is None:
        return Reason("whiteness", False, None, threshold, _unscored("training", None))
    p_values = whiteness(data.train, found.train, data.noise)
    if not p_values:
        text = "no residuals to test for whiteness: too few rows, or an exact fit"
        return Reason("whiteness", True, None, threshold, text)
    worst = min(p_values, key=lambda name: p_values[name])
    passed = p_values[worst] > threshold
    text = ", ".join(f"{name} p = {value:.2g}" for name, value in p_values.items())
    text = f"residuals {'look' if passed else 'are not'} white (Ljung-Box: {text})"
    return Reason("whiteness", passed, p_values[worst], threshold, text)


def _extrapolate(model: LawModel, truth: KnownSystem, data: PreparedData, end: float) -> Metrics | None:
    """Compare the law with the noise-free truth from the first row to ``end``."""
    first = data.train.trajectories[0]
    times = np.linspace(first.times[0], end, 1001)
    model = model.driven(truth.inputs)
    exact = truth_path(truth, times)
    found = model.path(0, times)
    if exact is None or found is None:
        return None
    observation = model.system.observation(data.train.observables)
    # A state that the truth does not have has no true value.
    states = np.full((len(times), len(model.names)), np.nan)
    for column, name in enumerate(model.names):
        if name in truth.equations:
            states[:, column] = exact[:, list(truth.equations).index(name)]
    reference = Trajectory(first.name, times, observation.values(times, states))
    constant = best_constant(data.train, data.noise)
    prediction = [observation.values(times, found)]
    return measure(Dataset(data.train.observables, (reference,)), prediction, None, data.noise, constant)


def compare_with_truth(law: Law, truth: KnownSystem) -> TruthComparison:
    """Return whether a law has the structure of the truth, and how far its coefficients are off."""
    names = list(truth.equations)
    if set(names) != set(law.equations_full):
        return TruthComparison(False, {})
    exact = {name: _inline(truth, name) for name in names}
    known = [*names, *truth.controls, TIME]
    found = {
        name: parse_expression(law.equations_full[name], known, where="law", longest=MAX_RESULT_LENGTH)
        for name in names
    }
    errors = {}
    for name in names:
        coefficients = canonical_terms(found[name])
        for term, value in canonical_terms(exact[name]).items():
            errors[f"{name}: {term}"] = abs(coefficients.get(term, 0.0) - value) / abs(value)
    return TruthComparison(same_structure(found, exact), errors)


def _inline(truth: KnownSystem, name: str) -> sympy.Expr:
    return equations_with_numbers(truth.system, {}, truth.parameters)[name]
