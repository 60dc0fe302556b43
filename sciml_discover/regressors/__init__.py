"""Sparse regressors: from samples of a learnt term to supports (sets of library terms)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import numpy as np
import pydantic

from sciml_discover.base import Progress, Watch, nobody_watches
from sciml_discover.constraints import LawOptions, build_libraries
from sciml_discover.regressors.abstract import Regression
from sciml_discover.regressors.best_subset import BestSubset
from sciml_discover.regressors.stlsq import Stlsq
from sciml_discover.threads import single_threaded

if TYPE_CHECKING:
    from sciml_discover.residual_samples import ResidualSamples
    from sciml_discover.system import System

RegressorOptions = Annotated[BestSubset | Stlsq, pydantic.Field(discriminator="kind")]


class RegressOptions(LawOptions):
    """How samples become supports."""

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
        inner: values of the library's inner parameters, shape ``(proposals, n_inner)``.
        residuals: misfit of the samples, relative to their norm, shape ``(proposals,)``.
        sources: which regressor proposed it first.
    """

    hole: str
    inputs: tuple[str, ...]
    terms: tuple[str, ...]
    supports: np.ndarray
    coefficients: np.ndarray
    inner: np.ndarray
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
    libraries = build_libraries(system, options)
    for number, (hole, plain) in enumerate(zip(samples.holes, libraries, strict=True)):
        watch(Progress("regress", hole.hole, number, len(system.missing)))
        library = plain.for_data(hole.points)
        columns = library.columns(hole.points)
        regression = Regression.scaled(columns.matrix, hole.values, hole.weights)
        sources: dict[bytes, tuple[np.ndarray, str]] = {}
        for regressor in options.regressors:
            for support in regressor.supports(regression):
                one_each = columns.one_start_each(
                    support, np.abs(regression.fit(support)[0] / regression.column_norms)
                )
                sources.setdefault(one_each.tobytes(), (one_each, regressor.kind))
        fits = [regression.fit(support) for support, _ in sources.values()]
        proposals.append(
            HoleSupports(
                hole=hole.hole,
                inputs=hole.inputs,
                terms=library.texts,
                supports=np.array(
                    [columns.of_terms(support) for support, _ in sources.values()], dtype=float
                ),
                coefficients=np.array([columns.of_terms(coefficients) for coefficients, _ in fits]),
                inner=np.array([columns.inner(support) for support, _ in sources.values()]),
                residuals=np.array([residual for _, residual in fits]),
                sources=tuple(source for _, source in sources.values()),
            )
        )
    return Supports(tuple(proposals))
