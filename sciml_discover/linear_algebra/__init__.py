"""Structured linear solves of linearised shooting and collocation problems.

The unknowns are the states at the nodes of every trajectory and the shared ``theta``. Where continuity is an
equality, they are condensed to an arrow (`condense`, `ArrowNormal`); without nodes there is a dense matrix
(`DenseNormal`). Where continuity is a penalty, the normal matrix is block-tridiagonal in the nodes with a border for
``theta``: multiplied out (`TridiagonalNormal`), or as a least-squares problem whose largest part is an operator
(`ContinuityProblem`). That one is solved by whichever of three methods is cheapest (`solve_continuity`).
"""

from __future__ import annotations

from sciml_discover.linear_algebra.arrow import ArrowNormal, Nodes, condense
from sciml_discover.linear_algebra.bordered import arrow, marginal_precision
from sciml_discover.linear_algebra.continuity import ContinuityProblem
from sciml_discover.linear_algebra.dense import DenseNormal
from sciml_discover.linear_algebra.forcing import Forcing
from sciml_discover.linear_algebra.matrix_free import data_factor
from sciml_discover.linear_algebra.methods import Method, cheapest, solve_continuity
from sciml_discover.linear_algebra.outer import OuterProducts
from sciml_discover.linear_algebra.tridiagonal import TridiagonalNormal

__all__ = [
    "ArrowNormal",
    "ContinuityProblem",
    "DenseNormal",
    "Forcing",
    "Method",
    "Nodes",
    "OuterProducts",
    "TridiagonalNormal",
    "arrow",
    "cheapest",
    "condense",
    "data_factor",
    "marginal_precision",
    "solve_continuity",
]
