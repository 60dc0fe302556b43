"""What benchmarks are asked for on the command line: names of cases, and seeds."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from flows.combinations import expand
from sciml_discover.errors import InputError, did_you_mean


def chosen_cases(cases: Sequence[str] | str, known: Collection[str]) -> tuple[str, ...]:
    """Return the names of cases without doubles; all that are known for none.

    Args:
        cases: names, or a text with commas between them.
        known: the names there are.

    Raises:
        InputError: a name is not known.
    """
    names = [name.strip() for name in cases.split(",")] if isinstance(cases, str) else list(cases)
    names = [name for name in names if name]
    for name in names:
        if name not in known:
            raise InputError(
                f"the case {name!r}", where="--cases", expected=", ".join(known), do=did_you_mean(name, known)
            )
    return tuple(dict.fromkeys(names)) or tuple(known)


def chosen_seeds(text: str | None) -> tuple[int, ...] | None:
    """Return seeds such as ``"0..19"`` or ``"1,2"`` without doubles; None for none.

    Raises:
        InputError: one is no whole number.
    """
    if text is None:
        return None
    numbers = expand(text, where="--seeds")
    for number in numbers:
        if not number.isdecimal():
            raise InputError(
                repr(number), where="--seeds", expected="whole numbers from zero on, such as 0..19 or 1,2"
            )
    return tuple(dict.fromkeys(map(int, numbers)))
