"""The experiment file: one TOML that says everything, and the one class that names every floor.

Reading it imports neither torch nor sympy nor pysindy, so that a mistake is told at once.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydantic

from sciml_discover.base import Options, Seed
from sciml_discover.constraints import check_law_options
from sciml_discover.errors import InputError, did_you_mean
from sciml_discover.option_errors import name_file, to_input_error
from sciml_discover.readers import DataOptions
from sciml_discover.regressors import RegressOptions
from sciml_discover.selection import SelectOptions
from sciml_discover.system import SystemOptions
from sciml_discover.toml_writer import to_toml
from sciml_discover.training import TrainOptions
from sciml_discover.validation import ValidateOptions

MOST_BYTES = 2**20
"""Largest experiment file: 1 MiB."""

DEEPEST = 64
"""Deepest nesting of tables and lists, and most parts of a dotted key."""

MOST_BITS = 1024
"""Longest whole number."""

_LONG_KEY = re.compile(
    r"""(?<![\w-])(?:(?:[\w-]++|"[^"\n]*+"|'[^'\n]*+')[ \t]*+\.[ \t]*+)""" + f"{{{DEEPEST}}}"
)
_BARE_WORD = re.compile(r"[A-Za-z_][\w./-]*")


class Experiment(Options):
    """Everything that determines a run."""

    model_config = pydantic.ConfigDict(validate_by_name=True, validate_by_alias=True)

    title: str = pydantic.Field(min_length=1, max_length=200)
    """What is investigated, for people."""
    seed: Seed = 0
    """The seed of everything random that has none of its own."""
    data: DataOptions
    """The measurements."""
    system: SystemOptions
    """The known physics and its holes."""
    train: TrainOptions = TrainOptions()
    """How the networks in the holes are trained."""
    regress: RegressOptions = RegressOptions()
    """How what they learnt becomes sparse laws."""
    select: SelectOptions = SelectOptions()
    """How laws are refitted and chosen."""
    validate_: ValidateOptions = pydantic.Field(default=ValidateOptions(), alias="validate")
    """How the choice is judged."""

    @pydantic.model_validator(mode="after")
    def _check(self) -> Experiment:
        if not self.system.missing:
            raise InputError(
                "no missing term",
                where="[system.missing]",
                expected="at least one hole to fill",
                do='Add one, such as interaction = ["x", "y"], and use it in [system.equations].',
            )
        check_law_options(self.regress, self.system.missing)
        self._check_extrapolation()
        return self

    def _check_extrapolation(self) -> None:
        end = self.validate_.extrapolate_to
        if end is None:
            return
        if self.data.synthetic is None:
            raise InputError(
                f"extrapolate_to = {end:g} with measured data",
                where="[validate]",
                expected="extrapolation only where the truth is known, with [data.synthetic]",
                do="Remove extrapolate_to; hold rows out instead.",
            )
        last = self.data.synthetic.times_array()[-1]
        if end <= last:
            raise InputError(
                f"extrapolate_to = {end:g}",
                where="[validate]",
                expected=f"a time after the last row, which is at {last:g}",
            )


