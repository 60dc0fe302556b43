"""A whole small run as artifacts: Lotka-Volterra with both interaction terms missing.

The curves and scores are what scipy says about the laws below; nothing was trained and nothing was
searched, and the numbers of the fit (errors, criterion) only have plausible sizes.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy.integrate import solve_ivp

from sciml_discover.laws import Estimate, Law, LawParameter, LawTerm
from sciml_discover.next_measurement import NextMeasurement
from sciml_discover.noise import Noise
from sciml_discover.ranking import RankedLaws, RejectedLaw
from sciml_discover.readers import PreparedData
from sciml_discover.residual_samples import HoleSamples, ResidualSamples
from sciml_discover.result import DiscoveryResult, assemble_result
from sciml_discover.scores import Metrics
from sciml_discover.system import System, SystemOptions
from sciml_discover.trained import Event, History, Survivors, TrainedNetwork, TrainingResult
from sciml_discover.trajectories import Dataset, Trajectory
from sciml_discover.units import SystemUnits, UnitTable
from sciml_discover.validation import (
    Curve,
    ModelScore,
    Reason,
    TruthComparison,
    ValidationReport,
)

ALPHA, BETA, GAMMA, DELTA = 1.3, 0.9, 0.8, 1.8
INITIAL = (3.1461493970111687, 1.5370475785612603)
TIMES = np.arange(0.0, 5.01, 0.25)
DENSE = np.linspace(0.0, 5.0, 201)
TRAIN_ROWS = 17
SD = np.array([0.03, 0.02])


@dataclasses.dataclass(frozen=True)
class SmallRun:
    """What the stages of a run hand to its end."""

    options: SystemOptions
    system: System
    data: PreparedData
    trained: TrainingResult
    samples: ResidualSamples
    laws: RankedLaws
    validation: ValidationReport

    @property
    def units(self) -> UnitTable:
        """The units of all numbers."""
        return SystemUnits(self.options).table(
            dict.fromkeys(("predation", "growth"), ("hare*lynx", "hare*lynx**2"))
        )

    def result(self, **changes: object) -> DiscoveryResult:
        """Return the result of this run."""
        known: dict = {
            "run_id": "lotka_volterra-20260101T000000Z-abcdef",
            "created": "2026-01-01T00:00:00Z",
            "case": "lotka_volterra",
            "title": "Lotka-Volterra",
            "seed": 0,
            "device": "cpu",
            "data": self.data,
            "trained": self.trained,
            "laws": self.laws,
            "validation": self.validation,
            "seconds": {"train": 1.5},
            "cached": {"train": False},
            "versions": {"python": "3.11"},
            "system": self.options,
            "units": self.units,
        }
        return assemble_result(**{**known, **changes})

    def report_arguments(self) -> dict:
        """Return what `render_report` needs."""
        return {
            "title": "Lotka-Volterra",
            "data": self.data,
            "trained": self.trained,
            "samples": self.samples,
            "laws": self.laws,
            "validation": self.validation,
            "system": self.system,
            "units": self.units,
            "experiment_text": 'title = "Lotka-Volterra"\n',
            "versions": {"python": "3.11"},
        }


def small_run(*, holdout: bool = True, known_truth: bool = True) -> SmallRun:
    """Return the artifacts of a run, with or without hold-out rows and a known truth."""
    options = SystemOptions.model_validate(
        {
            "states": {
                "hare": {"positive": True, "unit": "thousand"},
                "lynx": {"positive": True, "unit": "thousand"},
            },
            "parameters": {
                "alpha": {"value": 1.0, "bounds": (0.0, 3.0), "unit": "1/year"},
                "delta": {"value": 1.8, "fixed": True},
            },
            "missing": {"predation": ("hare", "lynx"), "growth": ("hare", "lynx")},
            "equations": {"hare": "alpha*hare - predation", "lynx": "growth - delta*lynx"},
            "time_unit": "year",
        }
    )
    noise = np.random.default_rng(0).normal(size=(len(TIMES), 2)) * SD
    values = _solve(TIMES, BETA, GAMMA) + noise
    values[3, 1] = np.nan
    data = _data(values, holdout)
    return SmallRun(
        options=options,
        system=System.from_options(options),
        data=data,
        trained=_trained(data),
        samples=_samples(),
        laws=_laws(data),
        validation=_validation(values, holdout, known_truth),
    )


def _solve(times: np.ndarray, beta: float, gamma: float) -> np.ndarray:
    def rhs(_: float, state: np.ndarray) -> list[float]:
        hare, lynx = state
        return [ALPHA * hare - beta * hare * lynx, gamma * hare * lynx - DELTA * lynx]

    return solve_ivp(rhs, (0.0, 5.0), INITIAL, t_eval=times, rtol=1e-9, atol=1e-9).y.T


def _data(values: np.ndarray, holdout: bool) -> PreparedData:
    rows = TRAIN_ROWS if holdout else len(TIMES)
    names = ("hare", "lynx")
    return PreparedData(
        train=Dataset(names, (Trajectory("all", TIMES[:rows], values[:rows]),)),
        holdout=Dataset(names, (Trajectory("all", TIMES[rows:], values[rows:]),)) if holdout else None,
        noise=Noise(names, (False, False), SD, True, False, np.array([15.0, 14.0])),
        kind_of_holdout="time" if holdout else "none",
        truth="lotka_volterra",
        provenance=("Simulated: lotka_volterra, 21 rows, noise 0.5 % of the mean, seed 0.",),
    )


def _trained(data: PreparedData) -> TrainingResult:
    steps = np.arange(0, 300, 10)
    network = TrainedNetwork(("hare", "lynx"), (5,), np.zeros(2), np.ones(2), 1.0, np.linspace(-1.0, 1.0, 21))
    return TrainingResult(
        status="converged",
        message="The loss stopped falling.",
        loss=0.51,
        chi_square=30.5,
        n_observed=data.train.n_observed,
        parameters={"alpha": 1.31, "delta": 1.8},
        networks={"predation": network, "growth": network},
        initial_states=np.array([INITIAL]),
        covariance=np.eye(2),
        survivors=Survivors(np.array([2, 0]), np.zeros((2, 43)), np.array([34.0, 36.5])),
        history=History(
            stage=("derivative_matching x adam",) * 10 + ("multiple_shooting x lbfgs",) * 20,
            iteration=steps,
            loss=np.concatenate([100.0 * np.exp(-steps[:10] / 40.0), 5.0 * np.exp(-steps[:20] / 60.0) + 0.5]),
            events=(
                Event("multiple_shooting x lbfgs", 200, "1 of 4 starts stalled: no step makes them better"),
            ),
        ),
        notes=("alpha is not identifiable beside a free network in the same equation.",),
    )


def _samples() -> ResidualSamples:
    states = _solve(DENSE, BETA, GAMMA)
    product = states.prod(axis=1)
    wiggle = 1.0 + 0.02 * np.sin(3.0 * DENSE)

    def hole(name: str, coefficient: float) -> HoleSamples:
        return HoleSamples(
            hole=name,
            inputs=("hare", "lynx"),
            trajectory=("all",) * len(DENSE),
            times=DENSE,
            points=states,
            values=coefficient * product * wiggle,
            sd=0.02 * coefficient * product,
            weights=np.ones(len(DENSE)),
        )

    return ResidualSamples((hole("predation", BETA), hole("growth", GAMMA)))


def _laws(data: PreparedData) -> RankedLaws:
    choice = _law(data, "hare*lynx", chi_square=29.3, criterion=-40.0, delta=0.0, source="stlsq")
    rival = _law(data, "hare*lynx**2", chi_square=33.1, criterion=-36.2, delta=3.8, source="stlsq")
    return RankedLaws(
        laws=(choice, rival),
        n_rivals=1,
        compared=40,
        tried=6,
        failed=1,
        rejected=(RejectedLaw({"predation": ("lynx",), "growth": ("1",)}, "move", "it is unstable"),),
        inclusion={"predation": {"hare*lynx": 0.87, "hare*lynx**2": 0.13}, "growth": {"hare*lynx": 1.0}},
        identifiability=("hare*lynx and hare*lynx**2 are collinear on the visited region.",),
        front_complexity=np.array([1, 2, 2, 3, 3, 4]),
        front_chi_square=np.array([5.0e4, 29.3, 33.1, 29.0, np.inf, 28.8]),
    )


def _law(
    data: PreparedData, term: str, *, chi_square: float, criterion: float, delta: float, source: str
) -> Law:
    def terms(value: float, error: float) -> tuple[LawTerm, ...]:
        estimate = Estimate(value, error, (value - 1.96 * error, value + 1.96 * error))
        return (LawTerm(term, estimate, {}),)

    beta, gamma, alpha = 0.8996123456789012, 0.8007654321098765, 1.3 - 1.0 / 3.0 * 1e-3
    return Law(
        missing={"predation": terms(beta, 0.0012), "growth": terms(gamma, 0.0011)},
        expressions={"predation": f"0.8996*{term}", "growth": f"0.8008*{term}"},
        equations={
            "hare": f"1.2997*hare - 0.8996*{term}",
            "lynx": f"0.8008*{term} - 1.8*lynx",
        },
        expressions_full={"predation": f"{beta!r}*{term}", "growth": f"{gamma!r}*{term}"},
        equations_full={
            "hare": f"{alpha!r}*hare - {beta!r}*{term}",
            "lynx": f"{gamma!r}*{term} - 1.8*lynx",
        },
        parameters={
            "alpha": LawParameter(
                Estimate(alpha, 0.0021, (alpha - 0.004, alpha + 0.004)), "1/year", False, True
            ),
            "delta": LawParameter(Estimate(1.8, None, None), None, True, True),
        },
        initial_states=np.array([INITIAL]),
        chi_square=chi_square,
        n_observed=data.train.n_observed,
        n_parameters=5,
        criterion=criterion,
        delta=delta,
        complexity=2,
        covariance=np.eye(5),
        source=source,
        status="converged",
    )


def _validation(values: np.ndarray, holdout: bool, known_truth: bool) -> ValidationReport:
    models = {
        "law": (0.8996, 0.8008),
        "ude": (0.91, 0.81),
        "known_only": (0.0, 0.0),
        "sindy_on_data": (0.8, 0.7),
    }
    solved = {name: _solve(TIMES, *pair) for name, pair in models.items()}
    rows = TRAIN_ROWS if holdout else len(TIMES)

    def score(prediction: np.ndarray, note: str) -> ModelScore:
        return ModelScore(
            train=_metrics(values[:rows], prediction[:rows]),
            holdout=_metrics(values[rows:], prediction[rows:]) if holdout else None,
            extrapolation=_metrics(values, prediction) if known_truth else None,
            note=note,
        )

    constant = np.broadcast_to(np.nanmean(values, axis=0), values.shape)
    reasons = [
        Reason("chi_square", True, 0.61, 0.001, "chi-square 29.3 over 33 values: p = 0.61"),
        Reason("whiteness", True, 0.2, 0.001, "smallest p over the observables 0.2 (lynx)"),
        Reason("skill", True, 0.0004, 0.5, "unexplained variance at most 0.0004"),
    ]
    if holdout:
        reasons.insert(2, Reason("holdout", True, 1.1, 2.0, "standardised hold-out error 1.1"))
    return ValidationReport(
        status="accepted",
        reasons=tuple(reasons),
        law=score(solved["law"], ""),
        rivals_holdout=(1.1, 4.2) if holdout else (None, None),
        baselines={
            "known_only": score(solved["known_only"], "every hole set to zero"),
            "ude": score(solved["ude"], ""),
            "sindy_on_data": ModelScore(None, None, None, "diverged at t = 1.2"),
            "constant": score(constant, "mean of the training rows"),
        },
        curves=tuple(Curve(name, "all", DENSE, _solve(DENSE, *pair)) for name, pair in models.items()),
        truth=TruthComparison(True, {"hare: hare*lynx": 0.0004, "lynx: hare*lynx": 0.001})
        if known_truth
        else None,
        next_measurement=NextMeasurement(
            "all", 21.5, "lynx", 3.2, "lynx at t = 21.5 would separate the rivals best"
        ),
    )


def _metrics(values: np.ndarray, prediction: np.ndarray) -> Metrics:
    error = prediction - values
    seen = np.isfinite(values)
    spread = np.nansum((values - np.nanmean(values, axis=0)) ** 2, axis=0)
    return Metrics(
        rms=dict(zip(("hare", "lynx"), np.sqrt(np.nanmean(error**2, axis=0)).tolist(), strict=True)),
        relative_l2=float(np.sqrt(np.nansum(error**2) / np.nansum(values**2))),
        standardised=float(np.sqrt(np.nanmean((error / SD) ** 2))),
        unexplained=float((np.nansum(error**2, axis=0) / spread).max()),
        chi_squares=dict(zip(("hare", "lynx"), np.nansum((error / SD) ** 2, axis=0).tolist(), strict=True)),
        counts=dict(zip(("hare", "lynx"), seen.sum(axis=0).tolist(), strict=True)),
    )
