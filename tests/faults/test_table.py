"""The README says what the document says, and the document is one of the whole suite."""

from __future__ import annotations

import json

import pytest

from tests.faults import table
from tests.faults.counts import Counts, document


def test_the_readme_has_the_counts_of_the_document() -> None:
    found = json.loads(table.DOCUMENT.read_text())
    assert found["form"] == "whole"
    assert table.with_table(table.README.read_text(), found) == table.README.read_text(), (
        "python -m tests.faults.table"
    )


def report(when: str, outcome: str) -> pytest.TestReport:
    return pytest.TestReport("test", ("", 0, ""), {}, outcome, None, when)  # type: ignore[arg-type]


def test_failures_count_and_what_is_skipped_does_not() -> None:
    counts = Counts()
    for test, outcome in {"a": "passed", "b": "failed", "c": "skipped"}.items():
        for when, result in (("setup", "passed"), ("call", outcome), ("teardown", "passed")):
            counts.add("fire", test, report(when, result))
    counts.add("flood", "d", report("setup", "failed"))
    counts.add("flood", "d", report("teardown", "passed"))
    counts.add("storm", "e", report("setup", "skipped"))
    counts.add("storm", "e", report("teardown", "passed"))
    found = document(counts, "whole", {})
    code = found["faults"][0]["code"]
    fire = {"fault": "fire", "tried": 2, "survived": 1, "code": code}
    assert found["faults"] == [fire, {"fault": "flood", "tried": 1, "survived": 0, "code": code}]
    earlier = {"faults": [{**fire, "tried": 9}, {**fire, "fault": "ice"}], "figures": {"heat": 1}}
    again = document(counts, "whole", {"cold": 2}, earlier)
    assert [row["fault"] for row in again["faults"]] == ["fire", "ice", "flood"]
    assert (again["faults"][0], again["figures"]) == (fire, {"heat": 1, "cold": 2})
    assert "| fire | 2 | 1 |" in table.markdown(found)
    hostile = {"fault": "hostile input: bombs", "tried": 3, "survived": 3, "code": code}
    assert "| hostile experiments: bombs | 3 | 3 |" in table.markdown({**found, "faults": [hostile]})
    figures = {"cached rerun": {"seconds": [1, 5, 2], "processor seconds": [0.5, 0.7, 3]}}
    assert "A cached rerun: 2.0 s" in table.markdown({**found, "figures": figures})
    with pytest.raises(ValueError, match="not in the README"):
        table.with_table("nothing", found)
