"""Meshes of direct collocation: where the nodes are, and how states get from one mesh to a finer one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sciml_discover.base import lazy_import
from sciml_discover.objectives.problem import Rows

if TYPE_CHECKING:
    import torch
else:
    torch = lazy_import("torch")

SAME_PLACE = 1e-9
"""Positions inside an interval closer than this, in units of its length, are the same."""


@dataclass(frozen=True)
class Mesh:
    """Where the nodes are. Every row is one; others may lie between.

    Attributes:
        start: begin of each interval, shape ``(J, S)``.
        length: its length; zero where a trajectory has fewer intervals than the longest, shape ``(J, S)``.
        positions: of the rows among the nodes, shape ``(J, L)``; None if the nodes are the rows.
        parents: for each interval the number of the one between rows in which it lies, shape ``(J, S)``; None
            likewise.
    """

    start: torch.Tensor
    length: torch.Tensor
    positions: torch.Tensor | None = None
    parents: torch.Tensor | None = None

    @property
    def intervals(self) -> int:
        """Number of intervals of the longest trajectory."""
        return self.start.shape[1]

    @property
    def memory(self) -> dict[str, torch.Tensor]:
        """All that `recall_mesh` needs; nothing where the nodes are the rows."""
        if self.positions is None or self.parents is None:
            return {}
        return {
            "mesh_start": self.start,
            "mesh_length": self.length,
            "mesh_positions": self.positions,
            "mesh_parents": self.parents,
        }

    def at_rows(self, nodes: torch.Tensor) -> torch.Tensor:
        """Return what stands at the rows, shape ``(B, J, L, ...)``, of what stands at the nodes."""
        if self.positions is None:
            return nodes
        return nodes[:, torch.arange(len(self.positions), device=nodes.device)[:, None], self.positions]

    def at_nodes(self, at_rows: torch.Tensor) -> torch.Tensor:
        """Return what stands at the rows as seen from the nodes, zero between: ``(B, J, S + 1, ...)``."""
        if self.positions is None:
            return at_rows
        nodes = at_rows.new_zeros(*at_rows.shape[:2], self.intervals + 1, *at_rows.shape[3:])
        nodes[:, torch.arange(len(self.positions), device=nodes.device)[:, None], self.positions] = at_rows
        return nodes

    def between_rows(self, at_rows: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
        """Return at the nodes what is a straight line between rows.

        Args:
            at_rows: shape ``(..., J, L, d)``.
            times: of the rows, shape ``(J, L)``.

        Returns:
            Shape ``(..., J, S + 1, d)``.
        """
        if self.parents is None:
            return at_rows
        series = torch.arange(len(self.parents), device=times.device)[:, None]
        begin, end = times[series, self.parents], times[series, self.parents + 1]
        fraction = _fraction(self.start + self.length, begin, end - begin)[..., None]
        low, high = at_rows[..., series, self.parents, :], at_rows[..., series, self.parents + 1, :]
        return torch.cat([at_rows[..., :1, :], low + fraction * (high - low)], dim=-2)

    def inputs_at(self, rows: Rows, fractions: torch.Tensor) -> torch.Tensor | None:
        """Return the controls at fractions of all intervals, ``(J * S * fractions, controls)``; None without any."""
        lines = rows.control_lines
        if lines is None:
            return None
        if self.parents is not None:
            series = torch.arange(len(self.parents), device=self.parents.device)[:, None]
            lines = lines.map(lambda item: item[series, self.parents])
        lines = lines.map(lambda item: item.flatten(0, 1))
        values = [lines((self.start + fraction * self.length).flatten()) for fraction in fractions]
        return torch.stack(values, dim=1).flatten(0, 1)

    def split(self, pieces: torch.Tensor) -> Mesh:
        """Return the mesh with each interval in so many equal pieces.

        Args:
            pieces: shape ``(J, S)``, one or more.
        """
        count, device = len(pieces), self.start.device
        totals = pieces.sum(1)
        longest = int(totals.max())
        ends = (self.start + self.length)[:, -1:]
        start, length = ends.repeat(1, longest), self.start.new_zeros(count, longest)
        parents = torch.empty(count, longest, dtype=torch.int64, device=device)
        before = torch.nn.functional.pad(pieces.cumsum(1), (1, 0))  # position of each old node
        own = torch.arange(self.intervals, device=device)
        for j in range(count):
            origin = own.repeat_interleave(pieces[j])
            number = torch.arange(len(origin), device=device) - before[j, origin]
            step = self.length[j, origin] / pieces[j, origin]
            start[j, : len(origin)] = self.start[j, origin] + number * step
            length[j, : len(origin)] = step
            known = origin if self.parents is None else self.parents[j, origin]
            parents[j, : len(origin)], parents[j, len(origin) :] = known, known[-1]
        positions = before if self.positions is None else before.gather(1, self.positions)
        return Mesh(start, length, positions, parents)


def row_mesh(rows: Rows) -> Mesh:
    """Return the mesh whose nodes are the rows."""
    return Mesh(rows.times[:, :-1], rows.intervals)


def recall_mesh(memory: dict[str, torch.Tensor], rows: Rows) -> Mesh:
    """Return the mesh that had this memory."""
    if "mesh_start" not in memory:
        return row_mesh(rows)
    names = ("mesh_start", "mesh_length", "mesh_positions", "mesh_parents")
    return Mesh(*(memory[name].to(rows.times.device) for name in names))


def carry_states(
    nodes: torch.Tensor, stages: torch.Tensor, fractions: torch.Tensor, before: Mesh, after: Mesh
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return nodes and inner stages on a finer mesh: the values of the collocation polynomials there.

    Args:
        nodes: on the mesh before, shape ``(B, J, S, d)`` and one more.
        stages: shape ``(B, J, S, s, d)``; the last is the right node.
        fractions: where the stages are in an interval, shape ``(s,)``.
        before: the mesh they are on.
        after: another mesh over the same rows, each of whose intervals lies in one of the mesh before.
    """
    series = torch.arange(len(after.start), device=nodes.device)[:, None]
    middle = after.start + 0.5 * after.length
    origin = (torch.searchsorted(before.start.contiguous(), middle, right=True) - 1).clamp_min(0)
    start, length = before.start[series, origin], before.length[series, origin]
    inside = after.start[..., None] + after.length[..., None] * fractions
    where = _fraction(inside, start[..., None], length[..., None])  # (J, S', s)
    knots = torch.cat([fractions.new_zeros(1), fractions])
    factors = (where[..., None, None] - knots) / (knots[:, None] - knots).fill_diagonal_(1.0)
    factors.diagonal(dim1=-2, dim2=-1).fill_(1.0)
    known = torch.cat([nodes[:, :, :-1, None], stages], dim=3)[:, series, origin]  # (B, J, S', s + 1, d)
    values = factors.prod(-1) @ known
    return torch.cat([nodes[:, :, :1], values[..., -1, :]], dim=2), values[..., :-1, :]


def _fraction(times: torch.Tensor, start: torch.Tensor, length: torch.Tensor) -> torch.Tensor:
    """Return where times are in intervals, 0 to 1; one in intervals without length. Ends are exact."""
    empty = length <= 0
    fraction = torch.where(empty, 1.0, (times - start) / torch.where(empty, 1.0, length))
    return torch.where((fraction - 1.0).abs() < SAME_PLACE, 1.0, fraction)
