"""Profile-likelihood intervals, against fits with a number held by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sciml_discover.base import nobody_watches
from sciml_discover.expressions import parse_expression
from sciml_discover.library import InnerParameter, Library, LibraryOptions, LibraryTerm, build_library
from sciml_discover.profiles import profile_intervals
from sciml_discover.refit import Candidates, Fits, Refitter
from sciml_discover.system import System
from sciml_discover.ude import ParameterMap
from tests.problems import FORCED, LOTKA_VOLTERRA, Problem, candidates_of

DEGREE2 = LibraryOptions(polynomial_degree=2)
TRUE = {"predation": {"x*y": 0.9}, "growth": {"x*y": 0.8}}


def fitted(problem: Problem, library: LibraryOptions, law: dict, noise: float) -> tuple[Refitter, Fits]:
    rows = problem.rows(noise)
    libraries = [build_library(hole.inputs, library) for hole in problem.system.missing]
    refitter = Refitter(problem.system, libraries, rows, 2)
    start = Fits.begin(
        candidates_of(problem, library, law), rows.smooth_states, ParameterMap(problem.system).initial(1)
    )
    return refitter, refitter.polish(refitter.refit(start, nobody_watches), nobody_watches)


@pytest.mark.parametrize("noise", [0.01, 0.1])
def test_at_its_ends_the_fit_is_worse_by_what_was_asked_for(noise: float) -> None:
    refitter, fits = fitted(LOTKA_VOLTERRA, DEGREE2, TRUE, noise)
    intervals = profile_intervals(refitter, fits, 0, 3.84)
    assert intervals.shape == (2, 2)
    xy = build_library(("x", "y"), DEGREE2).texts.index("x*y")
    assert intervals[0, 0] < fits.candidates.coefficients[0][0, xy] < intervals[0, 1]
    libraries = [build_library(("x", "y"), DEGREE2)]
    for end in intervals[0]:
        law = parse_expression(f"{end}*x*y", ["x", "y"], where="test")
        held = Refitter(
            LOTKA_VOLTERRA.system.fill({"predation": law}), libraries, LOTKA_VOLTERRA.rows(noise), 2
        )
        rest = Candidates(
            fits.candidates.supports[1:],
            fits.candidates.coefficients[1:],
            fits.candidates.inner[1:],
            ("held",),
        )
        moved = held.polish(
            Fits(rest, fits.states, fits.coordinates, fits.misfit, fits.converged), nobody_watches
        )
        assert moved.chi_square[0] - fits.chi_square[0] == pytest.approx(3.84, rel=0.05)


def test_free_parameters_come_first_and_are_physical() -> None:
    library = LibraryOptions(polynomial_degree=1, functions=("sin",))
    refitter, fits = fitted(FORCED, library, {"push": {"sin(t)": 1.0}}, 0.01)
    intervals = profile_intervals(refitter, fits, 0, 3.84)
    k = ParameterMap(FORCED.system).physical(fits.coordinates)[0, 0].item()
    coefficient = fits.candidates.coefficients[0][0].max()
    assert intervals[0, 0] < k < intervals[0, 1]
    assert intervals[1, 0] < coefficient < intervals[1, 1]
    # Nearly linear in its numbers: the curvature says the same.
    objective, unknowns = refitter.problem(fits)
    deviation = objective.covariance(unknowns)[0].diagonal().sqrt()[1].item()
    np.testing.assert_allclose(np.diff(intervals[1])[0], 2 * 1.96 * deviation, rtol=0.1)


def test_an_end_that_nothing_bounds_is_not_made_up() -> None:
    # A saturation far beyond the data: its constant has a lower end, and no upper one.
    system = System.from_text(
        states={"s": {"positive": True}}, missing={"uptake": ["s"]}, equations={"s": "-uptake"}
    )
    problem = Problem(
        "decay", system, {"uptake": "s/(20 + s)"}, np.array([[3.0]]), (np.linspace(0.0, 20.0, 21),)
    )
    rows = problem.rows(0.02)
    term = LibraryTerm("s/(K + s)", (InnerParameter("K", 20.0, 1e-3, 1e9),))
    library = Library(("s",), [term])
    one = Candidates((np.array([[True]]),), (np.array([[1.0]]),), (np.array([[20.0]]),), ("hand",))
    refitter = Refitter(system, [library], rows, 2)
    start = Fits.begin(one, rows.smooth_states, torch.zeros(1, 0).double())
    fits = refitter.polish(refitter.refit(start, nobody_watches), nobody_watches)
    intervals = profile_intervals(refitter, fits, 0, 3.84)
    value = fits.candidates.inner[0][0, 0]
    assert np.isnan(intervals[1]).any()
    assert not (intervals[1] == value).any()
