"""What can stand in the holes of a system, behind one interface with a batch axis; and networks that do.

A filling says what stands in every hole at given points. `ResidualNetworks` are trained; candidate laws are
`masked_libraries.MaskedLibraries`. The leading axis ``B`` counts starts of a training or candidates of a search alike.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from sciml_discover.base import lazy_import
from sciml_discover.linear_algebra import OuterProducts

if TYPE_CHECKING:
    import torch
else:
    torch = lazy_import("torch")


Field = Callable[["torch.Tensor", "torch.Tensor", "torch.Tensor | None"], "torch.Tensor"]
"""A function of times ``(P,)``, states ``(B, P, states)`` and controls ``(P, controls)`` or None."""


class AbstractFilling(ABC):
    """What stands in the holes: a differentiable function of states, time, controls and flat weights."""

    n_weights: int

    @abstractmethod
    def value(
        self,
        weights: torch.Tensor,
        time: torch.Tensor,
        state: torch.Tensor,
        controls: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return the holes' values, shape ``(B, P, holes)``, at ``P`` points for each member of the batch.

        Args:
            weights: shape ``(B, n_weights)``.
            time: shape broadcastable to ``(B, P)``.
            state: shape ``(B, P, states)``.
            controls: shape broadcastable to ``(B, P, controls)``; None for a system without controls.
        """

    def at(self, weights: torch.Tensor) -> Field:
        """Return `value` for some weights, for whoever evaluates it many times."""
        return lambda time, state, controls: self.value(weights, time, state, controls)

    @abstractmethod
    def linearize(
        self,
        weights: torch.Tensor,
        time: torch.Tensor,
        state: torch.Tensor,
        controls: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return values ``(B, P, holes)`` and their derivatives by state and by weights."""

    @abstractmethod
    def slopes(
        self,
        weights: torch.Tensor,
        time: torch.Tensor,
        state: torch.Tensor,
        controls: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return values ``(B, P, holes)`` and their derivatives by state alone, ``(B, P, holes, states)``."""

    @abstractmethod
    def products(
        self,
        weights: torch.Tensor,
        time: torch.Tensor,
        state: torch.Tensor,
        controls: torch.Tensor | None = None,
    ) -> tuple[OuterProducts, ...]:
        """Return each hole's derivative by its own weights, those of `linearize` without the zeros."""

    @property
    @abstractmethod
    def widths(self) -> tuple[int, ...]:
        """Number of weights of each hole, in the order in which they stand in the flat weights."""

    @property
    @abstractmethod
    def factors(self) -> int:
        """Numbers that `products` holds for each point."""

    @abstractmethod
    def prior_precision(self, batch: int) -> torch.Tensor:
        """Return the precision of the Gaussian prior of each weight around zero, ``(B, n_weights)``."""

    @abstractmethod
    def take(self, index: torch.Tensor) -> AbstractFilling:
        """Return the filling of the chosen members of the batch only."""


@dataclass(frozen=True)
class NetworkShape:
    """One hole's network: inputs scaled to unit size, tanh layers, one scaled output.

    Attributes:
        inputs: positions of the inputs among the states, then the time, then the controls.
        hidden: widths of the hidden layers.
        center: subtracted from each input.
        scale: then divides it.
        output_scale: multiplies the output, so that weights of size one make a typical term.
    """

    inputs: tuple[int, ...]
    hidden: tuple[int, ...]
    center: np.ndarray
    scale: np.ndarray
    output_scale: float

    @cached_property
    def widths(self) -> tuple[int, ...]:
        """Widths of all layers, input and output included."""
        return (len(self.inputs), *self.hidden, 1)

    @cached_property
    def n_weights(self) -> int:
        """Number of weights and biases."""
        return sum(
            (width + 1) * following for width, following in zip(self.widths, self.widths[1:], strict=False)
        )


class ResidualNetworks(AbstractFilling):
    """One small tanh network per hole, all starts side by side (`torch.bmm`), weights flat.

    Derivatives by inputs and weights are written out (one backward sweep per layer), because the variational
    equations need them for every point and every start at once.

    Args:
        shapes: of each hole's network.
        prior: strength of the Gaussian prior on the weights, one over their standard deviation: a number for all, or
            one for each member and hole, shape ``(B, holes)``.
        device: where the tensors live.
    """

    def __init__(
        self,
        shapes: Sequence[NetworkShape],
        prior: float | torch.Tensor,
        device: torch.device | str = "cpu",
    ) -> None:
        self.shapes = tuple(shapes)
        self.prior = prior
        self.n_weights = sum(shape.n_weights for shape in shapes)
        self._device = device
        tensor = {"dtype": torch.float64, "device": device}
        self._centers = [torch.as_tensor(shape.center, **tensor) for shape in shapes]
        self._scales = [torch.as_tensor(shape.scale, **tensor) for shape in shapes]

    def initial_weights(self, starts: int, generator: np.random.Generator) -> torch.Tensor:
        """Return weights of networks that start as a small perturbation, shape ``(starts, n_weights)``.

        Hidden layers have unit gain; the output layer is a hundredth of that, so that training sets out from
        the known physics (Rackauckas et al. 2020, arXiv:2001.04385).
        """
        blocks = []
        for shape in self.shapes:
            for layer, (width, following) in enumerate(zip(shape.widths, shape.widths[1:], strict=False)):
                gain = 0.01 if layer == len(shape.hidden) else 1.0
                matrix = gain * generator.normal(size=(starts, width * following)) / np.sqrt(width)
                bias = gain * 0.5 * generator.normal(size=(starts, following))
                blocks += [matrix, bias]
        return torch.as_tensor(np.concatenate(blocks, axis=1), dtype=torch.float64, device=self._device)

    def value(
        self,
        weights: torch.Tensor,
        time: torch.Tensor,
        state: torch.Tensor,
        controls: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return the networks' outputs, shape ``(B, P, holes)``."""
        return self.at(weights)(time, state, controls)

    def at(self, weights: torch.Tensor) -> Field:
        """Return `value` for some weights, which are cut into layers once."""
        networks, begin = [], 0
        for shape in self.shapes:
            networks.append(self._layers(shape, weights[:, begin : begin + shape.n_weights]))
            begin += shape.n_weights

        def value(time: torch.Tensor, state: torch.Tensor, controls: torch.Tensor | None) -> torch.Tensor:
            outputs = []
            for number, layers in enumerate(networks):
                signal = self._inputs(number, time, state, controls)
                for matrix, bias in layers[:-1]:
                    signal = torch.tanh(torch.baddbmm(bias, signal, matrix))
                matrix, bias = layers[-1]
                outputs.append(self.shapes[number].output_scale * torch.baddbmm(bias, signal, matrix))
            return torch.cat(outputs, dim=-1)

        return value

    def linearize(
        self,
        weights: torch.Tensor,
        time: torch.Tensor,
        state: torch.Tensor,
        controls: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return outputs and their derivatives by state ``(B, P, holes, d)`` and weights ``(..., n_weights)``."""
        batch, points, dimension = state.shape
        holes = len(self.shapes)
        outputs = []
        by_state = state.new_zeros(batch, points, holes, dimension)
        by_weights = state.new_zeros(batch, points, holes, self.n_weights)
        begin = 0
        for number, shape in enumerate(self.shapes):
            output, signals, deltas, slope = self._sweep(
                number, weights[:, begin : begin + shape.n_weights], time, state, controls
            )
            outputs.append(output)
            for signal, delta in zip(signals, deltas, strict=True):
                middle = begin + signal.shape[-1] * delta.shape[-1]
                end = middle + delta.shape[-1]
                product = signal[..., :, None] * delta[..., None, :]
                by_weights[:, :, number, begin:middle] = product.flatten(-2)
                by_weights[:, :, number, middle:end] = delta
                begin = end
            self._put(by_state, number, slope)
        return torch.cat(outputs, dim=-1), by_state, by_weights

    def slopes(
        self,
        weights: torch.Tensor,
        time: torch.Tensor,
        state: torch.Tensor,
        controls: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return outputs ``(B, P, holes)`` and their derivatives by state ``(B, P, holes, d)``."""
        batch, points, dimension = state.shape
        by_state = state.new_zeros(batch, points, len(self.shapes), dimension)
        outputs, begin = [], 0
        for number, shape in enumerate(self.shapes):
            end = begin + shape.n_weights
            output, _, _, slope = self._sweep(number, weights[:, begin:end], time, state, controls)
            outputs.append(output)
            self._put(by_state, number, slope)
            begin = end
        return torch.cat(outputs, dim=-1), by_state

    def products(
        self,
        weights: torch.Tensor,
        time: torch.Tensor,
        state: torch.Tensor,
        controls: torch.Tensor | None = None,
    ) -> tuple[OuterProducts, ...]:
        """Return each network's derivative by its own weights: a layer's signals x how its sums are felt."""
        found, begin = [], 0
        one = state.new_ones(()).expand(*state.shape[:2], 1)
        for number, shape in enumerate(self.shapes):
            end = begin + shape.n_weights
            _, signals, deltas, _ = self._sweep(number, weights[:, begin:end], time, state, controls)
            # A bias is the weight of a signal that is always one.
            pairs = [
                (torch.cat([signal, one], dim=-1), delta)
                for signal, delta in zip(signals, deltas, strict=True)
            ]
            found.append(OuterProducts(tuple(pairs)))
            begin = end
        return tuple(found)

    @property
    def widths(self) -> tuple[int, ...]:
        """Number of weights of each network."""
        return tuple(shape.n_weights for shape in self.shapes)

    @property
    def factors(self) -> int:
        """Signals of all layers and derivatives by all sums."""
        return sum(
            sum(shape.widths[:-1]) + sum(shape.widths[1:]) + len(shape.hidden) + 1 for shape in self.shapes
        )

    def _sweep(
        self,
        number: int,
        weights: torch.Tensor,
        time: torch.Tensor,
        state: torch.Tensor,
        controls: torch.Tensor | None,
    ) -> tuple[torch.Tensor, list[torch.Tensor], list[torch.Tensor], torch.Tensor]:
        """Go through one network forwards and backwards.

        Returns:
            The output, the signals that go into each layer, the output's derivatives by each layer's sums, and by
            the network's inputs.
        """
        shape = self.shapes[number]
        layers = self._layers(shape, weights)
        signals = [self._inputs(number, time, state, controls)]
        for matrix, bias in layers[:-1]:
            signals.append(torch.tanh(torch.baddbmm(bias, signals[-1], matrix)))
        matrix, bias = layers[-1]
        output = shape.output_scale * torch.baddbmm(bias, signals[-1], matrix)
        delta = state.new_full((*state.shape[:2], 1), shape.output_scale)
        deltas = []
        for layer in reversed(range(len(layers))):
            deltas.append(delta)
            delta = torch.bmm(delta, layers[layer][0].transpose(1, 2))
            if layer > 0:
                delta = delta * (1.0 - signals[layer] * signals[layer])
        return output, signals, deltas[::-1], delta / self._scales[number]

    def _put(self, by_state: torch.Tensor, number: int, slope: torch.Tensor) -> None:
        """Write a network's derivatives by its inputs where those are states."""
        for position, source in enumerate(self.shapes[number].inputs):
            if source < by_state.shape[-1]:
                by_state[:, :, number, source] = slope[..., position]

    def prior_precision(self, batch: int) -> torch.Tensor:
        """Return the squared prior strength for every weight."""
        if isinstance(self.prior, torch.Tensor):
            return per_weight(self.prior.square(), [shape.n_weights for shape in self.shapes])
        return torch.full((batch, self.n_weights), self.prior**2, dtype=torch.float64, device=self._device)

    def priors(self, batch: int) -> torch.Tensor:
        """Return the strength of the prior of each member and hole, shape ``(batch, holes)``."""
        if isinstance(self.prior, torch.Tensor):
            return self.prior
        return torch.full((batch, len(self.shapes)), self.prior, dtype=torch.float64, device=self._device)

    def with_prior(self, prior: torch.Tensor) -> ResidualNetworks:
        """Return the same networks with other priors, one for each member and hole, shape ``(B, holes)``."""
        return ResidualNetworks(self.shapes, prior, self._device)

    def take(self, index: torch.Tensor) -> ResidualNetworks:
        """Return the networks of the chosen members: the weights carry all that differs but the priors."""
        return self.with_prior(self.prior[index]) if isinstance(self.prior, torch.Tensor) else self

    def _inputs(
        self, number: int, time: torch.Tensor, state: torch.Tensor, controls: torch.Tensor | None
    ) -> torch.Tensor:
        columns = gather_inputs(self.shapes[number].inputs, time, state, controls)
        return (columns - self._centers[number]) / self._scales[number]

    @staticmethod
    def _layers(shape: NetworkShape, weights: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
        layers, begin = [], 0
        for width, following in zip(shape.widths, shape.widths[1:], strict=False):
            middle = begin + width * following
            matrix = weights[:, begin:middle].reshape(-1, width, following)
            layers.append((matrix, weights[:, None, middle : middle + following]))
            begin = middle + following
        return layers


def per_weight(per_hole: torch.Tensor, counts: Sequence[int]) -> torch.Tensor:
    """Return numbers of holes ``(B, holes)`` at each of their weights ``(B, weights)``; no wait for the device."""
    numbers = per_hole.unbind(1)
    return torch.cat(
        [number[:, None].expand(-1, count) for number, count in zip(numbers, counts, strict=True)], dim=1
    )


def gather_inputs(
    inputs: tuple[int, ...],
    time: torch.Tensor,
    state: torch.Tensor,
    controls: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return the inputs of a hole, shape ``(B, P, inputs)``: positions are those of states, time, controls."""
    dimension = state.shape[-1]
    if inputs == tuple(range(dimension)):
        return state
    if max(inputs) >= dimension:
        clock = time.expand(state.shape[:-1])[..., None]
        if controls is None:
            state = torch.cat([state, clock], dim=-1)
        else:
            given = controls.expand(*state.shape[:-1], controls.shape[-1])
            state = torch.cat([state, clock, given], dim=-1)
    return state[..., list(inputs)]
