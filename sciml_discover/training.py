"""One training loop for every objective and every optimizer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import pydantic

from sciml_discover.base import Options, Progress, Watch, lazy_import, nobody_watches
from sciml_discover.holes import NetworkShape, ResidualNetworks
from sciml_discover.objectives import DerivativeMatching, MultipleShooting, ObjectiveOptions
from sciml_discover.objectives.problem import FitState, Rows, make_rows
from sciml_discover.optimizers import Adam, GaussNewton, OptimizerOptions
from sciml_discover.solve import choose_steps, solve_rows
from sciml_discover.threads import single_threaded
from sciml_discover.ude import UDE

if TYPE_CHECKING:
    import torch

    from sciml_discover.readers import PreparedData
    from sciml_discover.system import System
else:
    torch = lazy_import("torch")


class TrainStage(Options):
    """One objective minimised by one optimizer."""

    objective: ObjectiveOptions
    """What is minimised."""
    optimizer: OptimizerOptions
    """How it is minimised."""


class NetworkOptions(Options):
    """Shape and prior of the network in each hole."""

    hidden: tuple[pydantic.PositiveInt, ...] = (5, 5)
    """Widths of the hidden layers."""
    prior: pydantic.PositiveFloat = 0.3
    """Strength of the Gaussian prior on the weights: one over their standard deviation."""


class TrainOptions(Options):
    """How the universal differential equation is trained."""

    preset: Literal["auto"] = "auto"
    """Named schedule, used when no stages are given."""
    stages: tuple[TrainStage, ...] = ()
    """The schedule: objectives and optimizers in the order in which they run."""
    starts: int = pydantic.Field(default=4, ge=1, le=256)
    """Networks trained side by side from different initial weights; the best is kept."""
    network: NetworkOptions = NetworkOptions()
    """The network in each hole."""


@dataclass(frozen=True)
class History:
    """What happened during training, one row per recorded iteration of the best start."""

    stage: tuple[str, ...]
    """``"multiple_shooting x adam"`` and the like, per row."""
    iteration: np.ndarray
    """Iterations since the start of training, shape ``(rows,)``."""
    loss: np.ndarray
    """Value of the stage's objective, shape ``(rows,)``; comparable within a stage only."""


@dataclass(frozen=True)
class TrainedNetwork:
    """The network that fills one hole, as plain numbers."""

    inputs: tuple[str, ...]
    hidden: tuple[int, ...]
    input_center: np.ndarray
    input_scale: np.ndarray
    output_scale: float
    weights: np.ndarray


@dataclass(frozen=True)
class TrainingResult:
    """A trained universal differential equation.

    ``chi_square`` is of the RE-SOLVED trajectory on the training rows.
    """

    status: str
    """``"converged"``, ``"iteration_limit"`` or ``"diverged"``."""
    message: str
    loss: float
    chi_square: float
    n_observed: int
    parameters: dict[str, float]
    networks: dict[str, TrainedNetwork]
    initial_states: np.ndarray
    """Shape ``(trajectories, states)``."""
    covariance: np.ndarray
    """Of ``theta`` (free parameters' coordinates, then all networks' weights) at the best start, prior included."""
    history: History
    notes: tuple[str, ...]


def auto_stages(system: System, data: PreparedData) -> tuple[TrainStage, ...]:
    """Return the schedule of ``preset = "auto"``.

    A warm start without solves where every state is seen, then shooting over single intervals, which is the
    most parallel and the least prone to local minima.
    """
    shooting = TrainStage(
        objective=MultipleShooting(segment_length=1), optimizer=GaussNewton(iterations=25, tolerance=0.1)
    )
    if system.unseen_states(data.train.observables):
        return (shooting,)
    matching = DerivativeMatching()
    return (
        TrainStage(objective=matching, optimizer=Adam(iterations=100, learning_rate=0.03)),
        TrainStage(objective=matching, optimizer=GaussNewton(iterations=30, tolerance=0.1)),
        shooting,
    )


