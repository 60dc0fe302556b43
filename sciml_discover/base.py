"""Ground that every module stands on: frozen options, progress events, lazy imports.

The library prints nothing and holds no global state. Whoever wants to watch long work passes a
``watch`` callback and receives `Progress` events.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, get_args

import pydantic

# Experiment files come from strangers: every whole number in them has an upper bound.
Count = Annotated[int, pydantic.Field(ge=1, le=10_000)]
"""How many of something are made, tried or kept."""
Iterations = Annotated[int, pydantic.Field(ge=1, le=1_000_000)]
"""How often a step is made."""
RowCount = Annotated[int, pydantic.Field(ge=1, le=1_000_000)]
"""A length in rows of the data."""
Seed = Annotated[int, pydantic.Field(ge=0, lt=2**63)]
"""The seed of a generator of random numbers."""


class Options(pydantic.BaseModel):
    """Base of everything that an experiment file can say.

    Frozen, so that a run cannot be edited half-way and options can be hashed; unknown keys are
    refused; the string under a field is its description. Strategies (objectives, optimizers,
    regressors) *are* their options: the fields configure, the methods act.
    """

    model_config = pydantic.ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        allow_inf_nan=False,
        protected_namespaces=(),
        # In a form each field is called as in the file, also where its type has a title of its own.
        field_title_generator=lambda name, field: field.alias or name,
    )

    def model_post_init(self, _context: Any, /) -> None:
        """Count ``kind`` as given, so that it is written: nothing else tells strategies apart in a file."""
        kind = type(self).model_fields.get("kind")
        if kind is not None and len(get_args(kind.annotation)) == 1:
            self.model_fields_set.add("kind")

    def says(self, name: str) -> bool:
        """Return whether a field was given anything but its default, which a form fills in."""
        return bool(
            getattr(self, name) != type(self).model_fields[name].get_default(call_default_factory=True)
        )


@dataclass(frozen=True)
class Progress:
    """One event of long-running work.

    Attributes:
        stage: name of the pipeline stage, such as ``"train"``.
        message: what is being done, in words a person reads.
        step: how many units are done.
        total: how many units there are; 0 when it is not known.
        value: the figure worth watching (a loss, a criterion), if there is one.
    """

    stage: str
    message: str
    step: int = 0
    total: int = 0
    value: float | None = None


Watch = Callable[[Progress], None]


def nobody_watches(_: Progress) -> None:
    """Drop a progress event: the default of every ``watch`` argument."""


def lazy_import(name: str) -> Any:
    """Return module ``name``, imported at its first attribute access.

    torch takes seconds to import and sympy most of one; reading an experiment file, or running a
    pipeline whose every stage is in the cache, needs neither. What is returned does not stand in
    ``sys.modules``: pydantic reads the descriptions of fields with ``inspect``, which touches every
    module that stands there and so would import it after all.

    Raises:
        ModuleNotFoundError: at once, if no such module is installed.
    """
    if name in sys.modules:
        return sys.modules[name]
    if importlib.util.find_spec(name) is None:
        raise ModuleNotFoundError(f"no module named {name!r}", name=name)
    return _LazyModule(name)


class _LazyModule:
    """Stands for a module until one of its attributes is wanted."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        value = getattr(importlib.import_module(self._name), attribute)
        setattr(self, attribute, value)  # found without this detour the next time
        return value
