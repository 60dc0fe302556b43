"""Experiments that somebody wrote to do harm: each family makes one, different for every number it is given."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import pickle
import random
import stat
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import safetensors.numpy

from sciml_discover.experiment import Experiment

GOOD = """\
title = "hostile"
seed = 0
[data]
files = ["rows.csv"]
[system.states]
x = {}
y = {}
[system.parameters]
alpha = { value = 0.5, bounds = [0.0, 2.0] }
[system.missing]
f = ["x", "y"]
[system.equations]
x = "alpha*x - f"
y = "f - y"
"""
ROWS = "time,x,y\n" + "".join(f"{row},{10 + row % 3},{5 + row % 4}\n" for row in range(12))

Sets = list[str]


class Chance(random.Random):
    """Random numbers, but the choices of a family go through all their combinations, none of them twice."""

    def __init__(self, family: str, number: int) -> None:
        super().__init__(f"{family} {number}")
        self._rest, self._place = number, 0

    def choice(self, seq: Any) -> Any:
        self._rest, digit = divmod(self._rest, len(seq))
        self._place += digit  # so that every choice is another one as soon as the first one is
        return seq[self._place % len(seq)]


Family = Callable[[Path, Chance], "Sets | None"]
FAMILIES: dict[str, Family] = {}


def family(function: Family) -> Family:
    """Add a family. It spoils a folder with a good experiment, and may return overrides."""
    FAMILIES[function.__name__.replace("_", " ")] = function
    return function


def write_good(folder: Path) -> None:
    """Write an experiment in which nothing is wrong."""
    folder.mkdir(parents=True)
    (folder / "experiment.toml").write_text(GOOD)
    (folder / "rows.csv").write_text(ROWS)


def fingerprint(folder: Path, sets: Sets) -> str:
    """Return a digest of a spoilt experiment, of the first 32 MiB of large files."""
    digest = hashlib.sha256(repr(sets).encode())
    for path in sorted(folder.rglob("*")):
        found = path.lstat()
        digest.update(f"{path.relative_to(folder)} {stat.S_IFMT(found.st_mode)} {found.st_size} ".encode())
        if path.is_symlink():
            digest.update(os.readlink(path).encode())
        elif path.is_file():
            with path.open("rb") as file:
                digest.update(file.read(2**25))
    return digest.hexdigest()


def append(folder: Path, text: str) -> None:
    path = folder / "experiment.toml"
    path.write_text(path.read_text() + text)


def change(folder: Path, old: str, new: str) -> None:
    path = folder / "experiment.toml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def text(value: str) -> str:
    """Return a TOML string."""
    return json.dumps(value)


def data_file(folder: Path, name: str, content: bytes) -> None:
    (folder / name).write_bytes(content)
    change(folder, "rows.csv", name)


@family
def unknown_keys(folder: Path, chance: Chance) -> None:
    key = chance.choice(
        ["__class__", "exec", "\u202e", "a" * 50_000, "\x1b[2J", "../..", "", "\n", "\u2028", "é"]
    )
    table = chance.choice(["data", "system", "train", "regress", "select", "validate", "system.states.x"])
    append(folder, f"[{table}.{text(key)}]\nvalue = 1\n")


def numbers(
    node: Any, root: dict[str, Any], path: tuple[str, ...] = (), depth: int = 0
) -> Iterator[tuple[str, str]]:
    """Yield the dotted key of every whole number in the schema, and the union's choices on its way."""
    if depth > 12:
        return
    if "$ref" in node:
        yield from numbers(root["$defs"][node["$ref"].rsplit("/", 1)[-1]], root, path, depth + 1)
    for choice in (*node.get("anyOf", ()), *node.get("allOf", ())):
        yield from numbers(choice, root, path, depth + 1)
    if node.get("type") == "integer" and "enum" not in node:
        yield ".".join(path), "-1" if chance_of_minus(path) else str(10**30)
    for name, inner in node.get("properties", {}).items():
        yield from numbers(inner, root, (*path, name), depth + 1)


