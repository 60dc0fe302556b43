"""Problems with known answers, and every implementation that is tried on them.

Adding an objective, an optimizer or a regressor to its list below is how it gets tested; adding a
system to `PROBLEMS` is how all of them meet it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from sciml_discover.base import lazy_import
from sciml_discover.constraints import LawOptions, build_constraints
from sciml_discover.controls import ControlSignal
from sciml_discover.expressions import parse_expression, symbol
from sciml_discover.holes import NetworkShape, ResidualNetworks
from sciml_discover.integrate import solve_reference
from sciml_discover.laws import Law
from sciml_discover.library import Library, LibraryOptions, LibraryTerm, build_library
from sciml_discover.linear_algebra import DenseNormal
from sciml_discover.masked_libraries import MaskedLibraries
from sciml_discover.noise import Noise
from sciml_discover.objectives import DerivativeMatching, DirectCollocation, MultipleShooting
from sciml_discover.objectives.abstract import AbstractObjective
from sciml_discover.objectives.derivative_matching import DenseLinearization
from sciml_discover.objectives.problem import FitState, Rows, make_rows
from sciml_discover.optimizers import Adam, GaussNewton, Lbfgs
from sciml_discover.readers import PreparedData
from sciml_discover.refit import Candidates
from sciml_discover.regressors import (
    Bagging,
    BestSubset,
    Frols,
    HoleSupports,
    Implicit,
    Lasso,
    Sr3,
    Ssr,
    Stlsq,
    Supports,
)
from sciml_discover.seeds import proposed
from sciml_discover.smoothers import SmoothingSpline
from sciml_discover.system import System
from sciml_discover.training import (
    History,
    NetworkOptions,
    Survivors,
    TrainedNetwork,
    TrainingResult,
    network_shapes,
)
from sciml_discover.trajectories import Dataset, Trajectory
from sciml_discover.ude import UDE

if TYPE_CHECKING:
    import sympy
    import torch
else:
    sympy = lazy_import("sympy")
    torch = lazy_import("torch")

OBJECTIVES = (
    DerivativeMatching(),
    DerivativeMatching(smoother=SmoothingSpline()),
    MultipleShooting(segment_length=1),
    MultipleShooting(segment_length=3),
    MultipleShooting(segment_length="all"),
    MultipleShooting(segment_length=2, horizon=(0.5, 1.0), rounds=2),
    DirectCollocation(),
    DirectCollocation(stages=1, rounds=2, multiplier_rounds=1),
)
"""Every objective; those with a choice, with several."""

OPTIMIZERS = (
    Adam(iterations=800, learning_rate=0.1),
    Lbfgs(iterations=150),
    GaussNewton(iterations=80, tolerance=1e-12),
)
"""Every optimizer, with as many iterations as a curved valley needs."""

REGRESSORS = (
    Stlsq(),
    Sr3(),
    Sr3(regularizer="l1"),
    Ssr(),
    Ssr(criterion="model_residual"),
    Frols(),
    Lasso(),
    BestSubset(),
    Bagging(),
    Implicit(),
)
"""Every sparse regressor; those with a choice, with several."""


@dataclass(frozen=True)
class Problem:
    """A system with holes, the law that belongs in each, and where it is seen.

    Attributes:
        name: of the problem, for people.
        system: its parameters have their true values.
        laws: what belongs in each hole, as text.
        initial: true initial states, shape ``(trajectories, states)``.
        times: rows of each trajectory.
        unseen: trajectory, row and observable of values that nobody measured.
        controls: of each trajectory at its rows, shape ``(rows, controls)``; none unless given.
    """

    name: str
    system: System
    laws: Mapping[str, str]
    initial: np.ndarray
    times: tuple[np.ndarray, ...]
    unseen: tuple[tuple[int, int, int], ...] = ()
    controls: tuple[np.ndarray, ...] = ()

    @cached_property
    def filled(self) -> System:
        """The true system, without holes."""
        holes = {hole.name: hole.inputs for hole in self.system.missing}
        return self.system.fill(
            {name: parse_expression(text, holes[name], where="truth") for name, text in self.laws.items()}
        )

    @property
    def parameters(self) -> np.ndarray:
        """True values of all parameters."""
        return np.array([parameter.value for parameter in self.system.parameters])

    def states(self, trajectory: int, times: np.ndarray) -> np.ndarray:
        """Return the true states at times, shape ``(times, states)``."""
        start = float(self.times[trajectory][0])
        return solve_reference(
            self.filled,
            self.parameters,
            self.initial[trajectory],
            times,
            start=start,
            controls=self.signal(trajectory),
        )

    def signal(self, trajectory: int) -> ControlSignal | None:
        """Return the controls of a trajectory."""
        if not self.controls:
            return None
        held = np.array([control.interpolation == "hold" for control in self.system.controls])
        return ControlSignal(self.times[trajectory], self.controls[trajectory], held)

    def clean(self) -> list[np.ndarray]:
        """Return the observables without noise, at the rows of each trajectory."""
        observation = self.system.observation()
        given = self.controls or (None,) * len(self.times)
        return [
            observation.values(times, self.states(j, times), controls)
            for j, (times, controls) in enumerate(zip(self.times, given, strict=True))
        ]

    def dataset(self, relative: float = 0.0, seed: int = 0) -> Dataset:
        """Return the observables at the rows, with noise relative to their mean size."""
        names, clean = self.system.observables, self.clean()
        sd = relative * np.abs(np.concatenate(clean)).mean(axis=0)
        generator = np.random.default_rng(seed)
        values = [item + sd * generator.standard_normal(item.shape) for item in clean]
        for trajectory, row, column in self.unseen:
            values[trajectory][row, column] = np.nan
        return Dataset(
            names,
            tuple(
                Trajectory(f"site {j}", time, value, *self.controls[j : j + 1])
                for j, (time, value) in enumerate(zip(self.times, values, strict=True))
            ),
            self.system.control_names,
        )

    def noise(self, relative: float, lognormal: bool = False) -> Noise:
        """Return the noise of `dataset`, as somebody who knows it would give it; or that of logarithms."""
        names, clean = self.system.observables, self.clean()
        sd = (
            relative * np.abs(np.concatenate(clean)).mean(axis=0)
            if not lognormal
            else np.full(len(names), relative)
        )
        return Noise(names, (lognormal,) * len(names), sd, False, False, np.full(len(names), np.inf))

    def data(self, relative: float = 0.01, seed: int = 0) -> PreparedData:
        """Return what training reads, nothing held out."""
        return PreparedData(self.dataset(relative, seed), None, self.noise(relative), "none", "", ())

    def rows(self, relative: float = 0.01, seed: int = 0, *, lognormal: bool = False) -> Rows:
        """Return the training rows as tensors."""
        return make_rows(self.system, self.dataset(relative, seed), self.noise(relative, lognormal))


LOGISTIC = Problem(
    name="logistic",
    system=System.from_text(
        states={"n": {"positive": True}},
        parameters={"r": {"value": 0.8, "fixed": True}},
        missing={"crowding": ["n"]},
        equations={"n": "r*n - crowding"},
    ),
    laws={"crowding": "0.08*n**2"},
    initial=np.array([[0.5]]),
    times=(np.arange(0.0, 12.01, 0.5),),
)
"""Growth up to a capacity of ten; the closed form is known."""

LOTKA_VOLTERRA = Problem(
    name="lotka_volterra",
    system=System.from_text(
        states={"x": {"positive": True}, "y": {"positive": True}},
        parameters={"alpha": {"value": 1.3, "fixed": True}, "delta": {"value": 1.8, "fixed": True}},
        missing={"predation": ["x", "y"], "growth": ["x", "y"]},
        equations={"x": "alpha*x - predation", "y": "growth - delta*y"},
    ),
    laws={"predation": "0.9*x*y", "growth": "0.8*x*y"},
    initial=np.array([[3.1461493970111687, 1.5370475785612603]]),
    times=(np.arange(0.0, 5.01, 0.25),),
)
"""Two holes with the same inputs."""

FORCED = Problem(
    name="forced",
    system=System.from_text(
        states=["x"],
        parameters={"k": {"value": 0.5, "bounds": (0.0, 2.0)}},
        missing={"push": ["t"]},
        equations={"x": "push - k*x"},
    ),
    laws={"push": "sin(t)"},
    initial=np.array([[1.0]]),
    times=(np.arange(0.0, 6.01, 0.3),),
)
"""A hole in the time alone, and a free parameter with bounds."""

EXCHANGE = Problem(
    name="exchange",
    system=System.from_text(
        states=["a", "b", "c"],
        parameters={
            "k": 0.4,
            "leak": {"value": 0.3, "bounds": (0.0, 1.0)},
            "one": {"value": 1.0, "fixed": True},
        },
        missing={"flow": ["a", "b"], "drive": ["c", "t"]},
        equations={"a": "-flow + leak*c", "b": "one*flow - k*b", "c": "k*b - leak*c + drive"},
        observables=["a", "c"],
    ),
    laws={"flow": "0.7*a*b", "drive": "0.2*c*sin(t)"},
    initial=np.array([[1.5, 0.8, 0.3], [1.0, 1.2, 0.5], [2.0, 0.4, 0.1]]),
    times=(
        np.array([0.0, 0.4, 0.5, 1.1, 1.6, 2.4, 2.5, 3.0]),
        np.array([0.2, 0.7, 1.5, 1.9]),
        np.array([0.0, 0.3, 0.9, 1.3, 1.8]),
    ),
    unseen=((0, 2, 0), (0, 5, 1), (1, 0, 0), (1, 0, 1), (2, 4, 0)),
)
"""Everything awkward at once.

