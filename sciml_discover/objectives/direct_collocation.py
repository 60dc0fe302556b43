"""Direct collocation: states at the nodes are unknowns, the differential equation is a set of conditions."""

from __future__ import annotations

from copy import copy
from dataclasses import astuple, dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar, Literal, cast

import numpy as np
import pydantic

from sciml_discover.base import lazy_import
from sciml_discover.errors import SolveError
from sciml_discover.evidence import update_prior, update_prior_by_factor
from sciml_discover.holes import ResidualNetworks
from sciml_discover.linear_algebra import (
    ArrowNormal,
    ContinuityProblem,
    Forcing,
    Method,
    OuterProducts,
    arrow,
    data_factor,
    marginal_precision,
    solve_continuity,
)
from sciml_discover.objectives.abstract import (
    AbstractLinearization,
    AbstractObjective,
    AbstractObjectiveOptions,
    Order,
    choose,
    take,
)
from sciml_discover.objectives.mesh import Mesh, carry_states, recall_mesh, row_mesh
from sciml_discover.objectives.multiple_shooting import MultipleShooting
from sciml_discover.objectives.problem import FitState, Rows
from sciml_discover.objectives.stability import growth
from sciml_discover.ude import UDE, Dynamics, Slopes

if TYPE_CHECKING:
    import torch
else:
    torch = lazy_import("torch")

CLOSED = 1e-2
"""Defects below this, in units of the noise, count as closed."""

CONTINUOUS = 1e4
"""A weight of the defects with which trajectories are continuous for all that the noise can tell."""

LARGEST_INFORMATION = 1500
"""Most unknowns of an equation for which their whole matrix is made: its eigenvalues take minutes beyond it."""

AT_ONCE = 20_000_000
"""Numbers in the signals of the networks that are computed at once."""

INACCURATE = 0.1
"""An interval whose end is wrong by more than this, in units of the tolerance, is split."""

UNSTABLE = 1.5
"""Most growth of a state's logarithm over an interval. A longer step of an L-stable method would damp what should grow,
and its stage matrix can be singular."""

LARGEST_GROWTH = 2.5
"""An interval in which less grows than this can be believed. The stage matrix of three stages has its first singularity
at a growth of 2.7."""

MOST_PIECES = 64
"""Most pieces into which an interval is split at once."""

STAGE_SWEEPS = 4
"""Newton iterations for the stages of an interval, from those of a fit."""


class DirectCollocation(AbstractObjectiveOptions):
    """Radau IIA collocation: states at the nodes and the weights are solved for together.

    Nothing is stepped through time: all right-hand sides of an iteration are one batch, and the method is L-stable, so
    stiffness is no obstacle. Defects are measured as errors of the states (the natural level of Deuflhard 2011,
    doi:10.1007/978-3-642-23899-4): with the plain defect a stiff system is all scales and no direction. At first
    they weigh so little that the states stay at the data and the fit is one of slopes, which has hardly any local
    minima; their weight grows from round to round; in the end multipliers (Hestenes 1969, doi:10.1007/BF00927673)
    close them.
    """

    solves: ClassVar[bool] = False
    kind: Literal["direct_collocation"] = "direct_collocation"
    stages: int = pydantic.Field(default=3, ge=1, le=5)
    """Collocation points per interval; the order of the method is one less than twice that."""
    continuity: pydantic.PositiveFloat = 1e-3
    """First weight of the defects, in units of the noise."""
    growth: float = pydantic.Field(default=100.0, gt=1.0)
    """Factor of that weight from round to round."""
    rounds: int = pydantic.Field(default=4, ge=1, le=20)
    """Rounds in which the weight grows."""
    evidence: bool = True
    """Whether the strength of the networks' prior follows its evidence from round to round."""
    multiplier_rounds: int = pydantic.Field(default=3, ge=0, le=20)
    """Most rounds after them, in which multipliers close the defects."""
    refinements: int = pydantic.Field(default=3, ge=0, le=20)
    """How often intervals between rows may be split where the method is not accurate enough, by Gauss-Newton."""
    most_intervals: pydantic.PositiveFloat = 10.0
    """Most intervals after splitting, relative to the number of rows."""

    def backed_off(self) -> AbstractObjectiveOptions | None:
        """Return multiple shooting, which needs no guess of what happens inside an interval."""
        return MultipleShooting(segment_length=1)

    def build(self, ude: UDE, rows: Rows, steps: int) -> CollocationObjective:  # noqa: ARG002 - no steps
        """Return the objective for a universal differential equation and training rows."""
        return CollocationObjective(self, ude, rows, row_mesh(rows))


