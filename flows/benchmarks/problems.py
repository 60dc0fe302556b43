"""Simulated data of the benchmark: systems with holes whose truth is known, seen through noise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from flows.benchmarks.solving import functions_of, solve_ode
from sciml_discover.callables import NumpySystem
from sciml_discover.expressions import TIME, parse_expression
from sciml_discover.integrate import solve_reference
from sciml_discover.noise import Noise, NoiseOptions, measure_noise
from sciml_discover.readers import PreparedData
from sciml_discover.system import System
from sciml_discover.systems import get_system
from sciml_discover.trajectories import Dataset, Trajectory

STIFFNESS = 1000.0
"""Of the relaxation oscillator."""

LONGEST_PIECE = 1000
"""Rows that are simulated in one go: a reference solve counts its right-hand sides."""


@dataclass(frozen=True)
class TrainingProblem:
    """A system with holes, the law that belongs in each, and where it starts.

    Attributes:
        system: with its holes; its parameters have the values that training starts from.
        laws: what belongs in each hole, as text.
        initial: true states at ``start``, shape ``(states,)``.
        times: of the rows, shape ``(rows,)``.
        start: time of ``initial``.
        parameters: true values of those parameters that training starts elsewhere.
        smallest: absolute tolerance of the simulation, relative to the largest initial state.
        controls: the true input of each control, as text in ``t``.
    """

    system: System
    laws: Mapping[str, str]
    initial: np.ndarray
    times: np.ndarray
    start: float
    parameters: Mapping[str, float]
    smallest: float = 1e-12
    controls: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def filled(self) -> System:
        """The true system, without holes, its inputs in place of its controls."""
        filled = self.system.fill(
            {
                hole.name: parse_expression(self.laws[hole.name], hole.inputs, where="truth")
                for hole in self.system.missing
            }
        )
        inputs = {name: parse_expression(text, [TIME], where="truth") for name, text in self.controls.items()}
        return filled.drive(inputs) if inputs else filled

    def inputs(self, times: np.ndarray) -> np.ndarray:
        """Return the true controls at times, shape ``(times, controls)``."""
        return np.column_stack(
            [_values(text, (TIME,), times[:, None]) for text in self.controls.values()]
            or [np.zeros((len(times), 0))]
        )

    @property
    def values(self) -> np.ndarray:
        """The true values of all parameters, shape ``(parameters,)``."""
        return np.array([self.parameters.get(item.name, item.value) for item in self.system.parameters])

    def states(self, times: np.ndarray) -> np.ndarray:
        """Return the true states at increasing times, shape ``(times, states)``."""
        pieces, begin, state = [], self.start, self.initial
        for first in range(0, len(times), LONGEST_PIECE):
            piece = times[first : first + LONGEST_PIECE]
            solved = solve_reference(self.filled, self.values, state, piece, start=begin, atol=self.smallest)
            pieces.append(solved)
            begin, state = float(piece[-1]), solved[-1]
        return np.concatenate(pieces)

    def law(self, hole: str, points: np.ndarray) -> np.ndarray:
        """Return the true values of a hole at values of its inputs ``(points, inputs)``, shape ``(points,)``."""
        return _values(
            self.laws[hole], {item.name: item.inputs for item in self.system.missing}[hole], points
        )


def _values(text: str, inputs: tuple[str, ...], points: np.ndarray) -> np.ndarray:
    """Return an expression's values at values of its inputs ``(points, inputs)``, shape ``(points,)``."""
    expression, nothing = parse_expression(text, inputs, where="truth"), np.zeros(0)
    if inputs == (TIME,):
        functions = NumpySystem([expression], (), ())
        return np.array([functions.rhs(time, nothing, nothing)[0] for time in points[:, 0]])
    functions = NumpySystem([expression], inputs, ())
    return np.array([functions.rhs(0.0, point, nothing)[0] for point in points])


