"""One training loop for every objective and every optimizer."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, cast

import numpy as np
import pydantic

from sciml_discover.base import Options, Progress, Watch, lazy_import, nobody_watches
from sciml_discover.checkpoint import Checkpoints, Saved, fingerprint, software, tensors_of, with_tensors
from sciml_discover.errors import SolveError
from sciml_discover.holes import NetworkShape, ResidualNetworks
from sciml_discover.objectives import DerivativeMatching, DirectCollocation, ObjectiveOptions
from sciml_discover.objectives.abstract import AbstractObjective
from sciml_discover.objectives.problem import FitState, Rows, make_rows
from sciml_discover.objectives.stability import explosive
from sciml_discover.optimizers.abstract import AbstractOptimizer, AbstractState
from sciml_discover.optimizers.driver import Position, begin, minimise, next_round
from sciml_discover.presets import Preset, TrainStage, stages_of
from sciml_discover.solve import MOST_STEPS, choose_steps, resolve_rows
from sciml_discover.threads import single_threaded
from sciml_discover.trained import Event, History, Survivors, TrainedNetwork, TrainingResult
from sciml_discover.ude import UDE, stated_parameters
from sciml_discover.unknown_inputs import estimate_states, use_known_equations

if TYPE_CHECKING:
    import torch

    from sciml_discover.readers import PreparedData
    from sciml_discover.system import System
else:
    torch = lazy_import("torch")

T = TypeVar("T")

MISLEADING = 10.0
"""A solution in one piece whose chi-square is this many times that of states which solve the equation piece by piece
says nothing of the fit."""

REDRAWS = 8
"""How often starts are drawn anew whose equations explode between rows."""

SMALL_FACTOR = 0.1
"""Rows where the factor of a hole is a smaller part of its largest value say nothing about the hole's size."""

CONTRADICTED = 5.0
"""Standard deviations of the noise between a given initial value and the first row beyond which it is said."""

IDENTIFIED = 0.2
"""A parameter whose standard deviation is a larger part of its value than this counts as not identifiable."""

PARAMETER_PRIOR = 0.1
"""Strength of the prior on the coordinates of free parameters: wide, but where neither data nor bounds say anything
it keeps them from running away, and their uncertainty finite."""


Width = Annotated[int, pydantic.Field(ge=1, le=1024)]
"""Units of one hidden layer."""


class NetworkOptions(Options):
    """Shape and prior of the network in each hole."""

    hidden: tuple[Width, ...] = pydantic.Field(default=(5, 5), max_length=8)
    """Widths of the hidden layers."""
    prior: pydantic.PositiveFloat = 0.3
    """Strength of the Gaussian prior on the weights: one over their standard deviation; where it begins, for objectives
    that follow its evidence."""


class TrainOptions(Options):
    """How the universal differential equation is trained."""

    preset: Preset = "auto"
    """Named schedule, used when no stages are given."""
    stages: tuple[TrainStage, ...] = ()
    """The schedule: objectives and optimizers in the order in which they run."""
    starts: int = pydantic.Field(default=4, ge=1, le=256)
    """Networks trained side by side from different initial weights; the best is kept."""
    keep: float = pydantic.Field(default=1.0, gt=0.0, le=1.0)
    """Fraction of the starts that go on after each round of a second-order method, two at least; the weakest leave."""
    network: NetworkOptions = NetworkOptions()
    """The network in each hole."""

    @pydantic.model_validator(mode="after")
    def _one_schedule_that_fits_the_equation(self) -> TrainOptions:
        if not self.stages:
            return self
        if self.says("preset"):
            raise ValueError(f"preset = {self.preset!r} beside stages; remove one of them")
        if isinstance(self.stages[-1].objective, DerivativeMatching):
            raise ValueError(
                "stages that end with derivative_matching, which never solves the equation; "
                "append a stage with direct_collocation or multiple_shooting"
            )
        return self


def well_seen(system: System, data: PreparedData) -> bool:
    """Return whether every state is measured in at least half of the rows, so that its slope can be told."""
    if system.unseen_states(data.train.observables):
        return False
    measured = np.concatenate([np.isfinite(item.values) for item in data.train.trajectories])
    columns = [data.train.observables.index(name) for name in system.state_names]
    return bool((measured[:, columns].mean(axis=0) >= 0.5).all())


