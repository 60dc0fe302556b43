"""Exceptions of the library. One tree, so that a caller can catch all of it at once."""

from __future__ import annotations

import copyreg
import difflib
import errno
import re
from collections.abc import Iterable
from typing import Any

LONGEST = 400
"""Most characters of each part of a message: what was found can be of any length."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


class SciMLDiscoverError(Exception):
    """Root of every exception raised on purpose by this library."""

    def __reduce__(self) -> tuple[Any, ...]:
        # Without a call of `__init__`, whose arguments are not `args`: errors come back from other processes.
        return copyreg.__newobj__, (type(self), *self.args), self.__dict__  # pyright: ignore[reportAttributeAccessIssue]


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


class LostInputError(DamagedArtifactError):
    """A stored result that a later stage needs is gone or damaged by now.

    Args:
        stage: the stage whose result it is.
        reason: what is wrong with it.
    """

    def __init__(self, stage: str, reason: str) -> None:
        self.stage = stage
        super().__init__(reason)


class SolveError(SciMLDiscoverError):
    """A system could not be solved over the requested times."""


_PASSING = {
    *(errno.EAGAIN, errno.EBUSY, errno.EINTR, errno.EIO, errno.ENOLCK, errno.ESTALE, errno.ETIMEDOUT),
    *(errno.ECONNABORTED, errno.ECONNREFUSED, errno.ECONNRESET, errno.ENOTCONN, errno.EPIPE),
    *(errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENETRESET, errno.ENETUNREACH),
    errno.ENOENT,  # a folder of the store that somebody removed between its making and its use
}
"""What shared folders and networks come back from; a full disk or a lack of permission is not among them."""

_WHAT_TO_DO = {
    errno.ENOSPC: "Free some space (`sciml-discover cache prune`).",
    errno.EDQUOT: "Free some space (`sciml-discover cache prune`).",
    errno.EFBIG: "Allow larger files (`ulimit -f`).",
    errno.EROFS: "Make the folder of runs writable, or choose another with --out.",
    errno.EACCES: "Make the folder of runs writable, or choose another with --out.",
    errno.EPERM: "Make the folder of runs writable, or choose another with --out.",
}


def may_pass(error: BaseException | None) -> bool:
    """Return whether the same work can succeed a little later, nothing but time having changed.

    Wrong input, an unsolvable system and a full disk stay what they are.

    Example:
        >>> may_pass(OSError(errno.ESTALE, "Stale file handle")), may_pass(OSError(errno.ENOSPC, "No space left"))
        (True, False)
    """
    return isinstance(error, OSError) and error.errno in _PASSING


def was_interrupted(error: BaseException) -> bool:
    """Return whether Ctrl-C was pressed, also where pydantic was at work then, and made of it an error of its own."""
    return isinstance(error, KeyboardInterrupt) or (
        type(error).__module__.startswith("pydantic") and "KeyboardInterrupt" in str(error)
    )


def failure_message(error: BaseException) -> str:
    """Return one line for a person: what went wrong, without the way there, and what to do where that is known."""
    if was_interrupted(error):
        return "interrupted"
    if isinstance(error, SciMLDiscoverError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        place = "" if error.filename is None else f": {error.filename}"
        return f"{error.strerror}{place}. {_WHAT_TO_DO.get(error.errno or 0, '')}".strip()
    return f"{type(error).__name__}: {error}"


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