A hole in two equations, a hole in the time, a hidden state, trajectories of unequal length, irregular
times, missing values (a whole first row too), parameters free, bounded and fixed.
"""

DOSED = Problem(
    name="dosed",
    system=System.from_text(
        states=["a", "b"],
        parameters={
            "k": {"value": 0.5, "bounds": (0.0, 2.0)},
            "gain": {"value": 2.0, "fixed": True},
        },
        controls={"dose": {"interpolation": "hold"}, "light": {}},
        missing={"uptake": ["light", "a"]},
        equations={"a": "dose - uptake", "b": "uptake - k*b*light**2"},
        observables={"amount": "a", "signal": "gain*b + 0.3*a*b + 0.1*dose + 0.05*t"},
    ),
    laws={"uptake": "0.6*a*light"},
    initial=np.array([[1.5, 0.4], [0.5, 1.0]]),
    times=(np.array([0.0, 0.4, 0.5, 1.1, 1.6, 2.4, 2.5, 3.0, 3.7]), np.array([1.0, 1.3, 2.0, 2.6, 3.1])),
    unseen=((0, 3, 0), (1, 2, 1)),
    controls=(
        np.array([[0, 2, 2, 0, 0, 1, 1, 3, 0], [1.0, 0.6, 0.7, 1.2, 1.5, 0.9, 0.5, 0.3, 0.8]]).T,
        np.array([[1, 1, 0, 2, 5], [0.5, 0.8, 0.9, 1.4, 1.0]]).T,
    ),
)
"""Measured inputs: a held one that jumps, another that is a hole's input and bends, seen in an expression.