def network_shapes(system: System, rows: Rows, options: NetworkOptions) -> tuple[NetworkShape, ...]:
    """Return the scaled network of every hole: inputs centred on the data, outputs as large as the slopes."""
    signals = rows.signals(rows.smooth_states).cpu().numpy()
    center, spread = signals.mean(axis=0), signals.std(axis=0)
    # A state that nobody has seen may be constant here: its scale stands in for the spread that nobody has seen.
    fallback = np.append(rows.scale.cpu().numpy(), np.ones(signals.shape[1] - system.dimension))
    spread = np.where(spread > 1e-9 * fallback, spread, fallback)
    sizes = hole_sizes(system, rows)
    return tuple(
        NetworkShape(inputs, options.hidden, center[list(inputs)], spread[list(inputs)], size)
        for inputs, size in zip(system.hole_inputs, sizes, strict=True)
    )


def hole_sizes(system: System, rows: Rows) -> list[float]:
    """Return how large each hole must be to make slopes as large as those of the data.

    A hole that is added is as large as the slope. One that is multiplied by something is smaller by as much, judged at
    the rows where that something is large.
    """
    values = stated_parameters(system, rows.times.device)
    states = rows.smooth_states.flatten(0, 1)[None]
    nothing = states.new_zeros(*states.shape[:2], len(system.missing))
    functions = system.torch_functions()
    by_hole = functions.linearize(rows.times.flatten(), states, values, nothing, rows.flat_controls)[3]
    factors = by_hole.expand(1, states.shape[1], -1, -1)[0].abs().cpu().numpy()  # (rows, states, holes)
    slopes = rows.smooth_slopes.flatten(0, 1).abs().cpu().numpy()
    influence, typical, sizes = system.hole_influence, rows.slope_scale.cpu().numpy(), []
    for number in range(len(system.missing)):
        found = []
        for state in np.flatnonzero(influence[:, number]):
            factor, size = factors[:, state, number], float(typical[state])
            large = np.isfinite(factor) & (
                factor > SMALL_FACTOR * np.max(factor, initial=0.0, where=factor < np.inf)
            )
            if np.any(large & (factor != 1.0)):
                told = slopes[large, state] / factor[large]
                constant = np.ptp(factor[large]) == 0.0 or not np.isfinite(told).all()
                middle = float(np.median(factor[large]))
                size = size / middle if constant else float(np.sqrt(np.mean(told**2)))
            found.append(size)
        sizes.append(max(found))
    return sizes


def draw_starts(ude: UDE[ResidualNetworks], rows: Rows, starts: int, seed: int | Sequence[int]) -> FitState:
    """Return starts at the law-free states, their weights drawn and their parameters spread over the bounds."""
    weights = ude.filling.initial_weights(starts, np.random.default_rng(seed))
    theta = torch.cat([ude.parameters.spread(starts, seed), weights], dim=1)
    return FitState(rows.smooth_states.expand(starts, *rows.smooth_states.shape).clone(), theta)


@dataclass(frozen=True)
class Batch:
    """The starts that are still trained, ``B`` of them, at the begin of a stage.

    Attributes:
        number: of each among all starts, shape ``(B,)``.
        fit: where each stands.
        score: chi-square of the re-solved trajectories plus the prior, shape ``(B,)``; infinite where unsolved.
        converged: whether the stage that brought each there converged, shape ``(B,)``.
        prior: strength of the prior on the weights of each network, shape ``(B, holes)``.
    """

    number: torch.Tensor
    fit: FitState
    score: torch.Tensor
    converged: torch.Tensor
    prior: torch.Tensor

    def take(self, index: torch.Tensor) -> Batch:
        """Return the chosen members."""
        return Batch(
            self.number[index],
            self.fit.take(index),
            self.score[index],
            self.converged[index],
            self.prior[index],
        )

    def put(self, index: torch.Tensor, fit: FitState, converged: torch.Tensor) -> Batch:
        """Return the batch with others in some places, which nobody has solved yet."""
        return Batch(
            self.number,
            FitState(
                self.fit.states.index_copy(0, index, fit.states),
                self.fit.theta.index_copy(0, index, fit.theta),
            ),
            self.score.index_fill(0, index, torch.inf),
            self.converged.index_copy(0, index, converged),
            self.prior,
        )


