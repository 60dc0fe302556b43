"""Structured linear solves of linearised shooting and collocation problems.

The unknowns are the states at the nodes of every trajectory and the shared ``theta``. Where continuity is a penalty,
the normal matrix is block-tridiagonal in the nodes with a border for ``theta`` (`TridiagonalNormal`); where it is an
equality, it is condensed to an arrow (`condense`, `ArrowNormal`); without nodes it is dense (`DenseNormal`).
"""

from __future__ import annotations

from sciml_discover.linear_algebra.arrow import ArrowNormal, Nodes, condense
from sciml_discover.linear_algebra.dense import DenseNormal
from sciml_discover.linear_algebra.tridiagonal import TridiagonalNormal

__all__ = ["ArrowNormal", "DenseNormal", "Nodes", "TridiagonalNormal", "condense"]
