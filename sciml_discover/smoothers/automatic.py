"""The smoother that is used unless another one is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from sciml_discover.smoothers.abstract import AbstractCurves, AbstractSmoother
from sciml_discover.smoothers.gaussian_process import GaussianProcess
from sciml_discover.smoothers.reinsch_spline import ReinschSpline

LARGEST_GAUSSIAN_PROCESS = 300
"""Values above which a spline replaces the Gaussian process, whose cost grows with their cube."""


class Automatic(AbstractSmoother):
    """A Gaussian process for up to 300 values, a spline as smooth as the noise allows for more."""

    kind: Literal["auto"] = "auto"

    def fit(
        self, times: Sequence[np.ndarray], values: Sequence[np.ndarray], sizes: Sequence[np.ndarray]
    ) -> AbstractCurves:
        """Return curves of the one or the other; see `AbstractSmoother.fit`."""
        few = sum(map(len, times)) <= LARGEST_GAUSSIAN_PROCESS
        return (GaussianProcess() if few else ReinschSpline()).fit(times, values, sizes)
