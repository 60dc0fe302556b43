"""Objectives: what a fit minimises. Each is a nonlinear least-squares problem with a batch axis."""

from __future__ import annotations

from typing import Annotated

import pydantic

from sciml_discover.objectives.derivative_matching import DerivativeMatching
from sciml_discover.objectives.direct_collocation import DirectCollocation
from sciml_discover.objectives.multiple_shooting import MultipleShooting

ObjectiveOptions = Annotated[
    DerivativeMatching | DirectCollocation | MultipleShooting, pydantic.Field(discriminator="kind")
]
