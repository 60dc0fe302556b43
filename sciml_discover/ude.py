"""The universal differential equation: a system, something in its holes, and numbers for all of it.

`UDE` is the one right-hand side that every objective sees. Its unknowns, beside the states, are one flat vector
``theta`` per member of the batch: the free physical parameters (in unbounded coordinates) and then the weights
of the filling.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

import numpy as np

from sciml_discover.base import lazy_import
from sciml_discover.coordinates import Coordinates
from sciml_discover.holes import AbstractFilling, Field
from sciml_discover.linear_algebra import OuterProducts

if TYPE_CHECKING:
    import torch

    from sciml_discover.system import System
else:
    torch = lazy_import("torch")


FACTOR = 3.0
"""Starts search free parameters without bounds from the stated value divided by this to the value times this."""


class ParameterMap:
    """Free physical parameters in unbounded coordinates; bounds become a smooth transform.

    Bounds are a logistic curve between them; without bounds a parameter is a multiple of its stated magnitude.
    Every coordinate is of order one.
    """

    def __init__(self, system: System, device: torch.device | str = "cpu") -> None:
        self.parameters = system.free_parameters
        self.n_free = len(self.parameters)
        self._values = torch.as_tensor(
            [parameter.value for parameter in system.parameters], dtype=torch.float64, device=device
        )
        self._free = [i for i, parameter in enumerate(system.parameters) if not parameter.fixed]
        bounds = [parameter.bounds or (-np.inf, np.inf) for parameter in self.parameters]
        self._map = Coordinates(
            low=[low for low, _ in bounds],
            high=[high for _, high in bounds],
            scale=[abs(parameter.value) if parameter.value else 1.0 for parameter in self.parameters],
            device=device,
        )

    def initial(self, batch: int) -> torch.Tensor:
        """Return the coordinates of the values that the system states, shape ``(batch, n_free)``.

        A value at a bound becomes one a thousandth of the width inside, where the transform still moves.
        """
        value = self._map.inside(self._values[self._free])
        return self.coordinates(value[None]).expand(batch, self.n_free).clone()

    def spread(self, batch: int, seed: int | Sequence[int]) -> torch.Tensor:
        """Return coordinates all over the range of every free parameter, shape ``(batch, n_free)``.

        The first are the stated values. The others are Sobol points (Sobol 1967, doi:10.1016/0041-5553(67)90144-9):
        evenly within the bounds, or within a factor of `FACTOR` of the stated value where there are none.
        """
        start = self.initial(batch)
        if batch == 1 or not self.n_free:
            return start
        from scipy.stats import qmc

        sobol = qmc.Sobol(self.n_free, scramble=True, rng=np.random.default_rng(seed))
        points = sobol.random_base2((batch - 2).bit_length())[: batch - 1]
        unit = torch.as_tensor(points, dtype=start.dtype, device=start.device)
        inside = self._map.base + self._map.width * unit.clamp(1e-3, 1.0 - 1e-3)
        near = torch.sign(start[:1]) * FACTOR ** (2.0 * unit - 1.0) * start[:1].abs()
        anywhere = torch.where(start[:1] == 0.0, 2.0 * unit - 1.0, near)
        start[1:] = torch.where(self._map.bounded, self.coordinates(inside), anywhere)
        return start

    def coordinates(self, value: torch.Tensor) -> torch.Tensor:
        """Return the coordinates of values of the free parameters, shape ``(B, n_free)``."""
        return self._map.coordinates(value)

    def physical(self, coordinates: torch.Tensor) -> torch.Tensor:
        """Return all parameters, the fixed ones too, shape ``(B, parameters)``."""
        full = self._values.expand(coordinates.shape[0], -1).clone()
        if self.n_free:
            full[:, self._free] = self._map.physical(coordinates)
        return full

    def slope(self, coordinates: torch.Tensor) -> torch.Tensor:
        """Return the derivative of each free parameter by its coordinate, shape ``(B, n_free)``."""
        return self._map.slope(coordinates)

    def at_bound(self, coordinates: torch.Tensor) -> torch.Tensor:
        """Return which free parameters are at a bound, shape ``(B, n_free)``."""
        return self._map.at_bound(coordinates)

    def brought_back(self, coordinates: torch.Tensor) -> torch.Tensor:
        """Return coordinates with those that ran towards a bound put back, shape ``(B, n_free)``."""
        return self._map.brought_back(coordinates)

    @property
    def free_positions(self) -> list[int]:
        """Positions of the free parameters among all of them."""
        return list(self._free)


@dataclass(frozen=True)
class Slopes:
    """The time derivative at ``P`` points, and its derivatives by everything but weights.

    Attributes:
        value: shape ``(B, P, states)``.
        by_state: shape ``(B, P, states, states)``.
        by_parameters: by the coordinates of the free parameters, shape ``(B, P, states, n_free)``.
        by_holes: by what stands in the holes, shape ``(B, P, states, holes)``.
    """

    value: torch.Tensor
    by_state: torch.Tensor
    by_parameters: torch.Tensor
    by_holes: torch.Tensor


def stated_parameters(system: System, device: torch.device | str = "cpu") -> torch.Tensor:
    """Return all parameters at the values that the system states, shape ``(1, 1, parameters)``."""
    parameters = ParameterMap(system, device)
    return parameters.physical(parameters.initial(1))[:, None, :]


class Dynamics(Protocol):
    """What an objective asks of an equation: see `UDE`, which is one."""

    def rhs(
        self,
        time: torch.Tensor,
        state: torch.Tensor,
        theta: torch.Tensor,
        controls: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return the time derivative at ``P`` points, shape ``(B, P, states)``."""
        ...

    def linearize(
        self,
        time: torch.Tensor,
        state: torch.Tensor,
        theta: torch.Tensor,
        controls: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the time derivative and its derivatives by state and by ``theta``."""
        ...

    def slopes(
        self,
        time: torch.Tensor,
        state: torch.Tensor,
        theta: torch.Tensor,
        controls: torch.Tensor | None = None,
    ) -> Slopes:
        """Return the time derivative and its derivatives by everything but weights."""
        ...

    def products(
        self,
        time: torch.Tensor,
        state: torch.Tensor,
        theta: torch.Tensor,
        controls: torch.Tensor | None = None,
    ) -> tuple[OuterProducts, ...]:
        """Return the derivative of each hole's value by its own weights."""
        ...

    @property
    def widths(self) -> tuple[int, ...]:
        """Number of weights of each hole; they end ``theta``."""
        ...

    @property
    def factors(self) -> int:
        """Numbers that `products` holds for each point."""
        ...

    def prior_precision(self, batch: int) -> torch.Tensor:
        """Return the precision of the prior of ``theta`` around zero, shape ``(batch, n_theta)``."""
        ...

    def take(self, index: torch.Tensor) -> Dynamics:
        """Return the equation of the chosen members of the batch only."""
        ...


Filling = TypeVar("Filling", bound=AbstractFilling)


class UDE(Generic[Filling]):
    """Right-hand side of a system whose holes are filled, for a batch of fillings.

    Args:
        system: the known physics.
        filling: what stands in its holes.
        device: where the tensors live.
        parameter_prior: strength of the Gaussian prior on the coordinates of free parameters.
    """

    def __init__(
        self,
        system: System,
        filling: Filling,
        device: torch.device | str = "cpu",
        parameter_prior: float = 0.0,
    ) -> None:
        self.parameter_prior = parameter_prior
        self.system = system
        self.filling = filling
        self.device = device
        self.parameters = ParameterMap(system, device)
        self.functions = system.torch_functions()
        self.n_free = self.parameters.n_free
        self.n_theta = self.n_free + filling.n_weights

    def split(self, theta: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the parameter coordinates and the weights."""
        return theta[:, : self.n_free], theta[:, self.n_free :]

    def prior_precision(self, batch: int) -> torch.Tensor:
        """Return the precision of the prior of ``theta`` around zero, shape ``(batch, n_theta)``."""
        strength = self.parameter_prior**2
        free = torch.full((batch, self.n_free), strength, dtype=torch.float64, device=self.device)
        return torch.cat([free, self.filling.prior_precision(batch)], dim=1)

    def rhs(
        self,
        time: torch.Tensor,
        state: torch.Tensor,
        theta: torch.Tensor,
        controls: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return the time derivative at ``P`` points, shape ``(B, P, states)``.

        Args:
            time: shape ``(P,)``.
            state: shape ``(B, P, states)``.
            theta: shape ``(B, n_theta)``.
            controls: shape ``(P, controls)``; None for a system without controls.
        """
        return self.at(theta)(time, state, controls)

    def at(self, theta: torch.Tensor) -> Field:
        """Return `rhs` for one ``theta``, for whoever evaluates it many times."""
        coordinates, weights = self.split(theta)
        filled = self.filling.at(weights)
        parameters = self.parameters.physical(coordinates)[:, None, :]

        def field(time: torch.Tensor, state: torch.Tensor, controls: torch.Tensor | None) -> torch.Tensor:
            holes = filled(time, state, controls)
            return self.functions.rhs(time, state, parameters, holes, controls)

        return field

    def linearize(
        self,
        time: torch.Tensor,
        state: torch.Tensor,
        theta: torch.Tensor,
        controls: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the time derivative and its derivatives by state and by ``theta``; see `rhs`."""
        coordinates, weights = self.split(theta)
        holes, by_state, by_weights = self.filling.linearize(weights, time, state, controls)
        parameters = self.parameters.physical(coordinates)[:, None, :]
        value, f_x, f_p, f_u = self.functions.linearize(time, state, parameters, holes, controls)
        f_x = f_x + f_u @ by_state
        f_w = f_u @ by_weights
        if self.n_free:
            slope = self.parameters.slope(coordinates)[:, None, None, :]
            f_w = torch.cat([f_p[..., self.parameters.free_positions] * slope, f_w], dim=-1)
        return value, f_x, f_w

    def slopes(
        self,
        time: torch.Tensor,
        state: torch.Tensor,
        theta: torch.Tensor,
        controls: torch.Tensor | None = None,
    ) -> Slopes:
        """Return the time derivative and its derivatives by everything but weights; see `rhs`.

        With `products` the same as `linearize`, without the large array of derivatives by all weights.
        """
        coordinates, weights = self.split(theta)
        holes, by_state = self.filling.slopes(weights, time, state, controls)
        parameters = self.parameters.physical(coordinates)[:, None, :]
        value, f_x, f_p, f_u = self.functions.linearize(time, state, parameters, holes, controls)
        free = f_p[..., self.parameters.free_positions]
        if self.n_free:
            free = free * self.parameters.slope(coordinates)[:, None, None, :]
        return Slopes(value, f_x + f_u @ by_state, free, f_u)

    def products(
        self,
        time: torch.Tensor,
        state: torch.Tensor,
        theta: torch.Tensor,
        controls: torch.Tensor | None = None,
    ) -> tuple[OuterProducts, ...]:
        """Return the derivative of each hole's value by its own weights, at ``P`` points; see `rhs`."""
        return self.filling.products(self.split(theta)[1], time, state, controls)

    @property
    def widths(self) -> tuple[int, ...]:
        """Number of weights of each hole; they end ``theta``."""
        return self.filling.widths

    @property
    def factors(self) -> int:
        """Numbers that `products` holds for each point."""
        return self.filling.factors

    def with_filling(self, filling: Filling) -> UDE[Filling]:
        """Return the equation with something else in its holes."""
        return UDE(self.system, filling, self.device, self.parameter_prior)

    def take(self, index: torch.Tensor) -> UDE:
        """Return the equation of the chosen members of the batch only."""
        return UDE(self.system, self.filling.take(index), self.device, self.parameter_prior)
