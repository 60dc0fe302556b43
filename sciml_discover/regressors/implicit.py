"""Rational laws from an implicit regression."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, count, islice, product
from math import comb
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pydantic

from sciml_discover.base import Count, lazy_import
from sciml_discover.expressions import symbol, to_text
from sciml_discover.library import InnerParameter, LibraryOptions, LibraryTerm, build_library
from sciml_discover.regressors.abstract import AbstractRegressor, Regression
from sciml_discover.regressors.bagging import FLOOR, PER_VALUE
from sciml_discover.regressors.thresholding import Problems, threshold, threshold_path
from sciml_discover.residual_samples import HoleSamples

if TYPE_CHECKING:
    import sympy
else:
    sympy = lazy_import("sympy")

NEAR_POLE = 1e-3
"""A denominator that gets this small against its largest size on the samples is refused."""

NEGLIGIBLE = 1e-3
"""A monomial that contributes less than this, relative to the largest beside it, belongs to no proposal."""

MOST_SHAPES = 1000
"""Larger families of small fractions are left to the thresholds."""

TO_FIT = 12
"""How many fractions are fitted in their own form for each that is proposed."""

REWEIGHTED = 2
"""Linear fits of each fraction, each weighted by the denominator of the one before."""

DIGITS = 2
"""Significant digits of the numbers with which common factors of numerator and denominator are looked for."""


class Implicit(AbstractRegressor):
    """SINDy-PI: sparse numerator and denominator together (Kaheman, Kutz & Brunton 2020, doi:10.1098/rspa.2020.0279).

    A rational law ``v = N(x) / D(x)`` is linear in the coefficients of ``N(x) - v D(x) = 0``. One term of ``D`` is
    brought to the other side to keep out the trivial solution, each in turn, and the rest is thresholded. Small
    fractions are tried as well, all of them: along a trajectory monomials resemble each other, and thresholds then
    miss even two terms. The values ``v`` stand on both sides, which biases the coefficients; so linear fits are
    weighted by the denominator before (Sanathanan & Koerner 1963, doi:10.1109/TAC.1963.1105517), and the best
    fractions fitted to the samples in their own form. This regressor proposes no sets of library terms.
    """

    kind: Literal["implicit"] = "implicit"
    degree: int = pydantic.Field(default=2, ge=1, le=4)
    """Highest total degree of numerator and denominator."""
    thresholds: Count = 25
    """Number of thresholds on the path, from a thousandth of the largest coefficient to all of it."""
    ridges: tuple[pydantic.NonNegativeFloat, ...] = pydantic.Field(default=(1e-6, 1e-3, 1e-1), min_length=1)
    """Strengths of the ridge penalty."""
    largest: int = pydantic.Field(default=4, ge=2, le=8)
    """Most terms of numerator and denominator together."""
    exhaustive: int = pydantic.Field(default=3, ge=0, le=4)
    """Fractions of up to so many terms, above and below together, are all tried."""
    keep: Count = 3
    """How many laws are proposed."""

    def supports(self, regression: Regression) -> list[np.ndarray]:  # noqa: ARG002
        """Return nothing: what this regressor finds is in no library."""
        return []

    def parametric_terms(self, samples: HoleSamples) -> list[LibraryTerm]:
        """Return the rational laws that describe the samples best, the best one first."""
        library = build_library(samples.inputs, LibraryOptions(polynomial_degree=self.degree))
        monomials = library.matrix(samples.points)
        powers = [
            tuple(int(sympy.Poly(term, symbol(name)).degree()) for name in samples.inputs)
            for term in library.expressions
        ]
        thresholded = self._thresholded(monomials, samples, powers)
        every = list(dict.fromkeys([*self._small(powers), *thresholded]))
        starts = sorted(
            (start for shape in every if (start := _linear_fit(shape, samples)) is not None),
            key=lambda fit: fit.criterion,
        )
        fitted = [fit for start in starts[: TO_FIT * self.keep] if (fit := _fit(start)) is not None]
        proposals: dict[str, LibraryTerm] = {}
        for fit in sorted(fitted, key=lambda fit: fit.criterion):
            if len(proposals) == self.keep:
                break
            term = _term(fit, samples.inputs)
            if term is not None:
                proposals.setdefault(term.text, term)
        return list(proposals.values())

    def _small(self, powers: list[tuple[int, ...]]) -> Iterator[_Shape]:
        """Yield all fractions of few terms, as long as there are not too many of them."""
        for size in range(2, self.exhaustive + 1):
            splits = [(above, size - above) for above in range(1, size)]
            if (
                sum(comb(len(powers), above) * comb(len(powers), below) for above, below in splits)
                > MOST_SHAPES
            ):
                return
            for above, below in splits:
                for pair in product(combinations(powers, above), combinations(powers, below)):
                    if (shape := _reduced(*pair)) is not None:
                        yield shape

    def _thresholded(
        self, monomials: np.ndarray, samples: HoleSamples, powers: list[tuple[int, ...]]
    ) -> Iterator[_Shape]:
        """Yield the fractions that thresholding leaves."""
        count = len(powers)
        both = np.hstack([monomials, samples.values[:, None] * monomials])
        scaled = Regression.scaled(both, samples.values, samples.weights).columns
        below = np.arange(count) + count
        targets = scaled[:, below].T
        allowed = np.arange(2 * count) != below[:, None]
        ridges = np.array(self.ridges)
        paths = [
            threshold_path(scaled[:, mask], target, ridges, self.thresholds)
            for mask, target in zip(allowed, targets, strict=True)
        ]
        problems = Problems(scaled, targets, allowed=allowed)
        found = threshold(problems, ridges, np.stack(paths, axis=1), iterations=50)
        found |= ~allowed[:, None]
        for mask in np.unique(found.reshape(-1, 2 * count), axis=0):
            above, under = np.flatnonzero(mask[:count]), np.flatnonzero(mask[count:])
            if len(above) and len(above) + len(under) <= self.largest:
                shape = _reduced([powers[i] for i in above], [powers[i] for i in under])
                if shape is not None:
                    yield shape


@dataclass(frozen=True)
class _Shape:
    """Exponents of the monomials above and below."""

    above: tuple[tuple[int, ...], ...]
    below: tuple[tuple[int, ...], ...]


def _reduced(above: Sequence[tuple[int, ...]], below: Sequence[tuple[int, ...]]) -> _Shape | None:
    """Return a fraction of monomials without their common factor; None if nothing is left below."""
    common = np.min([*above, *below], axis=0)

    def divided(powers: Sequence[tuple[int, ...]]) -> tuple[tuple[int, ...], ...]:
        return tuple(sorted(tuple(np.subtract(one, common).tolist()) for one in powers))

    shape = _Shape(divided(above), divided(below))
    return None if shape.below == ((0,) * len(common),) else shape


class _Fraction:
    """A fraction of polynomials at the samples: ``a . above / (below[0] + b . below[1:])``.

    Unknowns are ``a`` and ``b`` times the norms of their columns; misfits no smaller than the standard deviation of
    the samples (``tolerance``) say little.
    """

    def __init__(self, shape: _Shape, samples: HoleSamples) -> None:
        self.root, self.values = np.sqrt(samples.weights), samples.values
        self.size = float(np.linalg.norm(self.root * self.values))
        # What nothing determines may be anything of the size of the values.
        sd = np.minimum(samples.sd, np.sqrt(np.mean(self.values**2))) * self.root
        self.tolerance = float(np.sum(sd**2)) / self.size**2 + FLOOR if self.size else FLOOR
        self._above, self._below = (
            np.column_stack([np.prod(samples.points ** np.array(one), axis=1) for one in powers])
            for powers in (shape.above, shape.below)
        )
        self._many = len(shape.above)
        self._linear = (
            np.hstack([self._above, -self.values[:, None] * self._below[:, 1:]]) * self.root[:, None]
        )
        self.scale = np.linalg.norm(self._linear, axis=0)
        self.sound = bool(np.isfinite(self.scale).all() and (self.scale > 0).all() and self.size > 0)

    def parts(self, unknowns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return numerator and denominator."""
        numbers = unknowns / self.scale
        below = self._below[:, 0] + self._below[:, 1:] @ numbers[self._many :]
        return self._above @ numbers[: self._many], below

    def residual(self, unknowns: np.ndarray) -> np.ndarray:
        """Return the weighted misfit, relative to the norm of the values."""
        above, below = self.parts(unknowns)
        return (above / below - self.values) * self.root / self.size

    def jacobian(self, unknowns: np.ndarray) -> np.ndarray:
        """Return the derivatives of the residual."""
        above, below = self.parts(unknowns)
        slopes = np.hstack([self._above / below[:, None], -(above / below**2)[:, None] * self._below[:, 1:]])
        return slopes * self.root[:, None] / (self.size * self.scale)

    def solve(self, before: np.ndarray) -> np.ndarray:
        """Return the linear fit, its rows divided by a denominator found before."""
        rows = (self._linear / self.scale) / before[:, None]
        return np.linalg.lstsq(rows, self.values * self._below[:, 0] * self.root / before, rcond=None)[0]

    def contributions(self, unknowns: np.ndarray) -> np.ndarray:
        """Return how much each monomial contributes, relative to the largest above or below."""
        numbers = unknowns / self.scale
        above = np.linalg.norm(self._above, axis=0) * np.abs(numbers[: self._many])
        below = np.linalg.norm(self._below, axis=0) * np.abs(np.append(1.0, numbers[self._many :]))
        return np.append(above / (above.max() or 1.0), below / below.max())