def chance_of_minus(path: tuple[str, ...]) -> bool:
    return sum(map(len, path)) % 5 == 0


SCHEMA = Experiment.model_json_schema(by_alias=True)
NUMBERS = sorted({found for found in numbers(SCHEMA, SCHEMA) if not found[0].startswith("data.synthetic")})


@family
def huge_numbers(_: Path, chance: Chance) -> Sets:
    key, value = chance.choice(NUMBERS)
    return [f"{key}={value}"]


@family
def numbers_that_no_float_holds(folder: Path, chance: Chance) -> None:
    number = chance.choice(
        [
            "1" * 5000, "1e999", "-1e400", "0x" + "f" * 4000, "nan", "-inf", "1e-400, fixed = 7", "1" + "0" * 400,
            "-" + "9" * 400 + ".5", "0b" + "1" * 20_000, "0o" + "7" * 9000, "1e" + "9" * 5000, "+inf",
        ]
    )  # fmt: skip
    change(folder, "value = 0.5", f"value = {number}")


@family
def deep_nesting(folder: Path, chance: Chance) -> None:
    depth = chance.choice([100, 1000, 10_000, 100_000])
    kind = chance.choice(["list", "table", "dotted", "header", "brackets"])
    append(
        folder,
        {
            "list": f"[data.noise]\nsd = {'[' * depth}{']' * depth}\n",
            "table": f"[data.noise]\nsd = {'{a=' * depth}1{'}' * depth}\n",
            "dotted": "[validate]\n" + ".".join(["a"] * depth) + " = 1\n",
            "header": "[" + ".".join(['"a b"'] * depth) + "]\nx = 1\n",
            "brackets": f'[regress.library]\nextra = ["{"(" * depth}x{")" * depth}"]\n',
        }[kind],
    )


@family
def path_escapes(folder: Path, chance: Chance) -> None:
    paths = [
        "../../etc/passwd", "/etc/passwd", "../rows.csv", "a/../../rows.csv", "rows.csv/../../rows.csv", "..",
        ".", "", "\u0000rows.csv", "~/rows.csv", "file:///etc/passwd", "//etc/passwd", "x" * 5000 + ".csv",
        "/proc/self/environ", "/dev/zero", "http://127.0.0.1/rows.csv", "rows.csv\n", "C:\\rows.csv", "%2e%2e/rows.csv",
    ]  # fmt: skip
    change(folder, '"rows.csv"', text(chance.choice(paths)))


@family
def links(folder: Path, chance: Chance) -> None:
    (folder / "rows.csv").unlink()
    targets = [
        "/etc/passwd", "/dev/zero", "rows.csv", "../outside.csv", "/proc/self/mem", "/", "missing.csv", "/dev/stdin",
        "../case/../outside.csv", "/dev/full", "/proc/self/fd/0", "x" * 255,
    ]  # fmt: skip
    target = chance.choice(targets)
    (folder.parent / "outside.csv").write_text(ROWS)
    (folder / "rows.csv").symlink_to(target)


@family
def what_is_no_file(folder: Path, chance: Chance) -> None:
    (folder / "rows.csv").unlink()
    kind = chance.choice(["pipe", "folder", "socket", "link to a pipe", "link to a folder"])
    path = folder / chance.choice(["rows.csv", "rows.npz", "rows.parquet"])
    change(folder, "rows.csv", path.name)
    there = folder / "there" if kind.startswith("link") else path
    if kind.endswith("pipe"):
        os.mkfifo(there)
    elif kind.endswith("folder"):
        there.mkdir()
    else:
        os.mknod(there, stat.S_IFSOCK | 0o600)
    if there != path:
        path.symlink_to(there.name)