@dataclass(frozen=True)
class Standing:
    """How far training is: which stage is next, how often it has backed off already, and with which starts."""

    stage: int
    attempt: int
    batch: Batch


@dataclass(frozen=True)
class Outcome:
    """What one attempt at a stage gave.

    Attributes:
        before: the starts that were not dropped on the way, as they were.
        after: the same, as they are now.
        steps: Runge-Kutta steps per interval that it took.
    """

    before: Batch
    after: Batch
    steps: int


@dataclass(frozen=True)
class Way:
    """One way to go through a stage: as it was asked for, or more cautiously.

    Attributes:
        name: of the stage, for people.
        objective: what is minimised.
        finer: factor of the Runge-Kutta steps per interval.
        change: what is different from the way before, for people.
    """

    name: str
    objective: ObjectiveOptions
    finer: int = 1
    change: str = ""


def ways(stage: TrainStage) -> tuple[Way, ...]:
    """Return the ways to go through a stage, each for when those before it led nowhere."""
    objective, name = stage.objective, f"{stage.objective.kind} x {stage.optimizer.kind}"
    found = [Way(name, objective)]
    cautious = objective.backed_off()
    if cautious is not None:
        before, after = objective.model_dump(), cautious.model_dump()
        if after["kind"] != before["kind"]:
            after = {"kind": after["kind"]}
        changes = [
            f"{key} {after[key]} instead of {before[key]}" for key in after if after[key] != before[key]
        ]
        objective = cast("ObjectiveOptions", cautious)
        found.append(Way(f"{name}, backed off", objective, 1, ", ".join(changes)))
    if objective.solves:
        found.append(Way(f"{name}, backed off", objective, 2, "twice the integration steps"))
    return tuple(found)


@single_threaded
def train(
    system: System,
    data: PreparedData,
    options: TrainOptions,
    *,
    seed: int,
    device: str = "cpu",
    watch: Watch = nobody_watches,
    checkpoint: Path | None = None,
    checkpoint_seconds: float = 5.0,
) -> TrainingResult:
    """Train a network in every hole of a system, several starts side by side, and return the best.

    Every stage hands its states and weights to the next; a start that comes out of a stage worse than it went in, by
    its re-solved trajectory, returns to where it was. So no stage can do harm. A stage that helps no start is tried
    again more cautiously, and then left out. Numerical failures end in a status, never in an exception.

    Args:
        system: the known physics with its holes.
        data: training rows and their noise; hold-out rows are not looked at.
        options: schedule, number of starts, shape of the networks.
        seed: of the initial weights.
        device: ``"cpu"`` or ``"cuda"``.
        watch: called with the progress of the iterations.
        checkpoint: a folder for this work alone, in which it writes how far it is; training that was killed goes on
            from there, to the same result. Whoever has stored the result removes it.
        checkpoint_seconds: least time between two checkpoints within a stage.
    """
    rows = make_rows(system, data.train, data.noise, device)
    seen = well_seen(system, data)
    rows = use_known_equations(system, rows) if seen else estimate_states(system, rows)
    networks = ResidualNetworks(network_shapes(system, rows, options.network), options.network.prior, device)
    ude = UDE(system, networks, device, PARAMETER_PRIOR)
    fit = draw_starts(ude, rows, options.starts, seed)

    record, stages = _Record(watch, options.starts), options.stages or stages_of(options.preset)
    if not options.stages and not seen:
        # Nobody measured the slopes that derivatives are matched to.
        stages = tuple(stage for stage in stages if not isinstance(stage.objective, DerivativeMatching))
    record.total = _iterations(stages, ude, rows)
    settled = torch.zeros(options.starts, dtype=torch.bool, device=device)
    number = torch.arange(options.starts, device=device)
    nothing_yet = torch.full((options.starts,), torch.inf, dtype=torch.float64, device=device)
    begin = Standing(0, 0, Batch(number, fit, nothing_yet, settled, networks.priors(options.starts)))
    key = fingerprint(software(), system, data, options, seed, device)
    files = Checkpoints(checkpoint, key, checkpoint_seconds, "train", watch)
    batch = _Loop(ude, rows, tuple(stages), options.keep, seed, record, files).run(begin)
    return _result(system, ude, rows, batch, record, options)


