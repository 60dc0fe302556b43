"""Candidates that were fitted and cannot be the law: what is said of them."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sciml_discover.base import Progress, Watch, nobody_watches
from sciml_discover.constraints import HoleOptions, LawOptions
from sciml_discover.library import LibraryOptions
from sciml_discover.ranking import RankedLaws
from sciml_discover.search import SearchOptions
from sciml_discover.selection import SelectOptions, select
from sciml_discover.system import System
from tests.problems import LOGISTIC, propose, terms_of, untrained

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
