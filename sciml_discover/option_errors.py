"""From pydantic's report to the one `InputError` that says what is wrong, where, and what to do."""

from __future__ import annotations

import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pydantic

from sciml_discover.base import Options
from sciml_discover.errors import InputError, did_you_mean

_FIRST = ("extra_forbidden", "missing")


def to_input_error(
    error: pydantic.ValidationError, model: type[Options], document: Any, file: str
) -> InputError:
    """Return the most telling of a validation's errors.

    Args:
        error: what pydantic says.
        model: the class that was validated.
        document: what was validated, as plain tables and lists.
        file: what messages call the file.
    """
    details: dict[str, Any] = dict(min(error.errors(include_url=False), key=_urgency))
    kind, location, message = details["type"], tuple(details["loc"]), details["msg"]
    path = _real_path(location, document, kind)
    where = place(file, path)
    if kind == "extra_forbidden":
        known = list(_keys(model, location[:-1]))
        return InputError(
            f"the unknown key {str(path[-1])!r}",
            where=_table(file, path[:-1]),
            expected="a known key",
            do=did_you_mean(str(path[-1]), known),
        )
    if kind == "missing":
        return InputError(
            f"no key {str(path[-1])!r}",
            where=_table(file, path[:-1]),
            expected=f"{str(path[-1])!r}, which has no default",
            do="Add it.",
        )
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        return _wrong_kind(details, where)
    if kind == "value_error":
        found, _, advice = str(details["ctx"]["error"]).partition("; ")
        return InputError(found, where=where, expected="something else", do=_sentence(advice))
    expected = message.removeprefix("Input should be ").split(", unable to")[0]
    return InputError(_shown(details["input"]), where=where, expected=expected)


def name_file(error: InputError, file: str) -> None:
    """Put the name of the file before the place of an error that was raised without knowing it."""
    where = f"{file}: {error.where}"
    InputError.__init__(error, error.found, where=where, expected=error.expected, do=error.do)


def place(file: str, path: Sequence[str | int]) -> str:
    """Return how messages name a key of a file.

    Example:
        >>> place("a.toml", ("system", "parameters", "alpha", "bounds"))
        'a.toml: [system.parameters.alpha] bounds'
        >>> place("a.toml", ("train", "stages", 0))
        'a.toml: [train] stages, entry 1'
    """
    words = list(path)
    entry = ""
    for index, word in enumerate(words):
        if isinstance(word, int):
            rest = [str(item + 1) if isinstance(item, int) else item for item in words[index + 1 :]]
            entry = f", entry {word + 1}" + (f": {'.'.join(rest)}" if rest else "")
            words = words[:index]
            break
    *tables, key = [str(word) for word in words] or [""]
    if not key:
        return file
    return f"{file}: {f'[{chr(46).join(tables)}] ' if tables else ''}{key}{entry}"


def _table(file: str, path: Sequence[str | int]) -> str:
    """Return how messages name a table of a file."""
    if not path or any(isinstance(word, int) for word in path):
        return place(file, path)
    return f"{file}: [{'.'.join(str(word) for word in path)}]"


def _urgency(details: Any) -> tuple[int, int]:
    """Return what puts typos first, then missing keys, then the deepest error."""
    kind = details["type"]
    return (_FIRST.index(kind) if kind in _FIRST else len(_FIRST), -len(details["loc"]))


def _real_path(location: Sequence[str | int], document: Any, kind: str) -> list[str | int]:
    """Return a location without what pydantic adds: names of alternatives that the file does not have."""
    path: list[str | int] = []
    here: Any = document
    for index, word in enumerate(location):
        in_table = isinstance(here, Mapping) and word in here
        in_list = isinstance(here, list) and isinstance(word, int) and word < len(here)
        if in_table or in_list:
            here = here[word]  # pyright: ignore[reportCallIssue, reportArgumentType]
        elif not (kind == "missing" and index == len(location) - 1):
            continue
        path.append(word)
    return path


def _keys(model: type[Options], location: Sequence[str | int]) -> Iterator[str]:
    """Yield the keys that may stand at a location."""
    models: list[type[Options]] = [model]
    for word in location:
        inner = [field.annotation for item in models for key, field in _fields(item) if key == word]
        if inner:
            models = [found for annotation in inner for found in _models(annotation)]
        else:
            # The name of an alternative, or its tag: only that alternative is meant.
            models = [item for item in models if word in (item.__name__, _tag(item))] or models
    for item in models:
        yield from (key for key, _ in _fields(item))


def _fields(model: type[Options]) -> Iterator[tuple[str, Any]]:
    for name, field in model.model_fields.items():
        yield field.alias or name, field


def _tag(model: type[Options]) -> Any:
    kind = model.model_fields.get("kind")
    return None if kind is None else kind.default


def _models(annotation: Any) -> Iterator[type[Options]]:
    """Yield every options class inside an annotation such as ``dict[str, A] | tuple[B, ...]``."""
    if isinstance(annotation, type) and issubclass(annotation, Options):
        yield annotation
    for inner in typing.get_args(annotation):
        yield from _models(inner)


def _wrong_kind(details: Any, where: str) -> InputError:
    """Return the error of a table whose ``kind`` is missing or unknown."""
    if details["type"] == "union_tag_not_found":
        return InputError(
            f"{_shown(details['input'])} without kind",
            where=where,
            expected="a table with the key kind",
            do="Write { kind = ... }.",
        )
    known = [word.strip().strip("'") for word in details["ctx"]["expected_tags"].split(",")]
    return InputError(
        f"kind = {details['ctx']['tag']!r}",
        where=where,
        expected=f"one of {', '.join(known)}",
        do=_proposal(details["ctx"]["tag"], known),
    )


def _proposal(word: str, known: Sequence[str]) -> str:
    """Return the nearest known word as a question, nothing if none is near."""
    text = did_you_mean(word, known)
    return text if text.endswith("?") else ""


def _shown(value: Any) -> str:
    """Return a value as in the file, shortened."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}." if text else ""