class _Record:
    """Keeps the loss of every start and iteration and what happened, and tells the watcher.

    Losses wait on the device until somebody looks, so that an iteration need not wait for it.
    """

    def __init__(self, watch: Watch, starts: int) -> None:
        self._watch, self._starts = watch, starts
        self._waiting: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._losses: list[np.ndarray] = []
        self.total = 0
        self.names: list[str] = []
        self.events: list[Event] = []
        self.notes: list[str] = []

    def iteration(self, name: str, values: torch.Tensor, members: torch.Tensor, *, look: bool) -> None:
        """Add one iteration of the members of the batch; tell of it if ``look``."""
        self.names.append(name)
        self._waiting.append((values, members))
        if look:
            self._collect()
            last = self._losses[-1]
            value = float(np.min(last[~np.isnan(last)], initial=np.inf))
            self._watch(Progress("train", name, min(len(self.names), self.total), self.total, value))

    def event(self, name: str, text: str) -> None:
        """Add what happened just now."""
        self.events.append(Event(name, len(self.names), text))

    def losses(self) -> np.ndarray:
        """Return all losses, shape ``(iterations, starts)``; NaN for starts that were not in the batch."""
        self._collect()
        return np.array(self._losses).reshape(-1, self._starts)

    def _collect(self) -> None:
        """Fetch the losses that still wait on the device."""
        for values, members in self._waiting:
            row = np.full(self._starts, np.nan)
            row[members.cpu().numpy()] = values.cpu().numpy()
            self._losses.append(row)
        self._waiting.clear()

    def saved(self) -> dict[str, Any]:
        """Return the texts as JSON."""
        events = [[event.stage, event.iteration, event.text] for event in self.events]
        return {"names": self.names, "events": events, "notes": self.notes}

    def recall(self, saved: Saved) -> None:
        """Go on from what was saved."""
        self.names = list(saved.notes["names"])
        self.events = [Event(*event) for event in saved.notes["events"]]
        self.notes = list(saved.notes["notes"])
        self._losses = list(saved.tensors["losses"])


