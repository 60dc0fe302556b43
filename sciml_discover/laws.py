"""Closed-form laws with their uncertainty, built from a refit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from sciml_discover.base import lazy_import
from sciml_discover.digits import round_together, snap_together
from sciml_discover.expressions import to_text
from sciml_discover.library import Library
from sciml_discover.masked_libraries import MaskedLibraries
from sciml_discover.objectives.multiple_shooting import ShootingObjective
from sciml_discover.refit import Fits
from sciml_discover.simplify import equations_with_numbers, tidied

if TYPE_CHECKING:
    import sympy
    import torch

    from sciml_discover.system import System
else:
    sympy = lazy_import("sympy")
    torch = lazy_import("torch")

T = TypeVar("T")

NORMAL95 = 1.959963984540054
"""Half-width of the 95 % interval of a normal distribution, in standard deviations."""


@dataclass(frozen=True)
class Estimate:
    """A number with its uncertainty, conditional on the structure of the law.

    Attributes:
        value: full precision.
        stderr: standard error; None where the data do not determine the number.
        interval95: 95 % interval, infinite at an end that was not found; None where neither was.
        snapped: a simple number (integer or small fraction) that the data cannot tell from it.
    """

    value: float
    stderr: float | None
    interval95: tuple[float, float] | None
    snapped: str | None = None


@dataclass(frozen=True)
class LawTerm:
    """One term of a missing term: ``coefficient * term``.

    Attributes:
        term: as text, in the hole's inputs and the inner parameters.
        coefficient: that multiplies it.
        inner: the parameters inside the term, by name.
        inclusion: probability that a law has the term, over all laws that were refitted, each weighing as much as its
            criterion says; None where there is but this law.
    """

    term: str
    coefficient: Estimate
    inner: dict[str, Estimate]
    inclusion: float | None = None


@dataclass(frozen=True)
class LawParameter:
    """A physical parameter as refitted with the law."""

    estimate: Estimate
    unit: str | None
    fixed: bool
    identifiable: bool


@dataclass(frozen=True)
class Law:
    """A closed-form law: what stands in each hole, and everything refitted with it.

    Attributes:
        missing: terms per hole.
        expressions: what stands in each hole as text, digits following the errors.
        equations: the whole right-hand side of each state as text, digits following the errors.
        expressions_full: as ``expressions``, every number in full precision.
        equations_full: as ``equations``, every number in full precision.
        parameters: the physical parameters of the system.
        initial_states: shape ``(trajectories, states)``.
        chi_square: of the re-solved trajectory on training rows, against the law-free noise.
        criterion: extended Bayesian information criterion; smaller is better.
        delta: criterion minus the best law's.
        n_parameters: free numbers of the fit, unknown initial states included.
        complexity: number of terms over all holes.
        covariance: of the free parameters, then hole by hole all coefficients and all inner parameters, then the
            initial states trajectory by trajectory; infinite variances where the data say nothing. Conditional on the
            structure.
        source: who proposed it: regressors, as in ``"frols+bagging"``, or a part of the search.
        status: ``"converged"``, or why the refit stopped.
    """

    missing: dict[str, tuple[LawTerm, ...]]
    expressions: dict[str, str]
    equations: dict[str, str]
    expressions_full: dict[str, str]
    equations_full: dict[str, str]
    parameters: dict[str, LawParameter]
    initial_states: np.ndarray
    chi_square: float
    n_observed: int
    n_parameters: int
    criterion: float
    delta: float
    complexity: int
    covariance: np.ndarray
    source: str
    status: str


class LawBuilder:
    """Turns refits into laws: numbers with errors, expressions, equations.

    Args:
        system: the known physics with its holes.
        libraries: one per hole.
        objective: the shooting problem of the batch of fits.
        estimated: whether the noise sd is estimated; errors then scale with the misfit.
        n_common: free numbers that every law has.
        noise_factor: per observable, the noise sd that the fits are weighed by, relative to the law-free one.
        units: per observable, those of the misfit in the noise that chi-square refers to, squared.
    """

    def __init__(
        self,
        system: System,
        libraries: Sequence[Library],
        objective: ShootingObjective,
        estimated: bool,
        n_common: int,
        noise_factor: np.ndarray | float = 1.0,
        units: np.ndarray | float = 1.0,
    ) -> None:
        self._system, self._libraries = system, libraries
        self._objective, self._estimated, self._n_common = objective, estimated, n_common
        self._noise_factor, self._units = noise_factor, units

    def scale(self, fits: Fits, row: int) -> tuple[float, float]:
        """Return the variance of the noise relative to the weights of a fit, and half the width of a 95 % interval.

        Both are told for noise that is told: one, and the normal quantile. An estimated noise is estimated once more
        from the law's own residuals, and the quantile is Student's. The width is in standard deviations.
        """
        freedom = self._objective.rows.n_observed - self._n_parameters(fits, row)
        if not self._estimated or freedom <= 0:
            return 1.0, NORMAL95
        from scipy import stats

        variance = float((fits.misfit[row] / self._noise_factor**2).sum()) / freedom
        return variance, float(stats.t.ppf(0.975, freedom))

    def _n_parameters(self, fits: Fits, row: int) -> int:
        one = fits.candidates.take(np.array([row]))
        return self._n_common + int(one.complexity[0] + one.n_inner(self._libraries)[0])

    def law(
        self,
        fits: Fits,
        row: int,
        covariance: np.ndarray,
        criterion: float,
        delta: float,
        intervals: np.ndarray | None = None,
    ) -> Law:
        """Return the law of one member of a batch of fits.

        Args:
            fits: the batch.
            row: which member.
            covariance: of its ``theta`` and initial states, for noise as told or estimated without the law.
            criterion: its criterion.
            delta: that minus the best law's.
            intervals: 95 % intervals of the free parameters and of each hole's numbers, shape ``(numbers, 2)``, NaN
                for an end that was not found; from the standard errors unless given.
        """
        ude, system = self._objective.ude, self._system
        supports = [support[row] for support in fits.candidates.supports]
        complexity = int(sum(support.sum() for support in supports))
        n_observed, n_parameters = self._objective.rows.n_observed, self._n_parameters(fits, row)
        chi_square = float((fits.misfit[row] * self._units).sum())

        variance, width = self.scale(fits, row)
        joint = self._joint_covariance(fits, row, covariance) * variance
        physical = ude.parameters.physical(fits.coordinates[row : row + 1])[0].tolist()
        values = dict(zip(system.parameter_names, physical, strict=True))
        free = [parameter.name for parameter in system.free_parameters]
        structure = [self._structure(fits, row, number) for number in range(len(system.missing))]
        numbers = [
            *(values[name] for name in free),
            *(value for part in structure for value in (*part.coefficients, *part.inner)),
        ]
        known = joint[: len(numbers), : len(numbers)]
        estimates = _estimates(numbers, known, width, intervals)
        shown = round_together(numbers, [estimate.stderr for estimate in estimates], known)

        parameters = {}
        for parameter in system.parameters:
            value = values[parameter.name]
            estimate = (
                estimates[free.index(parameter.name)]
                if parameter.name in free
                else Estimate(value, 0.0, (value, value))
            )
            parameters[parameter.name] = LawParameter(
                estimate=estimate,
                unit=parameter.unit,
                fixed=parameter.fixed,
                identifiable=estimate.stderr is not None,
            )
        missing, exact, rounded = {}, {}, {}
        position = len(free)
        for hole, part in zip(system.missing, structure, strict=True):
            own = slice(position, position + len(part))
            missing[hole.name] = part.terms(estimates[own])
            exact[hole.name] = part.expression(numbers[own])
            rounded[hole.name] = tidied(part.expression(shown[own]))
            position += len(part)
        shown_values = values | dict(zip(free, shown, strict=False))
        equations_full = equations_with_numbers(system, exact, values)
        equations = equations_with_numbers(system, rounded, shown_values)
        return Law(
            missing=missing,
            expressions={name: to_text(expression) for name, expression in rounded.items()},
            equations={name: to_text(tidied(expression)) for name, expression in equations.items()},
            expressions_full={name: to_text(expression) for name, expression in exact.items()},
            equations_full={name: to_text(expression) for name, expression in equations_full.items()},
            parameters=parameters,
            initial_states=fits.states[row, :, 0].cpu().numpy().copy(),
            chi_square=chi_square,
            n_observed=n_observed,
            n_parameters=n_parameters,
            criterion=criterion,
            delta=delta,
            complexity=complexity,
            covariance=joint,
            source=fits.candidates.sources[row],
            status="converged"
            if bool(fits.converged[row])
            else "the refit had not settled when its iterations ended",
        )

    def _structure(self, fits: Fits, row: int, number: int) -> _Structure:
        """Return what one hole of a law is made of."""
        library, candidates = self._libraries[number], fits.candidates
        support = candidates.supports[number][row].astype(bool)
        terms = np.flatnonzero(support)
        return _Structure(
            library,
            terms.tolist(),
            candidates.coefficients[number][row][terms].tolist(),
            candidates.inner[number][row][support[library.owner]].tolist(),
        )

    def _joint_covariance(self, fits: Fits, row: int, covariance: np.ndarray) -> np.ndarray:
        """Return the covariance in physical units, without the padding of the supports."""
        ude = self._objective.ude
        if not isinstance(ude.filling, MaskedLibraries):
            raise TypeError(f"got {type(ude.filling).__name__}, expected masked libraries")
        coordinates = ude.filling.pack(fits.candidates.coefficients, fits.candidates.inner)
        slopes = torch.cat(
            [ude.parameters.slope(fits.coordinates), ude.filling.slope_of_coordinates(coordinates)], dim=1
        )
        states = torch.ones(len(covariance) - ude.n_theta, dtype=torch.bool)
        here = torch.ones(ude.n_free, dtype=torch.bool)
        keep = torch.nonzero(torch.cat([here, ude.filling.present[row].cpu(), states])).flatten().numpy()
        scale = np.append(slopes[row].cpu().numpy(), np.ones(len(states)))[keep]
        with np.errstate(invalid="ignore"):
            joint = covariance[np.ix_(keep, keep)] * np.outer(scale, scale)
        joint = np.nan_to_num(joint, nan=0.0, posinf=np.inf, neginf=-np.inf)
        # What has run into a bound would go further: the data do not say where it is.
        stuck = torch.cat(
            [ude.parameters.at_bound(fits.coordinates), ude.filling.at_bound(coordinates)], dim=1
        )
        lost = np.append(stuck[row].cpu().numpy(), np.zeros(len(states), dtype=bool))[keep]
        joint[lost, :] = joint[:, lost] = 0.0
        joint[lost, lost] = np.inf
        return joint


@dataclass(frozen=True)
class _Structure:
    """What one hole of a law is made of.

    Attributes:
        library: of the hole.
        chosen: positions of its terms.
        coefficients: one per term.
        inner: the inner parameters of all terms, one after another.
    """

    library: Library
    chosen: list[int]
    coefficients: list[float]
    inner: list[float]

    def __len__(self) -> int:
        return len(self.coefficients) + len(self.inner)

    def _own(self, numbers: Sequence[T]) -> Iterator[tuple[int, T, list[T]]]:
        """Yield each term with its coefficient and its inner parameters, of numbers in the order of this law's."""
        rest = iter(numbers[len(self.chosen) :])
        for term, coefficient in zip(self.chosen, numbers, strict=False):
            yield term, coefficient, [next(rest) for _ in self.library.terms[term].inner]

    def terms(self, estimates: Sequence[Estimate]) -> tuple[LawTerm, ...]:
        """Return the terms with estimates of all numbers."""
        return tuple(
            LawTerm(
                self.library.texts[term],
                coefficient,
                {item.name: own for item, own in zip(self.library.terms[term].inner, inner, strict=True)},
            )
            for term, coefficient, inner in self._own(estimates)
        )

    def expression(self, numbers: Sequence[float]) -> sympy.Expr:
        """Return the sum of the terms with these numbers."""
        return sympy.Add(
            *(
                sympy.Float(coefficient) * self.library.with_numbers(term, inner)
                for term, coefficient, inner in self._own(numbers)
            )
        )


def _estimates(
    values: Sequence[float], covariance: np.ndarray, width: float, intervals: np.ndarray | None
) -> list[Estimate]:
    """Return numbers with their errors; without one where its variance is not finite.

    Args:
        values: of a law.
        covariance: of them.
        width: half of a 95 % interval, in standard deviations.
        intervals: found by other means, shape ``(numbers, 2)``, NaN for an end that was not found.
    """
    variances = np.diag(covariance)
    stderrs = [float(np.sqrt(own)) if np.isfinite(own) and own >= 0.0 else None for own in variances]
    snapped = snap_together(values, stderrs, covariance)
    estimates = []
    for place, (value, stderr) in enumerate(zip(values, stderrs, strict=True)):
        ends = None
        if stderr is not None and intervals is None:
            ends = (value - width * stderr, value + width * stderr)
        elif stderr is not None and intervals is not None and np.isfinite(intervals[place]).any():
            # An end that was not found is open: one from the curvature would hide that.
            low, high = intervals[place].tolist()
            ends = (low if np.isfinite(low) else -np.inf, high if np.isfinite(high) else np.inf)
        estimates.append(Estimate(value, stderr, ends, snapped[place]))
    return estimates
