"""Profile-likelihood intervals: how far each number of a law can go while all others follow it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from sciml_discover.base import lazy_import
from sciml_discover.masked_libraries import MaskedLibraries
from sciml_discover.objectives.multiple_shooting import ConstrainedShooting, ShootingObjective
from sciml_discover.refit import Fits, Refitter

if TYPE_CHECKING:
    import torch
else:
    torch = lazy_import("torch")

STEPS = 6
"""Corrections of an interval's ends."""

FITS = 3
"""Gauss-Newton steps after each."""

ACCURACY = 0.03
"""Relative error of the rise of chi-square at an end that is good enough."""

SETTLED = 1e-2
"""Largest defect, in units of the noise, of a trajectory that counts."""


def profile_intervals(refitter: Refitter, fits: Fits, row: int, rise: float) -> np.ndarray:
    """Return the interval of each number of a law over which chi-square rises no more than so much.

    One number is held where it is, all others are fitted anew; the two ends of all intervals are one batch
    (Raue et al. 2009, doi:10.1093/bioinformatics/btp358). Unlike intervals from the curvature, these follow the
    nonlinearity: they need not be symmetric, and do not depend on the coordinates.

    Args:
        refitter: that fitted the law.
        fits: laws as continuous trajectories.
        row: which law.
        rise: of chi-square in the weights of the fit, such as 3.84 for 95 % with known noise.

    Returns:
        Free parameters, then hole by hole coefficients and inner parameters, shape ``(numbers, 2)``; NaN for an end
        that was not found, because nothing bounds the number or because the fits fail on the way.
    """
    with torch.no_grad():
        return _profile(refitter, fits, row, rise)


def _profile(refitter: Refitter, fits: Fits, row: int, rise: float) -> np.ndarray:
    single, unknowns = refitter.problem(fits.take(np.array([row])))
    begin = unknowns.shape[1] - single.ude.n_theta
    held = torch.arange(single.ude.n_theta, device=unknowns.device).repeat(2)
    members = torch.arange(len(held), device=unknowns.device)
    start = _constrained(single, unknowns)
    deviation = start.normal.covariance().diagonal(dim1=-2, dim2=-1)[0].clamp_min(0.0).sqrt()
    side = torch.where(members < single.ude.n_theta, -1.0, 1.0).double()
    # Where the curvature says nothing there is no end to look for.
    reach = side * deviation[held] * rise**0.5
    objective, at = refitter.problem(fits.take(np.full(len(held), row)))
    found = torch.full_like(reach, torch.nan)
    for _ in range(STEPS):
        target = unknowns[0, begin + held] + reach
        for _ in range(FITS):
            move = target - at[members, begin + held]
            at = at + _constrained(objective, at).solve_holding(held, move)
        linearized = _constrained(objective, at)
        ratio = (linearized.chi_square - start.chi_square) / rise
        good = ((ratio - 1.0).abs() < ACCURACY) & (linearized.worst_defect < SETTLED)
        found = torch.where(good & found.isnan(), target, found)
        if not bool(found.isnan().any()):
            break
        lost = ~torch.isfinite(at).all(1) | ~torch.isfinite(ratio)
        # Chi-square is nearly a parabola of the number held.
        reach = torch.where(lost, 0.5 * reach, reach * ratio.clamp_min(1e-6).rsqrt().clamp(0.4, 2.5))
        at = torch.where(lost[:, None], unknowns, at)
    theta = unknowns[:, begin:].repeat(len(held), 1)
    theta[members, held] = found
    ends = _numbers(objective, theta)[members, held].reshape(2, -1)
    # Every number grows with its coordinate: the lower end stays the first, found or not.
    return ends.cpu().numpy().T


def _constrained(objective: ShootingObjective, unknowns: torch.Tensor) -> ConstrainedShooting:
    linearized = objective.linearize(unknowns)
    if not isinstance(linearized, ConstrainedShooting):
        raise TypeError(f"got {type(linearized).__name__}, expected a constrained linearization")
    return linearized


def _numbers(objective: ShootingObjective, theta: torch.Tensor) -> torch.Tensor:
    """Return what ``theta`` stands for, shape ``(B, n_theta)``: parameters, coefficients, inner parameters."""
    ude, filling = objective.ude, objective.ude.filling
    if not isinstance(filling, MaskedLibraries):
        raise TypeError(f"got {type(filling).__name__}, expected masked libraries")
    coordinates, weights = ude.split(theta)
    parameters = ude.parameters.physical(coordinates)[:, ude.parameters.free_positions]
    return torch.cat([parameters, filling.physical(weights)], dim=1)
