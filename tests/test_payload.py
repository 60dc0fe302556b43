from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from sciml_discover import payload
from sciml_discover.errors import DamagedArtifactError


@dataclass(frozen=True)
class Inner:
    label: str
    values: np.ndarray
    bound: tuple[float, float] | None


@dataclass(frozen=True)
class Outer:
    name: str
    count: int
    ratio: float
    flag: bool
    nothing: float | None
    tags: tuple[str, ...]
    table: dict[str, tuple[Inner, ...]]
    numbers: dict[str, float]
    matrix: np.ndarray
    single: Inner


def example() -> Outer:
    inner = Inner('ä\n"quoted"', np.arange(6.0).reshape(2, 3).T, (-math.inf, 1.0))
    return Outer(
        name="x",
        count=3,
        ratio=0.1 + 0.2,
        flag=True,
        nothing=None,
        tags=("b", "a"),
        table={"z": (inner, Inner("", np.zeros((0, 2)), None)), "a": ()},
        numbers={"second": math.inf, "first": -0.0},
        matrix=np.array([[True, False]]),
        single=Inner("s", np.array(math.nan), (1, 2)),
    )


def test_everything_comes_back_as_it_was(tmp_path: Path) -> None:
    value = example()
    payload.save(tmp_path / "x.safetensors", value)
    back = payload.load(tmp_path / "x.safetensors", Outer)
    assert back.name == value.name
    assert back.count == 3
    assert back.ratio == value.ratio
    assert back.flag is True
    assert back.nothing is None
    assert back.tags == ("b", "a")
    assert list(back.table) == ["z", "a"]
    assert list(back.numbers) == ["second", "first"]
    assert back.numbers["second"] == math.inf
    assert math.copysign(1, back.numbers["first"]) == -1
    first, empty = back.table["z"]
    assert first.label == 'ä\n"quoted"'
    assert first.bound == (-math.inf, 1.0)
    np.testing.assert_array_equal(first.values, np.arange(6.0).reshape(2, 3).T)
    assert empty.values.shape == (0, 2)
    assert empty.bound is None
    assert back.matrix.dtype == bool
    assert back.matrix.tolist() == [[True, False]]
    assert back.single.values.shape == ()
    assert math.isnan(back.single.values)
    assert back.single.bound == (1.0, 2.0)


def test_arrays_that_come_back_can_be_written_to() -> None:
    back = payload.decode(payload.encode(example()), Outer)
    back.matrix[0, 0] = False
    assert not back.matrix[0, 0]


def test_nan_floats_survive() -> None:
    @dataclass(frozen=True)
    class One:
        value: float

    globals()["One"] = One
    assert math.isnan(payload.decode(payload.encode(One(math.nan)), One).value)


def test_the_same_value_gives_the_same_bytes_in_every_process() -> None:
    code = (
        "import hashlib; from tests import test_payload as t; from sciml_discover import payload;"
        "print(hashlib.sha256(payload.encode(t.example())).hexdigest())"
    )
    root = Path(__file__).parent.parent
    digests = {
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=root,
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(root)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(digests) == 1


def test_numpy_numbers_count_as_numbers() -> None:
    value = Inner("x", np.zeros(1), (np.float64(1.5), np.int64(2)))  # type: ignore[arg-type]
    assert payload.decode(payload.encode(value), Inner).bound == (1.5, 2.0)


@pytest.mark.parametrize(
    ("value", "place"),
    [
        (Inner(3, np.zeros(1), None), "label"),  # type: ignore[arg-type]
        (Inner("x", [1.0], None), "values"),  # type: ignore[arg-type]
        (Inner("x", np.array(["text"]), None), "values"),
        (Inner("x", np.array([object()]), None), "values"),
        (Inner("x", np.zeros(1), (1.0, "2")), "bound.1"),  # type: ignore[arg-type]
        (Inner("x", np.zeros(1), (1.0,)), "bound"),  # type: ignore[arg-type]
        (Inner("x", np.zeros(1), (True, 1.0)), "bound.0"),
    ],
)
def test_a_value_that_does_not_fit_its_hint_is_refused(value: Inner, place: str) -> None:
    with pytest.raises(TypeError, match=place):
        payload.encode(value)


def test_what_is_no_dataclass_is_refused() -> None:
    with pytest.raises(TypeError, match="dataclass"):
        payload.encode({"a": 1})


@pytest.mark.parametrize(
    "content",
    [b"", b"12345678", b"\xff" * 64, payload.encode(example())[:-4], payload.encode(example())[:100]],
    ids=["empty", "short", "noise", "tail missing", "header cut"],
)
def test_other_bytes_are_reported_as_damage(content: bytes) -> None:
    with pytest.raises(DamagedArtifactError):
        payload.decode(content, Outer)


def test_another_type_is_reported_as_damage() -> None:
    with pytest.raises(DamagedArtifactError, match="Outer"):
        payload.decode(payload.encode(example()), Inner)


def test_the_layout_names_every_field_and_type() -> None:
    assert payload.layout(Inner) == {
        "label": "str",
        "values": "ndarray",
        "bound": ["<class 'types.UnionType'>", ["<class 'tuple'>", "float", "float"], "NoneType"],
    }
    assert payload.layout(Outer)["single"] == payload.layout(Inner)
    assert payload.layout(Outer)["tags"] == ["<class 'tuple'>", "str", "Ellipsis"]
