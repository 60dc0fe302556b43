"""Plain values as TOML text: what the standard library reads but does not write."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


def to_toml(table: Mapping[str, Any]) -> str:
    """Return a table of texts, numbers, truth values, lists and tables as TOML; None is left out.

    Example:
        >>> print(to_toml({"title": "a", "data": {"files": ["a.csv"], "holdout": None}}))
        title = "a"
        <BLANKLINE>
        [data]
        files = ["a.csv"]
        <BLANKLINE>
    """
    return "\n".join(_lines(table, ())).strip("\n") + "\n"


def _lines(table: Mapping[str, Any], path: tuple[str, ...]) -> list[str]:
    """Return the plain keys of a table first, then its tables, each under its header."""
    given = {key: value for key, value in table.items() if value is not None}
    lines = [
        f"{_key(key)} = {_value(value)}" for key, value in given.items() if not isinstance(value, Mapping)
    ]
    for key, value in given.items():
        if isinstance(value, Mapping):
            inner = (*path, key)
            lines += ["", f"[{'.'.join(map(_key, inner))}]", *_lines(value, inner)]
    return lines


def _key(key: str) -> str:
    return key if _BARE_KEY.fullmatch(key) else _text(key)


def _text(text: str) -> str:
    # JSON's escapes are TOML's, except for the delete character, which JSON leaves alone.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(_value(item) for item in value)}]"
    if isinstance(value, Mapping):
        pairs = (f"{_key(key)} = {_value(item)}" for key, item in value.items() if item is not None)
        return f"{{ {', '.join(pairs)} }}"
    return str(value)  # dates and times, whose text is their TOML
