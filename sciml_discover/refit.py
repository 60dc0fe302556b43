"""Candidate laws, and their refit to the data through the ODE in one batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from sciml_discover.base import Progress, Watch, lazy_import
from sciml_discover.holes import AbstractFilling
from sciml_discover.library import Library
from sciml_discover.masked_libraries import MaskedLibraries
from sciml_discover.objectives import MultipleShooting
from sciml_discover.objectives.multiple_shooting import (
    PENALISED_ROUNDS,
    ConstrainedShooting,
    PenalisedShooting,
    ShootingObjective,
)
from sciml_discover.objectives.problem import FitState, Rows
from sciml_discover.optimizers import GaussNewton
from sciml_discover.optimizers.abstract import AbstractState
from sciml_discover.optimizers.driver import Report, minimise_round
from sciml_discover.optimizers.gauss_newton import LARGEST_DEFECT
from sciml_discover.solve import choose_steps
from sciml_discover.ude import UDE, ParameterMap

if TYPE_CHECKING:
    import torch

    from sciml_discover.system import System
else:
    torch = lazy_import("torch")

MOST_NUMBERS = 5_000_000
"""Sensitivities that are held at a time; larger batches are fitted in parts."""

SMALLEST_PART = 48
"""Fewer candidates of one length are fitted together with longer ones."""

BOUND_ITERATIONS, SEARCH_ITERATIONS, LAST_ITERATIONS = 12, 20, 40

LATE_TURNS = 4
"""How often a fit that is still coming down may go on for as many iterations again."""

HOPEFUL = 2.0
"""It goes on if at its pace it would come below this multiple of the lowest one beside it."""


@dataclass(frozen=True)
class Candidates:
    """Candidate laws: one support per hole, and where its numbers start or stand.

    Attributes:
        supports: per hole, which terms are in, shape ``(B, terms)``, boolean.
        coefficients: per hole, same shape.
        inner: per hole, values of the library's inner parameters, shape ``(B, n_inner)``.
        sources: who proposed each.
    """

    supports: tuple[np.ndarray, ...]
    coefficients: tuple[np.ndarray, ...]
    inner: tuple[np.ndarray, ...]
    sources: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.sources)

    @property
    def complexity(self) -> np.ndarray:
        """Number of terms over all holes, shape ``(B,)``."""
        return np.sum([support.sum(axis=1) for support in self.supports], axis=0).astype(int)

    def n_inner(self, libraries: Sequence[Library]) -> np.ndarray:
        """Number of inner parameters over all holes, shape ``(B,)``."""
        return np.sum(
            [
                own[:, library.owner].sum(axis=1)
                for own, library in zip(self.supports, libraries, strict=True)
            ],
            axis=0,
        ).astype(int)

    @property
    def keys(self) -> list[bytes]:
        """What tells candidates apart: their supports."""
        packed = np.packbits(np.concatenate(self.supports, axis=1), axis=1)
        return [row.tobytes() for row in packed]

    def supports_of(self, key: bytes) -> list[np.ndarray]:
        """Return the supports, one per hole, that a key stands for."""
        ends = np.cumsum([support.shape[1] for support in self.supports])
        together = np.unpackbits(np.frombuffer(key, dtype=np.uint8), count=int(ends[-1])).astype(bool)
        return np.split(together, ends[:-1])

    def take(self, index: np.ndarray) -> Candidates:
        """Return the chosen candidates."""
        return Candidates(
            tuple(support[index] for support in self.supports),
            tuple(coefficients[index] for coefficients in self.coefficients),
            tuple(inner[index] for inner in self.inner),
            tuple(self.sources[i] for i in index),
        )

    @classmethod
    def join(cls, groups: Sequence[Candidates]) -> Candidates:
        """Return the candidates of several groups as one."""
        holes = range(len(groups[0].supports))
        return cls(
            tuple(np.concatenate([group.supports[hole] for group in groups]) for hole in holes),
            tuple(np.concatenate([group.coefficients[hole] for group in groups]) for hole in holes),
            tuple(np.concatenate([group.inner[hole] for group in groups]) for hole in holes),
            tuple(source for group in groups for source in group.sources),
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

    def saved(self) -> dict[str, np.ndarray]:
        """Return everything but the sources, for a checkpoint."""
        named = {
            "states": self.states.cpu().numpy(),
            "coordinates": self.coordinates.cpu().numpy(),
            "misfit": self.misfit,
            "converged": self.converged,
        }
        for name in ("supports", "coefficients", "inner"):
            for hole, values in enumerate(getattr(self.candidates, name)):
                named[f"{name}.{hole}"] = values
        return named

    @classmethod
    def recall(cls, sources: Sequence[str], named: Mapping[str, np.ndarray], holes: int) -> Fits:
        """Return the fits that `saved` gave, on the processor."""

        def of_holes(name: str) -> tuple[np.ndarray, ...]:
            return tuple(named[f"{name}.{hole}"] for hole in range(holes))

        return cls(
            Candidates(of_holes("supports"), of_holes("coefficients"), of_holes("inner"), tuple(sources)),
            torch.as_tensor(named["states"]).clone(),
            torch.as_tensor(named["coordinates"]).clone(),
            named["misfit"],
            named["converged"],
        )

    def put(self, index: np.ndarray, others: Fits) -> Fits:
        """Return these fits with others in the place of some."""
        order = np.arange(len(self.candidates))
        order[index] = len(order) + np.arange(len(index))
        return Fits.join([self, others]).take(order)

    @classmethod
    def join(cls, groups: Sequence[Fits]) -> Fits:
        """Return the fits of several groups as one."""
        return cls(
            Candidates.join([group.candidates for group in groups]),
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
        self.system, self._libraries, self._steps = system, libraries, steps
        self.noise_factor = np.ones(rows.n_observables) if noise_factor is None else noise_factor
        self._law_free, self._rows = rows, rows.weighted(1.0 / self.noise_factor)
        self.rounds = PENALISED_ROUNDS if rows.times.shape[1] > 2 else 0
        """Rounds of growing continuity before it is an equality; a single interval needs none."""

    def bound(self, start: Fits, number: int, watch: Watch) -> Fits:
        """Return fits with continuity as a penalty: their misfit, penalty included, bounds the true one.

        Whatever a continuous trajectory can do, segments that may jump can do too, and pay nothing for it: a lower
        bound, as far as the fit has converged. It rises from one round of growing continuity to the next. Such
        segments may also take a parameter to its bound: from there it is brought back for the next round.

        Args:
            start: where fits begin.
            number: of the round, less than `rounds`.
            watch: called with the progress of every iteration.
        """
        fits = self._in_parts(start, lambda part: self._bound(part, number, watch))
        parameters = ParameterMap(self.system, fits.coordinates.device)
        return replace(fits, coordinates=parameters.brought_back(fits.coordinates))

    def _bound(self, start: Fits, number: int, watch: Watch) -> Fits:
        objective, unknowns = self.problem(start)
        current = self._penalised(objective, unknowns, number)
        label = f"bound {number + 1} of {self.rounds}"
        reached, value, pace, late = _come_down(current, unknowns, _reporter(watch, label, BOUND_ITERATIONS))
        # With parameters inside terms the way down may be long, and what is still on it is no bound.
        late &= torch.as_tensor(start.candidates.n_inner(self._libraries) > 0, device=value.device)
        for left in range(LATE_TURNS, 0, -1):
            hopeful = value * pace ** (2 * left) < HOPEFUL * torch.nan_to_num(value, nan=torch.inf).min()
            chosen = torch.nonzero(late & hopeful).flatten()
            if not len(chosen):
                break
            report = _reporter(watch, f"{label}, late", BOUND_ITERATIONS)
            after = _come_down(current.take(chosen), reached[chosen], report)
            late = torch.zeros_like(late)
            reached, value, pace, late = (
                old.index_copy(0, chosen, new)
                for old, new in zip((reached, value, pace, late), after, strict=True)
            )
        valid = torch.isfinite(reached).all(1) & torch.isfinite(value)
        fits = self._fits(start, objective, reached, valid, torch.zeros_like(late))
        # The penalty is shared by the observables as the misfit is.
        with np.errstate(invalid="ignore"):
            given = self._rows.misfit_of_starts(fits.states)
            paid = (2.0 * value - given).cpu().numpy() / np.maximum(self._weighted(fits), 1e-300)
            raised = fits.misfit * np.fmax(paid, 1.0)[:, None]
        return replace(fits, misfit=np.where(valid.cpu().numpy()[:, None], raised, np.inf))

    def close(self, start: Fits, watch: Watch, iterations: int = SEARCH_ITERATIONS) -> Fits:
        """Return fits as continuous trajectories, from fits that nearly are; infinite misfit where that fails."""
        return self._in_parts(start, lambda part: self._close(part, watch, iterations))

    def close_again(self, closed: Fits, late: np.ndarray, start: Fits, watch: Watch) -> Fits:
        """Return closed fits, those that were late with the time that they need where that makes them better.

        In a curved valley the last iteration may leave segments that do not meet, where they met before.

        Args:
            closed: fits as continuous trajectories.
            late: positions of those that are fitted again.
            start: where all of them begin.
            watch: called with the progress of every iteration.
        """
        again = self.close(start.take(late), watch, LAST_ITERATIONS)
        better = np.flatnonzero(again.chi_square < closed.chi_square[late])
        return closed.put(late[better], again.take(better))

    def _close(self, start: Fits, watch: Watch, iterations: int) -> Fits:
        objective, unknowns = self.problem(start)
        optimizer = GaussNewton(iterations=iterations)
        report = _reporter(watch, "continuous", iterations)
        end = minimise_round(optimizer, objective, unknowns, report)
        linearized = objective.linearize(end.unknowns)
        if not isinstance(linearized, ConstrainedShooting):
            raise TypeError(f"got {type(linearized).__name__}, expected a constrained linearization")
        met = linearized.worst_defect <= LARGEST_DEFECT
        return self._fits(start, objective, end.unknowns, met, end.converged & met)

    def _in_parts(self, start: Fits, fit: Callable[[Fits], Fits]) -> Fits:
        """Return what ``fit`` makes of a batch: laws of like length together, and not too many at a time.

        Every law has room for as many terms as the longest beside it, and pays for it.
        """
        length = np.max([support.sum(axis=1) for support in start.candidates.supports], axis=0)
        order = np.argsort(length, kind="stable")
        borders = [k for k in range(1, len(order)) if length[order[k]] > length[order[k - 1]]]
        parts = []
        for group in _joined(np.split(order, borders), SMALLEST_PART):
            columns = 2 * self.system.dimension + start.coordinates.shape[1]
            columns += len(start.candidates.supports) * int(length[group[-1]])
            most = max(1, int(MOST_NUMBERS / (start.states[0].numel() * columns)))
            parts += np.array_split(group, -(-len(group) // most))
        if len(parts) == 1:
            return fit(start)
        fits = Fits.join([fit(start.take(part)) for part in parts])
        return fits.take(np.argsort(np.concatenate(parts), kind="stable"))

    def refit(self, start: Fits, watch: Watch) -> Fits:
        """Return the candidates fitted as continuous trajectories, from anywhere."""
        fits = start
        for number in range(self.rounds):
            fits = self.bound(fits, number, watch)
        return self.close(fits, watch)

    def polish(self, start: Fits, watch: Watch) -> Fits:
        """Return fits that were continuous already, settled for this refitter's steps and weights."""
        freed = self._in_parts(start, lambda part: self._bound(part, self.rounds - 1, watch))
        polished = self.close(freed, watch, LAST_ITERATIONS)
        late = np.flatnonzero(~polished.converged)
        if not len(late):
            return polished
        # From where it was continuous there is less to close.
        return self.close_again(polished, late, start, watch)

    def filling(self, fits: Fits) -> tuple[MaskedLibraries, torch.Tensor]:
        """Return a batch of laws as what stands in the holes, and its weights, shape ``(B, n_weights)``."""
        candidates = fits.candidates
        filling = MaskedLibraries(
            self._libraries, self.system.hole_inputs, candidates.supports, fits.states.device
        )
        return filling, filling.pack(candidates.coefficients, candidates.inner)

    def problem(self, fits: Fits) -> tuple[ShootingObjective, torch.Tensor]:
        """Return the shooting problem of a batch of fits, and its unknowns where they stand."""
        filling, weights = self.filling(fits)
        theta = torch.cat([fits.coordinates, weights], dim=1)
        objective = self._objective(filling)
        return objective, objective.start(FitState(fits.states, theta))

    def steps_for(self, fits: Fits, accuracy: float) -> int:
        """Return the Runge-Kutta steps per interval that solve the laws of a batch accurately enough.

        Args:
            fits: where they stand.
            accuracy: error over an interval, in units of the noise; see `choose_steps`.
        """
        objective, unknowns = self.problem(fits)
        return choose_steps(objective.ude, self._rows, objective.finish_nodes(unknowns), accuracy)

    def marginal(
        self, filling: AbstractFilling, states: torch.Tensor, coordinates: torch.Tensor
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the normal equations of half of chi-square by ``theta``, with nodes that follow it.

        Continuity is as strict as in the last round before it is an equality: where a trajectory is far from
        continuous, or unstable, an equality would carry errors of the linearization over the whole series.

        Args:
            filling: of the holes, linearised where its weights are zero.
            states: at the rows, shape ``(B, J, L, d)``.
            coordinates: of the free parameters, shape ``(B, n_free)``.

        Returns:
            Matrix ``(B, q, q)``, gradient ``(B, q)``, and chi-square with the nodes' own step, shape ``(B,)``.
        """
        zeros = coordinates.new_zeros(len(coordinates), filling.n_weights)
        objective = self._objective(filling)
        unknowns = objective.start(FitState(states, torch.cat([coordinates, zeros], dim=1)))
        linearized = self._penalised(objective, unknowns, self.rounds - 1).linearize(unknowns)
        if not isinstance(linearized, ConstrainedShooting | PenalisedShooting):
            raise TypeError(f"got {type(linearized).__name__}, expected a linearization by shooting")
        matrix, gradient, gain = linearized.normal.marginal()
        cost = linearized.closed_cost if isinstance(linearized, ConstrainedShooting) else linearized.cost
        return matrix.cpu().numpy(), gradient.cpu().numpy(), 2.0 * (cost - gain).cpu().numpy()

    def _objective(self, filling: AbstractFilling) -> ShootingObjective:
        ude = UDE(self.system, filling, self._rows.times.device)
        return MultipleShooting(segment_length=1).build(ude, self._rows, self._steps)

    def _penalised(
        self, objective: ShootingObjective, unknowns: torch.Tensor, number: int
    ) -> ShootingObjective:
        """Return the objective in a round with continuity as a penalty; as it is for a negative number."""
        if number < 0:
            return objective
        current: ShootingObjective | None = objective.first_round(GaussNewton.order)
        for _ in range(number):
            current = None if current is None else current.next_round(unknowns)
        if current is None or number >= self.rounds:
            raise ValueError(f"got round {number}, expected fewer than {self.rounds}")
        return current

    def _weighted(self, fits: Fits) -> np.ndarray:
        """Return the squared residuals as this refitter weighs them, shape ``(B,)``."""
        return (fits.misfit / self.noise_factor**2).sum(axis=1)

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
        fitted, inner = ude.filling.unpack(weights)
        squares = self._law_free.misfit(state.states)
        misfit = torch.where(valid[:, None] & torch.isfinite(squares), squares, torch.inf)
        return Fits(
            Candidates(start.candidates.supports, tuple(fitted), tuple(inner), start.candidates.sources),
            state.states,
            coordinates,
            misfit.cpu().numpy(),
            converged.cpu().numpy(),
        )


def _joined(groups: Sequence[np.ndarray], smallest: int) -> list[np.ndarray]:
    """Return groups joined with the next one where they are too small to be worth a batch of their own."""
    joined: list[np.ndarray] = []
    for group in groups:
        if joined and min(len(joined[-1]), len(group)) < smallest:
            joined[-1] = np.append(joined[-1], group)
        else:
            joined.append(group)
    return joined


def _come_down(
    objective: ShootingObjective, unknowns: torch.Tensor, report: Report
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return where some iterations lead, and whether that is the end.

    Returns:
        Unknowns ``(B, n)``, half of chi-square and penalty ``(B,)``, the factor by which it would fall in as many
        iterations again at the pace of the second half of these, and whether it is still coming down.
    """
    values = []

    def after_each(state: AbstractState) -> None:
        values.append(state.value)
        report(state)

    optimizer = GaussNewton(iterations=BOUND_ITERATIONS, tolerance=0.1)
    end = minimise_round(optimizer, objective, unknowns, after_each)
    half = values[min(BOUND_ITERATIONS // 2, len(values)) - 1]
    pace = (end.value / half.clamp_min(1e-300)) ** 2
    return end.unknowns, end.value, pace, ~end.converged & ~end.stalled & torch.isfinite(end.value)


def _reporter(watch: Watch, message: str, total: int) -> Report:
    def report(state: AbstractState) -> None:
        value = float(state.value.min())
        watch(Progress("select", message, int(state.iteration), total, value))

    return report
