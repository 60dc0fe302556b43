from __future__ import annotations

from pathlib import Path

import pytest

from flows.combinations import combinations, plan
from sciml_discover.errors import InputError
from tests.fakes import write_experiment


def test_every_combination_appears_once_and_the_last_key_varies_fastest() -> None:
    found = combinations(["seed=0..1", "train.starts=1,4"])
    assert [tuple(one.values()) for one in found] == [("0", "1"), ("0", "4"), ("1", "1"), ("1", "4")]
    assert list(found[0]) == ["seed", "train.starts"]


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("a=3", ["3"]),
        ("a = -1..1 ", ["-1", "0", "1"]),
        ("a=0..2,7", ["0", "1", "2", "7"]),
        ("a=0.5,1e-3", ["0.5", "1e-3"]),
        ("a=[1, 2],[3]", ["[1, 2]", "[3]"]),
        ("a={ x = 1, y = [2, 3] }", ["{ x = 1, y = [2, 3] }"]),
        ("a='x,y',\"z]\",w", ["'x,y'", '"z]"', "w"]),
        ("a=b=c", ["b=c"]),
    ],
)
def test_values_are_read(text: str, values: list[str]) -> None:
    assert [one["a"] for one in combinations([text])] == values


@pytest.mark.parametrize(
    ("over", "message"),
    [
        (["seed"], "KEY=VALUES"),
        (["seed="], "KEY=VALUES"),
        (["=1"], "KEY=VALUES"),
        (["seed=1,,2"], "empty value"),
        (["seed=5..1"], "smaller end"),
        (["seed=0..99999"], "at most"),
        (["a=0..999", "b=0..999"], "1000000 combinations"),
        (["a=1", "a=2"], "each key once"),
    ],
)
def test_what_cannot_be_read_is_refused(over: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        combinations(over)


def test_a_plan_checks_every_experiment(tmp_path: Path) -> None:
    path = write_experiment(tmp_path / "hares")
    one, two = plan(path, ["train.starts=1,2"], ["seed=7"], "cpu")
    assert one.overrides == ("seed=7", "train.starts=1")
    assert one.values == {"train.starts": "1"}
    assert one.case == "hares"
    assert one.key != two.key
    assert plan(path, ["train.starts=1"], ["seed=7"], "cpu")[0].key == one.key
    assert plan(path, ["train.starts=1"], ["seed=8"], "cpu")[0].key != one.key
    with pytest.raises(InputError, match="starts"):
        plan(path, ["train.starts=1,0"], [], "cpu")
    (path.parent / "rows.csv").write_text("time,hare,lynx\n0,1,2\n1,2,3\n2,3,5\n")
    assert plan(path, ["train.starts=1"], ["seed=7"], "cpu")[0].key != one.key
