"""The laws that look best from one trajectory: all short ones, then a beam of terms added, dropped and swapped."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations, product
from math import prod

import numpy as np

from sciml_discover.blocks import Blocks, Law
from sciml_discover.outlook import Outlook

Score = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""What laws are ranked by, smaller is better: of chi-square, numbers of terms, and of parameters inside terms."""

SHORT = 64
"""Short laws that are remembered, the best ones of each length."""

PER_SIZE = 2
"""Laws of each number of terms that are among them, and on the list, whatever they score."""

LEAST = 6
"""Laws that are on the list however much worse than the best they look."""

FEW = 8
"""Blocks that are added to each law or each law without one of its blocks, the best ones."""

MOST_ROUNDS = 30

PER_SUPPORT = 2
"""Laws on the list with the same terms, from different starts of the parameters inside."""


class Shortlist:
    """Ranks laws by what an outlook says they could reach.

    Args:
        outlook: chi-square of every law, to second order.
        blocks: what laws are put together from.
        score: what they are ranked by.
        begin: laws to begin with, beside the empty one, and who proposed each.
        exhaustive: all laws of one term for each hole are looked at, and longer ones, as far as there are no more
            than this.
        width: laws whose surroundings are looked at in a round.
        rounds: most rounds.
        holes: in which laws have terms; all unless given.
    """

    def __init__(
        self,
        outlook: Outlook,
        blocks: Blocks,
        score: Score,
        begin: Mapping[Law, str],
        *,
        exhaustive: int = 0,
        width: int = 16,
        rounds: int = MOST_ROUNDS,
        holes: Sequence[int] | None = None,
    ) -> None:
        self._outlook, self._blocks, self._score, self._width = outlook, blocks, score, width
        self._available = outlook.available(blocks)
        self._term, self._inner = blocks.term.tolist(), blocks.n_inner.tolist()
        self._filled = list(range(blocks.added.shape[1])) if holes is None else list(holes)
        self._is_required = blocks.required & blocks.added[:, self._filled].any(axis=1)
        self._known: dict[Law, tuple[float, float]] = {}
        self.looked_at = 0
        """How many laws were compared."""
        self.source = {(): "search", **begin}
        """Who proposed each law: the one it began with, ``exhaustive`` or ``search``."""
        self._judge([law for law in self.source if self._available[list(law)].all()])
        self._judge_short_ones(exhaustive)
        self._explore(rounds)

    def best(self, most: int, within: float = np.inf) -> list[Law]:
        """Return the best laws.

        Args:
            most: how many, those of each number of terms that come anyway not counted.
            within: how much worse than the best they may score, `LEAST` of them excepted.
        """
        limit = min(
            (score for law, (score, _) in self._known.items() if self._is_complete(law)), default=np.inf
        )
        limit += within
        chosen, of_size, alike = [], dict[int, int](), dict[frozenset[int], int]()
        for law in sorted(self._known, key=self._known.__getitem__):
            terms = frozenset(self._term[block] for block in law)
            size = of_size.setdefault(len(law), 0)
            good = len(chosen) < LEAST or self._known[law][0] <= limit
            if (
                ((len(chosen) < most and good) or size < PER_SIZE)
                and alike.get(terms, 0) < PER_SUPPORT
                and self._is_complete(law)
            ):
                chosen.append(law)
                of_size[len(law)] += 1
                alike[terms] = alike.get(terms, 0) + 1
        return chosen

    def chi_square(self, law: Law) -> float:
        """Return what the outlook says of a law that was looked at."""
        return self._known[law][1]

    def score(self, law: Law) -> float:
        """Return what a law that was looked at is ranked by."""
        return self._known[law][0]

    def _judge(self, laws: Sequence[Law]) -> None:
        if laws:
            chi_square, _ = self._outlook.fit(self._blocks, laws)
            self._remember(laws, chi_square)

    def _remember(self, laws: Sequence[Law], chi_square: np.ndarray, source: str = "search") -> None:
        terms = np.array([sum(len(self._blocks.holes[block]) for block in law) for law in laws])
        inner = np.array([sum(self._inner[block] for block in law) for law in laws])
        scores = self._score(np.maximum(chi_square, 0.0), terms, inner)
        for law, score, value in zip(laws, scores.tolist(), chi_square.tolist(), strict=True):
            if law not in self._known:
                self.looked_at += 1
                self._known[law] = (score, value)
                self.source.setdefault(law, source)

    def _judge_short_ones(self, limit: int) -> None:
        """Look at all short laws; keep the best."""
        for laws in short_laws(self._blocks, limit, self._available):
            columns = self._blocks.columns[laws].reshape(len(laws), -1)
            usable = self._outlook.usable[columns]
            chi_square = self._outlook.chi_square(np.where(usable, columns, len(self._outlook.usable) - 1))
            terms = self._blocks.added[laws].sum(axis=(1, 2))
            scores = self._score(np.maximum(chi_square, 0.0), terms, self._blocks.n_inner[laws].sum(axis=1))
            kept = np.argsort(scores, kind="stable")[:SHORT]
            self.looked_at += len(laws) - len(kept)
            self._remember(
                [tuple(sorted(law)) for law in laws[kept].tolist()], chi_square[kept], "exhaustive"
            )

    def _explore(self, rounds: int) -> None:
        """Look at what is around the best laws, until these have nothing new around them."""
        seen: set[Law] = set()
        for _ in range(rounds):
            bases = list(
                dict.fromkeys(
                    base
                    for law in self._frontier()
                    for base in [law, *(law[:k] + law[k + 1 :] for k in range(len(law)))]
                    if base not in seen
                )
            )
            if not bases:
                return
            seen.update(bases)
            chi_square, gains = self._outlook.gains(self._blocks, bases)
            self._remember(bases, chi_square)
            longer = (
                tuple(sorted([*bases[row], block]))
                for row, block in self._additions(bases, chi_square, gains)
            )
            self._judge([law for law in dict.fromkeys(longer) if law not in self._known])

    def _frontier(self) -> list[Law]:
        """Return the best laws, and the best of each size."""
        if not self._width:
            return []
        ranked = sorted(self._known, key=self._known.__getitem__)
        of_size: dict[int, list[Law]] = {}
        for law in ranked:
            own = of_size.setdefault(len(law), [])
            if len(own) < PER_SIZE:
                own.append(law)
        return list(
            dict.fromkeys([*ranked[: self._width], *(law for own in of_size.values() for law in own)])
        )

    def _additions(
        self, bases: Sequence[Law], chi_square: np.ndarray, gains: np.ndarray
    ) -> Iterator[tuple[int, int]]:
        """Yield rows of bases, each with one of the most promising blocks that may be added there."""
        blocks = self._blocks
        there = np.zeros((len(bases), max(self._term) + 1), dtype=bool)
        filled = np.zeros((len(bases), blocks.added.shape[1]), dtype=int)
        inner = np.zeros((len(bases), 1), dtype=int)
        for row, law in enumerate(bases):
            own = list(law)
            there[row, blocks.term[own]] = True
            filled[row] = blocks.added[own].sum(axis=0)
            inner[row] = blocks.n_inner[own].sum()
        may = self._available & np.isfinite(gains) & ~there[:, blocks.term]
        for hole in range(filled.shape[1]):
            may &= filled[:, hole, None] + blocks.added[:, hole] <= blocks.constraints.longest
        if self._is_required.any():
            missing = ~there[:, blocks.term] & self._is_required
            may &= missing | ~missing.any(axis=1, keepdims=True)
        rows, places = np.nonzero(may)
        scores = np.full(may.shape, np.inf)
        scores[rows, places] = self._score(
            np.maximum(chi_square[rows] - gains[rows, places], 0.0),
            filled.sum(axis=1)[rows] + blocks.added.sum(axis=1)[places],
            (inner + blocks.n_inner)[rows, places],
        )
        few = min(FEW, len(blocks))
        best = np.argpartition(scores, few - 1, axis=1)[:, :few]
        for row, own in enumerate(best.tolist()):
            yield from ((row, block) for block in own if np.isfinite(scores[row, block]))

    def _is_complete(self, law: Law) -> bool:
        """Return whether a law that was looked at has all that it must have, no more than it may, and a score."""
        return self._blocks.is_complete(law, self._filled) and self._known[law][0] < np.inf