The state b is hidden in that expression, the other observable is a state under another name.
"""

_TIMES = np.arange(0.0, 12.01, 0.25)
DOSED_LONG = replace(
    DOSED,
    name="dosed for longer",
    initial=np.array([[1.5, 0.4], [0.5, 1.0]]),
    times=(_TIMES, _TIMES[:33]),
    unseen=(),
    controls=(
        np.column_stack([np.round(1.0 + np.sin(2.0 * _TIMES)), 1.0 + 0.5 * np.sin(_TIMES)]),
        np.column_stack([np.round(1.0 + np.cos(3.0 * _TIMES)), 1.0 + 0.5 * np.cos(1.3 * _TIMES)])[:33],
    ),
)
"""`DOSED` with enough rows to find its law."""

PROBLEMS = (LOGISTIC, LOTKA_VOLTERRA, FORCED, EXCHANGE, DOSED)
"""Every system with a known answer."""


def value(expression: sympy.Expr, point: Mapping[str, float]) -> float:
    """Return the value of an expression at a point."""
    return float(sympy.lambdify([symbol(name) for name in point], expression, "math")(*point.values()))


def network_ude(system: System, hidden: tuple[int, ...] = (3, 2), prior: float = 0.3) -> UDE:
    """Return a system with small networks of unequal scales in its holes."""
    names = [*system.state_names, "t", *system.control_names]
    shapes = [
        NetworkShape(
            tuple(names.index(name) for name in hole.inputs),
            hidden,
            0.5 + 0.1 * np.arange(len(hole.inputs)),
            1.5 - 0.2 * np.arange(len(hole.inputs)),
            0.7 + number,
        )
        for number, hole in enumerate(system.missing)
    ]
    return UDE(system, ResidualNetworks(shapes, prior))


def true_ude(problem: Problem) -> tuple[UDE, torch.Tensor]:
    """Return the equation with the true law in every hole, and its true unknowns."""
    names = [*problem.system.state_names, "t", *problem.system.control_names]
    holes = problem.system.missing
    libraries = [Library(hole.inputs, [LibraryTerm(problem.laws[hole.name])]) for hole in holes]
    inputs = [tuple(names.index(name) for name in hole.inputs) for hole in holes]
    ude = UDE(problem.system, MaskedLibraries(libraries, inputs, [np.ones((1, 1)) for _ in holes]))
    return ude, torch.cat([ude.parameters.initial(1), torch.ones(1, len(holes)).double()], dim=1)


def random_controls(system: System, *shape: int, seed: int = 5) -> torch.Tensor | None:
    """Return controls between a half and one and a half, shape ``(*shape, controls)``; None without controls."""
    if not system.controls:
        return None
    return torch.as_tensor(np.random.default_rng(seed).uniform(0.5, 1.5, (*shape, len(system.controls))))


def untrained(problem: Problem, seed: int = 0) -> TrainingResult:
    """Return what training would hand on had it stopped at its start: true parameters, networks near zero."""
    shapes = network_shapes(problem.system, problem.rows(), NetworkOptions(hidden=(3,)))
    networks = ResidualNetworks(shapes, 0.3)
    weights = networks.initial_weights(1, np.random.default_rng(seed))[0].numpy()
    trained, begin = {}, 0
    for hole, shape in zip(problem.system.missing, shapes, strict=True):
        end = begin + shape.n_weights
        trained[hole.name] = TrainedNetwork(
            hole.inputs, shape.hidden, shape.center, shape.scale, shape.output_scale, weights[begin:end]
        )
        begin = end
    size = len(problem.system.free_parameters) + networks.n_weights + problem.initial.size
    return TrainingResult(
        status="iteration_limit",
        message="",
        loss=1.0,
        chi_square=1.0,
        n_observed=problem.dataset().n_observed,
        parameters=dict(zip(problem.system.parameter_names, problem.parameters.tolist(), strict=True)),
        networks=trained,
        initial_states=problem.initial,
        covariance=1e-4 * np.eye(size),
        survivors=Survivors(np.zeros(1, dtype=int), np.zeros((1, size)), np.ones(1)),
        history=History((), np.zeros(0, dtype=int), np.zeros(0)),
        notes=(),
    )


def propose(problem: Problem, library: LibraryOptions, *laws: Mapping[str, Mapping[str, float]]) -> Supports:
    """Return supports as a regressor would propose them.

    Args:
        problem: whose holes are filled.
        library: the candidate terms.
        laws: coefficient of each term of each hole; combinations of the holes' proposals are tried too.
    """
    holes = []
    for hole in problem.system.missing:
        texts = build_library(hole.inputs, library).texts
        rows = list(dict.fromkeys(tuple(law[hole.name].get(text, 0.0) for text in texts) for law in laws))
        assert all(term in texts for law in laws for term in law[hole.name]), texts
        coefficients = np.array(rows)
        holes.append(
            HoleSupports(
                hole.name,
                hole.inputs,
                texts,
                (coefficients != 0).astype(float),
                coefficients,
                np.zeros((len(rows), 0)),
                np.full(len(rows), 0.1),
                ("hand",) * len(rows),
            )
        )
    return Supports(tuple(holes))


def candidates_of(
    problem: Problem, library: LibraryOptions, *laws: Mapping[str, Mapping[str, float]]
) -> Candidates:
    """Return all combinations of the holes' laws as candidates; see `propose`."""
    supports = propose(problem, library, *laws)
    libraries = [build_library(hole.inputs, library) for hole in problem.system.missing]
    excluded = [np.zeros(len(item), dtype=bool) for item in libraries]
    constraints = build_constraints(problem.system, libraries, LawOptions(library=library), excluded, 99)
    found = proposed(supports, constraints, 99, 9999)
    assert found is not None
    return found


