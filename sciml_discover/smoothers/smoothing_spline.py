"""Cubic smoothing splines whose strength is cross-validated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import pydantic

from sciml_discover.smoothers.abstract import (
    SHORTEST,
    AbstractSmoother,
    SeparateCurves,
    connect,
    pooled,
    smallest_noise,
    typical_spacing,
)
from sciml_discover.smoothers.natural_spline import LOG_STRENGTHS, NaturalSpline

COARSE, FINE = 0.5, 0.1
"""Steps of the power of ten of the strength: of the first search, and around its best."""

COST_OF_FREEDOM = 1.4
"""What one degree of freedom of the curve costs; one is plain cross-validation, which now and then hardly smooths."""


class SmoothingSpline(AbstractSmoother):
    """Smoothing splines of one strength for all series, by generalised cross-validation.

    Craven & Wahba 1979, doi:10.1007/BF01404567; the correction against undersmoothing is that of Kim & Gu 2004,
    doi:10.1046/j.1369-7412.2003.05316.x. The noise is the residual over its degrees of freedom.
    """

    kind: Literal["smoothing_spline"] = "smoothing_spline"
    strength: pydantic.PositiveFloat | None = None
    """Weight of the squared second derivative, in units of the cubed median spacing of the rows; cross-validated
    unless given."""

    def fit(
        self, times: Sequence[np.ndarray], values: Sequence[np.ndarray], sizes: Sequence[np.ndarray]
    ) -> SeparateCurves:
        """Return one spline per series; see `AbstractSmoother.fit`."""
        spacing, unit = typical_spacing(times), float(np.median(pooled(sizes)))
        long = {
            number: NaturalSpline((time - time[0]) / spacing, value, size / unit)
            for number, (time, value, size) in enumerate(zip(times, values, sizes, strict=True))
            if len(time) >= SHORTEST
        }
        splines = list(long.values())
        count = sum(len(times[number]) for number in long)
        strength = self.strength or _cross_validated(splines, count)
        freedom = sum(spline.freedom(strength) for spline in splines)
        misfit = sum(spline.misfit(strength) for spline in splines)
        noise_sd = np.sqrt(misfit / freedom) / unit if freedom > 0 else 0.0
        overall = float(np.mean(pooled(values)))
        return SeparateCurves(
            noise_sd=max(float(noise_sd), smallest_noise(values, sizes)),
            degrees_of_freedom=max(freedom, 1.0),
            curves=tuple(
                long[number].curve(strength, spacing, float(time[0]))
                if number in long
                else connect(time, value, overall)
                for number, (time, value) in enumerate(zip(times, values, strict=True))
            ),
        )


def _cross_validated(splines: Sequence[NaturalSpline], count: int) -> float:
    """Return the strength with the smallest generalised cross-validation score over all series."""

    def score(power: float) -> float:
        try:
            freedom = sum(spline.freedom(10.0**power) for spline in splines)
            misfit = sum(spline.misfit(10.0**power) for spline in splines)
        except np.linalg.LinAlgError:
            return np.inf  # too strong for the rounding of very uneven rows
        left = count - COST_OF_FREEDOM * (count - freedom)
        return misfit / left**2 if left > 0 else np.inf

    coarse = np.arange(LOG_STRENGTHS[0], LOG_STRENGTHS[1] + COARSE / 2, COARSE)
    best = coarse[int(np.argmin([score(power) for power in coarse]))]
    fine = best + np.arange(-COARSE + FINE, COARSE - FINE / 2, FINE)
    return float(10.0 ** fine[int(np.argmin([score(power) for power in fine]))])
