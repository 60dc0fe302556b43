"""Properties of what reads strangers' text and files: a value or an `InputError`, and what was written is read."""

from __future__ import annotations

import io
import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sciml_discover.errors import InputError
from sciml_discover.experiment import load_experiment
from sciml_discover.expressions import FUNCTIONS, check_expression, parse_expression, to_text
from sciml_discover.noise import NoiseOptions
from sciml_discover.readers import DataOptions, prepare_data
from sciml_discover.system import SystemOptions
from sciml_discover.tables import Table, read_table
from tests.faults.hostile import GOOD

pytestmark = pytest.mark.faults("properties of the expression parser and the readers (hypothesis)")

NAMES = ("x", "y", "alpha")
FLOATS = st.floats(allow_nan=True, allow_infinity=False, width=64)
COLUMNS = st.integers(1, 4).flatmap(
    lambda width: st.lists(st.lists(FLOATS, min_size=width, max_size=width), min_size=1, max_size=12)
)


def npz(rows: list[list[float]]) -> bytes:
    file = io.BytesIO()
    columns: dict[str, Any] = {
        f"c{index}": np.array(column) for index, column in enumerate(zip(*rows, strict=True))
    }
    np.savez(file, **columns)
    return file.getvalue()


def packed_npz(rows: list[list[float]]) -> bytes:
    file = io.BytesIO()
    columns: dict[str, Any] = {
        f"c{index}": np.array(column) for index, column in enumerate(zip(*rows, strict=True))
    }
    np.savez_compressed(file, **columns)
    return file.getvalue()


def parquet_file(rows: list[list[float]]) -> bytes:
    file = io.BytesIO()
    columns = {f"c{index}": list(column) for index, column in enumerate(zip(*rows, strict=True))}
    parquet.write_table(pa.table(columns), file)
    return file.getvalue()


def csv(rows: list[list[float]]) -> bytes:
    lines = [",".join(f"c{index}" for index in range(len(rows[0])))]
    lines += [",".join("NaN" if math.isnan(value) else repr(value) for value in row) for row in rows]
    return "\n".join(lines).encode()


WRITERS = {".npz": npz, ".NPZ": packed_npz, ".parquet": parquet_file, ".csv": csv}


def read(content: bytes, ending: str) -> Table | None:
    """Return the table, or None if the file is refused in one line; anything else is an error."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"file{ending}"
        path.write_bytes(content)
        try:
            table = read_table(path, path.name)
            for column in table.columns:
                table.numbers(column)
        except InputError as error:
            table, told = None, str(error)
        else:
            told = ""
    assert "\n" not in told
    assert len(told) < 2000
    return table


@given(COLUMNS, st.sampled_from(sorted(WRITERS)))
def test_what_was_written_is_read(rows: list[list[float]], ending: str) -> None:
    table = read(WRITERS[ending](rows), ending)
    assert table is not None
    found = np.array([table.numbers(f"c{index}") for index in range(len(rows[0]))]).T
    np.testing.assert_array_equal(found, np.array(rows))


@given(st.binary(max_size=400), st.sampled_from(sorted(WRITERS)))
def test_bytes_of_any_kind_are_read_or_refused(content: bytes, ending: str) -> None:
    read(content, ending)


@given(
    COLUMNS,
    st.sampled_from(sorted(WRITERS)),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=6),
    st.floats(0, 1),
)
def test_spoilt_files_are_read_or_refused(
    rows: list[list[float]], ending: str, changes: list[tuple[float, int]], kept: float
) -> None:
    content = bytearray(WRITERS[ending](rows))
    for place, value in changes:
        content[int(place * len(content))] = value
    if kept < 0.5:
        del content[int(2 * kept * len(content)) :]
    read(bytes(content), ending)


CELLS = st.one_of(
    st.sampled_from(
        ["", "NaN", "1", "2", "3.5", "-1e3", "1e999", "inf", "x", '"', "0x1", "1_0", " 7 ", "é", "\0"]
    ),
    st.floats(-1e3, 1e3).map(lambda value: f"{value:.3f}"),
)


@given(st.lists(st.lists(CELLS, min_size=3, max_size=3), max_size=10))
def test_data_are_prepared_or_refused(rows: list[list[str]]) -> None:
    system = SystemOptions(
        states={"x": {}, "y": {}},  # type: ignore[dict-item]
        missing={"f": ("x", "y")},
        equations={"x": "-f", "y": "f"},
    )
    options = DataOptions(files=("rows.csv",), noise=NoiseOptions(sd=1.0))
    with tempfile.TemporaryDirectory() as folder:
        text = "\n".join(["time,x,y", *(",".join(row) for row in rows)])
        (Path(folder) / "rows.csv").write_text(text)
        try:
            data = prepare_data(options, system, Path(folder), 0)
        except InputError:
            return
    for item in data.train.trajectories:
        assert np.all(np.diff(item.times) > 0)
        assert np.all(np.isfinite(item.times))
        assert not np.any(np.isinf(item.values))


@given(st.text(max_size=60), st.integers(0, len(GOOD)), st.integers(0, 30))
def test_experiments_are_read_or_refused(text: str, place: int, removed: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "experiment.toml"
        path.write_bytes((GOOD[:place] + text + GOOD[place + removed :]).encode())
        told = ""
        try:
            load_experiment(path)
        except InputError as error:
            told = str(error)
    assert "\n" not in told


def expressions() -> st.SearchStrategy[str]:
    """Texts that are expressions, if not all of them finite ones."""
    numbers = st.one_of(st.integers(0, 99).map(str), st.floats(1e-3, 1e3).map(lambda value: f"{value:.4g}"))

    def grow(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
        return st.one_of(
            st.tuples(inner, st.sampled_from("+-*/"), inner).map(lambda it: f"({it[0]} {it[1]} {it[2]})"),
            st.tuples(st.sampled_from(sorted(FUNCTIONS)), inner).map(lambda it: f"{it[0]}({it[1]})"),
            st.tuples(inner, st.integers(-3, 4)).map(lambda it: f"({it[0]})**{it[1]}"),
            inner.map(lambda it: f"-{it}"),
        )

    return st.recursive(st.one_of(st.sampled_from(NAMES), numbers), grow, max_leaves=6)


@given(expressions())
def test_what_is_printed_is_read_back(text: str) -> None:
    try:
        used = check_expression(text, NAMES, where="test")
        expression = parse_expression(text, NAMES, where="test")
    except InputError:
        return
    assert {str(item) for item in expression.free_symbols} <= used
    again = parse_expression(to_text(expression), NAMES, where="test")
    assert again.free_symbols == expression.free_symbols
    point = {name: 0.3 + 0.2 * index for index, name in enumerate(sorted(map(str, expression.free_symbols)))}
    values = [
        complex(one.subs({item: point[str(item)] for item in one.free_symbols}))
        for one in (expression, again)
    ]
    if abs(values[0]) < 1e12 and not any(math.isnan(value.real) for value in values):
        assert values[1] == pytest.approx(values[0], rel=1e-6, abs=1e-9)
