"""Sparse regressors: from samples of a learnt term to supports (sets of library terms)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

import numpy as np
import pydantic

from sciml_discover.base import Options, Progress, Watch, nobody_watches
from sciml_discover.library import LibraryOptions, build_library
from sciml_discover.regressors.abstract import ParametricTerm, Regression
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
    from sciml_discover.residual_samples import ResidualSamples
    from sciml_discover.system import System

RegressorOptions = Annotated[
    Stlsq | Sr3 | Ssr | Frols | Lasso | BestSubset | Bagging | Implicit, pydantic.Field(discriminator="kind")
]


class RegressOptions(Options):
    """How samples become supports."""

    library: LibraryOptions = LibraryOptions()
    """Candidate terms of every hole."""
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
        inclusion: how often bagging chose each term, shape ``(terms,)``; empty without bagging.
        parametric: terms with parameters inside that could stand in the hole alone.
    """

    hole: str
    inputs: tuple[str, ...]
    terms: tuple[str, ...]
    supports: np.ndarray
    coefficients: np.ndarray
    residuals: np.ndarray
    sources: tuple[str, ...]
    inclusion: np.ndarray = field(default_factory=lambda: np.empty(0))
    parametric: tuple[ParametricTerm, ...] = ()


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
    for number, hole in enumerate(samples.holes):
        watch(Progress("regress", hole.hole, number, len(system.missing)))
        library = build_library(hole.inputs, options.library)
        regression = Regression.scaled(library.matrix(hole.points), hole.values, hole.weights, hole.sd, seed)
        sources: dict[bytes, tuple[np.ndarray, str]] = {}
        parametric: dict[str, ParametricTerm] = {}
        inclusion = np.empty(0)
        for regressor in options.regressors:
            for support in regressor.supports(regression):
                sources.setdefault(support.tobytes(), (support, regressor.kind))
            for term in regressor.parametric_terms(hole):
                parametric.setdefault(term.text, term)
            if isinstance(regressor, Bagging):
                inclusion = regressor.inclusion(regression)
        fits = [regression.fit(support) for support, _ in sources.values()]
        shape = (len(sources), len(library))
        proposals.append(
            HoleSupports(
                hole=hole.hole,
                inputs=hole.inputs,
                terms=library.texts,
                supports=np.array([support for support, _ in sources.values()], dtype=float).reshape(shape),
                coefficients=np.array([coefficients for coefficients, _ in fits]).reshape(shape),
                residuals=np.array([residual for _, residual in fits]),
                sources=tuple(source for _, source in sources.values()),
                inclusion=inclusion,
                parametric=tuple(parametric.values()),
            )
        )
    return Supports(tuple(proposals))
