"""Closed-form laws with their uncertainty, built from a refit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from sciml_discover.base import lazy_import
from sciml_discover.expressions import to_text
from sciml_discover.library import Library
from sciml_discover.masked_libraries import MaskedLibraries
from sciml_discover.objectives.multiple_shooting import ShootingObjective
from sciml_discover.refit import Fits
from sciml_discover.simplify import equations_with_numbers, round_to_error, snap

if TYPE_CHECKING:
    import sympy
    import torch

    from sciml_discover.system import System
else:
    sympy = lazy_import("sympy")
    torch = lazy_import("torch")

NORMAL95 = 1.959963984540054
"""Half-width of the 95 % interval of a normal distribution, in standard deviations."""


@dataclass(frozen=True)
class Estimate:
    """A number with its uncertainty, conditional on the structure of the law.

    ``stderr`` and ``interval95`` are None where the data do not determine the number.
    """

    value: float
    stderr: float | None
    interval95: tuple[float, float] | None


@dataclass(frozen=True)
class LawTerm:
    """One term of a missing term: ``coefficient * term``.

    Attributes:
        term: as text, in the hole's inputs and the inner parameters.
        coefficient: that multiplies it.
        snapped: a simple number (integer or small fraction) that the data cannot tell from the coefficient.
        inner: the parameters inside the term, by name.
        inclusion: probability that a law has the term, over all laws that were refitted, each weighing as much as its
            criterion says; None where nobody asked.
    """

    term: str
    coefficient: Estimate
    snapped: str | None
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
        source: who proposed it, such as ``"stlsq"``.
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
                where there is none; from the standard errors unless given.
        """
        ude, system = self._objective.ude, self._system
        supports = [support[row] for support in fits.candidates.supports]
        complexity = int(sum(support.sum() for support in supports))
        n_observed, n_parameters = self._objective.rows.n_observed, self._n_parameters(fits, row)
        chi_square = float((fits.misfit[row] * self._units).sum())

        variance, width = self.scale(fits, row)
        joint = self._joint_covariance(fits, row, covariance) * variance
        certainty = _Certainty(np.diag(joint), width, intervals)
        physical = ude.parameters.physical(fits.coordinates[row : row + 1])[0].tolist()
        values = dict(zip(system.parameter_names, physical, strict=True))
        free = [parameter.name for parameter in system.free_parameters]
        parameters = {}
        for parameter in system.parameters:
            known = parameter.name not in free
            value = values[parameter.name]
            estimate = (
                Estimate(value, 0.0, (value, value))
                if known
                else certainty.of(value, free.index(parameter.name))
            )
            parameters[parameter.name] = LawParameter(
                estimate=estimate,
                unit=parameter.unit,
                fixed=parameter.fixed,
                identifiable=estimate.stderr is not None,
            )

        missing, exact, rounded = {}, {}, {}
        position = len(free)
        for number, hole in enumerate(system.missing):
            terms, numbers, position = self._terms(fits, row, number, certainty, position)
            missing[hole.name] = terms
            exact[hole.name] = self._combination(
                number, numbers, [[_exact(e) for e in own] for own in _numbers(terms)]
            )
            rounded[hole.name] = self._combination(
                number, numbers, [[_shown(e) for e in own] for own in _numbers(terms)]
            )
        shown_values = {
            name: value if item.fixed else round_to_error(value, item.estimate.stderr)
            for (name, value), item in zip(values.items(), parameters.values(), strict=True)
        }
        equations_full = equations_with_numbers(system, exact, values)
        equations = equations_with_numbers(system, rounded, shown_values)
        return Law(
            missing=missing,
            expressions={name: to_text(expression) for name, expression in rounded.items()},
            equations={name: to_text(expression) for name, expression in equations.items()},
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

    def _terms(
        self, fits: Fits, row: int, number: int, certainty: _Certainty, position: int
    ) -> tuple[tuple[LawTerm, ...], list[int], int]:
        """Return the terms of one hole, their positions in its library, and where the next numbers stand."""
        library, candidates = self._libraries[number], fits.candidates
        chosen = np.flatnonzero(candidates.supports[number][row]).tolist()
        owners = [term for term in library.owner.tolist() if term in chosen]
        values = candidates.inner[number][row][np.isin(library.owner, chosen)].tolist()
        inner: dict[int, dict[str, Estimate]] = {term: {} for term in chosen}
        for place, (term, value) in enumerate(zip(owners, values, strict=True)):
            name = library.terms[term].inner[len(inner[term])].name
            inner[term][name] = certainty.of(value, position + len(chosen) + place)
        terms = []
        for place, term in enumerate(chosen):
            coefficient = certainty.of(float(candidates.coefficients[number][row][term]), position + place)
            snapped = snap(coefficient.value, coefficient.stderr)
            terms.append(LawTerm(library.texts[term], coefficient, snapped, inner[term]))
        return tuple(terms), chosen, position + len(chosen) + len(owners)

    def _combination(
        self, number: int, terms: Sequence[int], values: Sequence[Sequence[float]]
    ) -> sympy.Expr:
        """Return a sum of library terms; of each, the coefficient and then its inner parameters."""
        library = self._libraries[number]
        return sympy.Add(
            *(
                sympy.Float(own[0]) * library.with_numbers(term, own[1:])
                for term, own in zip(terms, values, strict=True)
            )
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


def _numbers(terms: Sequence[LawTerm]) -> list[list[Estimate]]:
    """Return the coefficient and the inner parameters of each term."""
    return [[term.coefficient, *term.inner.values()] for term in terms]


def _exact(estimate: Estimate) -> float:
    return estimate.value


def _shown(estimate: Estimate) -> float:
    return round_to_error(estimate.value, estimate.stderr)


@dataclass(frozen=True)
class _Certainty:
    """How sure the numbers of a law are.

    Attributes:
        variances: of all of them.
        width: half of a 95 % interval, in standard deviations.
        intervals: found by other means, shape ``(numbers, 2)``, NaN where there is none.
    """

    variances: np.ndarray
    width: float
    intervals: np.ndarray | None

    def of(self, value: float, position: int) -> Estimate:
        """Return a number with its error; without one where its variance is not finite."""
        variance = float(self.variances[position])
        if not np.isfinite(variance) or variance < 0.0:
            return Estimate(value, None, None)
        stderr = float(np.sqrt(variance))
        if self.intervals is None:
            return Estimate(value, stderr, (value - self.width * stderr, value + self.width * stderr))
        low, high = (float(end) for end in self.intervals[position])
        # An end that was not found is open: an interval from the curvature would hide that.
        return Estimate(value, stderr, (low, high) if np.isfinite([low, high]).all() else None)