def network_shapes(system: System, rows: Rows, options: NetworkOptions) -> tuple[NetworkShape, ...]:
    """Return the scaled network of every hole: inputs centred on the data, outputs as large as the slopes."""
    states = rows.smooth_states.flatten(0, 1).cpu().numpy()
    times = rows.times.flatten().cpu().numpy()[:, None]
    signals = np.concatenate([states, times], axis=1)
    if rows.controls is not None:
        signals = np.concatenate([signals, rows.controls.flatten(0, 1).cpu().numpy()], axis=1)
    center, spread = signals.mean(axis=0), signals.std(axis=0)
    # A hidden state is constant here: its scale stands in for the spread that nobody has seen.
    fallback = np.append(rows.scale.cpu().numpy(), np.ones(signals.shape[1] - states.shape[1]))
    spread = np.where(spread > 1e-9 * fallback, spread, fallback)
    by_hole = hole_influence(system)
    shapes = []
    for number, inputs in enumerate(system.hole_inputs):
        sizes = rows.slope_scale.cpu().numpy()[by_hole[:, number]]
        shapes.append(
            NetworkShape(
                inputs, options.hidden, center[list(inputs)], spread[list(inputs)], float(np.max(sizes))
            )
        )
    return tuple(shapes)


def hole_influence(system: System) -> np.ndarray:
    """Return which equation contains which hole, shape ``(states, holes)``."""
    texts = [{str(item) for item in system.equations[name].free_symbols} for name in system.state_names]
    return np.array([[hole.name in text for hole in system.missing] for text in texts])


@single_threaded
def train(
    system: System,
    data: PreparedData,
    options: TrainOptions,
    *,
    seed: int,
    device: str = "cpu",
    watch: Watch = nobody_watches,
) -> TrainingResult:
    """Train a network in every hole of a system, several starts side by side, and return the best.

    Every stage hands its states and weights to the next; a start that comes out of a stage worse than it went in, by
    its re-solved trajectory, returns to where it was. So no stage can do harm.

    Args:
        system: the known physics with its holes.
        data: training rows and their noise; hold-out rows are not looked at.
        options: schedule, number of starts, shape of the networks.
        seed: of the initial weights.
        device: ``"cpu"`` or ``"cuda"``.
        watch: called with the progress of every iteration.
    """
    rows = make_rows(system, data.train, data.noise, device)
    networks = ResidualNetworks(network_shapes(system, rows, options.network), options.network.prior, device)
    ude = UDE(system, networks, device)
    weights = networks.initial_weights(options.starts, np.random.default_rng(seed))
    theta = torch.cat([ude.parameters.initial(options.starts), weights], dim=1)
    smooth = rows.smooth_states.expand(options.starts, *rows.smooth_states.shape)
    state = FitState(smooth.clone(), theta)

    stages = options.stages or auto_stages(system, data)
    hidden = sorted(system.unseen_states(data.train.observables))
    record, notes = _Recorder(watch, sum(_length(stage) for stage in stages)), []
    score, converged = _scores(ude, rows, state), torch.zeros(options.starts, dtype=torch.bool, device=device)
    for stage in stages:
        name = f"{stage.objective.kind} x {stage.optimizer.kind}"
        if hidden and isinstance(stage.objective, DerivativeMatching):
            notes.append(f"{name} skipped: nobody measured the derivative of {', '.join(hidden)}")
            continue
        steps = choose_steps(ude, rows, state)
        objective = stage.objective.build(ude, rows, steps)
        start = objective.start(state)
        unknowns, settled = stage.optimizer.minimise(objective, start, record.begin(name))
        following = objective.finish(unknowns)
        reached = _scores(ude, rows, following)
        # A start that nothing can re-solve yet is not judged by its re-solved trajectory.
        better = ~(reached > score) | ~torch.isfinite(score)
        if not bool(better.all()):
            notes.append(
                f"{name}: {int((~better).sum())} of {len(better)} starts went back to where they were"
            )
        state = FitState(
            torch.where(better[:, None, None, None], following.states, state.states),
            torch.where(better[:, None], following.theta, state.theta),
        )
        score, converged = torch.where(better, reached, score), torch.where(better, settled, converged)
    return _result(system, ude, rows, state, score, converged, record, notes, options)


