"""The verdict: accepted on the truth, and rejected for each reason by construction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from sciml_discover.constraints import LawOptions
from sciml_discover.forecasts import LawModel, forecast
from sciml_discover.library import LibraryOptions
from sciml_discover.noise import Noise
from sciml_discover.readers import DataOptions, PreparedData, prepare_data
from sciml_discover.search import SearchOptions
from sciml_discover.selection import RankedLaws, SelectOptions, select
from sciml_discover.system import System, SystemOptions
from sciml_discover.systems import get_system
from sciml_discover.trajectories import Dataset, HoldoutOptions, split_holdout
from sciml_discover.validation import ValidateOptions, ValidationReport, _reasons, _score, validate
from tests.problems import DOSED_LONG, LOGISTIC, LOTKA_VOLTERRA, Problem, propose, untrained

DEGREE2 = LibraryOptions(polynomial_degree=2)
PROPOSED_ONLY = SelectOptions(exhaustive=0, search=SearchOptions(width=0, rounds=0))
TRUE = {"predation": {"x*y": 0.8}, "growth": {"x*y": 0.7}}
LONG = replace(LOTKA_VOLTERRA, times=(np.arange(0.0, 8.01, 0.25),))
TWINS = replace(
    LONG,
    initial=np.array([LOTKA_VOLTERRA.initial[0], [1.0, 1.0]]),
    times=(LONG.times[0], np.arange(0.0, 6.01, 0.25)),
)


def prepare(
    problem: Problem,
    holdout: HoldoutOptions | None = None,
    *,
    relative: float = 0.01,
    told: float = 1.0,
    added: float = 0.0,
    seed: int = 0,
) -> PreparedData:
    """Rows of the truth with noise, told to the judge times a factor, and with a slow wave on top."""
    dataset = problem.dataset(relative, seed)
    noise = problem.noise(relative)
    waves = tuple(
        replace(item, values=item.values + added * noise.sd * np.sin(2.0 * item.times)[:, None])
        for item in dataset.trajectories
    )
    train, held = split_holdout(Dataset(dataset.observables, waves), holdout)
    kind = "none" if holdout is None else "trajectory" if holdout.trajectories else "time"
    return PreparedData(train, held, replace(noise, sd=told * noise.sd), kind, "", ())


def ranked(problem: Problem, data: PreparedData, *laws: Mapping[str, Mapping[str, float]]) -> RankedLaws:
    return select(
        problem.system,
        data,
        started(problem, data),
        propose(problem, DEGREE2, *laws),
        PROPOSED_ONLY,
        laws=LawOptions(library=DEGREE2),
    )


def started(problem: Problem, data: PreparedData):
    trained = untrained(problem)
    return replace(trained, initial_states=trained.initial_states[: len(data.train.trajectories)])


def judge(
    problem: Problem, data: PreparedData, *laws: Mapping[str, Mapping[str, float]], **options: float
) -> ValidationReport:
    found = ranked(problem, data, *(laws or (TRUE,)))
    truth = get_system("lotka_volterra") if "extrapolate_to" in options else None
    return validate(
        problem.system,
        data,
        started(problem, data),
        found,
        ValidateOptions.model_validate(options),
        truth=truth,
    )


def failed(report: ValidationReport) -> list[str]:
    assert report.status == ("accepted" if all(reason.passed for reason in report.reasons) else "rejected")
    return [reason.name for reason in report.reasons if not reason.passed]


@cache
def accepted() -> ValidationReport:
    return judge(LONG, prepare(LONG, HoldoutOptions(rows=10)), extrapolate_to=20.0)


def test_the_true_law_is_accepted() -> None:
    report = accepted()
    assert failed(report) == []
    assert [reason.name for reason in report.reasons] == ["chi_square", "whiteness", "holdout", "skill"]
    assert report.law.train is not None
    assert report.law.holdout is not None
    assert (report.law.train.n_values, report.law.holdout.n_values) == (46, 20)
    assert report.rivals_holdout == (report.law.holdout.standardised,)


def test_the_truth_is_compared_with() -> None:
    report = accepted()
    assert report.truth is not None
    assert report.truth.same_structure
    assert set(report.truth.relative_errors) == {"x: x", "x: x*y", "y: y", "y: x*y"}
    assert max(report.truth.relative_errors.values()) < 0.02
    assert report.truth.relative_errors["x: x"] == 0.0  # given
    assert report.law.extrapolation is not None
    assert report.law.extrapolation.n_values == 2002
    assert report.law.extrapolation.relative_l2 < 0.1


def test_the_law_beats_its_baselines() -> None:
    report = accepted()
    assert set(report.baselines) == {"known_only", "ude", "sindy_on_data", "constant"}
    assert report.law.holdout is not None
    for name, score in report.baselines.items():
        assert score.holdout is None or score.holdout.rms["x"] > report.law.holdout.rms["x"], name
        assert score.note
    constant = report.baselines["constant"].train
    assert constant is not None
    assert constant.unexplained == pytest.approx(1.0)
    assert {curve.model for curve in report.curves} >= {"law"}


def test_rejected_by_chi_square_when_the_noise_is_smaller_than_the_misfit() -> None:
    report = judge(LONG, prepare(LONG, told=0.4))
    assert failed(report) == ["chi_square"]
    assert report.reasons[0].message.startswith("structure missing: chi-square")
    assert len(report.reasons) == 3  # nothing held out


def test_rejected_by_whiteness_when_a_pattern_is_left_over() -> None:
    report = judge(LONG, prepare(LONG, relative=0.002, told=10.0, added=8.0))
    assert failed(report) == ["whiteness"]
    assert "residuals are not white" in report.reasons[1].message


def test_rejected_by_the_holdout_when_the_world_changes() -> None:
    data = prepare(LONG, HoldoutOptions(rows=10))
    assert data.holdout is not None
    data.holdout.trajectories[0].values[:] += 5.0 * data.noise.sd
    report = judge(LONG, data)
    assert failed(report) == ["holdout"]


def test_rejected_by_skill_when_a_constant_does_as_well() -> None:
    # At its capacity nothing moves: all variance is noise, and the law explains none of it.
    flat = replace(LOGISTIC, initial=np.array([[10.0]]))
    report = judge(flat, prepare(flat), {"crowding": {"n**2": 0.08}})
    assert failed(report) == ["skill"]
    assert "variance left unexplained" in report.reasons[-1].message


def test_a_wrong_structure_is_rejected() -> None:
    wrong = {"predation": {"x": 1.0, "x**2": 0.1}, "growth": {"x*y": 0.7}}
    report = judge(LONG, prepare(LONG, HoldoutOptions(rows=10)), wrong, extrapolate_to=20.0)
    assert "chi_square" in failed(report)
    assert report.truth is not None
    assert not report.truth.same_structure
    assert report.truth.relative_errors["x: x*y"] == 1.0


def test_held_out_by_trajectory() -> None:
    data = prepare(TWINS, HoldoutOptions(trajectories=("site 1",)))
    report = judge(TWINS, data)
    assert failed(report) == []
    assert report.law.holdout is not None
    # A quarter of 25 rows goes into the initial state.
    assert report.law.holdout.n_values == 2 * (25 - 6)
    assert {curve.trajectory for curve in report.curves} == {"site 0"}


def test_a_prediction_without_a_logarithm_is_not_called_unsolved() -> None:
    data = prepare(LOGISTIC, HoldoutOptions(rows=4))
    model = LawModel(LOGISTIC.filled, LOGISTIC.parameters, LOGISTIC.initial)
    model.starts = data.train.start_times
    law = ranked(LOGISTIC, data, {"crowding": {"n**2": 0.08}}).laws[0]
    logs = replace(data, noise=replace(data.noise, lognormal=(True,), sd=np.array([0.01])))
    found = forecast(model, logs)
    assert found.train is not None
    assert found.holdout is not None
    below = replace(found, train=[-item for item in found.train], holdout=[-item for item in found.holdout])
    unsolved = replace(found, train=None, holdout=None)
    for prediction, text in ((below, "no logarithm"), (unsolved, "could not be solved")):
        reasons = {
            reason.name: reason
            for reason in _reasons(law, prediction, _score(prediction, logs), logs, ValidateOptions())
        }
        for name, rows in (("chi_square", "training"), ("holdout", "hold-out"), ("skill", "training")):
            assert not reasons[name].passed
            assert text in reasons[name].message
            assert f"the {rows} rows" in reasons[name].message


def test_thresholds_are_those_of_the_options() -> None:
    data = prepare(LONG, HoldoutOptions(rows=10))
    report = judge(
        LONG, data, holdout_error=1e-3, unexplained=1e-9, chi_square_p=0.999999, whiteness_p=0.999999
    )
    assert failed(report) == ["chi_square", "whiteness", "holdout", "skill"]
    assert [reason.threshold for reason in report.reasons] == [0.999999, 0.999999, 1e-3, 1e-9]


@pytest.mark.parametrize("pooled", [False, True])
def test_noise_that_is_itself_an_estimate_is_judged_by_an_f_test(pooled: bool) -> None:
    data = prepare(LONG, told=0.6)
    noise = Noise(("x", "y"), (False, False), data.noise.sd, True, pooled, np.array([6.0, 6.0]))
    estimated = judge(LONG, replace(data, noise=noise))
    if not pooled:
        assert failed(judge(LONG, data)) == ["chi_square"]
    assert failed(estimated) == []
    assert (
        f"F test against noise estimated with {'6' if pooled else '6, 6'} degrees"
        in estimated.reasons[0].message
    )


def test_nothing_left_to_test_is_no_pass() -> None:
    short = replace(LOGISTIC, times=(np.array([0.0, 2.0, 4.0, 6.0]),))
    law = {"crowding": {"1": 0.01, "n": 0.1, "n**2": 0.07}}
    report = judge(short, prepare(short), law)
    assert "chi_square" in failed(report)
    assert report.reasons[0].message == "4 free numbers for 4 values: nothing is left to test"
    assert report.reasons[1].message == "no residuals to test for whiteness: too few rows, or an exact fit"


def test_a_driven_law_is_judged_on_its_expressions() -> None:
    train, held = split_holdout(DOSED_LONG.dataset(0.01), HoldoutOptions(fraction=0.2))
    data = PreparedData(train, held, DOSED_LONG.noise(0.01), "time", "", ())
    laws = ranked(DOSED_LONG, data, {"uptake": {"a*light": 0.5}}, {"uptake": {"a": 0.5}})
    report = validate(DOSED_LONG.system, data, started(DOSED_LONG, data), laws, ValidateOptions())
    assert failed(report) == []
    assert report.law.holdout is not None
    assert set(report.law.holdout.rms) == {"amount", "signal"}
    assert report.baselines["sindy_on_data"].note == "not possible: b not measured"
    assert report.baselines["known_only"].train is not None
    law = [curve for curve in report.curves if curve.model == "law"]
    assert [curve.values.shape for curve in law] == [(300, 2)] * 2


def test_extrapolation_of_a_driven_law_is_driven_by_the_true_input() -> None:
    known = get_system("driven_oscillator")
    table = {
        "states": {"x": {}, "v": {}},
        "controls": {"force": {}},
        "missing": {"spring": ["x"]},
        "equations": {"x": "v", "v": "force - 0.1*v - spring"},
        "observables": {"place": "x", "mix": "x + v"},
    }
    options = {"synthetic": {"system": known.name, "times": {"stop": 8.0, "step": 0.2}, "noise": 0.005}}
    data = prepare_data(
        DataOptions.model_validate({**options, "noise": {"relative": 0.005}}),
        SystemOptions.model_validate(table),
        Path(),
        0,
    )
    system = System.from_options(SystemOptions.model_validate(table))
    laws = {"spring": {"x": 1.0, "x**3": 0.5}}
    [item] = data.train.trajectories
    problem = Problem(
        "oscillator",
        system,
        {"spring": "x + 0.5*x**3"},
        np.array([[1.0, 0.0]]),
        (item.times,),
        (),
        (item.controls,),
    )
    library = LibraryOptions(polynomial_degree=3)
    ranked_laws = select(
        system,
        data,
        untrained(problem),
        propose(problem, library, laws),
        PROPOSED_ONLY,
        laws=LawOptions(library=library),
    )
    report = validate(
        system, data, untrained(problem), ranked_laws, ValidateOptions(extrapolate_to=16.0), truth=known
    )
    assert report.truth is not None
    assert report.truth.same_structure
    assert report.truth.relative_errors["v: force"] == 0
    assert report.law.extrapolation is not None
    assert report.law.extrapolation.relative_l2 < 0.05
