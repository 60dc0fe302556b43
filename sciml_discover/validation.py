"""The judge: an independent solver, rows that were never seen, baselines, a verdict with reasons."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pydantic

from sciml_discover.base import Options


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
class Metrics:
    """How one model does on one set of rows.

    Attributes:
        rms: root mean square error per observable, in its unit.
        relative_l2: L2 norm of the error over that of the values, all observables.
        standardised: root mean square of error / predictive sd, all observables.
        unexplained: squared error over that of the best constant, the worst observable.
        chi_square: sum of squared errors over squared noise sd.
        n_values: observed values counted.
    """

    rms: dict[str, float]
    relative_l2: float
    standardised: float
    unexplained: float
    chi_square: float
    n_values: int


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
    """

    status: str
    reasons: tuple[Reason, ...]
    law: ModelScore
    rivals_holdout: tuple[float | None, ...]
    baselines: dict[str, ModelScore]
    curves: tuple[Curve, ...]
    truth: TruthComparison | None
