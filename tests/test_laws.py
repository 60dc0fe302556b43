"""Laws: the bookkeeping of their covariance, in physical units and without padding."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from sciml_discover.base import nobody_watches
from sciml_discover.laws import NORMAL95, LawBuilder
from sciml_discover.library import LibraryOptions, build_library
from sciml_discover.refit import Fits, Refitter
from sciml_discover.ude import ParameterMap
from tests.problems import FORCED, LOTKA_VOLTERRA, candidates_of

DEGREE2 = LibraryOptions(polynomial_degree=2)


def built(estimated: bool = False):
    """Two candidates of unequal length, and a covariance whose diagonal says where an entry came from."""
    short = {"predation": {"x*y": 0.9}, "growth": {"x*y": 0.8}}
    long = {"predation": {"x": 0.01, "x*y": 0.9, "y**2": 0.01}, "growth": {"x*y": 0.8, "y**2": 0.01}}
    candidates = candidates_of(LOTKA_VOLTERRA, DEGREE2, short, long)
    both = [int(np.flatnonzero(candidates.complexity == size)[0]) for size in (2, 5)]
    candidates = candidates.take(np.array(both))
    rows = LOTKA_VOLTERRA.rows()
    libraries = [build_library(hole.inputs, DEGREE2) for hole in LOTKA_VOLTERRA.system.missing]
    start = Fits.begin(candidates, rows.smooth_states, ParameterMap(LOTKA_VOLTERRA.system).initial(1))
    fits = replace(start, misfit=np.full((2, 2), 38.0))
    objective, _ = Refitter(LOTKA_VOLTERRA.system, libraries, rows, 2).problem(fits)
    # Room for three and two coefficients, then two initial states.
    covariance = np.diag([1.0, 4.0, 9.0, 16.0, 25.0, 36.0, 49.0]) * 1e-4
    return LawBuilder(LOTKA_VOLTERRA.system, libraries, objective, estimated, 2), fits, covariance


def test_padding_is_left_out_of_the_covariance() -> None:
    builder, fits, covariance = built()
    short, long = builder.law(fits, 0, covariance, 1.0, 0.0), builder.law(fits, 1, covariance, 1.0, 0.0)
    np.testing.assert_allclose(np.diag(long.covariance), np.diag(covariance))
    # The short law has one coefficient per hole: the first place of each hole's room.
    np.testing.assert_allclose(np.diag(short.covariance), [1e-4, 16e-4, 36e-4, 49e-4])
    [estimate] = [term.coefficient for term in short.missing["growth"]]
    assert estimate.stderr is not None
    assert estimate.interval95 is not None
    np.testing.assert_allclose(estimate.stderr, 0.04)
    np.testing.assert_allclose(estimate.interval95, [0.8 - 0.04 * NORMAL95, 0.8 + 0.04 * NORMAL95])
    assert [term.term for term in long.missing["predation"]] == ["x", "x*y", "y**2"]
    assert (short.n_parameters, long.n_parameters) == (4, 7)


def test_errors_grow_with_the_misfit_where_the_noise_is_an_estimate() -> None:
    _, fits, covariance = built()
    law = built(True)[0].law(fits, 0, covariance, 1.0, 0.0)
    # Chi-square 76 for 42 values and four numbers.
    np.testing.assert_allclose(np.diag(law.covariance)[0], 1e-4 * 76 / 38)


def test_an_undetermined_number_has_no_error_and_is_shown_with_three_digits() -> None:
    builder, fits, covariance = built()
    covariance[0, 0] = np.inf
    covariance[0, 1] = covariance[1, 0] = np.nan
    law = builder.law(fits, 0, covariance, 1.0, 0.0)
    [term] = law.missing["predation"]
    assert term.coefficient.stderr is None
    assert term.coefficient.interval95 is None
    assert term.coefficient.snapped is None
    assert law.expressions["predation"] == "0.9*x*y"
    assert not np.isnan(law.covariance).any()


def test_parameters_are_in_physical_units() -> None:
    library = LibraryOptions(polynomial_degree=1, functions=("sin",))
    candidates = candidates_of(FORCED, library, {"push": {"sin(t)": 1.0}})
    rows = FORCED.rows(0.01)
    refitter = Refitter(FORCED.system, [build_library(("t",), library)], rows, 2)
    start = Fits.begin(candidates, rows.smooth_states, ParameterMap(FORCED.system).initial(1))
    fits = refitter.refit(start, nobody_watches)
    objective, unknowns = refitter.problem(fits)
    law = LawBuilder(FORCED.system, [build_library(("t",), library)], objective, False, 2).law(
        fits, 0, objective.covariance(unknowns)[0].numpy(), 0.0, 0.0
    )
    found = law.parameters["k"]
    assert found.estimate.stderr is not None
    # By hand: the same problem in k itself, linearised by finite differences of the closed form.
    times = FORCED.times[0]

    def model(k: float, c: float, x0: float) -> np.ndarray:
        part = c * (k * np.sin(times) - np.cos(times)) / (1 + k**2)
        return part + (x0 + c / (1 + k**2)) * np.exp(-k * times)

    at = np.array([found.estimate.value, law.missing["push"][0].coefficient.value, law.initial_states[0, 0]])
    columns = [(model(*(at + h)) - model(*(at - h))) / 2e-6 for h in 1e-6 * np.eye(3)]
    jacobian = np.stack(columns, 1) / FORCED.noise(0.01).sd
    np.testing.assert_allclose(law.covariance, np.linalg.inv(jacobian.T @ jacobian), rtol=0.02)
    np.testing.assert_allclose(found.estimate.stderr**2, law.covariance[0, 0])
    assert not found.fixed
    assert found.identifiable
    assert isinstance(unknowns, torch.Tensor)


def test_a_parameter_at_its_bound_has_no_error_and_takes_none_from_others() -> None:
    library = LibraryOptions(polynomial_degree=1, functions=("sin",))
    bounded = replace(
        FORCED.system, parameters=(replace(FORCED.system.parameters[0], value=0.1, bounds=(0.0, 0.2)),)
    )
    candidates = candidates_of(FORCED, library, {"push": {"sin(t)": 1.0}})
    rows, libraries = FORCED.rows(0.01), [build_library(("t",), library)]
    refitter = Refitter(bounded, libraries, rows, 2)
    start = Fits.begin(candidates, rows.smooth_states, 50.0 + ParameterMap(bounded).initial(1))
    objective, unknowns = refitter.problem(start)
    covariance = objective.covariance(unknowns)[0].numpy()
    law = LawBuilder(bounded, libraries, objective, False, 2).law(start, 0, covariance, 0.0, 0.0)
    found = law.parameters["k"]
    assert found.estimate.value == pytest.approx(0.2)
    assert found.estimate.stderr is None
    assert not found.identifiable
    assert law.covariance.shape == (3, 3)
    error = law.missing["push"][0].coefficient.stderr
    assert error is not None
    np.testing.assert_allclose(error, np.sqrt(covariance[1, 1]))


def test_an_end_of_an_interval_that_was_not_found_stays_open() -> None:
    builder, fits, covariance = built()
    intervals = np.array([[0.7, np.nan], [np.nan, np.nan]])
    law = builder.law(fits, 0, covariance, 1.0, 0.0, intervals)
    [first], [second] = law.missing["predation"], law.missing["growth"]
    assert first.coefficient.interval95 == (0.7, np.inf)
    assert second.coefficient.interval95 is None
    assert second.coefficient.stderr is not None


def test_numbers_are_rounded_and_snapped_together() -> None:
    builder, fits, covariance = built()
    alone = builder.law(fits, 1, covariance, 1.0, 0.0)
    # 0.9 within 0.02, 0.01 within 0.01: what one number alone is worth.
    assert alone.expressions["predation"] == "0.9*x*y + 0.01*x + 0.01*y**2"
    fits.candidates.coefficients[0][1] += np.where(fits.candidates.supports[0][1], 0.0012345, 0.0)
    errors = np.sqrt(np.diag(covariance))
    correlation = np.eye(7)
    correlation[:3, :3] = 0.99999 + 1e-5 * np.eye(3)
    joint = builder.law(fits, 1, correlation * np.outer(errors, errors), 1.0, 0.0)
    alone = builder.law(fits, 1, covariance, 1.0, 0.0)
    assert len(joint.expressions["predation"]) > len(alone.expressions["predation"])
    assert joint.expressions_full == alone.expressions_full
    assert alone.missing["growth"][0].coefficient.snapped is None