@family
def expression_bombs(folder: Path, chance: Chance) -> None:
    bomb = chance.choice(
        [
            "9**9**9**9", "x**9**9", "2**(2**(2**100))", "(x+y)**999999", "((x+1)**20)**20", "factorial(9999)",
            "x**" * 300 + "2", "sin(" * 400 + "x" + ")" * 400, "1e308*1e308", "x" + "*x" * 3000, "1/0",
            "x**0.123456789123456789123456789e-5**9", "+".join(["x"] * 2000), "exp(exp(exp(9)))*x",
        ]
    )  # fmt: skip
    if chance.random() < 0.5:
        change(folder, '"f - y"', text(f"f - y + {bomb}"))
    else:
        append(folder, f"[regress.library]\nextra = [{text(bomb)}]\n")


@family
def code_in_expressions(folder: Path, chance: Chance) -> None:
    canary = folder.parent / "canary"
    code = chance.choice(
        [
            f"__import__('os').system('touch {canary}')", f"open('{canary}', 'w')", "().__class__.__bases__[0]",
            f"exec(\"open('{canary}','w')\")", "lambda: x", "x if x else y", "[x for x in (1,)]", "x.__class__",
            "x; import os", "f'{x}'", "x := 1", "`touch canary`", "$(touch canary)", "{{7*7}}", "globals()", "x\x00y",
        ]
    )  # fmt: skip
    change(folder, '"f - y"', text(f"f - y + {code}".replace("\x00", "\u0000")))


@family
def terms_by_the_billion(folder: Path, chance: Chance) -> None:
    kind = chance.choice(["degree", "templates", "pairs", "extra"])
    count = chance.choice([60, 100, 200])
    names = [f"s{number}" for number in range(count)]
    inputs = ", ".join(f'"{name}"' for name in ("x", "y", *names))
    change(folder, "y = {}\n", "y = {}\n" + "".join(f"{name} = {{ initial = 1.0 }}\n" for name in names))
    change(folder, 'f = ["x", "y"]', f"f = [{inputs}]")
    append(folder, "".join(f'{name} = "-{name}"\n' for name in names))
    library = {
        "degree": "polynomial_degree = 10",
        "templates": "templates = [" + ", ".join(f'"input**{power}*other"' for power in range(1, 20)) + "]",
        "pairs": 'functions = ["sin"]\npolynomial_degree = 1\ntemplates = ["sin(input*other)", "cos(input*other)"]',
        "extra": "extra = [" + ", ".join(f'"x**{power % 20}*{power}"' for power in range(1, 5000)) + "]",
    }[kind]
    append(folder, f"[regress.library]\n{library}\n")


@family
def a_long_csv_line(folder: Path, chance: Chance) -> None:
    size = chance.choice([2**30, 2**26, 2**31, 2**25])
    with (folder / "rows.csv").open("wb") as file:
        file.write(chance.choice([b"time,x,y\n1,", b'time,x,y\n1,2,"', b"time,"]))
        file.truncate(size)  # a hole: it takes no room on the disk