def prepared(dataset: Dataset, noise: Noise) -> PreparedData:
    """Return what training reads, nothing held out."""
    return PreparedData(dataset, None, noise, "none", "", ())


def estimated_noise(dataset: Dataset) -> Noise:
    """Return what an experiment file says about the noise if it says nothing: the data have to tell."""
    return measure_noise(dataset, NoiseOptions())


def stated_noise(dataset: Dataset, relative: float) -> Noise:
    """Return noise whose sd is a fraction of each observable's mean size, as somebody who knows it would give it."""
    return measure_noise(dataset, NoiseOptions(relative=relative))


def noise_per_value(dataset: Dataset, level: float, floor: float) -> Noise:
    """Return noise whose sd is a fraction of each value, but at least a fraction of the observable's sd."""
    return measure_noise(dataset, NoiseOptions(value=level, floor=floor))


def one_trajectory(problem: TrainingProblem, values: np.ndarray) -> Dataset:
    """Return measured values ``(rows, observables)`` as a dataset."""
    trajectory = Trajectory("simulated", problem.times, values, problem.inputs(problem.times))
    return Dataset(problem.system.observables, (trajectory,), problem.system.control_names)


def noisy(clean: np.ndarray, sd: np.ndarray, seed: int) -> np.ndarray:
    """Return values with Gaussian noise of a standard deviation that broadcasts to them."""
    return clean + sd * np.random.default_rng(seed).standard_normal(clean.shape)


def lotka_volterra() -> TrainingProblem:
    """Return the tutorial: 21 rows, both interactions missing."""
    known = get_system("lotka_volterra")
    return TrainingProblem(
        system=_lotka_volterra({"value": 1.8, "fixed": True}),
        laws={"predation": "0.9*x*y", "growth": "0.8*x*y"},
        initial=known.initial_values,
        times=np.arange(0.0, 5.001, 0.25),
        start=0.0,
        parameters={},
    )


def scenario_2() -> TrainingProblem:
    """Return the second scenario of Rackauckas et al. 2020 (arXiv:2001.04385): a predator rarely seen.

    The death rate of the predator is learnt beside the networks, between 0 and 5 from a start value of 1.
    """
    return TrainingProblem(
        system=_lotka_volterra({"value": 1.0, "bounds": (0.0, 5.0)}),
        laws={"predation": "0.9*x*y", "growth": "0.8*x*y"},
        initial=np.array([0.44249296, 4.6280594]),
        times=np.linspace(0.0, 6.0, 61),
        start=0.0,
        parameters={"delta": 1.8},
    )


def _lotka_volterra(delta: float | Mapping[str, Any]) -> System:
    return System.from_text(
        states={"x": {"positive": True}, "y": {"positive": True}},
        parameters={"alpha": {"value": 1.3, "fixed": True}, "delta": delta},
        missing={"predation": ["x", "y"], "growth": ["x", "y"]},
        equations={"x": "alpha*x - predation", "y": "growth - delta*y"},
    )


def lorenz(rows: int) -> TrainingProblem:
    """Return the chaotic attractor seen every 0.01, the product ``x*y`` missing."""
    known = get_system("lorenz63")
    settled = solve_reference(
        known.system, known.parameter_values, known.initial_values, np.array([0.0, 5.0])
    )[-1]
    return TrainingProblem(
        system=System.from_text(
            states=["x", "y", "z"],
            parameters={name: {"value": value, "fixed": True} for name, value in known.parameters.items()},
            missing={"product": ["x", "y"]},
            equations={"x": "sigma*(y - x)", "y": "x*(rho - z) - y", "z": "product - beta*z"},
        ),
        laws={"product": "x*y"},
        initial=settled,
        times=0.01 * np.arange(rows),
        start=0.0,
        parameters={},
    )