def short_laws(blocks: Blocks, limit: int, available: np.ndarray | None = None) -> Iterator[np.ndarray]:
    """Yield all laws of one term for each hole, then with one more, then with two, as far as there are few enough.

    A term is in a law once, at one of its starts.

    Args:
        blocks: what laws are put together from.
        limit: most laws in all.
        available: which blocks are used, shape ``(U,)``; all unless given.
    """
    may = np.ones(len(blocks), dtype=bool) if available is None else available
    ours = [blocks.added[:, list(group)].any(axis=1) & may for group in blocks.constraints.groups]
    groups = [np.flatnonzero(own).tolist() for own in ours if own.any()]
    if not groups:
        return
    for extra in range(3):
        sizes = [
            size
            for size in product(range(1, 2 + extra), repeat=len(groups))
            if sum(size) == len(size) + extra
        ]
        number = sum(
            prod(_count(blocks, group, k) for group, k in zip(groups, size, strict=True)) for size in sizes
        )
        limit -= number
        if limit < 0 or not number:
            return
        yield np.array([law for size in sizes for law in _choices(blocks, groups, size)])


def _count(blocks: Blocks, group: Sequence[int], size: int) -> int:
    """Return how many choices there are of so many blocks of different terms."""
    starts = np.bincount(blocks.term[list(group)])
    # The elementary symmetric polynomial of the numbers of starts.
    ways = [1] + [0] * size
    for own in starts[starts > 0].tolist():
        for k in range(size, 0, -1):
            ways[k] += own * ways[k - 1]
    return ways[size]


def _choices(
    blocks: Blocks, groups: Sequence[Sequence[int]], size: Sequence[int]
) -> Iterator[tuple[int, ...]]:
    """Yield all choices of so many blocks from each group, each of another term."""
    term = blocks.term.tolist()
    of_each = [
        [own for own in combinations(group, k) if len({term[block] for block in own}) == k]
        for group, k in zip(groups, size, strict=True)
    ]
    for law in product(*of_each):
        yield tuple(block for own in law for block in own)
