"""Optimizers: how an objective is minimised. Each works on a batch of independent problems."""

from __future__ import annotations

from typing import Annotated

import pydantic

from sciml_discover.optimizers.adam import Adam
from sciml_discover.optimizers.gauss_newton import GaussNewton
from sciml_discover.optimizers.lbfgs import Lbfgs

OptimizerOptions = Annotated[Adam | GaussNewton | Lbfgs, pydantic.Field(discriminator="kind")]
