"""The report: everything a run found, on one page that needs nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sciml_discover.report import equations, figures
from sciml_discover.report.numbers import MISSING, interval, number, percent, remark, with_error
from sciml_discover.units import UnitTable

if TYPE_CHECKING:
    from sciml_discover.laws import Estimate, Law
    from sciml_discover.readers import PreparedData
    from sciml_discover.residual_samples import HoleSamples, ResidualSamples
    from sciml_discover.selection import RankedLaws
    from sciml_discover.system import System
    from sciml_discover.training import TrainingResult
    from sciml_discover.validation import ModelScore, ValidationReport

OTHER_TERMS = 6
"""Terms that the choice does not have whose probability is named."""

VERDICTS = {
    "accepted": "The law passes every condition of the verdict.",
    "rejected": "The law fails at least one condition: the best that was found, not an answer.",
}

REASONS = {
    "chi_square": "fits the data to the noise",
    "whiteness": "leaves no pattern in the residuals",
    "holdout": "predicts the hold-out rows",
    "skill": "beats the best constant",
}
"""Conditions of the verdict in words."""


def render_report(
    *,
    title: str,
    data: PreparedData,
    trained: TrainingResult,
    samples: ResidualSamples,
    laws: RankedLaws,
    validation: ValidationReport,
    system: System,
    experiment_text: str,
    versions: Mapping[str, str],
    units: UnitTable | None = None,
) -> str:
    """Return the report of a run as one HTML page.

    The page refers to nothing outside itself, holds no date, and is the same to the byte for the same
    arguments. Every text that comes from a file is escaped.

    Args:
        title: title of the experiment.
        data: training rows, hold-out rows, noise.
        trained: the trained universal differential equation.
        samples: what its networks learnt.
        laws: the choice and its rivals.
        validation: the verdict and the comparison with other models.
        system: the known physics and its holes.
        experiment_text: the experiment file as run.
        versions: version per library.
        units: those of the numbers; none are shown without it.
    """
    units = units or UnitTable()
    choice = laws.laws[0]
    found = [equations.found_term(hole, choice, trained.parameters, system) for hole in samples.holes]
    return _template().render(
        title=title,
        status=validation.status,
        verdict=VERDICTS.get(validation.status, ""),
        reasons=_reasons(validation),
        known=equations.known_equations(system),
        law=equations.law_equations(choice, system),
        holes=[equations.hole_equation(hole, text, system) for hole, text in choice.expressions.items()],
        terms=_terms(choice, system, units),
        parameters=_parameters(choice, units),
        others=_other_terms(laws),
        with_units=bool(units.names),
        models=_models(validation),
        has_holdout=data.holdout is not None,
        has_extrapolation=validation.law.extrapolation is not None,
        laws=_laws(laws, validation, system),
        search=laws,
        learnt=_learnt(samples, found),
        shifted=equations.shifted_rates(choice, trained.parameters),
        truth=_truth(validation),
        identifiability=laws.identifiability,
        next_measurement=validation.next_measurement,
        training=trained,
        loss=number(trained.loss),
        misfit=f"{number(trained.chi_square)} over {trained.n_observed} values",
        data=_data(data),
        figures=_figures(data, trained, samples, found, laws, validation, system),
        omitted=_omitted(data),
        experiment=experiment_text,
        versions=versions,
        colours=figures.COLOURS,
        dark_colours=figures.DARK_COLOURS,
        missing=MISSING,
    )


def _template() -> Any:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template("report.html.jinja")


def _figures(
    data: PreparedData,
    trained: TrainingResult,
    samples: ResidualSamples,
    found: Sequence[np.ndarray],
    laws: RankedLaws,
    validation: ValidationReport,
    system: System,
) -> dict[str, str]:
    drawn = {
        "trajectories": figures.draw_trajectories(data, validation, system),
        "front": figures.draw_front(laws),
        "history": figures.draw_history(trained.history),
    }
    if samples.holes:
        drawn["overview"] = figures.draw_overview(data, samples, found, validation, system)
        drawn["terms"] = figures.draw_terms(samples, found, system)
    return drawn


def _reasons(validation: ValidationReport) -> list[dict[str, Any]]:
    return [
        {
            "title": REASONS.get(reason.name, reason.name),
            "passed": reason.passed,
            "value": number(reason.value),
            "threshold": f"{reason.threshold:g}",
            "message": reason.message,
        }
        for reason in validation.reasons
    ]


def _terms(law: Law, system: System, units: UnitTable) -> list[dict[str, str]]:
    """Return a row for the coefficient of each term, and one for each number inside it."""
    rows = []
    for hole, terms in law.missing.items():
        for term in terms:
            found = units.of_term(hole, term.term)
            shown = equations.inline(term.term, system, term.inner)
            rows.append(_number_row(hole, shown, term.coefficient, found.coefficient, term.inclusion))
            for name, inner in term.inner.items():
                shown = equations.inline(name, system, term.inner)
                rows.append(_number_row(hole, shown, inner, found.inner.get(name)))
    return rows


def _number_row(
    hole: str, shown: str, found: Estimate, unit: str | None, inclusion: float | None = None
) -> dict[str, str]:
    return {
        "hole": hole,
        "term": shown,
        "value": with_error(found.value, found.stderr),
        "interval": interval(found.interval95),
        "unit": unit or "",
        "inclusion": percent(inclusion),
        "note": remark(identifiable=found.stderr is not None, snapped=found.snapped),
    }


def _other_terms(laws: RankedLaws) -> list[str]:
    """Return the terms that the choice does not have, with their probability, the most probable first."""
    own = {hole: {term.term for term in terms} for hole, terms in laws.laws[0].missing.items()}
    others = [
        (share, f"{term} in {hole} ({percent(share)})")
        for hole, shares in laws.inclusion.items()
        for term, share in shares.items()
        if term not in own[hole]
    ]
    return [text for _, text in sorted(others, reverse=True)[:OTHER_TERMS]]


def _parameters(law: Law, units: UnitTable) -> list[dict[str, str]]:
    return [
        {
            "name": name,
            "value": f"{known.estimate.value:g}"
            if known.fixed
            else with_error(known.estimate.value, known.estimate.stderr),
            "interval": MISSING if known.fixed else interval(known.estimate.interval95),
            "unit": known.unit or units.names.get(name, ""),
            "note": remark(known.fixed, known.identifiable, known.estimate.snapped),
        }
        for name, known in law.parameters.items()
    ]


def _models(validation: ValidationReport) -> list[dict[str, str]]:
    scores = {"law": validation.law, **validation.baselines}
    return [
        {
            "name": figures.MODELS.get(name, name),
            "key": name,
            "train": _score(score, "train", "standardised"),
            "train_l2": _percent(score, "train"),
            "holdout": _score(score, "holdout", "standardised"),
            "holdout_l2": _percent(score, "holdout"),
            "extrapolation_l2": _percent(score, "extrapolation"),
            "note": score.note,
        }
        for name, score in scores.items()
    ]


def _score(score: ModelScore, rows: str, metric: str) -> str:
    metrics = getattr(score, rows)
    return number(getattr(metrics, metric)) if metrics is not None else MISSING


def _percent(score: ModelScore, rows: str) -> str:
    metrics = getattr(score, rows)
    return f"{number(100 * metrics.relative_l2)}\N{NO-BREAK SPACE}%" if metrics is not None else MISSING


def _laws(laws: RankedLaws, validation: ValidationReport, system: System) -> list[dict[str, Any]]:
    return [
        {
            "role": "choice" if rank == 0 else "rival" if rank <= laws.n_rivals else "front",
            "expressions": [
                equations.hole_equation(hole, text, system) for hole, text in law.expressions.items()
            ],
            "complexity": law.complexity,
            "chi_square": number(law.chi_square),
            "delta": number(law.delta),
            "holdout": number(error),
            "source": law.source,
            "status": law.status,
        }
        for rank, (law, error) in enumerate(zip(laws.laws, validation.rivals_holdout, strict=True))
    ]


def _learnt(samples: ResidualSamples, found: Sequence[np.ndarray]) -> list[tuple[str, str]]:
    return [
        (hole.hole, _disagreement(hole, values)) for hole, values in zip(samples.holes, found, strict=True)
    ]


def _disagreement(hole: HoleSamples, values: np.ndarray) -> str:
    """Return the L2 norm of learnt minus found over that of found, in percent."""
    size = float(np.linalg.norm(values))
    return (
        f"{number(100 * float(np.linalg.norm(hole.values - values)) / size)}\N{NO-BREAK SPACE}%"
        if size > 0
        else MISSING
    )


def _truth(validation: ValidationReport) -> dict[str, Any] | None:
    truth = validation.truth
    if truth is None:
        return None
    return {
        "same_structure": truth.same_structure,
        "errors": [
            (name, f"{number(100 * error, 2)}\N{NO-BREAK SPACE}%")
            for name, error in truth.relative_errors.items()
        ],
    }


def _data(data: PreparedData) -> dict[str, Any]:
    noise = data.noise
    levels = zip(noise.observables, noise.sd.tolist(), noise.lognormal, strict=True)
    meaning = "" if noise.floors is None else " of each value"
    return {
        "provenance": data.provenance,
        "train_rows": sum(len(trajectory.times) for trajectory in data.train.trajectories),
        "holdout_rows": sum(len(item.times) for item in data.holdout.trajectories) if data.holdout else 0,
        "trajectories": len({item.name for item in data.train.trajectories}),
        "observed": data.train.n_observed,
        "estimated": noise.estimated,
        "noise": [
            (name, f"{number(sd)}{' of the logarithm' if lognormal else meaning}")
            for name, sd, lognormal in levels
        ],
    }


def _omitted(data: PreparedData) -> int:
    names = {item.name for part in (data.train, data.holdout) if part for item in part.trajectories}
    return max(len(names) - figures.MAX_TRAJECTORIES, 0)