@dataclass(frozen=True)
class _Fit:
    """A fraction with its unknowns, and how good it is."""

    shape: _Shape
    fraction: _Fraction
    unknowns: np.ndarray
    criterion: float

    @classmethod
    def judged(cls, shape: _Shape, fraction: _Fraction, unknowns: np.ndarray) -> _Fit | None:
        """Return a fit with its information criterion; None if its denominator vanishes on the samples."""
        if not np.isfinite(unknowns).all() or _vanishes(fraction.parts(unknowns)[1]):
            return None
        misfit = float(np.sum(fraction.residual(unknowns) ** 2))
        values = len(fraction.values) / PER_VALUE
        criterion = values * np.log(misfit + fraction.tolerance) + len(unknowns) * np.log(max(values, 2.0))
        return cls(shape, fraction, unknowns, float(criterion))


def _linear_fit(shape: _Shape, samples: HoleSamples) -> _Fit | None:
    """Return what reweighted linear fits find, None if they run into a pole."""
    fraction = _Fraction(shape, samples)
    if not fraction.sound:
        return None
    best, below = None, np.ones(len(samples.values))
    for _ in range(REWEIGHTED):
        unknowns = fraction.solve(below)
        fit = _Fit.judged(shape, fraction, unknowns)
        if fit is None:
            break
        best = fit if best is None or fit.criterion < best.criterion else best
        below = fraction.parts(unknowns)[1]
    return best


