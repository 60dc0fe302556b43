"""The same numbers on CPU and GPU, and how much faster the GPU makes them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_origin

import numpy as np

from flows.benchmarks import problems
from flows.benchmarks.costs import with_known_noise
from flows.benchmarks.measurement import CannotRun, Figure, Measurement
from flows.benchmarks.problems import TrainingProblem
from sciml_discover.holes import ResidualNetworks
from sciml_discover.objectives import MultipleShooting, ObjectiveOptions
from sciml_discover.objectives.problem import FitState, make_rows
from sciml_discover.training import NetworkOptions, network_shapes
from sciml_discover.ude import UDE

if TYPE_CHECKING:
    import torch

STARTS, SEGMENTS, DAMPING = 64, 4096, 1e-2


def gpu_against_cpu(seed: int, _: str, settings: Mapping[str, str]) -> Measurement:
    """Compare loss, gradient and step of every objective, and time many segments side by side.

    Raises:
        CannotRun: there is no such device.
    """
    import torch

    device = settings["device"]
    if device == "cuda" and not torch.cuda.is_available():
        raise CannotRun("no CUDA device")
    figures: dict[str, Figure] = {}
    tutorial = problems.lotka_volterra()
    for options in every_objective():
        on_cpu, there = (evaluate(tutorial, options, place, seed, starts=4) for place in ("cpu", device))
        for what, value in on_cpu.items():
            difference = float((there[what] - value).norm() / value.norm())
            figures[f"difference_{options.kind}_{what}"] = difference
    figures["worst_difference"] = max(value for value in figures.values() if value is not None)
    long = many_segments(tutorial)
    work = {place: shooting_work(long, place, seed) for place in ("cpu", device)}
    seconds = {place: seconds_of(function, place) for place, function in work.items()}
    figures["speedup"] = seconds["cpu"] / seconds[device]
    name = torch.cuda.get_device_name() if device == "cuda" else device
    return Measurement(figures, {"cpu": seconds["cpu"], "there": seconds[device]}, {"device": name})


def every_objective() -> list[Any]:
    """Return every objective of the library with its default options."""
    union = get_args(ObjectiveOptions)[0] if get_origin(ObjectiveOptions) is Annotated else ObjectiveOptions
    return [kind() for kind in get_args(union)]


def evaluate(
    problem: TrainingProblem, options: Any, device: str, seed: int, starts: int
) -> dict[str, torch.Tensor]:
    """Return loss, gradient and damped Gauss-Newton step of an objective, on the CPU."""
    import torch

    objective, unknowns = _built(problem, options, device, seed, starts)
    unknowns = unknowns.detach().requires_grad_()
    loss = objective.loss(unknowns)
    (gradient,) = torch.autograd.grad(loss.sum(), unknowns)
    step, promised = objective.linearize(unknowns.detach()).solve(loss.new_full((starts,), DAMPING))
    found = {"loss": loss, "gradient": gradient, "step": step, "promised": promised}
    return {what: value.detach().cpu() for what, value in found.items()}


def many_segments(problem: TrainingProblem) -> TrainingProblem:
    """Return a problem over as many intervals as the comparison of speed asks for."""
    times = np.linspace(problem.times[0], problem.times[-1], SEGMENTS + 1)
    return TrainingProblem(
        problem.system, problem.laws, problem.initial, times, problem.start, problem.parameters
    )


def shooting_work(problem: TrainingProblem, device: str, seed: int) -> Callable[[], Any]:
    """Return a function that computes loss and gradient of all segments of all starts on a device."""
    import torch

    objective, unknowns = _built(problem, MultipleShooting(segment_length=1), device, seed, STARTS)

    def work() -> Any:
        at = unknowns.detach().requires_grad_()
        return torch.autograd.grad(objective.loss(at).sum(), at)

    return work


def seconds_of(work: Callable[[], Any], device: str, repeats: int = 3) -> float:
    """Return the shortest time of some calls, after one that is not timed."""
    import torch

    best = float("inf")
    for number in range(repeats + 1):
        begun = time.perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        if number:
            best = min(best, time.perf_counter() - begun)
    return best


def _built(
    problem: TrainingProblem, options: Any, device: str, seed: int, starts: int
) -> tuple[Any, torch.Tensor]:
    """Return an objective on a device, and unknowns away from its minimum, the same on every device."""
    import torch

    clean = problem.states(problem.times)
    sd = 0.005 * clean.mean(axis=0)
    dataset = problems.one_trajectory(problem, problems.noisy(clean, sd, seed))
    data = with_known_noise(problem, dataset, sd)
    rows = make_rows(problem.system, data.train, data.noise, device)
    network = NetworkOptions()
    filling = ResidualNetworks(network_shapes(problem.system, rows, network), network.prior, device)
    ude = UDE(problem.system, filling, device)
    weights = 0.3 * np.random.default_rng(seed).standard_normal((starts, filling.n_weights))
    theta = torch.cat(
        [ude.parameters.initial(starts), torch.as_tensor(weights, dtype=torch.float64, device=device)], dim=1
    )
    smooth = rows.smooth_states.expand(starts, *rows.smooth_states.shape).clone()
    objective = options.build(ude, rows, 4)
    return objective, objective.start(FitState(smooth, theta))
