"""Candidates that were fitted and cannot be the law: what is said of them."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from sciml_discover.base import Progress, Watch, nobody_watches
from sciml_discover.checkpoint import Checkpoints
from sciml_discover.constraints import HoleOptions, LawOptions, build_constraints, build_libraries
from sciml_discover.criterion import Criterion
from sciml_discover.errors import SolveError
from sciml_discover.judge import UNSTABLE, Judge
from sciml_discover.library import LibraryOptions
from sciml_discover.ranking import RankedLaws
from sciml_discover.readers import PreparedData
from sciml_discover.refit import Fits, Refitter
from sciml_discover.search import LawSearch, SearchOptions
from sciml_discover.selection import SelectOptions, select
from sciml_discover.system import System
from tests.problems import LOGISTIC, Problem, candidates_of, propose, terms_of, untrained

DEGREE3 = LibraryOptions(polynomial_degree=3)


def with_a_wrong_sign(options: SelectOptions, **more: Any) -> RankedLaws:
    """Look for the law of logistic growth where its only term must not have its sign."""
    own = HoleOptions(negative=("n**2",))
    return select(
        LOGISTIC.system,
        LOGISTIC.data(0.01),
        untrained(LOGISTIC),
        propose(LOGISTIC, DEGREE3, {"crowding": {"n**2": 0.1}}, {"crowding": {"n": 0.1}}),
        options,
        laws=LawOptions(library=DEGREE3, holes={"crowding": own}),
        **more,
    )


def test_rejected_candidates_are_named_with_the_reason() -> None:
    found = with_a_wrong_sign(SelectOptions())
    reasons = {one.missing["crowding"]: one.reason for one in found.rejected}
    assert reasons["n**2",] == "fits best where the coefficient of n**2 is not negative, as it has to be"
    assert found.failed >= len(found.rejected) > 0
    shown = {tuple(term.term for term in law.missing["crowding"]) for law in found.laws}
    assert not shown & set(reasons)


def test_a_law_that_runs_away_is_rejected_as_unstable() -> None:
    # Only what grows without bound may stand in the hole, and the data settle down.
    system = System.from_text(states=["n"], missing={"crowding": ["n"]}, equations={"n": "0.8*n - crowding"})
    problem = replace(LOGISTIC, system=system)
    library = LibraryOptions(polynomial_degree=0, constant=False, extra=("n**2", "exp(-50*n)", "exp(40*n)"))
    found = select(
        system,
        problem.data(0.01),
        untrained(problem),
        propose(problem, library, {"crowding": {"exp(40*n)": -1e-6}}, {"crowding": {"n**2": 0.1}}),
        SelectOptions(),
        laws=LawOptions(library=library),
    )
    assert terms_of(found.laws[0]) == {"crowding": ["n**2"]}
    reasons = {one.missing["crowding"]: one.reason for one in found.rejected}
    assert any("no continuous trajectory" in reason for reason in reasons.values()), reasons


def test_rejected_candidates_are_known_after_a_checkpoint(tmp_path: Path) -> None:
    class Killed(BaseException):
        pass

    def run(watch: Watch = nobody_watches) -> RankedLaws:
        options = SelectOptions(exhaustive=0, search=SearchOptions(width=0, parents=1, moves=1))
        return with_a_wrong_sign(options, watch=watch, checkpoint=tmp_path, checkpoint_seconds=0.0)

    def kill_at_the_second_round(event: object) -> None:
        if isinstance(event, Progress) and event.message == "moves" and event.step == 2:
            raise Killed

    whole = run()
    assert whole.rejected
    shutil.rmtree(tmp_path)
    with pytest.raises(Killed):
        run(kill_at_the_second_round)
    assert run().rejected == whole.rejected


def select_from_squares(problem: Problem, data: PreparedData, **known: Any) -> RankedLaws:
    """Look for a law of one hole among the square and the cube of its input."""
    library = LibraryOptions(polynomial_degree=0, constant=False, extra=("n**2", "n**3"))
    return select(
        problem.system,
        data,
        untrained(problem),
        propose(problem, library, {"crowding": {"n**2": 0.1}}),
        SelectOptions(most_terms=1, search=SearchOptions(width=0, rounds=0)),
        laws=LawOptions(library=library, holes={"crowding": HoleOptions(**known)}),
    )


def test_where_all_laws_are_rejected_the_error_says_why() -> None:
    with pytest.raises(SolveError) as told:
        select_from_squares(LOGISTIC, LOGISTIC.data(0.01), negative=("n**2", "n**3"))
    text = str(told.value)
    assert text.startswith("none of 2 candidate laws that were fitted is possible; ")
    for term in ("n**2", "n**3"):
        assert f"1 of them: fits best where the coefficient of {term} is not negative" in text
    assert "continuous trajectory" not in text


def test_where_there_are_too_few_values_for_any_law_the_error_says_so() -> None:
    few = replace(LOGISTIC, times=(np.array([0.0, 4.0, 8.0]),))
    data = few.data(0.01)
    noise = replace(data.noise, estimated=True, degrees_of_freedom=np.array([1.0]))
    says = (
        r"3 values are too few to judge any law: the shortest has 2 free numbers \(coefficients: 1, physical"
    )
    with pytest.raises(SolveError, match=says):
        select_from_squares(few, replace(data, noise=noise))


def test_leaders_that_all_fail_are_no_reason_to_crash() -> None:
    class Failing:
        """Finds no fit for any law."""

        rounds = 3

        def bound(self, fits: Fits, *_: object) -> Fits:
            return replace(fits, misfit=np.full_like(fits.misfit, np.inf))

        close = bound

    data = LOGISTIC.data(0.01)
    [library] = libraries = build_libraries(LOGISTIC.system, LawOptions(library=DEGREE3))
    constraints = build_constraints(
        LOGISTIC.system, libraries, LawOptions(library=DEGREE3), [np.zeros(len(library), dtype=bool)], 5
    )
    criterion = Criterion(np.array([25]), 1, constraints.n_terms, data.noise)
    judge = Judge(LOGISTIC.system, data.train, criterion, libraries, constraints)
    search = LawSearch(
        cast("Refitter", Failing()),
        judge,
        SearchOptions(),
        6.0,
        torch.zeros(0, 0),
        nobody_watches,
        Checkpoints(None, "", 1.0, "select", nobody_watches),
    )
    laws = [{"crowding": {"n": 0.1}}, {"crowding": {"n**2": 0.1}}]
    start = Fits.begin(
        candidates_of(LOGISTIC, DEGREE3, *laws), LOGISTIC.rows().smooth_states, torch.zeros(1, 0)
    )
    assert len(search._compete(start, None, 0).candidates) == 0
    assert [one.reason for one in search.rejected.values()] == [UNSTABLE] * 2
