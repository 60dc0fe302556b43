"""The prior that the evidence chooses, against linear models whose evidence has a closed form."""

from __future__ import annotations

import numpy as np
import torch

from sciml_discover.evidence import BOUNDS, update_prior, update_prior_by_factor


def linear_model(
    rows: int, counts: list[int], sds: list[float], seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """A design matrix and values with unit noise; the weights of each group have their own sd."""
    generator = np.random.default_rng(seed)
    design = generator.standard_normal((rows, sum(counts)))
    scales = np.repeat(sds, counts)
    values = design @ (scales * generator.standard_normal(sum(counts))) + generator.standard_normal(rows)
    return design, values


def iterate(
    design: np.ndarray, values: np.ndarray, counts: list[int], steps: int
) -> tuple[np.ndarray, np.ndarray]:
    """The strengths after some steps, and the number of weights that the data determine."""
    prior = torch.ones(1, len(counts)).double()
    shares = np.zeros(0)
    for _ in range(steps):
        alpha = prior.square()[0].repeat_interleave(torch.tensor(counts))
        precision = torch.as_tensor(design.T @ design) + torch.diag(alpha)
        mean = torch.linalg.solve(precision, torch.as_tensor(design.T @ values))
        shares = 1.0 - (alpha * torch.linalg.inv(precision).diagonal()).numpy()
        prior = update_prior(precision[None], mean[None], prior, counts, len(values))
    return prior[0].numpy(), shares


def log_evidence(design: np.ndarray, values: np.ndarray, alpha: np.ndarray) -> float:
    covariance = np.eye(len(values)) + (design / alpha) @ design.T
    sign, determinant = np.linalg.slogdet(covariance)
    assert sign > 0
    return float(-0.5 * (determinant + values @ np.linalg.solve(covariance, values)))


def test_steps_lead_to_the_maximum_of_the_evidence() -> None:
    counts = [6, 9]
    design, values = linear_model(200, counts, [0.5, 2.0])
    strengths, _ = iterate(design, values, counts, 50)
    best = log_evidence(design, values, np.repeat(strengths**2, counts))
    for group in range(2):
        for factor in (0.8, 1.25):
            other = strengths.copy()
            other[group] *= factor
            assert log_evidence(design, values, np.repeat(other**2, counts)) < best
    # One over the standard deviations that the weights were drawn with, within what so few of them tell.
    assert 1.0 < strengths[0] < 4.0
    assert 0.25 < strengths[1] < 1.0


def test_no_more_weights_are_determined_than_half_the_values() -> None:
    counts = [30]
    design, values = linear_model(20, counts, [3.0])
    _, shares = iterate(design, values, counts, 30)
    assert 5.0 < shares.sum() < 10.0 + 1e-3


def test_strengths_stay_within_bounds_and_members_do_not_disturb_each_other() -> None:
    precision = torch.eye(3).double().expand(3, 3, 3).clone() * 1e6
    precision[1] = torch.nan
    weights = torch.tensor([[1e-9, 0.0, 0.0], [1.0, 1.0, 1.0], [1e3, 1e3, 1e3]]).double()
    found = update_prior(precision, weights, torch.ones(3, 1).double(), [3], 100)
    assert found[:, 0].tolist() == [BOUNDS[1], 1.0, BOUNDS[0]]


def test_few_rows_say_the_same_of_many_weights_as_their_whole_matrix() -> None:
    counts = [20, 30]
    design, values = linear_model(12, counts, [0.5, 2.0])
    generator = np.random.default_rng(1)
    rows = torch.as_tensor(np.stack([design, 0.1 * generator.standard_normal(design.shape)]))
    weights = torch.as_tensor(generator.standard_normal((2, 50)))
    prior = torch.tensor([[0.7, 1.5], [1.0, 0.4]]).double()
    alpha = prior.square().repeat_interleave(torch.tensor(counts), dim=1)
    precision = rows.transpose(1, 2) @ rows + torch.diag_embed(alpha)
    whole = update_prior(precision, weights, prior, counts, len(values))
    torch.testing.assert_close(update_prior_by_factor(rows, weights, prior, counts, len(values)), whole)
    rows[1, 0, 0] = torch.nan
    found = update_prior_by_factor(rows, weights, prior, counts, len(values))
    torch.testing.assert_close(found, torch.stack([whole[0], prior[1]]))
