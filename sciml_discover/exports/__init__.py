"""A discovered law in other languages, from result.json alone: one file per language, one table of them."""

from __future__ import annotations

from collections.abc import Callable

from sciml_discover.errors import InputError, did_you_mean
from sciml_discover.exports.c import to_c
from sciml_discover.exports.document import to_json
from sciml_discover.exports.julia import to_julia
from sciml_discover.exports.latex import to_latex
from sciml_discover.exports.law import ExportedLaw, read_law
from sciml_discover.exports.python import to_python
from sciml_discover.result import DiscoveryResult

EXPORTERS: dict[str, Callable[[ExportedLaw], str]] = {
    "python": to_python,
    "julia": to_julia,
    "c": to_c,
    "latex": to_latex,
    "json": to_json,
}
"""What a law can be exported to."""


def export_law(result: DiscoveryResult, to: str, number: int = 0) -> str:
    """Return a law of a run as text.

    Args:
        result: a finished run.
        to: a key of `EXPORTERS`. Numbers have their full precision, in LaTeX as many digits as their errors allow.
        number: 0 for the choice, 1 and up for its alternatives in their order.

    Raises:
        InputError: if there is no such language or law, or the law cannot be read safely.
    """
    if to not in EXPORTERS:
        raise InputError(
            f"the language {to!r}",
            where="export",
            expected=f"one of {', '.join(EXPORTERS)}",
            do=did_you_mean(to, EXPORTERS),
        )
    return EXPORTERS[to](read_law(result, number))
