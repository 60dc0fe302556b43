"""Where the search begins."""

from __future__ import annotations

import numpy as np

from sciml_discover.constraints import Constraints
from sciml_discover.regressors import HoleSupports, Supports
from sciml_discover.seeds import proposed


def hole(name: str, supports: list[list[int]], residuals: list[float], source: str = "stlsq") -> HoleSupports:
    rows = np.array(supports, dtype=float)
    inner = np.zeros((len(rows), 0))
    return HoleSupports(
        name, ("x",), ("1", "x", "x**2"), rows, 2.0 * rows, inner, np.array(residuals), (source,) * len(rows)
    )


TWO = Supports(
    (
        hole("p", [[1, 0, 0], [0, 1, 0], [1, 1, 1]], [0.5, 0.01, 0.001]),
        hole("q", [[0, 0, 1], [0, 1, 1]], [0.01, 0.01], "best_subset"),
    )
)


def anything(
    longest: int = 5, *, allowed: tuple[list[int], list[int]] = ([1, 1, 1], [1, 1, 1])
) -> Constraints:
    nothing = (np.zeros(3, dtype=bool),) * 2
    return Constraints(
        tuple(np.array(may, dtype=bool) for may in allowed),
        nothing,
        (np.zeros(3, dtype=int),) * 2,
        (),
        longest,
    )


def test_combinations_come_by_promise() -> None:
    found = proposed(TWO, anything(), 5, 100)
    assert found is not None
    assert len(found) == 6
    assert found.sources == ("stlsq+best_subset",) * 6
    scores = [
        np.log(residual + 0.01) + 0.1 * sum(support)
        for support, residual in (([1, 0, 0], 0.5), ([0, 1, 0], 0.01), ([1, 1, 1], 0.001))
    ]
    best = ([1, 0, 0], [0, 1, 0], [1, 1, 1])[int(np.argmin(scores))]
    assert found.supports[0][0].astype(int).tolist() == best
    # The second hole's proposals fit alike: the shorter one first.
    assert found.supports[1][0].astype(int).tolist() == [0, 0, 1]
    assert found.complexity.tolist() == [
        int(one.sum() + two.sum()) for one, two in zip(*found.supports, strict=True)
    ]
    few = proposed(TWO, anything(), 5, 2)
    assert few is not None
    np.testing.assert_array_equal(few.supports[0], found.supports[0][:2])


def test_long_proposals_are_left_out_unless_all_are() -> None:
    found = proposed(TWO, anything(), 1, 100)
    assert found is not None
    assert found.complexity.tolist() == [2, 2]
    long = Supports((hole("p", [[1, 1, 1], [1, 1, 0]], [0.1, 0.1]), TWO.holes[1]))
    found = proposed(long, anything(), 1, 9)
    assert found is not None
    assert found.supports[0].sum(axis=1).tolist() == [2]


def test_what_is_not_allowed_is_taken_out_and_what_is_left_is_one_candidate() -> None:
    found = proposed(TWO, anything(allowed=([1, 1, 1], [1, 0, 1])), 5, 100)
    assert found is not None
    assert len(found) == 3
    assert (found.supports[1] == [0, 0, 1]).all()
    assert (found.coefficients[1] == [0, 0, 2]).all()
    assert proposed(TWO, anything(allowed=([1, 1, 1], [1, 0, 0])), 5, 100) is None