@family
def a_wide_csv_line(folder: Path, chance: Chance) -> None:
    unit = chance.choice(
        [b"1,", b'"",', b"a,", b"\xc3\xa9,", b'"', b",", b"12345,", b"nan,", b"1e999,", b"\t", b"\r", b"-"]
    )
    (folder / "rows.csv").write_bytes(unit * (30 * 2**20 // len(unit)))


@family
def bytes_that_are_no_text(folder: Path, chance: Chance) -> None:
    utf32, utf16 = ROWS.encode("utf-32"), GOOD.encode("utf-16-be")
    surrogate, packed = b"time,x,y\n1,\xed\xa0\x80,2\n", gzip.compress(ROWS.encode(), mtime=0)
    zeros, marked, zero = b"\x00" * 1000, b"\xff\xfe" + b"a\x00" * 99, b"time,x,y\n1,\x00,2\n"
    junk = chance.choice([zeros, marked, chance.randbytes(5000), zero, utf32, utf16, surrogate, packed])
    (folder / chance.choice(["rows.csv", "experiment.toml"])).write_bytes(junk)


@family
def billion_laughs(folder: Path, chance: Chance) -> None:
    kind = chance.choice(
        [
            "tables",
            "keys",
            "strings",
            "arrays",
            "huge",
            "rows",
            "entries",
            "inline",
            "states",
            "parameters",
            "files",
        ]
    )
    count = 10_000
    if kind in ("states", "parameters"):
        change(
            folder,
            f"[system.{kind}]\n",
            f"[system.{kind}]\n" + "".join(f"l{n} = {{}}\n" for n in range(count)),
        )
        return
    if kind == "files":
        change(folder, '["rows.csv"]', "[" + '"rows.csv", ' * count + "]")
        return
    append(
        folder,
        {
            "tables": "".join(f"[lol.l{n}.l{n}.l{n}]\nx = 1\n" for n in range(count)),
            "keys": "[validate]\n" + "".join(f"lol{n} = 1\n" for n in range(count)),
            "strings": '[regress.library]\nextra = ["' + '", "'.join(["lol*lol"] * count) + '"]\n',
            "arrays": "[train]\nstages = [" + ", ".join(["[[[]]]"] * count) + "]\n",
            "huge": "# " + "lol" * 1_000_000 + "\n",
            "rows": "[validate]\nlol = [" + "[0.0, 1.0],\n" * count + "]\n",
            "entries": "[[train.stages]]\n" * count,
            "inline": "[data.noise]\nsd = {" + ", ".join(f"l{n} = {{ l = 1 }}" for n in range(count)) + "}\n",
        }[kind],
    )


def npz(
    arrays: dict[str, np.ndarray], save: Callable[..., None] = np.savez_compressed, **options: Any
) -> bytes:
    file = io.BytesIO()
    save(file, **arrays, **options)
    return file.getvalue()


@family
def zip_bombs(folder: Path, chance: Chance) -> None:
    file = io.BytesIO()
    method, kind = (
        chance.choice([zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2]),
        chance.choice(["<f8", "|b1", "<c16"]),
    )
    count, size = chance.choice([1, 3]), chance.choice([70, 24])
    with zipfile.ZipFile(file, "w", method, compresslevel=9) as archive:
        for name in ("time", "x", "y")[:count]:
            with archive.open(f"{name}.npy", "w") as member:
                np.lib.format.write_array_header_1_0(
                    member, {"descr": kind, "fortran_order": False, "shape": (10**9,)}
                )
                for _ in range(size):
                    member.write(bytes(2**20))
    data_file(folder, "rows.npz", file.getvalue())


class Bomb:
    """Runs code where it is unpickled."""

    def __init__(self, call: Callable[[str], object], argument: str) -> None:
        self.reduced = call, (argument,)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.reduced


@family
def pickles(folder: Path, chance: Chance) -> None:
    canary = folder.parent / "canary"
    kind = chance.choice(["npz", "npy as npz", "pickle as npz", "pickle as parquet", "pickle as csv"])
    bomb = chance.choice(
        [
            Bomb(os.mkdir, f"{canary}"),
            Bomb(os.system, f"touch {canary}"),
            Bomb(eval, f"open({f'{canary}'!r}, 'w')"),
        ]
    )
    array = np.array([bomb, 1.0], dtype=object)
    content = {
        "npz": lambda: npz({"time": np.arange(2.0), "x": array}, allow_pickle=True),
        "npy as npz": lambda: npy(array),
    }.get(kind, lambda: pickle.dumps(bomb))()
    data_file(folder, f"rows.{kind.split()[-1]}", content)


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


@family
def arrays_whose_headers_lie(folder: Path, chance: Chance) -> None:
    header = chance.choice(
        [
            "{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,), }",
            "{'descr': '<U0', 'fortran_order': False, 'shape': (1000000000000,), }",
            "{'descr': '<f8', 'fortran_order': False, 'shape': (-5,), }",
            "{'descr': '|O', 'fortran_order': False, 'shape': (3,), }",
            "{'descr': '<f8', 'fortran_order': False, 'shape': (2, 6), }",
            "{'descr': [('a', '<f8')], 'fortran_order': False, 'shape': (12,), }",
            "{'descr': '<M8[s]', 'fortran_order': False, 'shape': (12,), }",
            "__import__('os').mkdir('canary')",
            "(" * 9000,
            "{'descr': '<f8', 'fortran_order': False, 'shape': (12, " + "1, " * 3000 + "), }",
        ]
    )
    raw = header.encode() + b"\n"
    member = b"\x93NUMPY\x02\x00" + struct.pack("<I", len(raw)) + raw + bytes(96)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(zipfile.ZipInfo("time.npy"), member)  # whose date is not today
    data_file(folder, "rows.npz", file.getvalue())


@family
def archives_that_lie(folder: Path, chance: Chance) -> None:
    kind = chance.choice(["size", "method", "encrypted", "cut", "many", "noise"])
    save = chance.choice([np.savez_compressed, np.savez])
    content = bytearray(npz({name: np.arange(12.0) for name in ("time", "x", "y")}, save))
    entry = content.index(b"PK\x01\x02")
    if kind == "size":
        content[entry + 24 : entry + 28] = struct.pack("<I", 2**32 - 2)
    elif kind == "method":
        content[entry + 10 : entry + 12] = struct.pack("<H", 99)
    elif kind == "encrypted":
        content[entry + 8] |= 1
    elif kind == "cut":
        del content[entry + 10 :]
    elif kind == "many":
        content[entry:entry] = content[entry : entry + 60] * 20_000
    else:
        for _ in range(40):
            content[chance.randrange(len(content))] ^= chance.randrange(1, 256)
    data_file(folder, "rows.npz", bytes(content))


@family
def parquet_that_unpacks_to_a_lot(folder: Path, chance: Chance) -> None:
    compression = chance.choice(["zstd", "gzip", "brotli", "lz4", "snappy"])
    column = pa.array(np.zeros(chance.choice([3_000_000, 6_000_000])))
    file = io.BytesIO()
    parquet.write_table(pa.table(dict.fromkeys(("time", "x", "y"), column)), file, compression=compression)
    data_file(folder, "rows.parquet", file.getvalue())


@family
def safetensors_whose_headers_lie(folder: Path, chance: Chance) -> None:
    content = safetensors.numpy.save({"time": np.arange(12.0)})
    length = chance.choice([2**63, 2**62, 2**40, 10**9, 3, 0])
    lying = length.to_bytes(8, "little") + content[8:]
    name = chance.choice(["rows.npz", "rows.parquet", "rows.csv", "rows.safetensors"])
    data_file(folder, name, lying)


@family
def experiments_that_are_something_else(folder: Path, chance: Chance) -> None:
    path = folder / "experiment.toml"
    path.unlink()
    targets = ["/dev/zero", path.name, "/dev/random", "missing.toml", "/proc/self/mem", "/", "/dev/stdin"]
    kind = chance.choice([*targets, "pipe", "folder", "socket", "sparse", "nothing"])
    if kind in targets:
        path.symlink_to(kind)
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "socket":
        os.mknod(path, stat.S_IFSOCK | 0o600)
    else:
        with path.open("wb") as file:
            file.truncate(2**30 if kind == "sparse" else 0)


@family
def overrides(folder: Path, chance: Chance) -> Sets:
    canary = folder.parent / "canary"
    return [
        chance.choice(
            [
                "a" + ".a" * 5000 + "=1", "train.starts=" + "[" * 5000, "=1", "train=1", "train.starts.a.b=1",
                "data.files.99999999999999999999=a", f"title=$(touch {canary})", "__proto__.x=1", "seed=" + "9" * 5000,
                "data.files=[\"../../etc/passwd\"]", "system.equations.x=x.__class__", "title=" + "a" * 100_000,
                "\udcff=1", "train.starts=\udcff", "system.states.\x1b[2J={}",
            ]
        )
    ]  # fmt: skip
