"""Sparse regressors: from samples of a learnt term to supports (sets of library terms)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import numpy as np
import pydantic

from sciml_discover.base import Options, Progress, Watch, nobody_watches
from sciml_discover.library import LibraryOptions, build_library
from sciml_discover.regressors.abstract import Regression
from sciml_discover.regressors.best_subset import BestSubset
from sciml_discover.regressors.stlsq import Stlsq
from sciml_discover.threads import single_threaded

if TYPE_CHECKING:
    from sciml_discover.residual_samples import ResidualSamples
    from sciml_discover.system import System

RegressorOptions = Annotated[BestSubset | Stlsq, pydantic.Field(discriminator="kind")]


class RegressOptions(Options):
    """How samples become supports."""

    library: LibraryOptions = LibraryOptions()
    """Candidate terms of every hole."""
    regressors: tuple[RegressorOptions, ...] = pydantic.Field(default=(Stlsq(), BestSubset()), min_length=1)
    """Every one of them proposes supports."""


@dataclass(frozen=True)
class HoleSupports:
    """Supports that the regressors propose for one missing term.

    Attributes:
        hole: the name of the missing term.
        inputs: names of its inputs.
        terms: the library, as text.
        supports: one row per proposal, 1 where the term is in, shape ``(proposals, terms)``.
        coefficients: fitted to the samples, zero outside the support, same shape.
        residuals: misfit of the samples, relative to their norm, shape ``(proposals,)``.
        sources: which regressor proposed it first.
    """

    hole: str
    inputs: tuple[str, ...]
    terms: tuple[str, ...]
    supports: np.ndarray
    coefficients: np.ndarray
    residuals: np.ndarray
    sources: tuple[str, ...]


@dataclass(frozen=True)
class Supports:
    """Proposals for every missing term, in the order of the system's holes."""

    holes: tuple[HoleSupports, ...]


@single_threaded
def regress(
    system: System,
    samples: ResidualSamples,
    options: RegressOptions,
    *,
    watch: Watch = nobody_watches,
) -> Supports:
    """Propose supports for every missing term: what each regressor finds in the samples, without doubles.

    Args:
        system: the known physics with its holes.
        samples: what the network learnt.
        options: library and regressors.
        watch: called once per hole.
    """
    proposals = []
    for number, hole in enumerate(samples.holes):
        watch(Progress("regress", hole.hole, number, len(system.missing)))
        library = build_library(hole.inputs, options.library)
        regression = Regression.scaled(library.matrix(hole.points), hole.values, hole.weights)
        sources: dict[bytes, tuple[np.ndarray, str]] = {}
        for regressor in options.regressors:
            for support in regressor.supports(regression):
                sources.setdefault(support.tobytes(), (support, regressor.kind))
        fits = [regression.fit(support) for support, _ in sources.values()]
        proposals.append(
            HoleSupports(
                hole=hole.hole,
                inputs=hole.inputs,
                terms=library.texts,
                supports=np.array([support for support, _ in sources.values()], dtype=float),
                coefficients=np.array([coefficients for coefficients, _ in fits]),
                residuals=np.array([residual for _, residual in fits]),
                sources=tuple(source for _, source in sources.values()),
            )
        )
    return Supports(tuple(proposals))
