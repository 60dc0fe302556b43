"""Exceptions of the library. One tree, so that a caller can catch all of it at once."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

LONGEST = 400
"""Most characters of each part of a message: what was found can be of any length."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


class SciMLDiscoverError(Exception):
    """Root of every exception raised on purpose by this library."""


class InputError(SciMLDiscoverError):
    """What the user gave cannot be used: the command line exits with status 2.

    Args:
        found: what was found, quoting the offending text.
        where: the file, section, key, line or column where it was found.
        expected: what would have been accepted.
        do: the next thing to do, if there is one obvious thing.

    Example:
        >>> print(InputError("column 'hair'", where="hudson_bay.csv", expected="column 'hare'"))
        hudson_bay.csv: found column 'hair'; expected column 'hare'.
    """

    def __init__(self, found: str, *, where: str, expected: str, do: str = "") -> None:
        self.found, self.where, self.expected, self.do = found, where, expected, do
        where, found, expected, do = map(_in_one_line, (where, found, expected, do))
        text = f"{where}: found {found}; expected {expected}."
        super().__init__(f"{text} {do}" if do else text)


def _in_one_line(text: str) -> str:
    """Return a text without what could move a terminal's cursor or turn its writing around, shortened."""
    text = text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


class NotYetError(InputError):
    """A key that the experiment file's schema names but this version cannot honour."""

    def __init__(self, feature: str, *, where: str, do: str) -> None:
        super().__init__(
            f"{feature}, which this version cannot do yet",
            where=where,
            expected="an experiment without it",
            do=do,
        )


class DamagedArtifactError(SciMLDiscoverError):
    """A stored artifact does not have the digest that its reference promises."""


class SolveError(SciMLDiscoverError):
    """A system could not be solved over the requested times."""


def did_you_mean(word: str, candidates: Iterable[str]) -> str:
    """Return ``"Did you mean 'x'?"`` for the nearest candidate, or the list of all of them.

    Example:
        >>> did_you_mean("hair", ["hare", "lynx"])
        "Did you mean 'hare'?"
    """
    known = sorted(candidates)
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    if near:
        return f"Did you mean {near[0]!r}?"
    return f"Known: {', '.join(known)}." if known else ""
