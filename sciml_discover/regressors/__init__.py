"""Sparse regressors: from samples of a learnt term to supports (sets of library terms)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

import numpy as np
import pydantic

from sciml_discover.base import Progress, Watch, nobody_watches
from sciml_discover.constraints import LawOptions, build_libraries
from sciml_discover.library import Columns, Library, LibraryTerm
from sciml_discover.regressors.abstract import Regression
from sciml_discover.regressors.bagging import Bagging
from sciml_discover.regressors.best_subset import BestSubset
from sciml_discover.regressors.frols import Frols
from sciml_discover.regressors.implicit import Implicit
from sciml_discover.regressors.lasso import Lasso
from sciml_discover.regressors.sr3 import Sr3
from sciml_discover.regressors.ssr import Ssr
from sciml_discover.regressors.stlsq import Stlsq
from sciml_discover.threads import single_threaded

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sciml_discover.residual_samples import HoleSamples, ResidualSamples
    from sciml_discover.system import System

RegressorOptions = Annotated[
    Stlsq | Sr3 | Ssr | Frols | Lasso | BestSubset | Bagging | Implicit, pydantic.Field(discriminator="kind")
]


class RegressOptions(LawOptions):
    """How samples become supports."""

    regressors: tuple[RegressorOptions, ...] = pydantic.Field(
        default=(Frols(), Bagging(), BestSubset()), min_length=1
    )
    """Every one of them proposes supports."""

    @pydantic.field_validator("regressors")
    @classmethod
    def _one_proposes_supports(cls, regressors: tuple[RegressorOptions, ...]) -> tuple[RegressorOptions, ...]:
        if all(isinstance(one, Implicit) for one in regressors):
            raise ValueError(
                "'implicit' proposes no terms of the library: add a regressor that does, as stlsq"
            )
        if sum(isinstance(one, Bagging) for one in regressors) > 1:
            raise ValueError("'bagging' twice: a term has one inclusion probability")
        return regressors

    @pydantic.model_validator(mode="after")
    def _shared_holes_have_one_library(self) -> RegressOptions:
        if self.shared and any(isinstance(one, Implicit) for one in self.regressors):
            raise ValueError("'implicit' adds terms hole by hole: not together with shared holes")
        return self


@dataclass(frozen=True)
class HoleSupports:
    """Supports that the regressors propose for one missing term.

    Attributes:
        hole: the name of the missing term.
        inputs: names of its inputs.
        terms: the library, as text, and then what regressors add to it.
        supports: one row per proposal, 1 where the term is in, shape ``(proposals, terms)``.
        coefficients: fitted to the samples, zero outside the support, same shape.
        inner: values of the library's inner parameters, of added terms too, shape
            ``(proposals, n_inner)``.
        residuals: misfit of the samples, relative to their norm, shape ``(proposals,)``.
        sources: which regressors proposed it, as in ``frols+bagging``.
        inclusion: how often bagging chose each term, shape ``(terms,)``; empty without bagging.
        parametric: terms with parameters inside that regressors add to the library; they are the last of ``terms``.
    """

    hole: str
    inputs: tuple[str, ...]
    terms: tuple[str, ...]
    supports: np.ndarray
    coefficients: np.ndarray
    inner: np.ndarray
    residuals: np.ndarray
    sources: tuple[str, ...]
    inclusion: np.ndarray = field(default_factory=lambda: np.empty(0))
    parametric: tuple[LibraryTerm, ...] = ()


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
    seed: int = 0,
    watch: Watch = nobody_watches,
) -> Supports:
    """Propose supports for every missing term: what each regressor finds in the samples, without doubles.

    Args:
        system: the known physics with its holes.
        samples: what the network learnt.
        options: library and regressors.
        seed: of whatever the regressors draw.
        watch: called once per hole.
    """
    proposals = []
    libraries = build_libraries(system, options)
    for number, (hole, plain) in enumerate(zip(samples.holes, libraries, strict=True)):
        watch(Progress("regress", hole.hole, number, len(system.missing)))
        columns = plain.for_data(hole.series).columns(hole.points)
        regression = Regression.scaled(columns.matrix, hole.values, hole.weights, hole.sd, seed)
        sources: dict[bytes, tuple[np.ndarray, list[str]]] = {}
        parametric: dict[str, LibraryTerm] = {}
        inclusion = np.empty(0)
        for regressor in options.regressors:
            for support in regressor.supports(regression):
                support = columns.one_start_each(support, _sizes(regression, support))
                proposers = sources.setdefault(support.tobytes(), (support, []))[1]
                if regressor.kind not in proposers:
                    proposers.append(regressor.kind)
            for term in regressor.parametric_terms(hole):
                parametric.setdefault(term.text, term)
            if isinstance(regressor, Bagging):
                inclusion = np.minimum(columns.of_terms(regressor.inclusion(regression)), 1.0)
        proposals.append(
            _hole_supports(hole, columns, regression, sources, tuple(parametric.values()), inclusion)
        )
    return Supports(tuple(proposals))


def _sizes(regression: Regression, support: np.ndarray) -> np.ndarray:
    """Return how much each column of a support contributes, shape ``(columns,)``."""
    coefficients = np.abs(regression.fit(support)[0])
    return np.where(
        regression.usable, coefficients * np.where(regression.usable, regression.column_norms, 0.0), 0.0
    )


def _hole_supports(
    hole: HoleSamples,
    columns: Columns,
    regression: Regression,
    sources: Mapping[bytes, tuple[np.ndarray, Sequence[str]]],
    parametric: tuple[LibraryTerm, ...],
    inclusion: np.ndarray,
) -> HoleSupports:
    """Return supports of columns as supports of terms, and every parametric term as a law of its own."""
    fits = [regression.fit(support) for support, _ in sources.values()]
    known, more = len(columns.library), len(parametric)
    starts = np.array([item.start for term in parametric for item in term.inner], dtype=float)
    supports, coefficients, inner, residuals = [], [], [], []
    for (support, _), (fitted, residual) in zip(sources.values(), fits, strict=True):
        supports.append(np.append(columns.of_terms(support), np.zeros(more)))
        coefficients.append(np.append(columns.of_terms(fitted), np.zeros(more)))
        inner.append(np.append(columns.inner(support), starts))
        residuals.append(residual)
    if parametric:
        extra = Library(hole.inputs, parametric)
        matrix = extra.matrix(hole.points, starts)
        for number, column in enumerate(matrix.T):
            [size], residual = Regression.scaled(column[:, None], hole.values, hole.weights).fit(
                np.array([True])
            )
            marks = np.zeros(known + more)
            marks[known + number] = 1.0
            supports.append(marks)
            coefficients.append(size * marks)
            inner.append(np.append(columns.library.starts, starts))
            residuals.append(residual)
    shape = (len(residuals), known + more)
    return HoleSupports(
        hole=hole.hole,
        inputs=hole.inputs,
        terms=(*columns.library.texts, *(term.text for term in parametric)),
        supports=np.array(supports, dtype=float).reshape(shape),
        coefficients=np.array(coefficients, dtype=float).reshape(shape),
        inner=np.array(inner, dtype=float).reshape(len(residuals), len(columns.library.inner) + len(starts)),
        residuals=np.array(residuals),
        sources=(*("+".join(proposers) for _, proposers in sources.values()), *("implicit",) * more),
        inclusion=inclusion,
        parametric=parametric,
    )