class _Loop:
    """The one loop over stages, rounds and iterations, and the one place where failures are judged."""

    def __init__(
        self,
        ude: UDE[ResidualNetworks],
        rows: Rows,
        stages: tuple[TrainStage, ...],
        keep: float,
        seed: int,
        record: _Record,
        files: Checkpoints,
    ) -> None:
        self._ude, self._rows, self._stages = ude, rows, stages
        self._keep, self._seed = keep, seed
        self._record, self._files = record, files

    def run(self, standing: Standing) -> Batch:
        """Return the starts after all stages, from the checkpoint if there is one."""
        saved = self._files.read()
        if saved is not None:
            self._record.recall(saved)
            batch = with_tensors(standing.batch, saved.tensors, "batch")
            standing = Standing(saved.notes["stage"], saved.notes["attempt"], batch)
        while standing.stage < len(self._stages):
            inside = saved if saved is not None and saved.notes["steps"] else None
            standing, saved = self._go_through(standing, inside), None
            self._save(standing)
        return standing.batch

    def _go_through(self, standing: Standing, saved: Saved | None) -> Standing:
        """Return where training stands after a stage, or before another attempt at it."""
        stage = self._stages[standing.stage]
        possible = ways(stage)
        way = possible[standing.attempt]
        outcome, problem = numerically(lambda: self._attempt(standing, stage.optimizer, way, saved))
        batch = standing.batch if outcome is None else outcome.before
        if outcome is not None:
            problem = _no_help(batch.score, outcome.after.score)
        upcoming = possible[standing.attempt + 1] if standing.attempt + 1 < len(possible) else None
        if problem and upcoming is not None and self._may_help(way, upcoming, outcome):
            self._record.event(way.name, f"{problem}; trying again with {upcoming.change}")
            return Standing(standing.stage, standing.attempt + 1, batch)
        if problem:
            self._record.event(way.name, f"{problem}; there is nothing else to try")
        if outcome is None:
            self._record.notes.append(f"{way.name} left out after a numerical failure: {problem}")
            return Standing(standing.stage + 1, 0, batch)
        batch = self._better(way.name, outcome)
        if standing.stage == 0 and isinstance(way.objective, DerivativeMatching):
            batch = self._stable(way, stage.optimizer, batch)
        if stage.optimizer.order == 2 and self._keep < 1.0:
            batch = batch.take(self._strongest(way.name, batch.score))
        return Standing(standing.stage + 1, 0, batch)

    def _may_help(self, way: Way, upcoming: Way, outcome: Outcome | None) -> bool:
        """Return whether the next way may do better: more steps only where those of this one were too few."""
        if outcome is None or upcoming.finer == way.finer:
            return True
        if not bool(torch.isfinite(outcome.after.score).any()):
            return True
        needed = choose_steps(self._ude, self._rows, outcome.after.fit)
        return needed > min(outcome.steps, MOST_STEPS)

    def _attempt(
        self, standing: Standing, optimizer: AbstractOptimizer, way: Way, saved: Saved | None
    ) -> Outcome:
        """Minimise the stage's objective in one way."""
        batch = standing.batch
        steps = saved.notes["steps"] if saved else self._steps(way, batch.fit)
        objective = way.objective.build(_with_prior(self._ude, batch.prior), self._rows, steps)
        if saved is None:
            objective = objective.suited_to(batch.fit)
            position = begin(optimizer, objective, objective.start(batch.fit))
        else:
            position = _position(optimizer, objective, batch.fit, saved)
        while True:
            if bool(position.state.done):
                self._tell_of_troubles(way.name, position.state)
                upcoming = next_round(optimizer, position)
                if upcoming is None:
                    break
                if optimizer.order == 2 and self._keep < 1.0:
                    index = self._strongest(way.name, position.state.value)
                    batch, objective = batch.take(index), upcoming.objective.take(index)
                    unknowns = upcoming.state.unknowns[index]
                    upcoming = Position(objective, optimizer.begin(objective, unknowns))
                position = upcoming
            state = optimizer.step(position.objective, position.state)
            position = Position(position.objective, state)
            look = bool(state.done) or int(state.iteration) % optimizer.report_every == 0
            self._record.iteration(way.name, state.value, batch.number, look=look)
            if self._files.due:
                self._save(replace(standing, batch=batch), position, steps)
        fit = position.objective.finish(position.state.unknowns)
        scores = self._judged(way.name, position, fit)
        chosen = position.objective.prior
        prior = batch.prior if chosen is None else chosen
        return Outcome(batch, Batch(batch.number, fit, scores, position.state.converged, prior), steps)

    def _judged(self, name: str, position: Position, fit: FitState) -> torch.Tensor:
        """Return the scores of the re-solved trajectories, or of the states where none of these can say anything.

        Where a rounding error decides when a jump or a turn comes, no solution in one piece follows the data. If that
        is so for every start, those are compared by states that solve the equation piece by piece.
        """
        scores = _scores(self._ude, self._rows, fit)
        own = _scores_of(self._ude, self._rows, fit.states, fit.theta)
        if bool((scores <= MISLEADING * own).any()):
            return scores
        discrepancy = position.objective.discrepancy(position.state.unknowns)
        told = torch.isfinite(discrepancy)
        if bool(told.any()):
            self._record.event(
                name,
                f"{int(told.sum())} of {len(scores)} starts judged by their states, which solve the equation piece "
                "by piece: no solution in one piece follows the data",
            )
        return torch.where(told, own + discrepancy, scores)

    def _steps(self, way: Way, fit: FitState) -> int:
        """Return the Runge-Kutta steps per interval, where the objective takes any."""
        return way.finer * choose_steps(self._ude, self._rows, fit) if way.objective.solves else 1

    def _better(self, name: str, outcome: Outcome) -> Batch:
        """Return the batch after a stage, in which nobody is worse than before it."""
        before, after = outcome.before, outcome.after
        # A start that nothing can re-solve yet is not judged by its re-solved trajectory.
        better = ~(after.score > before.score) | ~torch.isfinite(before.score)
        better &= torch.isfinite(after.fit.theta).all(1)
        if not bool(better.all()):
            self._record.notes.append(
                f"{name}: {int((~better).sum())} of {len(better)} starts went back to where they were"
            )
        # Where a segment ran away, the next stage begins with the states of before.
        solved = better[:, None, None, None] & torch.isfinite(after.fit.states)
        fit = FitState(
            torch.where(solved, after.fit.states, before.fit.states),
            torch.where(better[:, None], after.fit.theta, before.fit.theta),
        )
        return Batch(
            before.number,
            fit,
            torch.where(better, after.score, before.score),
            torch.where(better, after.converged, before.converged),
            torch.where(better[:, None], after.prior, before.prior),
        )

    def _stable(self, way: Way, optimizer: AbstractOptimizer, batch: Batch) -> Batch:
        """Return the batch with other starts in place of those whose equations explode between rows."""
        bad = explosive(self._ude, self._rows, batch.fit)
        for number in range(1, REDRAWS + 1):
            if not bool(bad.any()):
                break
            draw = draw_starts(self._ude, self._rows, len(bad), (self._seed, number))
            objective = way.objective.build(self._ude, self._rows, steps=1)
            position = minimise(optimizer, objective, objective.start(draw))
            fit = position.objective.finish(position.state.unknowns)
            good = torch.isfinite(fit.theta).all(1) & ~explosive(self._ude, self._rows, fit)
            place, found = torch.nonzero(bad).flatten(), torch.nonzero(good).flatten()
            count = min(len(place), len(found))
            self._record.event(
                way.name,
                f"{len(place)} of {len(bad)} starts explode between rows; {count} of them were drawn anew",
            )
            batch = batch.put(place[:count], fit.take(found[:count]), position.state.converged[found[:count]])
            bad[place[:count]] = False
        return batch

    def _strongest(self, name: str, values: torch.Tensor) -> torch.Tensor:
        """Return the positions of the starts that go on, those of the lowest values, in their order."""
        # Two at least, where there are two: what they disagree on is uncertain.
        count = max(math.ceil(self._keep * len(values)), min(2, len(values)))
        if count < len(values):
            self._record.event(
                name, f"{len(values) - count} of {len(values)} starts were dropped as the weakest"
            )
        order = torch.argsort(torch.nan_to_num(values, nan=torch.inf), stable=True)
        return torch.sort(order[:count]).values

    def _tell_of_troubles(self, name: str, state: AbstractState) -> None:
        """Add events for members that were not finite in this round, or gave up."""
        lost, count = state.lost.cpu(), len(state.lost)
        if bool((lost > 0).any()):
            self._record.event(
                name,
                f"{int((lost > 0).sum())} of {count} starts not finite in up to {int(lost.max())} iterations: "
                "returned to their best point",
            )
        if stalled := int(state.stalled.sum()):
            self._record.event(name, f"{stalled} of {count} starts stalled: no step makes them better")

    def _save(self, standing: Standing, position: Position | None = None, steps: int = 0) -> None:
        """Write down where training stands, at the begin of a stage or inside it."""
        tensors = {"losses": self._record.losses(), **tensors_of(standing.batch, "batch")}
        if position is not None:
            tensors |= tensors_of(position.state, "state")
            for name, tensor in position.objective.memory.items():
                tensors[f"memory.{name}"] = tensor.cpu().numpy()
        place = {"stage": standing.stage, "attempt": standing.attempt, "steps": steps}
        self._files.write(Saved({**place, **self._record.saved()}, tensors))


