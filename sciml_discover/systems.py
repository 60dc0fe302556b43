"""Systems whose law is known, by name: the truth of synthetic experiments and of tests.

To add one, add an entry to `SYSTEMS`; nothing else changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from sciml_discover.callables import NumpySystem
from sciml_discover.errors import InputError, did_you_mean
from sciml_discover.expressions import TIME, parse_expression
from sciml_discover.system import System

if TYPE_CHECKING:
    import sympy


@dataclass(frozen=True)
class KnownSystem:
    """A system without holes, with its true parameters and a usual start.

    Attributes:
        name: its key in `SYSTEMS`.
        description: what it models, in one sentence.
        equations: the right-hand side of each state, as text.
        parameters: the true value of each parameter.
        initial_states: where it usually starts.
        positive: the states that can only be positive.
        source: where it was published.
        controls: the input that each control has when it is simulated, as text in ``t``.
    """

    name: str
    description: str
    equations: Mapping[str, str]
    parameters: Mapping[str, float]
    initial_states: Mapping[str, float]
    positive: frozenset[str]
    source: str
    controls: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def system(self) -> System:
        """The system in sympy, made at the first use."""
        return System.from_text(
            states={name: {"positive": name in self.positive} for name in self.equations},
            parameters=dict(self.parameters),
            equations=self.equations,
            controls=tuple(self.controls),
        )

    @cached_property
    def inputs(self) -> dict[str, sympy.Expr]:
        """The input of each control as an expression in the time."""
        return {
            name: parse_expression(text, [TIME], where=f"known system {self.name}: {name}")
            for name, text in self.controls.items()
        }

    @cached_property
    def driven(self) -> System:
        """The system with its inputs in place of its controls; itself where it has none."""
        return self.system.drive(self.inputs) if self.controls else self.system

    def control_values(self, times: np.ndarray) -> np.ndarray:
        """Return the controls at times, shape ``(times, controls)``."""
        functions = NumpySystem(list(self.inputs.values()), (), ())
        nothing = np.zeros(0)
        rows = [functions.rhs(time, nothing, nothing) for time in times.tolist()]
        return np.array(rows).reshape(len(times), len(self.controls))

    @property
    def parameter_values(self) -> np.ndarray:
        """The true parameters in the order of the system, shape ``(parameters,)``."""
        return np.array(list(self.parameters.values()))

    @property
    def initial_values(self) -> np.ndarray:
        """The usual start in the order of the states, shape ``(states,)``."""
        return np.array([self.initial_states[name] for name in self.equations])


def get_system(name: str, *, where: str = "get_system") -> KnownSystem:
    """Return a known system by its name.

    Args:
        name: its key in `SYSTEMS`.
        where: the place that an error message points at.

    Raises:
        InputError: if there is no such system.

    Example:
        >>> get_system("logistic").parameters["r"]
        0.8
    """
    if name not in SYSTEMS:
        raise InputError(
            f"the system {name!r}",
            where=where,
            expected="the name of a known system",
            do=did_you_mean(name, SYSTEMS),
        )
    return SYSTEMS[name]


_ALL = (
    KnownSystem(
        name="lotka_volterra",
        description="A predator y that lives on a prey x.",
        equations={"x": "alpha*x - beta*x*y", "y": "gamma*x*y - delta*y"},
        parameters={"alpha": 1.3, "beta": 0.9, "gamma": 0.8, "delta": 1.8},
        initial_states={"x": 3.1461493970111687, "y": 1.5370475785612603},
        positive=frozenset({"x", "y"}),
        source="Lotka 1925, Elements of Physical Biology; numbers of Rackauckas et al., arXiv:2001.04385",
    ),
    KnownSystem(
        name="logistic",
        description="A population n that grows up to its capacity.",
        equations={"n": "r*n*(1 - n/capacity)"},
        parameters={"r": 0.8, "capacity": 10.0},
        initial_states={"n": 0.5},
        positive=frozenset({"n"}),
        source="Verhulst 1838, Correspondance mathematique et physique 10, 113-121",
    ),
    KnownSystem(
        name="van_der_pol",
        description="An oscillator whose damping changes sign with its amplitude.",
        equations={"x": "v", "v": "mu*(1 - x**2)*v - x"},
        parameters={"mu": 1.0},
        initial_states={"x": 2.0, "v": 0.0},
        positive=frozenset(),
        source="van der Pol 1926, Philosophical Magazine 2, 978-992, doi:10.1080/14786442608564127",
    ),
    KnownSystem(
        name="lorenz63",
        description="Three modes of convection in a layer of air; chaotic.",
        equations={"x": "sigma*(y - x)", "y": "x*(rho - z) - y", "z": "x*y - beta*z"},
        parameters={"sigma": 10.0, "rho": 28.0, "beta": 8.0 / 3.0},
        initial_states={"x": -8.0, "y": 7.0, "z": 27.0},
        positive=frozenset(),
        source="Lorenz 1963, J. Atmos. Sci. 20, 130-141, doi:10.1175/1520-0469(1963)020<0130:DNF>2.0.CO;2",
    ),
    KnownSystem(
        name="fitzhugh_nagumo",
        description="The membrane voltage v of a neuron and its slow recovery w.",
        equations={"v": "v - v**3/3 - w + current", "w": "epsilon*(v + a - b*w)"},
        parameters={"current": 0.5, "epsilon": 0.08, "a": 0.7, "b": 0.8},
        initial_states={"v": -1.0, "w": 1.0},
        positive=frozenset(),
        source="FitzHugh 1961, Biophys. J. 1, 445-466, doi:10.1016/S0006-3495(61)86902-6",
    ),
    KnownSystem(
        name="robertson",
        description="Three reacting species whose rates differ by nine orders of magnitude; stiff.",
        equations={
            "y1": "-k1*y1 + k3*y2*y3",
            "y2": "k1*y1 - k2*y2**2 - k3*y2*y3",
            "y3": "k2*y2**2",
        },
        parameters={"k1": 0.04, "k2": 3.0e7, "k3": 1.0e4},
        initial_states={"y1": 1.0, "y2": 0.0, "y3": 0.0},
        positive=frozenset(),
        source="Robertson 1966, in Walsh (ed.), Numerical Analysis: An Introduction, 178-182",
    ),
    KnownSystem(
        name="driven_oscillator",
        description="A mass on a hardening spring (Duffing), pushed by a measured force.",
        equations={"x": "v", "v": "force - damping*v - stiffness*x - cubic*x**3"},
        parameters={"damping": 0.1, "stiffness": 1.0, "cubic": 0.5},
        initial_states={"x": 1.0, "v": 0.0},
        positive=frozenset(),
        source="Duffing 1918, Erzwungene Schwingungen bei veraenderlicher Eigenfrequenz",
        controls={"force": "0.5*cos(1.2*t) + 0.3*sin(0.7*t + 0.5) + 0.2*cos(2.1*t)"},
    ),
)

SYSTEMS: dict[str, KnownSystem] = {known.name: known for known in _ALL}
"""Every known system by its name."""
