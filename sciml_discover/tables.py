"""Columns out of CSV, Parquet and NPZ files, with messages that name the file and the line."""

from __future__ import annotations

import csv
import io
import math
import re
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sciml_discover.errors import InputError

MISSING_WORDS = frozenset({"", "nan", "na", "null"})
"""What stands for a missing value in a CSV file, in small letters."""

MOST_BYTES = 2**26
"""Largest data file, packed or unpacked: 64 MiB."""

MOST_VALUES = 5_000_000
"""Most values in one data file."""

MOST_MEMBERS = 10_000
"""Most arrays in one NPZ file."""

_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")


@dataclass(frozen=True)
class Table:
    """Columns of equal length, not yet known to be numbers.

    Attributes:
        name: of the file, for messages.
        columns: a float array, or a list of whatever the file holds, per column.
        places: ``"line 7"`` or ``"row 6"``, per row.
    """

    name: str
    columns: dict[str, np.ndarray | list[Any]]
    places: list[str]

    def numbers(self, column: str) -> np.ndarray:
        """Return a column as floats, NaN where a value is missing, shape ``(rows,)``.

        Raises:
            InputError: at the first value that is not a finite number or missing.
        """
        values = self.columns[column]
        result = np.empty(len(values))
        for row, value in enumerate(values):
            number = _to_number(value)
            if number is None or math.isinf(number):
                raise InputError(
                    f"{value!r}" if number is None else f"an infinite value {str(value).strip()!r}",
                    where=f"{self.name}, {self.places[row]}, column {column!r}",
                    expected="a finite number, or nothing for a missing value",
                    do=_number_hint(value),
                )
            result[row] = number
        return result

    def labels(self, column: str) -> list[str]:
        """Return a column as texts.

        Raises:
            InputError: at the first label that is empty.
        """
        result = []
        for row, value in enumerate(self.columns[column]):
            label = "" if value is None else str(value).strip()
            if label.lower() in MISSING_WORDS:
                raise InputError(
                    "no label",
                    where=f"{self.name}, {self.places[row]}, column {column!r}",
                    expected="the name of the trajectory",
                )
            result.append(label)
        return result


def read_table(path: Path, name: str) -> Table:
    """Return the columns of a CSV, Parquet or NPZ file.

    Args:
        path: the file.
        name: what messages call it.

    Raises:
        InputError: if the file cannot be read as what its ending says.
    """
    readers: dict[str, Callable[[bytes, str], Table]] = {
        ".csv": _read_csv,
        ".parquet": _read_parquet,
        ".npz": _read_npz,
    }
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise InputError(
            f"a file that ends with {path.suffix!r}",
            where=name,
            expected="a file that ends with .csv, .parquet or .npz",
            do="Save it as CSV.",
        )
    return reader(read_bytes(path, name), name)


def read_bytes(path: Path, name: str, most: int = MOST_BYTES) -> bytes:
    """Return the content of a file.

    Args:
        path: the file.
        name: what messages call it.
        most: bytes that it may have.

    Raises:
        InputError: if it cannot be read, is too large, or is no file with an end.
    """
    try:
        # Opening a pipe waits for whoever writes to it, and a device may never end.
        if path.exists() and not path.is_file():
            kind = "folder" if path.is_dir() else "pipe, socket or device"
            raise InputError(f"a {kind}", where=name, expected="a plain file")
        with path.open("rb") as file:
            content = file.read(most + 1)
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        raise InputError(
            f"a file that cannot be read ({reason})",
            where=name,
            expected="a readable file",
            do="Check the permissions.",
        ) from error
    if len(content) > most:
        raise _too_large(name, f"more than {most / 2**20:.4g} MiB")
    return content


def _too_large(name: str, found: str) -> InputError:
    return InputError(
        found,
        where=name,
        expected=f"at most {MOST_VALUES} values and {MOST_BYTES // 2**20} MiB",
        do="Leave out rows, or columns.",
    )


def _read_csv(content: bytes, name: str) -> Table:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"bytes that are not text at line {line}",
            where=name,
            expected="a CSV file in UTF-8",
            do="Save it again as CSV in UTF-8.",
        ) from error
    rows: list[tuple[int, list[str]]] = []
    values = 0
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        for fields in reader:
            if any(field.strip() for field in fields):
                rows.append((reader.line_num, fields))
                values += len(fields)
                if values > MOST_VALUES:
                    raise _too_large(name, f"more than {MOST_VALUES} values up to line {reader.line_num}")
    except csv.Error as error:
        raise InputError(
            f"a broken row ({error})",
            where=f"{name}, line {reader.line_num}",
            expected="values separated by commas",
        ) from error
    if not rows:
        raise InputError("an empty file", where=name, expected="a header and rows of numbers")
    (header_line, header), body = rows[0], rows[1:]
    names = _check_header([field.strip() for field in header], f"{name}, line {header_line}")
    for line, fields in body:
        if len(fields) != len(names):
            raise InputError(
                f"{len(fields)} values",
                where=f"{name}, line {line}",
                expected=f"{len(names)}, one for each column of the header",
                do="Leave a missing value empty, but keep its comma; write decimal numbers with a point.",
            )
    if not body:
        raise InputError("a header without rows", where=name, expected="rows of numbers")
    columns: dict[str, np.ndarray | list[Any]] = {
        column: [fields[index] for _, fields in body] for index, column in enumerate(names)
    }
    return Table(name, columns, [f"line {line}" for line, _ in body])


