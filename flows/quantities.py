"""Lengths of time and sizes as a person writes them on the command line."""

from __future__ import annotations

import re

from sciml_discover.errors import InputError

SECONDS = {"s": 1, "min": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
BYTES = {
    "B": 1,
    "kB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
}


def seconds(text: str, where: str) -> float:
    """Return the seconds that a text such as ``7d`` names.

    Raises:
        InputError: if it names none.

    Example:
        >>> seconds("1.5h", "--older-than")
        5400.0
    """
    return _number(text, SECONDS, where, "a length of time such as 7d, 12h or 30min")


def size(text: str, where: str) -> int:
    """Return the bytes that a text such as ``2GB`` names.

    Raises:
        InputError: if it names none.

    Example:
        >>> size("2 GB", "--max-size")
        2000000000
    """
    return int(_number(text, BYTES, where, "a size such as 2GB, 500MB or 1GiB"))


def size_text(count: int) -> str:
    """Return bytes in the unit in which a person reads them.

    Example:
        >>> size_text(123), size_text(2_340_000)
        ('123 B', '2.3 MB')
    """
    for unit in ("TB", "GB", "MB", "kB"):
        if count >= BYTES[unit]:
            return f"{count / BYTES[unit]:.1f} {unit}"
    return f"{count} B"


def seconds_text(count: float) -> str:
    """Return a length of time in the largest unit that it fills.

    Example:
        >>> seconds_text(59), seconds_text(200_000)
        ('59 s', '2 d')
    """
    unit = next((unit for unit in ("d", "h", "min") if count >= SECONDS[unit]), "s")
    return f"{int(count // SECONDS[unit])} {unit}"


def _number(text: str, units: dict[str, int], where: str, expected: str) -> float:
    match = re.fullmatch(r"(\d{1,12}(?:\.\d{1,6})?) ?([A-Za-z]+)", text.strip())
    known = {unit.lower(): factor for unit, factor in units.items()}
    if match is None or match[2].lower() not in known:
        raise InputError(repr(text), where=where, expected=expected, do=f"Units: {', '.join(units)}.")
    return float(match[1]) * known[match[2].lower()]
