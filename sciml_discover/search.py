"""Search over supports through the ODE: candidate laws, and their refit to the data in one batch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from sciml_discover.base import Progress, Watch, lazy_import
from sciml_discover.library import Library
from sciml_discover.masked_libraries import MaskedLibraries
from sciml_discover.objectives import MultipleShooting
from sciml_discover.objectives.abstract import AbstractObjective
from sciml_discover.objectives.multiple_shooting import ConstrainedShooting, ShootingObjective
from sciml_discover.objectives.problem import FitState, Rows
from sciml_discover.optimizers import GaussNewton
from sciml_discover.optimizers.abstract import AbstractState
from sciml_discover.optimizers.driver import Report, minimise_round
from sciml_discover.optimizers.gauss_newton import LARGEST_DEFECT
from sciml_discover.regressors import Supports
from sciml_discover.ude import UDE

if TYPE_CHECKING:
    import torch

    from sciml_discover.system import System
else:
    torch = lazy_import("torch")

FIRST_ITERATIONS, SEARCH_ITERATIONS, LAST_ITERATIONS = 12, 20, 40


@dataclass(frozen=True)
class Candidates:
    """Candidate laws: one support and one start of the coefficients per hole.

    Attributes:
        supports: per hole, shape ``(B, terms)``.
        coefficients: per hole, same shape.
        sources: who proposed each.
    """

    supports: list[np.ndarray]
    coefficients: list[np.ndarray]
    sources: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.sources)

    @property
    def complexity(self) -> np.ndarray:
        """Number of terms over all holes, shape ``(B,)``."""
        return np.sum([support.sum(axis=1) for support in self.supports], axis=0).astype(int)

    def take(self, index: np.ndarray) -> Candidates:
        """Return the chosen candidates."""
        return Candidates(
            [support[index] for support in self.supports],
            [coefficients[index] for coefficients in self.coefficients],
            tuple(self.sources[i] for i in index),
        )


def combine(supports: Supports, redundant: list[np.ndarray], most_terms: int, limit: int) -> Candidates:
    """Return the combinations of the holes' proposals, the most promising ``limit`` of them.

    Promising is a small sum, over the holes, of the misfit to the samples and of the number of terms in units of a
    hundredth of the samples' norm: crude on purpose, because the ODE decides afterwards.

    Args:
        supports: proposals per hole.
        redundant: per hole, terms that a free parameter carries already; they are taken out of every proposal.
        most_terms: longest proposal of a hole; if all are longer, its shortest.
        limit: most candidates.
    """
    proposals = []
    for hole, mask in zip(supports.holes, redundant, strict=True):
        kept: dict[bytes, tuple[np.ndarray, np.ndarray, float, str]] = {}
        cleaned = hole.supports * ~mask
        longest = max(most_terms, int(cleaned.sum(axis=1).min()))
        for row in np.flatnonzero(cleaned.sum(axis=1) <= longest):
            support = cleaned[row]
            score = np.log(hole.residuals[row] + 0.01) + 0.1 * support.sum()
            kept.setdefault(
                support.tobytes(), (support, hole.coefficients[row] * support, score, hole.sources[row])
            )
        proposals.append(list(kept.values()))
    combined = sorted(product(*proposals), key=lambda choice: sum(part[2] for part in choice))[:limit]
    return Candidates(
        supports=[np.array([choice[hole][0] for choice in combined]) for hole in range(len(proposals))],
        coefficients=[np.array([choice[hole][1] for choice in combined]) for hole in range(len(proposals))],
        sources=tuple("+".join(dict.fromkeys(part[3] for part in choice)) for choice in combined),
    )


@dataclass(frozen=True)
class Fits:
    """Where fits of candidate laws stand.

    Attributes:
        candidates: with their fitted coefficients.
        states: states at the rows, shape ``(B, J, L, d)``.
        coordinates: of the free parameters, shape ``(B, n_free)``.
        misfit: squared residuals in units of the law-free noise; infinite where the fit failed, shape
            ``(B, observables)``.
        converged: whether the fit settled, shape ``(B,)``.
    """

    candidates: Candidates
    states: torch.Tensor
    coordinates: torch.Tensor
    misfit: np.ndarray
    converged: np.ndarray

    @property
    def chi_square(self) -> np.ndarray:
        """Squared residuals of all observables together, shape ``(B,)``."""
        return self.misfit.sum(axis=1)

    @classmethod
    def begin(cls, candidates: Candidates, states: torch.Tensor, coordinates: torch.Tensor) -> Fits:
        """Return fits that have not begun, all from the same states ``(J, L, d)`` and coordinates ``(1, n_free)``."""
        batch = len(candidates)
        return cls(
            candidates,
            states.expand(batch, *states.shape),
            coordinates.expand(batch, -1),
            np.full((batch, 1), np.inf),
            np.zeros(batch, dtype=bool),
        )

    def take(self, index: np.ndarray) -> Fits:
        """Return the chosen fits."""
        rows = torch.as_tensor(index, device=self.states.device)
        return Fits(
            self.candidates.take(index),
            self.states[rows],
            self.coordinates[rows],
            self.misfit[index],
            self.converged[index],
        )

    @classmethod
    def join(cls, groups: list[Fits]) -> Fits:
        """Return the fits of several groups as one."""
        holes = range(len(groups[0].candidates.supports))
        return cls(
            Candidates(
                [np.concatenate([group.candidates.supports[hole] for group in groups]) for hole in holes],
                [np.concatenate([group.candidates.coefficients[hole] for group in groups]) for hole in holes],
                tuple(source for group in groups for source in group.candidates.sources),
            ),
            torch.cat([group.states for group in groups]),
            torch.cat([group.coordinates for group in groups]),
            np.concatenate([group.misfit for group in groups]),
            np.concatenate([group.converged for group in groups]),
        )


class Refitter:
    """Refits candidate laws: coefficients, physical parameters and initial states together.

    Args:
        system: the known physics with its holes.
        libraries: one per hole.
        rows: the training rows, weighted by the law-free noise.
        steps: Runge-Kutta steps per interval.
        noise_factor: per observable, the noise sd to weigh by, relative to the law-free one.
    """

    def __init__(
        self,
        system: System,
        libraries: list[Library],
        rows: Rows,
        steps: int,
        noise_factor: np.ndarray | None = None,
    ) -> None:
        self._system, self._libraries, self._steps = system, libraries, steps
        factor = np.ones(rows.n_observables) if noise_factor is None else noise_factor
        self._factor = torch.as_tensor(factor, device=rows.times.device)
        self._rows = replace(rows, weights=rows.weights / self._factor)

    def bound(self, start: Fits, watch: Watch) -> Fits:
        """Return a first fit, whose misfit is a lower bound of the true one.

        Continuity as a weak penalty can only fit better than the continuous trajectory does.
        """
        objective, unknowns = self.problem(start)
        optimizer = GaussNewton(iterations=FIRST_ITERATIONS, tolerance=0.1)
        report = _reporter(watch, "first look", FIRST_ITERATIONS)
        end = minimise_round(optimizer, objective.first_round(optimizer.order), unknowns, report)
        valid = torch.isfinite(end.unknowns).all(1)
        return self._fits(start, objective, end.unknowns, valid, end.converged)

    def refit(self, start: Fits, watch: Watch) -> Fits:
        """Return the candidates fitted as continuous trajectories, from anywhere."""
        return self._refit(start, watch, "refit", skip=0, last=SEARCH_ITERATIONS)

    def polish(self, start: Fits, watch: Watch) -> Fits:
        """Return fits that were continuous already, settled for this refitter's steps and weights."""
        return self._refit(start, watch, "polish", skip=2, last=LAST_ITERATIONS)

    def _refit(self, start: Fits, watch: Watch, name: str, skip: int, last: int) -> Fits:
        """Go through the rounds of growing continuity, without the first few of them."""
        objective, unknowns = self.problem(start)
        settled = torch.zeros(len(start.candidates), dtype=torch.bool, device=unknowns.device)
        rounds, number = objective.rounds_of(GaussNewton.order), 0
        current: AbstractObjective | None = objective.first_round(GaussNewton.order)
        while current is not None:
            if number >= min(skip, rounds - 1):
                optimizer = (
                    GaussNewton(iterations=last)
                    if number == rounds - 1
                    else GaussNewton(iterations=FIRST_ITERATIONS, tolerance=0.1)
                )
                title = f"{name}, round {number + 1} of {rounds}"
                end = minimise_round(
                    optimizer, current, unknowns, _reporter(watch, title, optimizer.iterations)
                )
                unknowns, settled = end.unknowns, end.converged
            current, number = current.next_round(unknowns), number + 1
        linearized = objective.linearize(unknowns)
        if not isinstance(linearized, ConstrainedShooting):
            raise TypeError(f"got {type(linearized).__name__}, expected a constrained linearization")
        met = linearized.worst_defect <= LARGEST_DEFECT
        return self._fits(start, objective, unknowns, met, settled & met)

    def problem(self, fits: Fits) -> tuple[ShootingObjective, torch.Tensor]:
        """Return the shooting problem of a batch of fits, and its unknowns where they stand."""
        candidates = fits.candidates
        filling = MaskedLibraries(
            self._libraries, self._system.hole_inputs, candidates.supports, fits.states.device
        )
        ude = UDE(self._system, filling, fits.states.device)
        theta = torch.cat([fits.coordinates, filling.pack(candidates.coefficients)], dim=1)
        objective = MultipleShooting(segment_length=1).build(ude, self._rows, self._steps)
        return objective, objective.start(FitState(fits.states, theta))

    def _fits(
        self,
        start: Fits,
        objective: ShootingObjective,
        unknowns: torch.Tensor,
        valid: torch.Tensor,
        converged: torch.Tensor,
    ) -> Fits:
        state = objective.finish_nodes(unknowns)
        ude = objective.ude
        if not isinstance(ude.filling, MaskedLibraries):
            raise TypeError(f"got {type(ude.filling).__name__}, expected masked libraries")
        coordinates, weights = ude.split(state.theta)
        fitted, _ = ude.filling.unpack(weights)
        squares = (self._rows.residual(state.states) * self._factor).square().sum((1, 2))
        misfit = torch.where(valid[:, None] & torch.isfinite(squares), squares, torch.inf)
        return Fits(
            Candidates(start.candidates.supports, fitted, start.candidates.sources),
            state.states,
            coordinates,
            misfit.cpu().numpy(),
            converged.cpu().numpy(),
        )


def _reporter(watch: Watch, message: str, total: int) -> Report:
    def report(state: AbstractState) -> None:
        value = float(state.value.min())
        watch(Progress("select", message, int(state.iteration), total, value))

    return report