def _check_header(names: list[str], where: str) -> list[str]:
    """Refuse headers that are numbers, empty, repeated, or not separated by commas."""
    times = Counter(names)
    for index, column in enumerate(names):
        if not column:
            raise InputError(
                f"column {index + 1} without a name", where=where, expected="a name for each column"
            )
        if times[column] > 1:
            raise InputError(f"the column {column!r} twice", where=where, expected="each name once")
        if _NUMBER.fullmatch(column):
            raise InputError(
                f"the number {column}",
                where=where,
                expected="a header with the names of the columns",
                do="Add a first line such as 'time,x,y'.",
            )
    if len(names) == 1 and (";" in names[0] or "\t" in names[0]):
        raise InputError(
            f"{names[0]!r}, columns that are not separated by commas",
            where=where,
            expected="commas between columns, points in decimal numbers",
            do="Save it again as CSV with commas.",
        )
    return names


def _read_parquet(content: bytes, name: str) -> Table:
    import pyarrow as pa
    import pyarrow.parquet as parquet

    try:
        file = parquet.ParquetFile(pa.BufferReader(content))
        groups = [file.metadata.row_group(index) for index in range(file.metadata.num_row_groups)]
        unpacked = sum(group.total_byte_size for group in groups)
        if file.metadata.num_rows * file.metadata.num_columns > MOST_VALUES or unpacked > MOST_BYTES:
            raise _too_large(
                name,
                f"{file.metadata.num_rows} rows of {file.metadata.num_columns} columns, {unpacked} bytes",
            )
        table = file.read()
    except InputError:
        raise
    except Exception as error:  # content that lies can raise anything
        raise InputError(
            f"content that is not Parquet ({_reason(error)})", where=name, expected="a Parquet file"
        ) from error
    columns: dict[str, np.ndarray | list[Any]] = {
        str(column): table.column(index).to_pylist() for index, column in enumerate(table.column_names)
    }
    return _numbered(_check_header_of(columns, table.column_names, name), name)


def _read_npz(content: bytes, name: str) -> Table:
    columns: dict[str, np.ndarray | list[Any]] = {}
    try:
        for column, values in _unpacked_npz(content, name):
            if values.ndim != 1 or values.dtype.kind not in "biufU":
                raise InputError(
                    f"an array of shape {values.shape} and type {values.dtype}",
                    where=f"{name}, array {column!r}",
                    expected="shape (rows,), numbers or texts, one array for each column",
                )
            if len(values) * (len(columns) + 1) > MOST_VALUES:
                raise _too_large(name, f"{len(values)} rows")
            columns[column] = values.tolist()
    except InputError:
        raise
    except Exception as error:  # content that lies can raise anything
        raise InputError(
            f"content that is not NPZ with plain arrays ({_reason(error)})",
            where=name,
            expected="a file written by numpy.savez(file, time=..., x=...)",
        ) from error
    return _numbered(columns, name)


def _unpacked_npz(content: bytes, name: str) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the arrays of an NPZ file, after a look at what the archive says it unpacks to."""
    if content.count(b"PK\x01\x02") > MOST_MEMBERS:
        raise _too_large(name, f"more than {MOST_MEMBERS} arrays")
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        # No more than this is unpacked, whatever the data say: a longer member ends there.
        unpacked = sum(item.file_size for item in archive.infolist())
    if unpacked > MOST_BYTES:
        raise _too_large(name, f"{unpacked} bytes when unpacked")
    with warnings.catch_warnings(), np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        warnings.simplefilter("ignore")  # of headers as Python 2 wrote them
        for column in arrays.files:
            yield column, np.asarray(arrays[column])


def _reason(error: Exception) -> str:
    """Return the first line of what a library says of broken content."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _check_header_of(
    columns: dict[str, np.ndarray | list[Any]], names: list[str], where: str
) -> dict[str, np.ndarray | list[Any]]:
    _check_header([str(column) for column in names], where)
    return columns


def _numbered(columns: dict[str, np.ndarray | list[Any]], name: str) -> Table:
    """Return a table whose rows are counted from 1, after checking that its columns are equally long."""
    lengths = {column: len(values) for column, values in columns.items()}
    if not lengths or not max(lengths.values()):
        raise InputError("no rows", where=name, expected="columns of numbers")
    if len(set(lengths.values())) > 1:
        shown = ", ".join(f"{column}: {length}" for column, length in lengths.items())
        raise InputError(f"columns of unequal length ({shown})", where=name, expected="equal lengths")
    return Table(name, columns, [f"row {row + 1}" for row in range(next(iter(lengths.values())))])


def _to_number(value: Any) -> float | None:
    """Return a value as a float, NaN if it is missing, None if it is not a number."""
    if value is None:
        return math.nan
    if isinstance(value, bool):
        return None
    if isinstance(value, (int, float)):
        return float(value)
    if not isinstance(value, str):
        return None
    word = value.strip()
    if word.lower() in MISSING_WORDS:
        return math.nan
    if word.lower().lstrip("+-") in ("inf", "infinity"):
        return math.inf
    return float(word) if _NUMBER.fullmatch(word) else None


def _number_hint(value: Any) -> str:
    """Return what to do about a text where a number belongs."""
    text = str(value).strip()
    if re.fullmatch(r"[+-]?[0-9]+,[0-9]+", text):
        return "Write decimal numbers with a point."
    if re.match(r"[0-9]{4}-[0-9]{2}|[0-9]{1,2}[/:][0-9]{1,2}", text):
        return "Convert dates to numbers, such as days since the start."
    return "Leave a missing value empty." if text else ""
