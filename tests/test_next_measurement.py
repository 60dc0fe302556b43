"""Which measurement would tell the rivals apart."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sciml_discover.constraints import LawOptions
from sciml_discover.forecasts import LawModel
from sciml_discover.library import LibraryOptions
from sciml_discover.next_measurement import suggest_measurement
from sciml_discover.readers import PreparedData
from sciml_discover.search import SearchOptions
from sciml_discover.selection import RankedLaws, SelectOptions, select
from sciml_discover.trajectories import HoldoutOptions, split_holdout
from tests.problems import LOGISTIC, propose, untrained

DEGREE2 = LibraryOptions(polynomial_degree=2)


@pytest.fixture(scope="module")
def ranked() -> RankedLaws:
    return select(
        LOGISTIC.system,
        LOGISTIC.data(0.02),
        untrained(LOGISTIC),
        propose(LOGISTIC, DEGREE2, {"crowding": {"n**2": 0.08}}, {"crowding": {"n": 0.5}}),
        SelectOptions(exhaustive=0, search=SearchOptions(width=0, rounds=0), rival_delta=1e9),
        laws=LawOptions(library=DEGREE2),
    )


def test_it_is_where_the_laws_differ_most(ranked: RankedLaws) -> None:
    data = LOGISTIC.data(0.02)
    # As if the data could not tell them apart.
    laws = tuple(replace(law, delta=0.0) for law in ranked.laws)
    assert len(laws) == 2
    found = suggest_measurement(LOGISTIC.system, laws, data)
    assert found is not None
    [trajectory] = data.train.trajectories
    assert found.trajectory == trajectory.name
    assert found.observable == "n"
    # Growth without limit leaves the data far behind: the end of what is looked at tells most.
    assert found.time == pytest.approx(1.5 * trajectory.times[-1] - 0.5 * trajectory.times[0])
    assert found.spread > 10
    assert "after the last row" in found.sentence


def test_an_improbable_rival_counts_little(ranked: RankedLaws) -> None:
    data = LOGISTIC.data(0.02)
    near = tuple(replace(law, delta=0.0) for law in ranked.laws)
    far = (near[0], replace(near[1], delta=6.0))
    one, two = (suggest_measurement(LOGISTIC.system, laws, data) for laws in (near, far))
    assert one is not None
    assert two is not None
    # Of two laws with weights w and 1 - w the standard deviation goes as the root of w (1 - w).
    share = 1.0 / (1.0 + np.exp(3.0))
    assert two.spread / one.spread == pytest.approx(2.0 * np.sqrt(share * (1.0 - share)), rel=0.05)


def held_out(rows: int) -> PreparedData:
    whole = LOGISTIC.data(0.02)
    train, held = split_holdout(whole.train, HoldoutOptions(rows=rows))
    return replace(whole, train=train, holdout=held, kind_of_holdout="time")


def test_the_last_row_is_that_of_the_holdout(ranked: RankedLaws) -> None:
    laws = tuple(replace(law, delta=0.0) for law in ranked.laws)
    whole, part = (
        suggest_measurement(LOGISTIC.system, laws, data) for data in (LOGISTIC.data(0.02), held_out(5))
    )
    assert whole is not None
    assert part == whole  # nothing that was measured is suggested as new


def test_rows_that_were_held_out_are_called_so(ranked: RankedLaws, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sciml_discover.next_measurement.BEYOND", 0.0)
    # From one start they differ most where one has grown and the other has not.
    start = ranked.laws[0].initial_states
    laws = tuple(replace(law, delta=0.0, initial_states=start) for law in ranked.laws)
    for data, when in ((LOGISTIC.data(0.02), "between the rows of"), (held_out(10), "among the rows of")):
        found = suggest_measurement(LOGISTIC.system, laws, data)
        assert found is not None
        assert found.time == pytest.approx(8.68)
        assert when in found.sentence
    assert "site 0 that were held out" in found.sentence


def test_a_law_that_runs_away_over_the_holdout_is_looked_at_before_it(
    ranked: RankedLaws, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, solve = held_out(5), LawModel.path
    last = data.train.trajectories[0].times[-1]

    def path(model: LawModel, number: int, times: np.ndarray, signal: None) -> np.ndarray | None:
        return None if times[-1] > last else solve(model, number, times, signal)

    monkeypatch.setattr(LawModel, "path", path)
    laws = tuple(replace(law, delta=0.0) for law in ranked.laws)
    found = suggest_measurement(LOGISTIC.system, laws, data)
    assert found is not None
    assert found.time <= last
    assert "between the rows" in found.sentence


def test_without_a_rival_there_is_none(ranked: RankedLaws) -> None:
    assert suggest_measurement(LOGISTIC.system, ranked.laws[:1], LOGISTIC.data(0.02)) is None
