"""What every optimizer offers.

``minimise(objective, unknowns, report) -> (unknowns, converged)``: a batch of independent problems, each kept at its
best point; ``report(iteration, value)`` is called once per iteration with the value of every member.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

Report = Callable[[int, "torch.Tensor"], None]