def _fit(start: _Fit) -> _Fit | None:
    """Return the least-squares fit of a fraction; None if it has a pole on the samples or a term too many."""
    from scipy.optimize import least_squares

    fraction = start.fraction
    jacobian: Any = fraction.jacobian  # scipy's annotations know of names only
    found = least_squares(fraction.residual, start.unknowns, jacobian, method="lm", max_nfev=100)
    if (fraction.contributions(found.x) < NEGLIGIBLE).any():
        return None
    return _Fit.judged(start.shape, fraction, found.x)


def _vanishes(denominator: np.ndarray) -> bool:
    """Return whether a denominator has a zero on the samples, between them, or nearly so."""
    size = np.abs(denominator)
    signs = np.sign(denominator)
    return not bool((signs == signs[0]).all() and size.min() > NEAR_POLE * size.max())


def _term(fit: _Fit, inputs: tuple[str, ...]) -> LibraryTerm | None:
    """Return a fit as a term; None if it is no fraction once common factors are cancelled."""
    split = len(fit.shape.above)
    numbers = fit.unknowns / fit.fraction.scale
    start = np.append(numbers[1:split] / numbers[0], numbers[split:])
    names = tuple(islice((name for i in count(1) if (name := f"k{i}") not in inputs), len(start)))
    symbols = [symbol(name) for name in names]
    above = _polynomial(fit.shape.above, symbols[: split - 1], inputs)
    below = _polynomial(fit.shape.below, symbols[split - 1 :], inputs)
    # Cancelled with few digits, because factors that agree within the error of their numbers are the same.
    rough = {
        one: sympy.Rational(f"{number:.{DIGITS - 1}e}") for one, number in zip(symbols, start, strict=True)
    }
    _, left = sympy.fraction(sympy.cancel((above / below).xreplace(rough)))
    if len(sympy.Poly(left, *map(symbol, inputs)).terms()) < len(fit.shape.below):
        return None
    inner = tuple(InnerParameter(name, float(value)) for name, value in zip(names, start, strict=True))
    return LibraryTerm(to_text(above / below), inner)


def _polynomial(
    powers: tuple[tuple[int, ...], ...], coefficients: list[sympy.Symbol], inputs: tuple[str, ...]
) -> sympy.Expr:
    """Return the sum of monomials, the first with coefficient one."""
    monomials = [
        sympy.Mul(*(symbol(name) ** power for name, power in zip(inputs, one, strict=True))) for one in powers
    ]
    return sympy.Add(
        monomials[0], *(factor * one for factor, one in zip(coefficients, monomials[1:], strict=True))
    )
