"""Differentiable solves of many short segments at once, for first-order methods.

torchdiffeq shares one time grid over the batch, so time is counted in intervals between rows and the right-hand side
is multiplied by the true length of each. That length jumps from interval to interval, and so may a control: steps
end at the rows. Fixed steps do so in one solve; adaptive ones get one solve per interval.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, cast

from sciml_discover.base import lazy_import
from sciml_discover.controls import Inputs
from sciml_discover.errors import SolveError
from sciml_discover.ude import UDE

if TYPE_CHECKING:
    import torch
else:
    torch = lazy_import("torch")

Method = Literal["rk4", "bosh3", "dopri5"]
"""Fixed steps of order 4, or adaptive ones of order 3 (Bogacki & Shampine) or 5 (Dormand & Prince)."""

Solve = Callable[["torch.Tensor", "torch.Tensor"], "torch.Tensor"]
"""Gives the end from the begin states and ``theta``."""

GIVEN_UP = (SolveError, AssertionError)
"""What is raised where adaptive steps lead nowhere; torchdiffeq asserts that they do not vanish."""

MOST_EVALUATIONS = 3_000
"""An adaptive solve of an interval that needs more right-hand sides than this, there and back, is given up."""


@dataclass(frozen=True)
class Segments:
    """``P`` segments of ``k`` intervals each.

    Attributes:
        ude: the equations of a batch of ``B`` members.
        starts: begin of every interval, shape ``(P, k)``.
        lengths: of every interval, shape ``(P, k)``.
        inputs: the controls in each of the ``k`` intervals.
    """

    ude: UDE
    starts: torch.Tensor
    lengths: torch.Tensor
    inputs: Sequence[Inputs]

    @property
    def intervals(self) -> int:
        """Intervals per segment."""
        return self.starts.shape[1]

    def slope(
        self, interval: int, fraction: torch.Tensor, state: torch.Tensor, theta: torch.Tensor
    ) -> torch.Tensor:
        """Return the change per interval at a fraction of one, shape ``(B, P, d)``."""
        time = self.starts[:, interval] + fraction * self.lengths[:, interval]
        slope = self.ude.rhs(time, state, theta, self.inputs[interval](time))
        return slope * self.lengths[:, interval, None]

    def take(self, member: int) -> Segments:
        """Return the segments of one member of the batch."""
        index = torch.tensor([member], device=self.starts.device)
        return replace(self, ude=self.ude.take(index))


@dataclass(frozen=True)
class SegmentSolver:
    """How segments are solved.

    Attributes:
        method: of torchdiffeq.
        adjoint: whether the gradient comes from the adjoint equation instead of the steps themselves.
        steps: of a fixed-step method per interval; a power of two, so that they end at the rows exactly.
        rtol: relative tolerance of an adaptive method.
        atol: its absolute tolerance, in units of ``unit``.
        unit: of each state, shape ``(d,)``.
    """

    method: Method
    adjoint: bool
    steps: int
    rtol: float
    atol: float
    unit: torch.Tensor

    def solve(self, segments: Segments, nodes: torch.Tensor, theta: torch.Tensor) -> torch.Tensor:
        """Return the states at all ``k + 1`` rows of every segment, shape ``(B, P, k + 1, d)``.

        A member that an adaptive method gives up is not a number from there on; the others do not notice.

        Args:
            segments: what is solved.
            nodes: states at the begin of every segment, shape ``(B, P, d)``.
            theta: shape ``(B, n_theta)``.
        """
        if self.method == "rk4":
            return self._fixed(segments, nodes, theta)
        path = [nodes]
        for interval in range(segments.intervals):
            end = self._adaptive(segments, interval, path[-1] / self.unit, theta)
            path.append(end * self.unit)
        return torch.stack(path, dim=2)

    def _fixed(self, segments: Segments, nodes: torch.Tensor, theta: torch.Tensor) -> torch.Tensor:
        """Solve all intervals at once; ``perturb`` evaluates the ends of a step just inside it."""
        last = segments.intervals - 1
        grid = torch.arange(last + 2, dtype=nodes.dtype, device=nodes.device)

        def solve(state: torch.Tensor, theta: torch.Tensor) -> torch.Tensor:
            def slope(scaled: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
                interval = min(max(int(scaled), 0), last)
                return segments.slope(interval, scaled - interval, at, theta)

            return self._odeint(slope, state, theta, grid, {"step_size": 1.0 / self.steps, "perturb": True})

        return solve(nodes, theta).movedim(0, 2)

    def _adaptive(
        self, segments: Segments, interval: int, scaled: torch.Tensor, theta: torch.Tensor
    ) -> torch.Tensor:
        """Return the states at the end of one interval, in units of ``unit``; NaN for members given up."""

        def solver(segments: Segments) -> Solve:
            def solve(state: torch.Tensor, theta: torch.Tensor) -> torch.Tensor:
                slope = _Bounded(
                    lambda at, now: segments.slope(interval, at, now * self.unit, theta) / self.unit
                )
                # Without `step_t` a step may lead beyond the row, and the state there be interpolated.
                grid = torch.tensor([0.0, 1.0], dtype=state.dtype, device=state.device)
                options = {"step_t": grid, "norm": _largest}
                return self._odeint(slope, state, theta, grid, options)[-1]

            return solve

        def member(number: int) -> Solve:
            return solver(segments.take(number))

        try:
            if self.adjoint:
                return _by_adjoint(solver(segments), scaled, theta, member)
            return solver(segments)(scaled, theta)
        except GIVEN_UP:
            if len(scaled) == 1:
                return (scaled + theta.sum()) * torch.nan
        alone = [
            self._adaptive(segments.take(number), interval, scaled[[number]], theta[[number]])
            for number in range(len(scaled))
        ]
        return torch.cat(alone)

    def _odeint(
        self,
        slope: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
        state: torch.Tensor,
        theta: torch.Tensor,
        grid: torch.Tensor,
        options: dict[str, Any],
    ) -> torch.Tensor:
        from torchdiffeq import odeint, odeint_adjoint

        given = {"method": self.method, "rtol": self.rtol, "atol": self.atol, "options": options}
        if not self.adjoint:
            return cast("torch.Tensor", odeint(slope, state, grid, **given))
        return cast("torch.Tensor", odeint_adjoint(slope, state, grid, **given, adjoint_params=(theta,)))


def _largest(error: torch.Tensor) -> torch.Tensor:
    """Return the largest error: with the usual root mean square a large batch would hide a bad member."""
    return error.abs().max()


class _Bounded:
    """A right-hand side that raises where it cannot be followed, instead of letting a solver try forever.

    Raises:
        SolveError: at states or slopes that are not finite, and after too many evaluations.
    """

    def __init__(self, slope: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> None:
        self._slope, self._count = slope, 0

    def __call__(self, time: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
        self._count += 1
        slope = self._slope(time, state)
        # An infinite state has a slope that is not finite, or is asked for again and again.
        if self._count > MOST_EVALUATIONS or not bool(torch.isfinite(slope).all()):
            raise SolveError("an interval cannot be solved by adaptive steps")
        return slope


def _by_adjoint(
    solve: Solve, state: torch.Tensor, theta: torch.Tensor, member: Callable[[int], Solve]
) -> torch.Tensor:
    """Return what ``solve`` gives, with a gradient that is NaN for members whose adjoint equation runs away.

    Args:
        solve: uses `odeint_adjoint`.
        state: shape ``(B, ...)``.
        theta: shape ``(B, n_theta)``.
        member: gives the ``solve`` of one member of the batch.
    """
    return _adjoint_function().apply(solve, state, theta, member)


@lru_cache(maxsize=1)
def _adjoint_function() -> Any:
    """Return the autograd function; made at its first use, because torch is slow to import."""

    def gradient(
        solve: Solve, state: torch.Tensor, theta: torch.Tensor, by_end: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        with torch.enable_grad():
            leaves = state.detach().requires_grad_(), theta.detach().requires_grad_()
            end = solve(*leaves)
        return torch.autograd.grad(end, leaves, by_end)

    class Adjoint(torch.autograd.Function):
        """Solves the equation when called, and the adjoint equation on the way back, where that may fail."""

        @staticmethod
        def forward(
            ctx: Any, solve: Solve, state: torch.Tensor, theta: torch.Tensor, member: Callable[[int], Solve]
        ) -> torch.Tensor:
            ctx.member = member
            with torch.enable_grad():
                ctx.leaves = state.detach().requires_grad_(), theta.detach().requires_grad_()
                ctx.end = solve(*ctx.leaves)
            return ctx.end.detach()

        @staticmethod
        def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
            by_end, (state, theta) = gradients[0], ctx.leaves
            try:
                found = torch.autograd.grad(ctx.end, ctx.leaves, by_end)
            except GIVEN_UP:
                by_state, by_theta = torch.full_like(state, torch.nan), torch.full_like(theta, torch.nan)
                for b in range(len(state)):
                    with suppress(*GIVEN_UP):
                        by_state[[b]], by_theta[[b]] = gradient(
                            ctx.member(b), state[[b]], theta[[b]], by_end[[b]]
                        )
                found = by_state, by_theta
            return None, *found, None

    return Adjoint