class Changes(Options):
    """Parts of an experiment that take the place of those in its file, each as a whole."""

    model_config = pydantic.ConfigDict(validate_by_name=True, validate_by_alias=True)

    seed: Seed | None = None
    """The seed of everything random that has none of its own."""
    data: DataOptions | None = None
    """The measurements. Files are relative to the folder of the experiment."""
    system: SystemOptions | None = None
    """The known physics and its holes."""
    train: TrainOptions | None = None
    """How the networks in the holes are trained."""
    regress: RegressOptions | None = None
    """How what they learnt becomes sparse laws."""
    select: SelectOptions | None = None
    """How laws are refitted and chosen."""
    validate_: ValidateOptions | None = pydantic.Field(default=None, alias="validate")
    """How the choice is judged."""

    def tables(self) -> dict[str, Any]:
        """Return the parts that there are, as they would stand in the file."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True, exclude_none=True)


@dataclass(frozen=True)
class LoadedExperiment:
    """An experiment and where it comes from.

    Attributes:
        experiment: the checked options.
        folder: where its data files lie.
        name: what runs are called after: the folder's name, or the file's if it is not experiment.toml.
        text: the experiment as run, as TOML, with the overrides applied.
    """

    experiment: Experiment
    folder: Path
    name: str
    text: str

    @classmethod
    def from_experiment(cls, experiment: Experiment, folder: str | Path = ".") -> LoadedExperiment:
        """Return an experiment written in Python; its data files lie in ``folder``."""
        table = experiment.model_dump(mode="json", by_alias=True, exclude_unset=True)
        name = re.sub(r"[^a-z0-9]+", "_", experiment.title.lower()).strip("_")[:40] or "experiment"
        return cls(experiment, Path(folder).resolve(), name, to_toml(table))


def load_experiment(
    path: str | Path, overrides: Sequence[str] = (), changes: Changes | None = None
) -> LoadedExperiment:
    """Return the experiment that a TOML file describes.

    Args:
        path: the file.
        overrides: texts such as ``"train.starts=4"``, applied in order; values are TOML, or bare words.
        changes: parts that take the place of the file's, before the overrides.

    Raises:
        InputError: at the first thing that is wrong, with the file, the table and the key.
    """
    file = str(path)
    text = _read_text(Path(path), file)
    document = _parse(text, file)
    tables = {} if changes is None else changes.tables()
    document.update(tables)
    for override in overrides:
        _apply(document, override)
    _check_depth(document, file)
    if overrides or tables:
        text = to_toml(document)
    location = Path(path).resolve()
    name = location.parent.name if location.name == "experiment.toml" else location.stem
    return LoadedExperiment(_validate(document, file), location.parent, name or "experiment", text)


def _read_text(path: Path, file: str) -> str:
    try:
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise InputError("a pipe, socket or device", where=file, expected="a plain file")
        with path.open("rb") as stream:
            content = stream.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise InputError(
                f"more than {MOST_BYTES} bytes",
                where=file,
                expected="an experiment file, which is text of a few kilobytes",
                do="Put data into files of their own.",
            )
        return content.decode("utf-8").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        raise InputError(
            f"bytes that are not text (at byte {error.start + 1})",
            where=file,
            expected="a TOML file in UTF-8",
            do="Save it again in UTF-8.",
        ) from error
    except FileNotFoundError as error:
        near = [item.name for item in path.parent.glob("*.toml")] if path.parent.is_dir() else []
        raise InputError(
            "no such file", where=file, expected="an experiment file", do=did_you_mean(path.name, near)
        ) from error
    except (OSError, ValueError) as error:
        inside = " Is it experiment.toml inside this folder?" if path.is_dir() else ""
        reason = (getattr(error, "strerror", None) or str(error)).lower()
        raise InputError(
            f"a file that cannot be read ({reason})",
            where=file,
            expected="a readable TOML file",
            do=inside.strip() or "Check the path and the permissions.",
        ) from error


def _parse(text: str, file: str) -> dict[str, Any]:
    try:
        if _LONG_KEY.search(text):
            # The time that the parser takes grows with the square of that length.
            raise RecursionError
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        # Whole numbers of thousands of digits are a ValueError, too.
        reason = str(error) if isinstance(error, ValueError) else "too deeply nested"
        raise InputError(
            f"text that is not TOML ({reason})",
            where=file,
            expected='tables such as [data] and keys such as title = "..."',
        ) from error


def _check_depth(document: dict[str, Any], file: str) -> None:
    """Refuse what would exhaust whoever walks through it or writes it down.

    Raises:
        InputError: tables and lists are nested too deeply, or a whole number is too long to be written.
    """
    level: list[Any] = [document]
    for _ in range(DEEPEST):
        inside = [tuple(item.values()) if isinstance(item, dict) else item for item in level]
        level = [value for item in inside if isinstance(item, tuple | list) for value in item]
        if any(isinstance(value, int) and value.bit_length() > MOST_BITS for value in level):
            raise InputError(
                "a whole number of hundreds of digits",
                where=file,
                expected=f"numbers of at most {MOST_BITS} bits",
            )
    if level:
        raise InputError(
            "tables or lists that are too deeply nested", where=file, expected=f"{DEEPEST} levels"
        )


def _validate(document: dict[str, Any], file: str) -> Experiment:
    """Return the checked experiment; numbers are not read from texts, nor truth values from numbers."""
    try:
        # As JSON, because only there does strict mean strict and a list may still become a tuple.
        return Experiment.model_validate_json(json.dumps(document, default=str), strict=True)
    except pydantic.ValidationError as error:
        raise to_input_error(error, Experiment, document, file) from error
    except InputError as error:
        name_file(error, file)
        raise


def _apply(document: dict[str, Any], override: str) -> None:
    """Change one value of a document in place."""
    where = f"override {override!r}"
    if not override.isprintable() and any(0xD800 <= ord(letter) < 0xE000 for letter in override):
        raise InputError("bytes that are not text", where=where, expected="UTF-8")
    key, equals, raw = override.partition("=")
    words = key.strip().split(".")
    if not equals or not all(word.strip() for word in words):
        raise InputError("no KEY=VALUE", where=where, expected="text such as train.starts=4")
    here: Any = document
    for word in words[:-1]:
        here = _step(here, word, where)
    value, last = _override_value(raw.strip(), where), words[-1]
    if isinstance(here, list):
        here[_position(here, last, where)] = value
    elif isinstance(here, dict):
        here[last] = value
    else:
        raise InputError(f"a key {last!r} of {here!r}", where=where, expected="a key of a table")


def _step(here: Any, word: str, where: str) -> Any:
    """Return the table or list one level down; a table that is not there is made."""
    if isinstance(here, dict):
        return here.setdefault(word, {})
    if isinstance(here, list):
        return here[_position(here, word, where)]
    raise InputError(f"a key {word!r} of {here!r}", where=where, expected="a key of a table")


def _position(items: list[Any], word: str, where: str) -> int:
    if not (word.isascii() and word.isdigit() and int(word) < len(items)):
        raise InputError(
            f"{word!r} in a list of {len(items)}", where=where, expected="the number of an entry, from 0"
        )
    return int(word)


def _override_value(raw: str, where: str) -> Any:
    if _BARE_WORD.fullmatch(raw) and raw not in ("true", "false", "inf", "nan"):
        return raw
    try:
        parsed = tomllib.loads(f"value = {raw}")
    except (ValueError, RecursionError):
        parsed = {}
    if parsed.keys() != {"value"}:
        raise InputError(
            f"the value {raw!r}",
            where=where,
            expected='a TOML value, such as 4, 0.5, true, [1, 2], { rows = 4 } or "text"',
        )
    return parsed["value"]