@lru_cache(maxsize=8)
def radau(stages: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the matrix and the nodes of the Radau IIA method (Hairer & Wanner 1996, section IV.5).

    Example:
        >>> radau(2)[0].round(4).tolist(), radau(2)[1].round(4).tolist()
        ([[0.4167, -0.0833], [0.75, 0.25]], [0.3333, 1.0])
    """
    legendre = np.polynomial.legendre.Legendre
    # The nodes on [-1, 1] are the zeros of P_s - P_(s-1), the right end among them.
    zeros = np.sort((legendre.basis(stages) - legendre.basis(stages - 1)).roots().real)
    nodes = 0.5 * (zeros + 1.0)
    nodes[-1] = 1.0
    powers = np.arange(1, stages + 1)
    # The method integrates every polynomial of a lower degree than `stages` exactly.
    values = nodes[:, None] ** (powers - 1)
    integrals = nodes[:, None] ** powers / powers
    return np.linalg.solve(values.T, integrals.T).T, nodes


@dataclass(frozen=True)
class Closing:
    """How the defects are closed in one round.

    Attributes:
        weight: of the squared defects, in units of the tolerances.
        number: of the round.
        shift: multipliers over the weight, in units of the tolerances, shape ``(B, J, S, d)``; None for zeros.
        refined: how often intervals have been split after a round.
    """

    weight: float
    number: int = 0
    shift: torch.Tensor | None = None
    refined: int = 0


class CollocationObjective(AbstractObjective):
    """Direct collocation of a batch of equations over the same rows.

    The flat unknowns are the node states ``(J, S + 1, d)``, the stages inside the intervals ``(J, S, s - 1, d)`` and
    then ``theta``. The last stage of an interval is its right node.

    Args:
        options: stages, and how the weight of the defects grows.
        ude: the equations.
        rows: the training rows.
        mesh: where the nodes are.
        closing: the round it is in; the first unless given.
    """

    def __init__(
        self,
        options: DirectCollocation,
        ude: Dynamics,
        rows: Rows,
        mesh: Mesh,
        closing: Closing | None = None,
    ) -> None:
        self.options, self.ude, self.rows, self.mesh = options, ude, rows, mesh
        self.closing = closing or Closing(options.continuity)
        matrix, fractions = radau(options.stages)
        tensor = {"dtype": rows.times.dtype, "device": rows.times.device}
        self._fractions = torch.as_tensor(fractions, **tensor)
        self._times = (mesh.start[..., None] + mesh.length[..., None] * self._fractions).flatten()
        self._inputs = mesh.inputs_at(rows, self._fractions)
        self._stepped = mesh.length[..., None, None] * torch.as_tensor(matrix, **tensor)  # (J, S, s, s)
        tolerance = mesh.between_rows(rows.tolerance_at_rows, rows.times)
        self._tolerance = torch.minimum(tolerance[:, :-1], tolerance[:, 1:])  # (J, S, d)
        shape = (*mesh.start.shape, options.stages)
        self._setting = _Setting(
            ude,
            self._times.reshape(shape),
            None if self._inputs is None else self._inputs.reshape(*shape, -1),
            self._stepped,
            self._tolerance,
            self.closing.weight,
            rows.scale.reciprocal().square(),
        )

    # --- the flat unknowns -------------------------------------------------------------------------------

    def start(self, state: FitState) -> torch.Tensor:
        """Return the flat unknowns: nodes are the states at the rows, stages lie on the lines between them."""
        nodes = self.mesh.between_rows(state.states, self.rows.times)
        inner = torch.lerp(nodes[:, :, :-1, None, :], nodes[:, :, 1:, None, :], self._fractions[:-1, None])
        return torch.cat([nodes.flatten(1), inner.flatten(1), state.theta], dim=1)

    def finish(self, unknowns: torch.Tensor) -> FitState:
        """Return the states at all rows."""
        nodes, _, theta = self.split(unknowns)
        return FitState(self.mesh.at_rows(nodes).clone(), theta.clone())

    def unit(self, unknowns: torch.Tensor) -> torch.Tensor:
        """Return the scales of the states for nodes and stages, one for ``theta``."""
        nodes, inner, theta = self.split(unknowns)
        scale = self.rows.scale
        return torch.cat(
            [
                scale.expand(nodes.shape[1:]).flatten(),
                scale.expand(inner.shape[1:]).flatten(),
                torch.ones_like(theta[0]),
            ]
        )

    def split(self, unknowns: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return nodes ``(B, J, S + 1, d)``, stages inside the intervals ``(B, J, S, s - 1, d)`` and ``theta``."""
        batch, (count, intervals) = unknowns.shape[0], self.mesh.start.shape
        dimension, inside = len(self.rows.scale), self.options.stages - 1
        first = count * (intervals + 1) * dimension
        second = first + count * intervals * inside * dimension
        return (
            unknowns[:, :first].reshape(batch, count, intervals + 1, dimension),
            unknowns[:, first:second].reshape(batch, count, intervals, inside, dimension),
            unknowns[:, second:],
        )

    # --- rounds ------------------------------------------------------------------------------------------

    def rounds_of(self, order: Order) -> int:
        """Return the most rounds."""
        refinements = self.options.refinements if order == 2 else 0
        return self.options.rounds + self.options.multiplier_rounds + refinements

    @property
    def provisional(self) -> bool:
        """Whether the weight of the defects still grows."""
        return self.closing.number + 1 < self.options.rounds

    def first_round(self, order: Order) -> CollocationObjective:
        """Return the objective with the smallest weight of the defects."""
        # What follows gradients has a memory of its own, which would not fit other unknowns.
        refined = 0 if order == 2 else self.options.refinements
        return self._in(Closing(self.options.continuity, refined=refined))

    def suited_to(self, state: FitState) -> CollocationObjective:
        """Return the objective on a mesh that resolves how fast something grows where the fit stands."""
        if self.options.refinements == 0:
            return self
        pieces = self._pieces(self.start(state), accurately=False)
        return self if pieces is None else self._in(self.closing, self.mesh.split(pieces))

    def next_round(self, unknowns: torch.Tensor) -> CollocationObjective | None:
        """Return the objective with a larger weight, or with multipliers; None once the defects are closed."""
        closing, mesh = self.closing, self.mesh
        if closing.number + 1 < self.options.rounds:
            grown = replace(closing, weight=closing.weight * self.options.growth, number=closing.number + 1)
            return self._weighed(unknowns)._in(grown) if closing.number > 0 else self._in(grown)
        # Where nothing grows between rows, splitting frees the equation to do as it likes between them: Robertson's
        # reactions came out worse, so that the rows stay the nodes there.
        split = mesh.positions is not None and closing.shift is None
        if split and closing.refined < self.options.refinements:
            pieces = self._pieces(unknowns)
            if pieces is not None:
                return self._in(replace(closing, refined=closing.refined + 1), mesh.split(pieces))
        if closing.number + 1 >= self.options.rounds + self.options.multiplier_rounds:
            return None
        with torch.no_grad():
            error = self._point(unknowns)[0]
        if bool((error.abs().flatten(1).amax(1) < CLOSED).all()):
            return None
        jump = torch.nan_to_num(error[..., -1, :])
        shift = jump if closing.shift is None else closing.shift + jump
        return self._in(replace(closing, number=closing.number + 1, shift=shift))

    def _weighed(self, unknowns: torch.Tensor) -> CollocationObjective:
        """Return the objective whose priors have followed their evidence at the end of a round."""
        trained = self._trained()
        if not self.options.evidence or trained is None:
            return self
        networks, theta = trained.filling, self.split(unknowns)[2]
        # Free parameters count as known: their own prior says next to nothing.
        problem = self.linearize(unknowns).problem()
        known = (
            theta[:, trained.n_free :],
            networks.priors(len(theta)),
            [shape.n_weights for shape in networks.shapes],
            self.rows.n_observed,
        )
        if theta.shape[1] <= LARGEST_INFORMATION:
            precision = marginal_precision(problem)
            strengths = update_prior(precision[:, trained.n_free :, trained.n_free :], *known)
        else:
            strengths = update_prior_by_factor(data_factor(problem)[..., trained.n_free :], *known)
        return self._of(trained.with_filling(networks.with_prior(strengths)))

    def _trained(self) -> UDE[ResidualNetworks] | None:
        """Return the equation if networks stand in its holes."""
        networks = isinstance(self.ude, UDE) and isinstance(self.ude.filling, ResidualNetworks)
        return cast("UDE[ResidualNetworks]", self.ude) if networks else None

    @property
    def prior(self) -> torch.Tensor | None:
        """Strengths of the networks' priors, shape ``(B, holes)``; None if there is one for all."""
        trained = self._trained()
        prior = None if trained is None else trained.filling.prior
        return prior if isinstance(prior, torch.Tensor) else None

    def carry(self, previous: AbstractObjective, unknowns: torch.Tensor) -> torch.Tensor:
        """Return the unknowns of another mesh on this one: the collocation polynomials of its intervals go on."""
        if not isinstance(previous, CollocationObjective) or previous.mesh is self.mesh:
            return unknowns
        nodes, inner, theta = previous.split(unknowns)
        stages = _with_ends(nodes, inner)
        nodes, inner = carry_states(nodes, stages, self._fractions, previous.mesh, self.mesh)
        return torch.cat([nodes.flatten(1), inner.flatten(1), theta], dim=1)

    def _point(self, unknowns: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the errors of the states ``(B, J, S, s, d)`` and ``df/dx`` ``(B, J, S, s, d, d)``."""
        nodes, inner, theta = self.split(unknowns)
        stages = _with_ends(nodes, inner)
        slopes = self._slopes(stages, theta)
        error = self._error(self._inverse(slopes.by_state), self._defect(nodes, stages, slopes.value))
        return error, slopes.by_state.reshape(*stages.shape, stages.shape[-1])

    def discrepancy(self, unknowns: torch.Tensor) -> torch.Tensor:
        """Return the squared errors at the ends of all intervals, in units of the noise, ``(B,)``.

        It is infinite where defects are not closed, or intervals too long to see what grows in them.
        """
        wrong, grown = self._trouble(unknowns)
        with torch.no_grad():
            closed = self._point(unknowns)[0].abs().flatten(1).amax(1) < 2.0 * CLOSED
        told = closed & (grown.flatten(1).amax(1) < LARGEST_GROWTH)
        return torch.where(told, wrong.square().sum((1, 2)), torch.inf)

    def _trouble(self, unknowns: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return how wrong the end of each interval is, and how much grows in it, shape ``(B, J, S)``."""
        halves = self._in(
            Closing(self.closing.weight),
            self.mesh.split(torch.full_like(self.mesh.start, 2, dtype=torch.int64)),
        )
        dimension = self._tolerance.shape[-1]
        with torch.no_grad():
            error, by_state = halves._point(halves.carry(self, unknowns))
            # What the first half does wrong goes through the second; of a fast decay nothing is left there.
            last = halves._inverse(by_state)[..., -dimension:, :]
            passed = last.unflatten(-1, (-1, dimension)).sum(-2)[:, :, 1::2]
            ends = error[..., -1, :] * halves._tolerance
            moved = ends[:, :, 1::2] + (passed @ ends[:, :, 0::2, :, None])[..., 0]
        wrong = torch.nan_to_num((moved / self._tolerance).abs(), nan=torch.inf).amax(-1)
        rates = growth(by_state, halves.mesh.length[..., None], UNSTABLE)
        return wrong, 2.0 * rates.reshape(*wrong.shape, -1).amax(-1)

    def _pieces(self, unknowns: torch.Tensor, *, accurately: bool = True) -> torch.Tensor | None:
        """Return into how many pieces each interval should be split, shape ``(J, S)``; None if none should.

        An interval is too long if its two halves would not meet where it ends (step doubling, Hairer, Norsett & Wanner
        1993, section II.4), measured like the defects; or if something grows so fast in it that the method
        would damp it instead, which the halves would not show. What most members of the batch agree on counts.

        Args:
            unknowns: where the fit stands.
            accurately: whether the first of the two counts.
        """
        wrong, grown = (item.median(0).values for item in self._trouble(unknowns))
        pieces = torch.ceil(grown / UNSTABLE)
        if accurately:
            # The error falls with a high power of the length; much more than 4 pieces cannot be foretold.
            power = 1.0 / (2 * self.options.stages - 1)
            pieces = torch.maximum(pieces, torch.ceil((wrong / INACCURATE) ** power).clamp_max(4))
        pieces = pieces.clamp(1, MOST_PIECES).long()
        pieces = torch.where(self.mesh.length > 0, pieces, 1)
        most = int(self.options.most_intervals * sum(self.rows.lengths))
        while int((pieces - 1).sum()) + int((self.mesh.length > 0).sum()) > most:
            fewer = torch.where(pieces > 2, pieces // 2, 1)
            if torch.equal(fewer, pieces):
                break
            pieces = fewer
        return pieces if bool((pieces > 1).any()) else None

    @property
    def memory(self) -> dict[str, torch.Tensor]:
        """Weight, number and multipliers of the round, and the priors that followed their evidence."""
        closing = self.closing
        memory = {
            "weight": torch.tensor(closing.weight, dtype=torch.float64),
            "number": torch.tensor(closing.number),
            "refined": torch.tensor(closing.refined),
            **self.mesh.memory,
        }
        if closing.shift is not None:
            memory["shift"] = closing.shift
        if self.prior is not None:
            memory["prior"] = self.prior
        return memory

    def recall(self, memory: dict[str, torch.Tensor]) -> CollocationObjective:
        """Return exactly the objective that had this ``memory``."""
        shift = memory.get("shift")
        if shift is not None:
            shift = shift.to(self.rows.times.device)
        recalled = self
        trained = self._trained()
        if "prior" in memory and trained is not None:
            prior = memory["prior"].to(self.rows.times.device)
            recalled = self._of(trained.with_filling(trained.filling.with_prior(prior)))
        closing = Closing(float(memory["weight"]), int(memory["number"]), shift, int(memory["refined"]))
        return recalled._in(closing, recall_mesh(memory, self.rows))

    def _in(self, closing: Closing, mesh: Mesh | None = None) -> CollocationObjective:
        """Return this objective in another round, and maybe on another mesh."""
        return CollocationObjective(self.options, self.ude, self.rows, mesh or self.mesh, closing)

    def _of(self, ude: Dynamics) -> CollocationObjective:
        """Return this objective for another equation."""
        return CollocationObjective(self.options, ude, self.rows, self.mesh, self.closing)

    def take(self, index: torch.Tensor) -> CollocationObjective:
        """Return the objective of the chosen members of the batch."""
        closing = self.closing
        if closing.shift is not None:
            closing = replace(closing, shift=closing.shift[index])
        # Made in every iteration in which some members are done: what all share is not computed anew.
        chosen = copy(self)
        chosen.closing, chosen._setting = closing, self._setting.take(index)
        chosen.ude = chosen._setting.ude
        return chosen

    # --- the least-squares problem -----------------------------------------------------------------------

    def loss(self, unknowns: torch.Tensor) -> torch.Tensor:
        """Return half the squared residuals, prior and weighted defects included.

        The matrices that turn defects into errors of the states count as constants.
        """
        nodes, inner, theta = self.split(unknowns)
        stages = _with_ends(nodes, inner)
        points = stages.flatten(1, 3)
        with torch.no_grad():
            inverse = self._inverse(self._slopes(stages, theta).by_state)
        defect = self._defect(nodes, stages, self.ude.rhs(self._times, points, theta, self._inputs))
        residual = self.rows.residual(self.mesh.at_rows(nodes))
        prior = (self.ude.prior_precision(theta.shape[0]) * theta.square()).sum(1)
        scaled = self._shifted(self._error(inverse, defect))
        penalty = self.closing.weight * scaled.square().sum((1, 2, 3, 4))
        return 0.5 * (residual.square().sum((1, 2, 3)) + prior + penalty)

    def _slopes(self, stages: torch.Tensor, theta: torch.Tensor) -> Slopes:
        """Return the right-hand side at stages ``(B, J, S, s, d)``, a few intervals at a time if there are many."""
        batch, count, intervals, n_stages, _ = stages.shape
        per_interval = batch * count * n_stages * max(self.ude.factors, 1)
        length = max(AT_ONCE // per_interval, 1)
        if length >= intervals:
            return self.ude.slopes(self._times, stages.flatten(1, 3), theta, self._inputs)
        parts = []
        for begin in range(0, intervals, length):
            piece = slice(begin, begin + length)
            times, inputs = self._setting.points(piece)
            found = self.ude.slopes(times, stages[:, :, piece].flatten(1, 3), theta, inputs)
            parts.append([part.unflatten(1, (count, -1)) for part in astuple(found)])
        return Slopes(*(torch.cat(part, dim=2).flatten(1, 2) for part in zip(*parts, strict=True)))

    def _defect(self, nodes: torch.Tensor, stages: torch.Tensor, slopes: torch.Tensor) -> torch.Tensor:
        """Return the defects of the collocation conditions, shape ``(B, J, S, s, d)``."""
        return stages - nodes[:, :, :-1, None] - self._stepped @ slopes.reshape(stages.shape)

    def _inverse(self, by_state: torch.Tensor) -> torch.Tensor:
        """Return the inverse of the stage matrices ``I - h A (x) df/dx``, shape ``(B, J, S, s d, s d)``."""
        stages, dimension = self.options.stages, by_state.shape[-1]
        by_state = by_state.reshape(-1, *self.mesh.start.shape, 1, stages, dimension, dimension)
        blocks = self._stepped[..., None, None] * by_state  # (B, J, S, s, s, d, d)
        size = stages * dimension
        matrix = -blocks.transpose(-3, -2).reshape(*blocks.shape[:3], size, size)
        matrix.diagonal(dim1=-2, dim2=-1).add_(1.0)
        return torch.linalg.inv_ex(matrix).inverse

    def _error(self, inverse: torch.Tensor, defect: torch.Tensor) -> torch.Tensor:
        """Return defects as errors of the states, in units of the tolerances."""
        error = (inverse @ defect.flatten(3)[..., None])[..., 0].reshape(defect.shape)
        return error / self._tolerance[..., None, :]

    def _shifted(self, error: torch.Tensor) -> torch.Tensor:
        """Return the errors with the multipliers added at the ends of the intervals."""
        if self.closing.shift is None:
            return error
        return torch.cat([error[..., :-1, :], error[..., -1:, :] + self.closing.shift[..., None, :]], dim=-2)

    def information(self, unknowns: torch.Tensor) -> ArrowNormal:
        """Return what data and prior say about ``theta`` and the initial states, on continuous trajectories.

        The stages are first made to satisfy their equations.

        Raises:
            SolveError: if the equation has too many unknowns for their matrix.
        """
        nodes, inner, theta = self.split(unknowns)
        if theta.shape[1] > LARGEST_INFORMATION:
            raise SolveError(
                f"the networks have {theta.shape[1]} weights, and uncertainty is computed for at most "
                f"{LARGEST_INFORMATION}"
            )
        stages = _with_ends(nodes, inner)
        with torch.no_grad():
            for _ in range(STAGE_SWEEPS):
                slopes = self._slopes(stages, theta)
                defect = self._defect(nodes, stages, slopes.value)
                move = (self._inverse(slopes.by_state) @ defect.flatten(3)[..., None])[..., 0]
                stages = stages - move.reshape(stages.shape)
            solved = torch.cat([nodes.flatten(1), stages[..., :-1, :].flatten(1), theta], dim=1)
            return arrow(self._in(Closing(CONTINUOUS))._linearize(solved).problem())

    def linearize(self, unknowns: torch.Tensor) -> CollocationLinearization:
        """Return the least-squares problem with defects measured in the states' units."""
        with torch.no_grad():
            return self._linearize(unknowns)

    def _linearize(self, unknowns: torch.Tensor) -> CollocationLinearization:
        nodes, inner, theta = self.split(unknowns)
        batch, count, _, dimension = nodes.shape
        n_stages, weight, intervals = self.options.stages, self.closing.weight, self.mesh.intervals
        stages = _with_ends(nodes, inner)
        slopes = self._slopes(stages, theta)
        by_parameters, by_holes = (
            part.reshape(*stages.shape, part.shape[-1]) for part in (slopes.by_parameters, slopes.by_holes)
        )
        inverse = self._inverse(slopes.by_state)
        defect = self._defect(nodes, stages, slopes.value)
        error = self._error(inverse, defect)
        scaled = self._shifted(error)
        # The end of an interval moves like the last rows of inverse x (begin, or h A (x) I x slopes).
        last = inverse[..., -dimension:, :] / self._tolerance[..., None]
        begin = last.unflatten(-1, (n_stages, dimension)).sum(-2)
        moved = (self._stepped @ by_parameters.flatten(-2)).reshape(*inverse.shape[:4], -1)
        # (B, J, S, s, d, s, holes): slope at one stage, by the hole at another one.
        apart = self._stepped[..., :, None, :, None] * by_holes.transpose(-2, -3)[..., None, :, :, :]
        ends = last @ apart.flatten(-2).flatten(3, 4)

        residual, by_node = self.rows.linearize(self.mesh.at_rows(nodes))
        precision = self.ude.prior_precision(batch)
        fit = 0.5 * (residual.square().sum((1, 2, 3)) + (precision * theta.square()).sum(1))
        inner_cost = 0.5 * weight * scaled[..., :-1, :].square().sum((1, 2, 3, 4))
        shape = error.shape[:3] + error.shape[4:]
        return CollocationLinearization(
            cost=fit + inner_cost + 0.5 * weight * scaled[..., -1, :].square().sum((1, 2, 3)),
            infeasibility=torch.zeros_like(fit),
            worst_defect=torch.zeros_like(fit),
            fit=fit,
            inner_cost=inner_cost,
            shift=error.new_zeros(shape) if self.closing.shift is None else self.closing.shift,
            defect=defect,
            inverse=inverse,
            stages=stages,
            theta=theta,
            by_parameters=by_parameters,
            by_holes=by_holes.expand(*stages.shape, by_holes.shape[-1]),
            data=self.mesh.at_nodes(by_node.transpose(-1, -2) @ by_node),
            data_gradient=self.mesh.at_nodes((by_node.transpose(-1, -2) @ residual[..., None])[..., 0]),
            begin=begin,
            scaled=scaled[..., -1, :],
            end_by_parameters=last @ moved,
            end_by_holes=ends.unflatten(-1, (n_stages, -1))
            if by_holes.shape[-1]
            else last.new_zeros(batch, count, intervals, dimension, n_stages, 0),
            precision=precision,
            setting=self._setting,
        )


def _with_ends(nodes: torch.Tensor, inner: torch.Tensor) -> torch.Tensor:
    """Return all stages, the last of which is the right node, shape ``(B, J, S, s, d)``."""
    return torch.cat([inner, nodes[:, :, 1:, None]], dim=3)


class _Setting:
    """What linearizations of an objective share: nothing that differs between members, but the equation.

    Args:
        ude: the equation; only its derivatives by weights are used.
        times: of all stages, shape ``(J, S, s)``.
        inputs: controls at all stages, shape ``(J, S, s, controls)``; None without controls.
        stepped: interval lengths times the Radau matrix, shape ``(J, S, s, s)``.
        tolerance: unit of the defects, shape ``(J, S, d)``.
        weight: of the squared defects.
        node_damping: what the damping of a node multiplies, shape ``(d,)``.
    """

    def __init__(
        self,
        ude: Dynamics,
        times: torch.Tensor,
        inputs: torch.Tensor | None,
        stepped: torch.Tensor,
        tolerance: torch.Tensor,
        weight: float,
        node_damping: torch.Tensor,
    ) -> None:
        self.ude, self.times, self.inputs, self.stepped = ude, times, inputs, stepped
        self.tolerance, self.weight, self.node_damping = tolerance, weight, node_damping

    def points(self, intervals: slice) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return times and controls at the stages of some intervals, flat."""
        inputs = None if self.inputs is None else self.inputs[:, intervals].flatten(0, 2)
        return self.times[:, intervals].flatten(), inputs

    def take(self, index: torch.Tensor) -> _Setting:
        """Return the setting of the chosen members of the batch."""
        return _Setting(
            self.ude.take(index),
            self.times,
            self.inputs,
            self.stepped,
            self.tolerance,
            self.weight,
            self.node_damping,
        )


@dataclass(frozen=True)
class CollocationLinearization(AbstractLinearization):
    """A linearised collocation problem with the defects as part of the cost.

    Derivatives by weights are not among these: they would be by far the largest part, and are made again from
    ``stages`` and ``theta`` where they are needed.

    Attributes:
        fit: ``cost`` without the defects, shape ``(B,)``.
        inner_cost: what stages inside the intervals contribute to ``cost``, shape ``(B,)``.
        shift: multipliers, in units of the tolerances, shape ``(B, J, S, d)``.
        defect: defects of the conditions, shape ``(B, J, S, s, d)``.
        inverse: of the stage matrices, shape ``(B, J, S, s d, s d)``.
        stages: states at the stages, shape ``(B, J, S, s, d)``.
        theta: shape ``(B, q)``.
        by_parameters: derivative of the stages' slopes, shape ``(B, J, S, s, d, n)``.
        by_holes: the same by the holes, shape ``(B, J, S, s, d, holes)``.
        data: what data say about each node, shape ``(B, J, S + 1, d, d)``.
        data_gradient: its gradient, shape ``(B, J, S + 1, d)``.
        begin: derivative of an interval's end by its begin, in units of the tolerances, shape ``(B, J, S, d, d)``.
        scaled: how far the ends are off, multipliers included, in those units, shape ``(B, J, S, d)``.
        end_by_parameters: derivative of the ends, in those units, shape ``(B, J, S, d, n)``.
        end_by_holes: the same by the holes at the stages, shape ``(B, J, S, d, s, holes)``.
        precision: of the prior of ``theta``, shape ``(B, q)``.
        setting: what all members share.
    """

    cost: torch.Tensor
    infeasibility: torch.Tensor
    worst_defect: torch.Tensor
    fit: torch.Tensor
    inner_cost: torch.Tensor
    shift: torch.Tensor
    defect: torch.Tensor
    inverse: torch.Tensor
    stages: torch.Tensor
    theta: torch.Tensor
    by_parameters: torch.Tensor
    by_holes: torch.Tensor
    data: torch.Tensor
    data_gradient: torch.Tensor
    begin: torch.Tensor
    scaled: torch.Tensor
    end_by_parameters: torch.Tensor
    end_by_holes: torch.Tensor
    precision: torch.Tensor
    setting: _Setting

    def problem(self) -> ContinuityProblem:
        """Return the steps of nodes and ``theta`` as a least-squares problem; the stages follow."""
        setting = self.setting

        def products(intervals: slice) -> tuple[OuterProducts, ...]:
            times, inputs = setting.points(intervals)
            points = self.stages[:, :, intervals].flatten(1, 3)
            return setting.ude.products(times, points, self.theta, inputs)

        return ContinuityProblem(
            data=self.data,
            data_gradient=self.data_gradient,
            begin=self.begin,
            own=1.0 / setting.tolerance,
            scaled=self.scaled,
            weight=setting.weight,
            forcing=Forcing(
                self.end_by_parameters,
                self.end_by_holes,
                products,
                setting.ude.widths,
                setting.ude.factors,
            ),
            precision=self.precision,
            prior_gradient=self.precision * self.theta,
            node_damping=setting.node_damping,
        )

    def solve(self, damping: torch.Tensor, method: Method | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the step of all unknowns and the change of cost that the linear model promises.

        Args:
            damping: shape ``(B,)``.
            method: how nodes and ``theta`` are solved for; the cheapest unless given.
        """
        with torch.no_grad():
            problem = self.problem()
            nodes, theta = solve_continuity(problem, damping, method)
            at_stages = problem.forcing.at_stages(theta)
            change = problem.predicted_change(nodes, theta, problem.forcing.at_ends(theta, at_stages))
            # Stages follow their interval's begin and theta, and close their own defects.
            slope = (self.by_holes @ at_stages[..., None])[..., 0]
            free = self.by_parameters.shape[-1]
            if free:
                slope = slope + (self.by_parameters @ theta[:, None, None, None, :free, None])[..., 0]
            moved = self.setting.stepped @ slope + nodes[:, :, :-1, None] - self.defect
            inner = (self.inverse[..., : -nodes.shape[-1], :] @ moved.flatten(3)[..., None])[..., 0]
            step = torch.cat([nodes.flatten(1), inner.flatten(1), theta], dim=1)
            return step, change - self.inner_cost

    def cost_seen_from(self, before: AbstractLinearization) -> torch.Tensor:
        """Return the cost with the defects turned into errors by the matrices of the point before.

        A step is judged by the level on which it was made (Deuflhard's natural monotonicity): its own matrices
        would count a defect that did not change as more or less than it was.
        """
        if not isinstance(before, CollocationLinearization):
            return self.cost
        error = (before.inverse @ self.defect.flatten(3)[..., None])[..., 0].reshape(self.defect.shape)
        scaled = error / self.setting.tolerance[..., None, :]
        ends = (scaled[..., -1, :] + self.shift).square().sum((1, 2, 3))
        inside = scaled[..., :-1, :].square().sum((1, 2, 3, 4))
        return self.fit + 0.5 * self.setting.weight * (inside + ends)

    def choose(self, keep: torch.Tensor, other: AbstractLinearization) -> CollocationLinearization:
        """Return the members of this one where ``keep`` holds, of the other elsewhere."""
        return choose(keep, self, other)

    def take(self, index: torch.Tensor) -> CollocationLinearization:
        """Return the chosen members of the batch."""
        return replace(take(self, index), setting=self.setting.take(index))
