"""How fast a learnt equation grows between rows, which an L-stable method cannot see.

The stability function of Radau IIA goes to zero for a large step along an eigenvalue of either sign (Hairer & Wanner
1996, doi:10.1007/978-3-642-05221-7, sections IV.3 and IV.5). So collocation damps a fast growth like a fast decay: an
equation that explodes between any two rows can meet all its conditions. Derivatives matched at rows do not see it
either: on a slow manifold, data say how large the fast part of the right-hand side is, and nothing of which way it
points beside the manifold.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sciml_discover.base import lazy_import

if TYPE_CHECKING:
    import torch

    from sciml_discover.objectives.problem import FitState, Rows
    from sciml_discover.ude import UDE
else:
    torch = lazy_import("torch")

EXPLOSIVE = 10.0
"""Growth of a state's logarithm from a row to the next that no data can show: what is as small as noise would be
thousands of times as large."""


def growth(by_state: torch.Tensor, length: torch.Tensor, least: float) -> torch.Tensor:
    """Return how fast the fastest growing direction grows times the length of the interval, shape ``(B, ...)``.

    Args:
        by_state: derivatives of the right-hand side, shape ``(B, ..., d, d)``.
        length: broadcastable to ``(...)``.
        least: growth that is not worth computing eigenvalues for; where there cannot be more, zero is returned.
    """
    bound = length * torch.linalg.matrix_norm(by_state)
    found = torch.zeros_like(bound)
    fast = bound > least
    if bool(fast.any()):
        matrices = torch.nan_to_num(by_state[fast], nan=0.0, posinf=0.0, neginf=0.0)
        found[fast] = torch.linalg.eigvals(matrices).real.amax(-1) * length.expand_as(bound)[fast]
    return found


def explosive(ude: UDE, rows: Rows, fit: FitState) -> torch.Tensor:
    """Return which members grow explosively at some row, judged by the shorter interval beside it, shape ``(B,)``."""
    steps = rows.intervals
    empty = torch.full_like(steps[:, :1], torch.inf)
    steps = torch.where(steps > 0, steps, torch.inf)
    shorter = torch.minimum(torch.cat([empty, steps], dim=1), torch.cat([steps, empty], dim=1))
    shorter = torch.where(torch.isfinite(shorter), shorter, 0.0).flatten()
    with torch.no_grad():
        slopes = ude.slopes(rows.times.flatten(), fit.states.flatten(1, 2), fit.theta, rows.flat_controls)
    return (growth(slopes.by_state, shorter, EXPLOSIVE) > EXPLOSIVE).any(1)