def _position(
    optimizer: AbstractOptimizer, objective: AbstractObjective, fit: FitState, saved: Saved
) -> Position:
    """Return the position inside a stage that was saved."""
    memory = {
        name.removeprefix("memory."): torch.as_tensor(array).clone()
        for name, array in saved.tensors.items()
        if name.startswith("memory.")
    }
    recalled = objective.recall(memory)
    like = optimizer.begin(recalled, recalled.start(fit))
    return Position(recalled, with_tensors(like, saved.tensors, "state"))


def numerically(action: Callable[[], T]) -> tuple[T | None, str]:
    """Return what an action gives, or None and what went wrong with its numbers.

    Only failures of numerics are caught; mistakes in the program go their way.
    """
    try:
        return action(), ""
    except (
        torch.linalg.LinAlgError,  # pyright: ignore[reportPrivateImportUsage]
        SolveError,
        FloatingPointError,
        OverflowError,
    ) as error:
        return None, str(error).splitlines()[0] if str(error) else type(error).__name__


def _no_help(before: torch.Tensor, after: torch.Tensor) -> str:
    """Return why a stage helped no start, by their scores; empty if it did, or did no harm to speak of."""
    if not bool(torch.isfinite(after).any()):
        return "no start could be re-solved"
    # An optimum that was reached before is left by rounding errors alone.
    return "every start came out worse" if bool((after > 1.01 * before + 0.1).all()) else ""


