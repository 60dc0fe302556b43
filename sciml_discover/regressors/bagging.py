"""Bagging: how often a term is chosen when samples and library are drawn anew."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pydantic

from sciml_discover.base import Count
from sciml_discover.regressors.abstract import AbstractRegressor, Regression, distinct
from sciml_discover.regressors.thresholding import Problems, misfits, threshold, threshold_path

PER_VALUE = 4.0
"""Samples that count as one independent value: a learnt term is smooth, and sampled more densely than the data."""

FLOOR = 1e-8
"""Smallest squared misfit, relative to the target, that is told from zero."""


class Bagging(AbstractRegressor):
    """Inclusion probabilities by bagging of samples and of library terms.

    Fasel, Kutz, Brunton & Brunton 2022, doi:10.1098/rspa.2021.0904.

    Each bag has its own draw of rows, of what the learnt term could be instead (its mean and standard deviation with
    smooth errors, because those of a network are), and of the terms that may be chosen. From the path of thresholds
    of each bag, the support of smallest information criterion is kept, errors counted no smaller than the standard
    deviation of the learnt term.
    """

    kind: Literal["bagging"] = "bagging"
    bags: Count = 100
    """Number of draws."""
    thresholds: Count = 20
    """Number of thresholds on each path, from a thousandth of the largest coefficient to all of it."""
    ridge: pydantic.NonNegativeFloat = 1e-3
    """Strength of the ridge penalty."""
    rows: bool = True
    """Whether each bag draws the samples, with repetitions."""
    knots: int = pydantic.Field(default=10, ge=0, le=10_000)
    """Points between which the drawn error of the learnt term is interpolated; 0 draws no errors."""
    drop: float = pydantic.Field(default=0.5, ge=0.0, lt=1.0)
    """Fraction of the terms that each bag must do without."""
    probabilities: tuple[pydantic.PositiveFloat, ...] = pydantic.Field(
        default=(0.1, 0.25, 0.5, 0.75, 0.9), min_length=1
    )
    """Supports are the terms whose inclusion is at least one of these."""
    commonest: int = pydantic.Field(default=10, ge=0, le=10_000)
    """How many of the supports that most bags chose are proposed as well."""

    @pydantic.model_validator(mode="after")
    def _draws_something(self) -> Bagging:
        if not (self.rows or self.knots or self.drop):
            raise ValueError("every bag is the same: set rows, knots or drop")
        if max(self.probabilities) > 1.0:
            raise ValueError(f"a probability of {max(self.probabilities):g}: at most 1")
        return self

    def inclusion(self, regression: Regression) -> np.ndarray:
        """Return how often each term is chosen among the bags that have it, shape ``(terms,)``."""
        return _share(*self._bags(regression))

    def supports(self, regression: Regression) -> list[np.ndarray]:
        """Return the terms above each probability, and the commonest supports of the bags."""
        allowed, chosen = self._bags(regression)
        share = _share(allowed, chosen)
        found, counts = np.unique(chosen, axis=0, return_counts=True)
        common = found[np.argsort(-counts, kind="stable")[: self.commonest]]
        return distinct([*(share >= least for least in self.probabilities), *common])

    def _bags(self, regression: Regression) -> tuple[np.ndarray, np.ndarray]:
        """Return which terms each bag may use and which it chooses, both of shape ``(bags, terms)``."""
        samples, terms = regression.columns.shape
        generator = np.random.default_rng(regression.seed)
        rows = generator.integers(samples, size=(self.bags, samples)) if self.rows else None
        errors = _smooth(generator, self.bags, samples, self.knots) * regression.sd if self.knots else 0.0
        targets = regression.target + errors + np.zeros((self.bags, 1))
        rank = generator.random((self.bags, terms)).argsort(axis=1).argsort(axis=1)
        allowed = rank >= int(self.drop * terms)
        problems = Problems(regression.columns, targets, rows, allowed)
        ridges = np.array([self.ridge])
        path = threshold_path(regression.columns, regression.target, ridges, self.thresholds)
        found = threshold(problems, ridges, path[:, None])[0]
        values = samples / PER_VALUE
        error = misfits(problems, found) + (regression.sd**2).sum() + FLOOR
        criterion = values * np.log(error) + found.sum(axis=2) * np.log(max(values, 2.0))
        return allowed, found[np.arange(self.bags), criterion.argmin(axis=1)]


def _share(allowed: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Return the share of the bags that choose a term, of those that may."""
    return chosen.sum(axis=0) / np.maximum(allowed.sum(axis=0), 1)


def _smooth(generator: np.random.Generator, count: int, samples: int, knots: int) -> np.ndarray:
    """Return random curves of unit variance everywhere, linear between knots, shape ``(count, samples)``."""
    place = np.linspace(0.0, knots - 1.0, samples)
    weights = np.maximum(0.0, 1.0 - np.abs(place[:, None] - np.arange(knots)))
    weights /= np.linalg.norm(weights, axis=1, keepdims=True)
    return generator.standard_normal((count, knots)) @ weights.T