def random_theta(ude: UDE, batch: int, seed: int = 0, size: float = 0.4) -> torch.Tensor:
    """Return unknowns of an equation near those that its system states, shape ``(batch, n_theta)``."""
    noise = size * np.random.default_rng(seed).standard_normal((batch, ude.n_theta))
    theta = torch.as_tensor(noise)
    theta[:, : ude.n_free] = ude.parameters.initial(batch) + 0.3 * theta[:, : ude.n_free]
    return theta


class LeastSquares(AbstractObjective):
    """Small least-squares problems of a batch, whose answers are known, one row of targets per member.

    Rosenbrock's valley ``(4 (v - u**2), m - u)``: the solution is ``(m, m**2)``, the cost there zero.

    Args:
        targets: ``m`` of each member, shape ``(B,)``.
        poisoned: members whose residual is NaN wherever ``u`` exceeds ``limit``.
        limit: see ``poisoned``.
    """

    def __init__(self, targets: torch.Tensor, poisoned: Sequence[int] = (), limit: float = -np.inf) -> None:
        self._targets, self._limit = targets, limit
        self._poisoned = torch.zeros(len(targets), dtype=torch.bool)
        self._poisoned[list(poisoned)] = True

    def start(self, state: FitState) -> torch.Tensor:
        return state.theta.clone()

    def finish(self, unknowns: torch.Tensor) -> FitState:
        return FitState(unknowns.new_zeros(len(unknowns), 1, 1, 0), unknowns.detach())

    def unit(self, unknowns: torch.Tensor) -> torch.Tensor:
        return torch.ones_like(unknowns[0])

    def residual(self, unknowns: torch.Tensor) -> torch.Tensor:
        u, v = unknowns[:, 0], unknowns[:, 1]
        bad = self._poisoned & (u > self._limit)
        pair = torch.stack([4.0 * (v - u.square()), self._targets - u], dim=1)
        return pair * torch.where(bad, torch.nan, 1.0)[:, None]

    def loss(self, unknowns: torch.Tensor) -> torch.Tensor:
        return 0.5 * self.residual(unknowns).square().sum(1)

    def linearize(self, unknowns: torch.Tensor) -> DenseLinearization:
        with torch.no_grad():
            residual = self.residual(unknowns)
            jacobian = residual.new_zeros(len(unknowns), 2, 2)
            jacobian[:, 0, 0], jacobian[:, 0, 1] = -8.0 * unknowns[:, 0], 4.0
            jacobian[:, 1, 0] = -1.0
            jacobian = jacobian + 0.0 * residual[..., None]
            cost = 0.5 * residual.square().sum(1)
            normal = DenseNormal.assemble(jacobian, residual, torch.zeros_like(unknowns), unknowns)
            return DenseLinearization(cost, torch.zeros_like(cost), torch.zeros_like(cost), normal)

    def take(self, index: torch.Tensor) -> LeastSquares:
        poisoned = torch.nonzero(self._poisoned[index]).flatten().tolist()
        return LeastSquares(self._targets[index], poisoned, self._limit)


def terms_of(law: Law) -> dict[str, list[str]]:
    """Return the terms of a law, hole by hole."""
    return {hole: [term.term for term in terms] for hole, terms in law.missing.items()}
