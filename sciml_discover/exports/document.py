"""A law as JSON for other programs; ``law.schema.json`` beside this file describes it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from sciml_discover.exports.law import ExportedLaw
from sciml_discover.result import Covariance, InitialState, MissingLaw, ParameterEstimate, Record

SCHEMA_FILE = Path(__file__).with_name("law.schema.json")


class LawDocument(Record):
    """One law, with what is needed to solve it and to say how sure it is."""

    format: Literal["sciml_discover law"] = "sciml_discover law"
    """What this is."""
    version: Literal[1] = 1
    """Version of this document's structure."""
    id: str
    """Name of the run."""
    title: str
    """Title of the experiment."""
    status: str
    """Verdict on the choice of the run: `accepted` or `rejected`."""
    law: int
    """0 for the choice of the run, otherwise the number of the alternative."""
    equations: dict[str, str]
    """Right-hand side per state as text, digits following the errors."""
    equations_full: dict[str, str]
    """Right-hand side per state as text in states, controls and the time `t`, every number in full precision. Operators
    are `+ - * / **`; functions and constants those of the experiment file."""
    known: dict[str, str]
    """Right-hand side per state with the names of parameters and missing terms."""
    controls: tuple[str, ...]
    """Names of the measured inputs that the equations may use."""
    parameters: dict[str, ParameterEstimate]
    """Physical parameters."""
    missing: dict[str, MissingLaw]
    """What was found in each missing term."""
    covariance: Covariance
    """Of the learnt parameters and of the coefficients; empty if the result has none."""
    initial_states: dict[str, InitialState]
    """Initial state per trajectory."""
    units: dict[str, str]
    """Units of states, controls, missing terms and of time as `t`, where known."""
    identifiability: tuple[str, ...]
    """What the data do not determine, as sentences about the choice; empty for an alternative."""


def to_json(law: ExportedLaw) -> str:
    """Return the text of a `LawDocument`."""
    result = law.result
    document = LawDocument(
        **dict(law.record),
        id=result.id,
        title=result.title,
        status=result.status,
        law=law.number,
        known=result.known,
        controls=result.controls,
        units=result.units,
        identifiability=() if law.number else result.identifiability,
    )
    content = document.model_dump(mode="json")
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def law_schema() -> dict[str, Any]:
    """Return the JSON schema of an exported law."""
    schema = LawDocument.model_json_schema(mode="serialization")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def write_law_schema(path: Path = SCHEMA_FILE) -> None:
    """Write the JSON schema of an exported law to ``path``: the file that is shipped, unless told otherwise."""
    path.write_text(json.dumps(law_schema(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
