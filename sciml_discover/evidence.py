"""The strength of the prior on the weights, by its evidence.

A prior that is too weak lets the networks follow the noise, one that is too strong keeps them from the truth. The
evidence of the data weighs both (MacKay 1992, doi:10.1162/neco.1992.4.3.448): at its maximum the squared weights of a
network, in units of the prior's variance, are as many as the weights that the data determine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sciml_discover.base import lazy_import
from sciml_discover.holes import per_weight

if TYPE_CHECKING:
    import torch
else:
    torch = lazy_import("torch")

BOUNDS = (0.05, 20.0)
"""Weakest and strongest prior, as one over the standard deviation of a weight."""


def update_prior(
    precision: torch.Tensor, weights: torch.Tensor, prior: torch.Tensor, counts: list[int], n_values: int
) -> torch.Tensor:
    """Return the strengths of the priors after one step towards the maximum of the evidence, ``(B, holes)``.

    The number of weights that the data determine is kept to at most half the number of values: with fewer values
    than weights the evidence of a linearised network is no reason to believe in more.

    Args:
        precision: posterior precision of all weights, prior included, shape ``(B, weights, weights)``.
        weights: at the maximum of the posterior, shape ``(B, weights)``.
        prior: strengths so far, shape ``(B, holes)``.
        counts: number of weights of each hole.
        n_values: number of measured values.
    """
    root = per_weight(prior, counts)
    # In units of the prior: identity plus what the data say.
    scaled = precision / (root[:, :, None] * root[:, None, :])
    scaled = 0.5 * (scaled + scaled.transpose(-1, -2))
    finite = torch.isfinite(scaled).flatten(1).all(1)
    identity = torch.eye(scaled.shape[-1], dtype=scaled.dtype, device=scaled.device)
    values, vectors = torch.linalg.eigh(torch.where(finite[:, None, None], scaled, identity))
    said = (values - 1.0).clamp_min(0.0)
    return _strengths(said, vectors, finite, weights, prior, counts, n_values)


def update_prior_by_factor(
    factor: torch.Tensor, weights: torch.Tensor, prior: torch.Tensor, counts: list[int], n_values: int
) -> torch.Tensor:
    """Return the same as `update_prior` for many weights, from few rows that say the same as the data.

    Args:
        factor: its square is what the data say about the weights, shape ``(B, rows, weights)``.
        weights: at the maximum of the posterior, shape ``(B, weights)``.
        prior: strengths so far, shape ``(B, holes)``.
        counts: number of weights of each hole.
        n_values: number of measured values.
    """
    scaled = factor / per_weight(prior, counts)[:, None, :]
    finite = torch.isfinite(scaled).flatten(1).all(1)
    scaled = torch.where(finite[:, None, None], scaled, 0.0)
    said, rows = torch.linalg.eigh(scaled @ scaled.transpose(-1, -2))
    said = said.clamp_min(0.0)
    # Directions in which nothing is said have no length here, and no share either.
    vectors = (scaled.transpose(-1, -2) @ rows) * said.clamp_min(1e-12).rsqrt()[:, None, :]
    return _strengths(said, vectors, finite, weights, prior, counts, n_values)


def _strengths(
    said: torch.Tensor,
    vectors: torch.Tensor,
    finite: torch.Tensor,
    weights: torch.Tensor,
    prior: torch.Tensor,
    counts: list[int],
    n_values: int,
) -> torch.Tensor:
    """Return the new strengths from what the data say along orthogonal directions, in units of the prior."""
    factor = _factor(said, 0.5 * n_values)
    share = (vectors.square() * (said / (said + factor[:, None]))[:, None, :]).sum(-1)
    strengths = []
    for number, (share_of, weights_of) in enumerate(
        zip(share.split(counts, dim=1), weights.split(counts, dim=1), strict=True)
    ):
        best = share_of.sum(1) / weights_of.square().sum(1).clamp_min(1e-12)
        # Where the data determine more than they may, the prior is at least as strong as it takes to prevent that.
        least = torch.where(factor > 1.0, factor * prior[:, number].square(), 0.0)
        strengths.append(torch.maximum(best, least).sqrt().clamp(*BOUNDS))
    return torch.where(finite[:, None], torch.stack(strengths, dim=1), prior)


def _factor(said: torch.Tensor, most: float) -> torch.Tensor:
    """Return how many times stronger the prior must be for so few determined weights, at least one, ``(B,)``."""
    low, high = torch.zeros_like(said[:, 0]), torch.full_like(said[:, 0], 30.0)
    for _ in range(40):
        middle = 0.5 * (low + high)
        many = (said / (said + middle.exp()[:, None])).sum(1) > most
        low, high = torch.where(many, middle, low), torch.where(many, high, middle)
    enough = (said / (said + 1.0)).sum(1) <= most
    return torch.where(enough, torch.ones_like(low), high.exp())
