"""The search for laws: a growing pool of refitted candidates, widened by moves until none helps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import pydantic

from sciml_discover.base import Count, Options, Progress, Watch
from sciml_discover.constraints import Constraints
from sciml_discover.criterion import Criterion, misfit_p_value
from sciml_discover.library import Library
from sciml_discover.moves import neighbours
from sciml_discover.refit import Fits, Refitter

if TYPE_CHECKING:
    import torch

LEADERS = 24
"""Candidates that are refitted to the end whatever their bounds, so that there is something to compare with."""

PER_SIZE = 2
"""Candidates of each size that are refitted to the end: the Pareto front wants them."""

PLAUSIBLE = 1e-3
"""Probability of so large a misfit below which the best law is not good enough, and the search widens."""

SLACK = 10.0
"""How much further than a rival a candidate may be behind and still be kept: later fits may change the order."""


class SearchOptions(Options):
    """How far the search goes from where it begins."""

    rounds: int = pydantic.Field(default=8, ge=0, le=100)
    """Most rounds of moves: terms added, dropped and swapped, in any hole."""
    parents: Count = 4
    """Best laws whose neighbours are looked at in a round."""
    moves: Count = 6
    """Terms to add, and swaps, that are tried of each law."""
    widen: int = pydantic.Field(default=3, ge=1, le=20)
    """Factor of parents and moves for a second search where the best law does not fit the data."""


@dataclass(frozen=True)
class Judge:
    """Ranks fits of candidate laws.

    Attributes:
        criterion: of misfit, numbers and terms.
        libraries: one per hole.
        constraints: what laws may contain.
    """

    criterion: Criterion
    libraries: Sequence[Library]
    constraints: Constraints

    def bound(self, fits: Fits) -> np.ndarray:
        """Return the criterion of fits, of lower bounds or of predictions, shape ``(B,)``, whatever their signs.

        While segments may jump, a sign says nothing of the continuous fit.
        """
        candidates = fits.candidates
        values = self.criterion(fits.misfit, candidates.complexity, candidates.n_inner(self.libraries))
        return np.nan_to_num(values, nan=np.inf, posinf=np.inf)

    def rank(self, fits: Fits) -> np.ndarray:
        """Return the criterion of continuous fits, shape ``(B,)``; infinite for forbidden signs."""
        return np.where(self.constraints.kept(fits.candidates.coefficients), self.bound(fits), np.inf)

    def plausible(self, fits: Fits) -> bool:
        """Return whether the residuals of one fit are no larger than the noise explains."""
        numbers = fits.candidates.complexity[0] + fits.candidates.n_inner(self.libraries)[0]
        freedom = int(self.criterion.counts.sum() - self.criterion.n_common - numbers)
        if freedom <= 0:
            return True
        return misfit_p_value(float(fits.chi_square[0]), freedom, self.criterion.noise)[0] > PLAUSIBLE


@dataclass
class LawSearch:
    """Finds laws: refits candidates, drops those that cannot win, moves on from the best.

    Attributes:
        refitter: fits candidates to the training rows.
        judge: ranks them; smaller is better.
        options: how far to go.
        delta: how much worse than the best a law of interest may be.
        starts: coordinates of the free parameters that the first leaders are fitted from as well, shape
            ``(starts, n_free)``.
        watch: called with the progress.
        tried: how many candidates were fitted.
    """

    refitter: Refitter
    judge: Judge
    options: SearchOptions
    delta: float
    starts: torch.Tensor
    watch: Watch
    tried: int = 0
    _known: set[bytes] = field(default_factory=set)

    def run(self, seeds: Fits) -> Fits:
        """Return all laws that were refitted to the end, in no order.

        Args:
            seeds: candidates that have not begun; one candidate may be there with several starts of its own numbers.
        """
        pool = self._compete(seeds, None)
        if not len(self._order(pool)):
            return pool
        pool = self._walk(pool, self.options.parents, self.options.moves)
        if self.options.rounds and not self.judge.plausible(pool.take(self._order(pool)[:1])):
            widen = self.options.widen
            pool = self._walk(pool, widen * self.options.parents, widen * self.options.moves)
        return pool

    def _walk(self, pool: Fits, parents: int, moves: int) -> Fits:
        """Return the pool with the neighbours of its best laws, until the best have no unknown ones."""
        expanded: set[bytes] = set()
        for number in range(self.options.rounds):
            keys, order = pool.candidates.keys, self._order(pool)
            fresh = [i for i in order[:parents] if keys[i] not in expanded]
            if not fresh:
                break
            expanded.update(keys[i] for i in fresh)
            best = float(self.judge.rank(pool).min())
            self.watch(Progress("select", "moves", number + 1, self.options.rounds, best))
            children, predicted = neighbours(
                self.refitter, pool.take(np.array(fresh)), self.judge.libraries, self.judge.constraints, moves
            )
            if not len(predicted):
                continue
            expected = self.judge.bound(_scaled(children, predicted))
            promising = self._unknown(children, expected, best + self.delta + SLACK)
            if len(promising):
                pool = Fits.join([pool, self._compete(children.take(promising), pool)])
        return pool

    def _unknown(self, children: Fits, expected: np.ndarray, limit: float) -> np.ndarray:
        """Return which children are new and promise enough, each law once, the most promising first."""
        keys, chosen = children.candidates.keys, []
        seen = set(self._known)
        for i in np.argsort(expected, kind="stable"):
            if expected[i] < limit and keys[i] not in seen:
                seen.add(keys[i])
                chosen.append(int(i))
        return np.array(chosen, dtype=int)

    def _compete(self, start: Fits, pool: Fits | None) -> Fits:
        """Return the fits of those candidates that could be of interest beside a pool, fitted to the end."""
        self.tried += len(set(start.candidates.keys))
        self._known.update(start.candidates.keys)
        if not self.refitter.rounds:
            # Single intervals are continuous as they are: there is nothing cheaper than the fit.
            closed = self.refitter.close(start, self.watch)
            return closed.take(_one_each(closed.candidates.keys, self.judge.rank(closed)))
        first = self.refitter.bound(start, 0, self.watch)
        lowest = self.judge.bound(first)
        first = first.take(_one_each(first.candidates.keys, lowest))
        lowest, sizes = self.judge.bound(first), first.candidates.complexity
        order = np.argsort(lowest, kind="stable")
        if pool is None:
            leaders = order[:LEADERS].tolist()
            leaders += [int(i) for size in np.unique(sizes) for i in order[sizes[order] == size][:PER_SIZE]]
            leaders = list(dict.fromkeys(leaders))
            pool = self._finish(self._from_all_starts(first.take(np.array(leaders))), np.inf)
            done = [pool]
        else:
            leaders, done = [], []
        rest = np.setdiff1d(order, leaders)
        limit = float(self.judge.rank(pool).min(initial=np.inf)) + self.delta + SLACK
        rest = rest[lowest[rest] < limit]
        if len(rest) or not done:
            done.append(self._finish(first.take(rest), limit))
        return Fits.join(done)

    def _from_all_starts(self, fits: Fits) -> Fits:
        """Return lower bounds of leaders, each from where its free parameters start best."""
        several = [fits]
        for start in self.starts:
            moved = replace(fits, coordinates=start.expand_as(fits.coordinates))
            several.append(self.refitter.bound(moved, 0, self.watch))
        joined = Fits.join(several)
        return joined.take(_one_each(joined.candidates.keys, self.judge.bound(joined)))

    def _finish(self, fits: Fits, limit: float) -> Fits:
        """Return continuous fits of those candidates whose lower bound stays under a limit."""
        for number in range(1, self.refitter.rounds):
            if not len(fits.candidates):
                return fits
            fits = self.refitter.bound(fits, number, self.watch)
            fits = fits.take(np.flatnonzero(self.judge.bound(fits) < limit))
        return self.refitter.close(fits, self.watch) if len(fits.candidates) else fits

    def _order(self, pool: Fits) -> np.ndarray:
        """Return the positions of the fits by rank, without those that failed."""
        values = self.judge.rank(pool)
        order = np.argsort(values, kind="stable")
        return order[np.isfinite(values[order])]


def _one_each(keys: Sequence[bytes], values: np.ndarray) -> np.ndarray:
    """Return the position of the smallest value of every key."""
    best: dict[bytes, int] = {}
    for i, key in enumerate(keys):
        if key not in best or values[i] < values[best[key]]:
            best[key] = i
    return np.array(list(best.values()))


def _scaled(fits: Fits, chi_square: np.ndarray) -> Fits:
    """Return fits with their misfit scaled to another chi-square."""
    factor = chi_square / np.maximum(fits.chi_square, 1e-300)
    return replace(fits, misfit=fits.misfit * factor[:, None])