def robertson() -> TrainingProblem:
    """Return the stiff reactions over ten decades of time, the third one missing."""
    known = get_system("robertson")
    return TrainingProblem(
        system=System.from_text(
            states={name: {"positive": True} for name in known.equations},
            parameters={name: {"value": known.parameters[name], "fixed": True} for name in ("k1", "k2")},
            missing={"exchange": ["y2", "y3"]},
            equations={
                "y1": "-k1*y1 + exchange",
                "y2": "k1*y1 - k2*y2**2 - exchange",
                "y3": "k2*y2**2",
            },
        ),
        laws={"exchange": "10000*y2*y3"},
        initial=known.initial_values,
        times=np.logspace(-5.0, 5.0, 40),
        start=0.0,
        parameters={},
        smallest=1e-20,  # the third species begins at 1e-11
    )


def stiff_van_der_pol() -> tuple[TrainingProblem, float]:
    """Return the relaxation oscillator over two periods from its limit cycle, and its period.

    The 400 times are uniform in arc length in the plane of both states, each divided by its range.
    """
    system = System.from_text(
        states=["x", "y"],
        parameters={"mu": {"value": STIFFNESS, "fixed": True}},
        missing={"damping": ["x"]},
        equations={"x": "y", "y": "mu*damping*y - x"},
    )
    laws, start = {"damping": "1 - x**2"}, np.array([2.0, 0.0])
    problem = TrainingProblem(system, laws, start, np.zeros(1), 0.0, {})
    functions = functions_of(problem.filled, problem.values)
    # Two turns after the start nothing is left of it: the cycle attracts strongly.
    turns = solve_ode(functions, start, (0.0, 4.0 * STIFFNESS), rtol=1e-10, atol=1e-12, event=_turns)
    last, before = turns.events[-1], turns.events[-2]
    period, start = float(last - before), turns(np.array([last]))[0]
    cycle = solve_ode(functions, start, (0.0, 2.0 * period), rtol=1e-10, atol=1e-12)
    fine = np.append(np.linspace(cycle.steps[:-1], cycle.steps[1:], 8, endpoint=False, axis=1), 2.0 * period)
    path = cycle(fine)
    length = np.linalg.norm(np.diff(path / np.ptp(path, axis=0), axis=0), axis=1).cumsum()
    length = np.append(0.0, length)
    times = np.interp(np.linspace(0.0, length[-1], 400), length, fine)
    return TrainingProblem(system, laws, start, times, 0.0, {}), period


def _turns(_: float, state: np.ndarray) -> float:
    """Return the position's speed, which falls through zero where the position is largest."""
    return -state[1]


def cart() -> TrainingProblem:
    """Return a cart on a spring with unknown friction; its stiffness is learnt from three times the truth."""
    return TrainingProblem(
        system=System.from_text(
            states=["x", "v"],
            parameters={"m": {"value": 1.0, "fixed": True}, "k": 6.0},
            missing={"friction": ["v"]},
            equations={"x": "v", "v": "(-k*x - friction)/m"},
        ),
        laws={"friction": "0.3*v + 0.1*v**3"},
        initial=np.array([2.0, 0.0]),
        times=np.linspace(0.0, 10.0, 101),
        start=0.0,
        parameters={"k": 2.0},
    )


def driven_oscillator() -> TrainingProblem:
    """Return a damped mass on a spring over 20 periods of the force on it, the cubic part of the spring missing.

    Only the position is seen. The force is measured at the rows, without noise.
    """
    known = get_system("driven_oscillator")
    fixed = {name: {"value": known.parameters[name], "fixed": True} for name in ("damping", "stiffness")}
    return TrainingProblem(
        system=System.from_text(
            states=list(known.equations),
            parameters=fixed,
            controls=tuple(known.controls),
            missing={"hardening": ["x"]},
            equations={"x": "v", "v": "force - damping*v - stiffness*x - hardening"},
            observables=["x"],
        ),
        laws={"hardening": "0.5*x**3"},
        initial=known.initial_values,
        times=np.linspace(0.0, 20 * 2 * np.pi / 1.2, 400),
        start=0.0,
        parameters={},
        controls=known.controls,
    )