class _Recorder:
    """Keeps the loss of every start and iteration, and tells the watcher."""

    def __init__(self, watch: Watch, total: int) -> None:
        self._watch, self._total = watch, total
        self.names: list[str] = []
        self.losses: list[np.ndarray] = []

    def begin(self, name: str):
        """Return what an optimizer calls after each iteration of a stage."""

        def report(iteration: int, values: torch.Tensor) -> None:  # noqa: ARG001 - counted here, over all stages
            self.names.append(name)
            self.losses.append(values.detach().cpu().numpy().copy())
            step = min(len(self.losses), self._total)
            self._watch(Progress("train", name, step, self._total, float(np.min(self.losses[-1]))))

        return report


def _length(stage: TrainStage) -> int:
    """Return the most iterations that a stage can report."""
    rounds = (
        4 if isinstance(stage.optimizer, GaussNewton) and stage.objective.kind != "derivative_matching" else 1
    )
    return stage.optimizer.iterations * rounds


def _scores(ude: UDE, rows: Rows, state: FitState) -> torch.Tensor:
    """Return chi-square of the re-solved trajectories plus the prior, infinite where nothing can be solved."""
    steps = choose_steps(ude, rows, state)
    solved = solve_rows(ude, rows, state.states[:, :, 0], state.theta, steps)
    chi_square = rows.residual(solved).square().sum((1, 2, 3))
    prior = (ude.prior_precision(len(state.theta)) * state.theta.square()).sum(1)
    return torch.nan_to_num(chi_square + prior, nan=torch.inf, posinf=torch.inf)


def _result(
    system: System,
    ude: UDE[ResidualNetworks],
    rows: Rows,
    state: FitState,
    score: torch.Tensor,
    converged: torch.Tensor,
    record: _Recorder,
    notes: list[str],
    options: TrainOptions,
) -> TrainingResult:
    best = int(torch.argmin(score))
    chosen = state.take(torch.tensor([best], device=score.device))
    steps = choose_steps(ude, rows, chosen)
    initial = chosen.states[:, :, 0]
    solved = solve_rows(ude, rows, initial, chosen.theta, steps)
    chi_square = float(rows.residual(solved).square().sum())
    parameters = ude.parameters.physical(chosen.theta[:, : ude.n_free])[0].tolist()
    if not np.isfinite(chi_square):
        status, message = "diverged", "no start could be re-solved over the whole series"
    elif bool(converged[best]):
        status, message = "converged", "the objective stopped decreasing and all segments meet"
    else:
        status, message = "iteration_limit", "the schedule ended before the objective stopped decreasing"
    shooting = MultipleShooting(segment_length=1).build(ude, rows, steps)
    covariance = shooting.covariance(shooting.start(chosen))[0].cpu().numpy()
    notes = notes + _undetermined(system, ude, chosen, covariance)
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
    losses = np.array([row[best] for row in record.losses])
    return TrainingResult(
        status=status,
        message=f"{message}; best of {options.starts} starts",
        loss=float(score[best]) / max(rows.n_observed, 1),
        chi_square=chi_square,
        n_observed=rows.n_observed,
        parameters=dict(zip(system.parameter_names, parameters, strict=True)),
        networks=networks,
        initial_states=initial[0].cpu().numpy(),
        covariance=covariance,
        history=History(tuple(record.names), np.arange(len(losses)), losses),
        notes=tuple(notes),
    )


def _undetermined(system: System, ude: UDE, state: FitState, covariance: np.ndarray) -> list[str]:
    """Name the parameters that the network can stand in for."""
    coordinates = state.theta[:, : ude.n_free]
    slopes = ude.parameters.slope(coordinates)[0].cpu().numpy()
    values = ude.parameters.physical(coordinates)[0].cpu().numpy()[ude.parameters.free_positions]
    notes = []
    for parameter, value, slope, variance in zip(
        system.free_parameters, values, slopes, np.diag(covariance), strict=False
    ):
        sd = abs(slope) * np.sqrt(variance) if np.isfinite(variance) else np.inf
        if not sd < 0.2 * abs(value):
            notes.append(
                f"{parameter.name} is hardly determined beside the network, which can take its place "
                f"({value:.3g} with standard deviation {sd:.2g}); its value comes from the refitted law"
            )
    return notes


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