def _iterations(stages: Sequence[TrainStage], ude: UDE, rows: Rows) -> int:
    """Return the most iterations that a schedule can take, if no stage has to back off."""
    return sum(
        stage.optimizer.most_iterations(
            stage.objective.build(ude, rows, steps=1).rounds_of(stage.optimizer.order)
        )
        for stage in stages
    )


def _with_prior(ude: UDE[ResidualNetworks], prior: torch.Tensor) -> UDE[ResidualNetworks]:
    """Return the equation with the priors of a batch."""
    return ude.with_filling(ude.filling.with_prior(prior))


def _scores(ude: UDE, rows: Rows, state: FitState) -> torch.Tensor:
    """Return chi-square of the re-solved trajectories plus the prior, infinite where nothing can be solved."""
    return _scores_of(ude, rows, resolve_rows(ude, rows, state), state.theta)


def _scores_of(ude: UDE, rows: Rows, states: torch.Tensor, theta: torch.Tensor) -> torch.Tensor:
    """Return chi-square of states at the rows plus the prior, infinite where they are not finite."""
    chi_square = rows.residual(states).square().sum((1, 2, 3))
    prior = (ude.prior_precision(len(theta)) * theta.square()).sum(1)
    return torch.nan_to_num(chi_square + prior, nan=torch.inf, posinf=torch.inf)


def _result(
    system: System,
    ude: UDE[ResidualNetworks],
    rows: Rows,
    batch: Batch,
    record: _Record,
    options: TrainOptions,
) -> TrainingResult:
    order = torch.argsort(batch.score, stable=True)
    ranked = batch.take(order)
    chosen = ranked.fit.take(torch.tensor([0], device=order.device))
    initial = chosen.states[:, :, 0]
    chi_square = float(rows.misfit(resolve_rows(ude, rows, chosen)).sum())
    parameters = ude.parameters.physical(chosen.theta[:, : ude.n_free])[0].tolist()
    if not np.isfinite(chi_square):
        status, message = "diverged", "no start could be re-solved over the whole series"
    elif bool(ranked.converged[0]):
        status, message = "converged", "the objective stopped decreasing and all segments meet"
    else:
        status, message = "iteration_limit", "the schedule ended before the objective stopped decreasing"
    collocation = (
        DirectCollocation().build(_with_prior(ude, ranked.prior[:1]), rows, steps=1).suited_to(chosen)
    )
    information, problem = numerically(lambda: collocation.information(collocation.start(chosen)))
    size = ude.n_theta + initial[0].numel()
    covariance = np.full((size, size), np.inf)
    notes = [*record.notes, *_contradicted(system, rows)]
    if information is None:
        notes.append(f"no covariance could be computed ({problem})")
    else:
        covariance = information.covariance()[0].cpu().numpy()
        notes += _undetermined(system, ude, chosen, covariance, information.fisher()[0].cpu().numpy())
    networks, begin = {}, ude.n_free
    for hole, shape in zip(system.missing, ude.filling.shapes, strict=True):
        end = begin + shape.n_weights
        networks[hole.name] = TrainedNetwork(
            inputs=hole.inputs,
            hidden=shape.hidden,
            input_center=shape.center,
            input_scale=shape.scale,
            output_scale=shape.output_scale,
            weights=chosen.theta[0, begin:end].cpu().numpy(),
        )
        begin = end
    losses = record.losses()[:, int(ranked.number[0])]
    carried = "" if len(order) == options.starts else f", {len(order)} of them carried to the end"
    return TrainingResult(
        status=status,
        message=f"{message}; best of {options.starts} starts{carried}",
        loss=float(ranked.score[0]) / max(rows.n_observed, 1),
        chi_square=chi_square,
        n_observed=rows.n_observed,
        parameters=dict(zip(system.parameter_names, parameters, strict=True)),
        networks=networks,
        initial_states=initial[0].cpu().numpy(),
        covariance=covariance,
        survivors=Survivors(
            ranked.number.cpu().numpy(), ranked.fit.theta.cpu().numpy(), ranked.score.cpu().numpy()
        ),
        history=History(tuple(record.names), np.arange(len(losses)), losses, tuple(record.events)),
        notes=tuple(notes),
    )


