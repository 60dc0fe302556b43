"""Neighbours of a fitted law, predicted from one linearization, against what refits say."""

from __future__ import annotations

import numpy as np
import pytest

from sciml_discover.base import nobody_watches
from sciml_discover.constraints import Constraints, HoleOptions, LawOptions, build_constraints
from sciml_discover.library import LibraryOptions, build_library
from sciml_discover.moves import neighbours
from sciml_discover.refit import Fits, Refitter
from sciml_discover.ude import ParameterMap
from tests.problems import LOTKA_VOLTERRA, candidates_of

DEGREE2 = LibraryOptions(polynomial_degree=2)
LIBRARIES = [build_library(("x", "y"), DEGREE2)] * 2
LONG = {"predation": {"x*y": 0.9, "y**2": 0.01}, "growth": {"x*y": 0.8}}
TRUE = {"predation": {"x*y": 0.9}, "growth": {"x*y": 0.8}}


def constraints(options: LawOptions | None = None) -> Constraints:
    nothing = [np.zeros(6, dtype=bool)] * 2
    return build_constraints(
        LOTKA_VOLTERRA.system, LIBRARIES, options or LawOptions(library=DEGREE2), nothing, 5
    )


def fitted(law: dict[str, dict[str, float]]) -> tuple[Refitter, Fits]:
    rows = LOTKA_VOLTERRA.rows(0.01)
    refitter = Refitter(LOTKA_VOLTERRA.system, LIBRARIES, rows, 2)
    start = Fits.begin(
        candidates_of(LOTKA_VOLTERRA, DEGREE2, law),
        rows.smooth_states,
        ParameterMap(LOTKA_VOLTERRA.system).initial(1),
    )
    fits = refitter.polish(refitter.refit(start, nobody_watches), nobody_watches)
    assert fits.converged.all()
    return refitter, fits


@pytest.mark.parametrize("law", [TRUE, LONG])
def test_predictions_are_what_refits_find(law: dict[str, dict[str, float]]) -> None:
    refitter, fits = fitted(law)
    begun, predicted = neighbours(refitter, fits, LIBRARIES, constraints(), 12)
    found = refitter.refit(begun, nobody_watches)
    before, size = fits.chi_square[0], int(fits.candidates.complexity[0])
    sizes = begun.candidates.complexity
    # Every term of either hole that is not in, up to those that say nothing new; each once.
    assert (sizes == size + 1).sum() == min(12 - size, 12)
    assert (sizes == size - 1).sum() == (2 if law is LONG else 0)
    assert len(set(begun.candidates.keys)) == len(begun.candidates)
    near = np.abs(found.chi_square - before) < 10.0
    assert near.sum() >= 8
    # Small changes are linear ones.
    np.testing.assert_allclose(found.chi_square[near], predicted[near], atol=0.7)
    far = predicted > before + 100.0
    assert (found.chi_square[far] > before + 30.0).all()


def test_the_truth_is_one_move_away_from_a_wrong_law() -> None:
    refitter, fits = fitted({"predation": {"x*y": 0.9}, "growth": {"y**2": 0.8}})
    assert fits.chi_square[0] > 1000
    begun, _ = neighbours(refitter, fits, LIBRARIES, constraints(), 6)
    same_size = np.flatnonzero(begun.candidates.complexity == 2)
    found = refitter.refit(begun.take(same_size), nobody_watches)
    best = int(np.argmin(found.chi_square))
    xy = LIBRARIES[0].texts.index("x*y")
    assert [np.flatnonzero(support[best]).tolist() for support in found.candidates.supports] == [[xy], [xy]]
    assert found.chi_square[best] < 70


def test_moves_keep_to_the_constraints() -> None:
    refitter, fits = fitted(LONG)
    own = HoleOptions(required=("x*y",), forbidden=("1", "x"))
    begun, _ = neighbours(
        refitter, fits, LIBRARIES, constraints(LawOptions(library=DEGREE2, holes={"predation": own})), 12
    )
    xy = LIBRARIES[0].texts.index("x*y")
    assert begun.candidates.supports[0][:, xy].all()
    assert not begun.candidates.supports[0][:, :2].any()
    both = LawOptions(library=DEGREE2, shared=(("predation", "growth"),))
    begun, _ = neighbours(refitter, fits, LIBRARIES, constraints(both), 12)
    np.testing.assert_array_equal(begun.candidates.supports[0], begun.candidates.supports[1])