def _contradicted(system: System, rows: Rows) -> list[str]:
    """Name the given initial values that the first row of a trajectory contradicts."""
    # Smoothed states begin where they are known to.
    residual = rows.residual(rows.smooth_states)[:, 0, : rows.n_observables].abs().amax(0).tolist()
    return [
        f"{system.state_names[position]} is given to begin at {system.states[position].initial:g}, and a first row is "
        f"{off:.2g} standard deviations of the noise away: the fits begin where it is given"
        for position, off in zip(rows.columns, residual, strict=True)
        if position in rows.held and off > CONTRADICTED
    ]


def _undetermined(
    system: System,
    ude: UDE[ResidualNetworks],
    state: FitState,
    covariance: np.ndarray,
    fisher: np.ndarray,
) -> list[str]:
    """Name the parameters that data do not determine, and the hole whose network can take their place.

    That is the hole without whose freedom the parameter would be best known: with its weights held, the standard
    deviation falls most (a Schur complement of the Fisher matrix).
    """
    coordinates = state.theta[:, : ude.n_free]
    slopes = ude.parameters.slope(coordinates)[0].cpu().numpy()
    values = ude.parameters.physical(coordinates)[0].cpu().numpy()[ude.parameters.free_positions]
    notes = []
    for number, (parameter, value, slope) in enumerate(
        zip(system.free_parameters, values, slopes, strict=True)
    ):
        sd = abs(slope) * np.sqrt(covariance[number, number])
        if sd < IDENTIFIED * abs(value):
            continue
        held, begin = [], ude.n_free
        for shape in ude.filling.shapes:
            weights = np.arange(begin, begin + shape.n_weights)
            held.append(_variance_without(fisher, number, weights))
            begin += shape.n_weights
        hole = system.missing_names[int(np.argmin(held))]
        notes.append(
            f"{parameter.name} is not identifiable beside hole {hole}: the data leave it a standard deviation of "
            f"{sd:.2g} at {value:.3g}, the network can take its place; its value comes from the refitted law"
        )
    return notes


def _variance_without(fisher: np.ndarray, number: int, held: np.ndarray) -> float:
    """Return the variance of one unknown if some others were known."""
    free = np.setdiff1d(np.arange(len(fisher)), [number, *held])
    cross = fisher[free, number]
    rest = np.linalg.lstsq(fisher[np.ix_(free, free)], cross, rcond=1e-12)[0]
    return 1.0 / max(float(fisher[number, number] - cross @ rest), 1e-300)


def trained_ude(system: System, trained: TrainingResult) -> tuple[UDE[ResidualNetworks], torch.Tensor]:
    """Return a trained equation and its ``theta``, shape ``(1, n_theta)``, from the numbers of a result."""
    shapes = [
        NetworkShape(
            inputs,
            network.hidden,
            network.input_center,
            network.input_scale,
            network.output_scale,
        )
        for inputs, network in zip(system.hole_inputs, trained.networks.values(), strict=True)
    ]
    # The prior only matters in training.
    ude = UDE(system, ResidualNetworks(shapes, prior=0.0))
    values = [trained.parameters[parameter.name] for parameter in system.free_parameters]
    coordinates = ude.parameters.coordinates(torch.tensor([values], dtype=torch.float64))
    weights = torch.as_tensor(np.concatenate([network.weights for network in trained.networks.values()]))
    return ude, torch.cat([coordinates, weights[None]], dim=1)
