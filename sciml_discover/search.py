"""The search for laws: a growing pool of refitted candidates, widened by moves until none helps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pydantic

from sciml_discover.base import Count, Options, Progress, Watch
from sciml_discover.blocks import Blocks, Law
from sciml_discover.checkpoint import Checkpoints, Saved
from sciml_discover.errors import SolveError
from sciml_discover.hole_by_hole import hole_by_hole
from sciml_discover.holes import AbstractFilling
from sciml_discover.judge import UNSTABLE, Judge, Rejection
from sciml_discover.outlook import look_around
from sciml_discover.refit import Candidates, Fits, Refitter
from sciml_discover.shortlist import PER_SIZE, Shortlist, short_laws

if TYPE_CHECKING:
    import torch

LEADERS = 24
"""Laws that are fitted first, so that there is something to compare with."""

FIRST = 8
"""Of these, those with the lowest bounds: the others follow if they may be as good, or are the best of their length."""

FAR = 100.0
"""How much worse than the best a law may look and still be among those that are fitted first."""

FITTED = 600
"""Short laws that are all fitted where a linearization says little, if there are no more."""

MOVES = 2
"""Terms added, dropped or swapped between a fitted law and those that are tried from it."""

MOST_TRIES = 3
"""Times that a law is fitted at most, from different laws from which it looks good."""

LARGE_STEP = 0.5
"""Gain of the criterion per value in a round of moves, below which a grossly wrong law is on no way to the truth."""

SLACK = 10.0
"""How much further than a rival a candidate may be behind and still be kept: later fits may change the order."""


class SearchOptions(Options):
    """How far the search goes from where it begins."""

    width: int = pydantic.Field(default=16, ge=0, le=1000)
    """Laws from which terms are added, dropped and swapped, round after round, before anything is fitted; 0 leaves it
    at what regressors propose and at short laws."""
    rounds: int = pydantic.Field(default=8, ge=0, le=100)
    """Most rounds of moves from fitted laws: terms added, dropped and swapped, in any hole."""
    parents: Count = 4
    """Best laws whose neighbours are looked at in a round."""
    moves: Count = 12
    """Laws that are tried of those that look best from each of them."""
    widen: int = pydantic.Field(default=3, ge=1, le=20)
    """Factor of parents, moves and width for a second search where the best law does not fit the data; 1 for none."""


@dataclass(frozen=True)
class View:
    """A trajectory from which laws are looked at.

    Attributes:
        filling: what stands in the holes along it.
        weights: of that, shape ``(1, n_weights)``.
        states: at the rows, shape ``(J, L, d)``.
        coordinates: of the free parameters, shape ``(1, n_free)``.
        rough: whether it may be far from the truth between rows, where a linearization says little.
    """

    filling: AbstractFilling
    weights: torch.Tensor
    states: torch.Tensor
    coordinates: torch.Tensor
    rough: bool = False


@dataclass(frozen=True)
class Standing:
    """How far a search is.

    Attributes:
        pool: of fitted laws.
        wider: factor of parents, moves and width.
        number: of the rounds of moves that are over.
        expanded: keys of the laws from which moves were tried.
        best: criterion of the best law before the last round.
    """

    pool: Fits
    wider: int = 1
    number: int = 0
    expanded: frozenset[bytes] = frozenset()
    best: float = np.inf


@dataclass
class LawSearch:
    """Finds laws: looks where chi-square could be small, refits what looks best, and looks again from there.

    Attributes:
        refitter: fits candidates to the training rows.
        judge: ranks them; smaller is better.
        options: how far to go.
        delta: how much worse than the best a law of interest may be.
        starts: coordinates of the free parameters that the first leaders are fitted from as well, shape
            ``(starts, n_free)``.
        watch: called with the progress.
        files: where the search writes how far it is, between rounds of moves.
        compared: how many laws were looked at, each from one or several trajectories.
        rejected: laws that were fitted and cannot be the law, by the key of their candidate.
    """

    refitter: Refitter
    judge: Judge
    options: SearchOptions
    delta: float
    starts: torch.Tensor
    watch: Watch
    files: Checkpoints
    compared: int = 0
    rejected: dict[bytes, Rejection] = field(default_factory=dict)
    _tries: Counter[bytes] = field(default_factory=Counter)
    _reached: dict[bytes, float] = field(default_factory=dict)

    def run(self, views: Sequence[View], proposals: Candidates | None, exhaustive: int) -> Fits:
        """Return all laws that were refitted to the end, in no order.

        Args:
            views: trajectories of whatever fits the data; the first laws are those that look best from one of them.
            proposals: laws that take part in the comparison.
            exhaustive: all laws of one term for each hole do, and longer ones, as far as there are no more than this.

        Raises:
            SolveError: there is no law to begin with.
        """
        standing = self._recall()
        if standing is None:
            firsts = [self._first(view, proposals, exhaustive) for view in views]
            begun = [fits for fits in firsts if fits is not None]
            if not begun:
                raise SolveError(
                    "no law that the constraints allow has a value along the trained trajectory; "
                    "widen [regress.library] or [regress.holes]"
                )
            rough = any(view.rough for view in views)
            pool = self._compete(Fits.join(begun), None, 0 if rough else self.refitter.rounds - 1)
            if not len(self._order(pool)):
                return pool
            standing = Standing(pool)
        if standing.wider == 1:
            pool = self._walk(standing)
            best = pool.take(self._order(pool)[:1])
            # More terms are no remedy for a law that is grossly wrong.
            if self.options.widen == 1 or self.judge.is_gross(best) or self.judge.plausible(best):
                return self._one_fit_each(pool)
            standing = Standing(pool, wider=self.options.widen)
        return self._one_fit_each(self._walk(standing))

    def _one_fit_each(self, pool: Fits) -> Fits:
        return pool.take(_one_each(pool.candidates.keys, self.judge.rank(pool)))

    def _recall(self) -> Standing | None:
        """Return where the search stands by the checkpoint, with what it knew then; None without one."""
        saved = self.files.read()
        if saved is None:
            return None
        notes, tensors = saved.notes, saved.tensors
        self.compared = notes["compared"]
        known = [bytes.fromhex(key) for key in notes["known"]]
        self._tries = Counter(dict(zip(known, tensors["tries"].tolist(), strict=True)))
        self._reached = dict(zip(known, tensors["reached"].tolist(), strict=True))
        self.rejected = {bytes.fromhex(key): Rejection(*why) for key, *why in notes["rejected"]}
        expanded = frozenset(bytes.fromhex(key) for key in notes["expanded"])
        fits = Fits.recall(notes["sources"], tensors, len(self.judge.libraries))
        return Standing(fits, notes["wider"], notes["number"], expanded, float(tensors["best"]))

    def _save(self, standing: Standing) -> None:
        """Write down where the search stands, and what it knows."""
        notes = {
            "compared": self.compared,
            "known": [key.hex() for key in self._tries],
            "rejected": [[key.hex(), why.source, why.reason] for key, why in self.rejected.items()],
            "expanded": [key.hex() for key in sorted(standing.expanded)],
            "sources": list(standing.pool.candidates.sources),
            "wider": standing.wider,
            "number": standing.number,
        }
        tensors = {
            "best": np.array(standing.best),
            "tries": np.array([*self._tries.values()], dtype=np.int64),
            "reached": np.array([self._reached[key] for key in self._tries], dtype=float),
            **standing.pool.saved(),
        }
        self.files.write(Saved(notes, tensors))

    @property
    def tried(self) -> int:
        """How many laws were fitted."""
        return len(self._tries)

    @cached_property
    def _blocks(self) -> Blocks:
        return Blocks.of(self.judge.libraries, self.judge.constraints)

    def _first(self, view: View, proposals: Candidates | None, exhaustive: int) -> Fits | None:
        """Return fits, not yet begun, of the laws that look best from a trajectory; None if it cannot be seen from."""
        blocks = self._blocks
        inner = [library.starts_at(0)[None] for library in blocks.libraries]
        [around] = look_around(
            self.refitter, blocks, view.filling, view.weights, view.states[None], view.coordinates, inner
        )
        outlook = around.outlook()
        if outlook is None:
            return None
        source: dict[Law, str] = {}
        if proposals is not None:
            for row, name in enumerate(proposals.sources):
                for law in blocks.laws(proposals, row):
                    source.setdefault(law, name)
        score, width = self.judge.expected, self.options.width
        combined, looked_at = hole_by_hole(around, blocks, score, source, exhaustive=exhaustive, width=width)
        for law in combined:
            source.setdefault(law, "hole by hole")
        found = Shortlist(outlook, blocks, score, source, exhaustive=exhaustive, width=width)
        self.compared += looked_at + found.looked_at
        laws = found.best(LEADERS, FAR)
        if not laws:
            return None
        _, coefficients = outlook.fit(blocks, laws)
        candidates = blocks.candidates(
            laws, coefficients, [own[0] for own in inner], [found.source[law] for law in laws]
        )
        if view.rough:
            short = [
                tuple(law)
                for same_size in short_laws(blocks, min(FITTED, exhaustive))
                for law in same_size.tolist()
                if blocks.is_complete(law)
            ]
            candidates = Candidates.join([candidates, blocks.unfitted(short, "exhaustive")])
        return Fits.begin(candidates, view.states, view.coordinates)

    def _walk(self, standing: Standing) -> Fits:
        """Return the pool with what looks best from its best laws, until nothing unknown does."""
        pool, wider, expanded = standing.pool, standing.wider, set(standing.expanded)
        parents, moves = wider * self.options.parents, wider * self.options.moves
        best = standing.best
        for number in range(standing.number, self.options.rounds):
            if self.files.due:
                self._save(Standing(pool, wider, number, frozenset(expanded), best))
            keys, order = pool.candidates.keys, self._order(pool)
            fresh = [i for i in order[:parents] if keys[i] not in expanded]
            if not fresh:
                break
            before, best = best, float(self.judge.rank(pool)[order[0]])
            if not self._is_worth_going_on(pool.take(order[:1]), wider, before - best):
                break
            expanded.update(keys[i] for i in fresh)
            self.watch(Progress("select", "moves", number + 1, self.options.rounds, best))
            limit = best + self.delta + SLACK
            children = self._children(
                pool.take(np.array(fresh)), moves, wider * max(1, self.options.width), limit
            )
            if children is not None:
                pool = Fits.join([pool, self._compete(children, pool, self.refitter.rounds - 1)])
        return pool

    def _is_worth_going_on(self, best: Fits, wider: int, gained: float) -> bool:
        """Return whether to look around again after a round that lowered the best criterion by so much."""
        if self.judge.is_gross(best):
            # Steps towards the exact law lower chi-square by large factors.
            return gained > LARGE_STEP * int(self.judge.criterion.counts.sum())
        # A second, wide search asks whether there is something better, not what else is as good.
        return wider == 1 or gained > self.delta

    def _children(self, parents: Fits, moves: int, width: int, limit: float) -> Fits | None:
        """Return fits, not yet begun, of new laws that look good enough from fitted ones; None if none does."""
        blocks, made = self._blocks, []
        inner = [
            np.where(own[:, library.owner], values, library.starts_at(0))
            for library, own, values in zip(
                blocks.libraries, parents.candidates.supports, parents.candidates.inner, strict=True
            )
        ]
        filling, weights = self.refitter.filling(parents)
        surroundings = look_around(
            self.refitter, blocks, filling, weights, parents.states, parents.coordinates, inner
        )
        for row, around in enumerate(surroundings):
            outlook = around.outlook()
            if outlook is None:
                continue
            own = next(blocks.laws(parents.candidates, row))
            found = Shortlist(
                outlook, blocks, self.judge.expected, {own: "parent"}, width=width, rounds=MOVES
            )
            self.compared += found.looked_at
            laws = found.best(moves)
            chi_square, coefficients = outlook.fit(blocks, laws)
            candidates = blocks.candidates(
                laws, coefficients, [values[row] for values in inner], ["move"] * len(laws)
            )
            expected = self.judge.expected(
                chi_square, candidates.complexity, candidates.n_inner(blocks.libraries)
            )
            keys = candidates.keys
            new = [
                i for i, key in enumerate(keys) if expected[i] < limit and self._is_worth(key, expected[i])
            ]
            if new:
                made.append(
                    Fits.begin(
                        candidates.take(np.array(new)),
                        parents.states[row],
                        parents.coordinates[row : row + 1],
                    )
                )
        return Fits.join(made) if made else None

    def _is_worth(self, key: bytes, expected: float) -> bool:
        """Return whether a law is new, or looks much better from here than its fits from elsewhere came out."""
        tries = self._tries[key]
        return not tries or (tries < MOST_TRIES and expected < self._reached[key] - SLACK)

    def _compete(self, start: Fits, pool: Fits | None, number: int) -> Fits:
        """Return the fits of those candidates that could be of interest beside a pool, fitted to the end.

        Args:
            start: where fits begin.
            pool: of fitted laws; None before there are any.
            number: of the first round of growing continuity, zero where fits begin far off.
        """
        fresh = set(start.candidates.keys)
        self._tries.update(fresh)
        fits, lowest = self._fitted(start, pool, number)
        ends = {key: row for row, key in enumerate(fits.candidates.keys)}
        reached = lowest | dict(zip(fits.candidates.keys, self.judge.rank(fits).tolist(), strict=True))
        for key, source in zip(start.candidates.keys, start.candidates.sources, strict=True):
            if np.isinf(reached[key]) and np.isinf(self._reached.get(key, np.inf)):
                reason = self.judge.objection(fits, ends[key]) if key in ends else UNSTABLE
                self.rejected[key] = Rejection(source, reason or UNSTABLE)
            else:
                self.rejected.pop(key, None)
        for key in fresh:
            self._reached[key] = min(self._reached.get(key, np.inf), reached[key])
        return fits

    def _fitted(self, start: Fits, pool: Fits | None, number: int) -> tuple[Fits, dict[bytes, float]]:
        """Return the fits of those candidates that could be of interest, and the first bound of each candidate."""
        if not self.refitter.rounds:
            # Single intervals are continuous as they are: there is nothing cheaper than the fit.
            closed = self.refitter.close(start, self.watch)
            return closed.take(_one_each(closed.candidates.keys, self.judge.rank(closed))), {}
        first = self.refitter.bound(start, number, self.watch)
        lowest = self.judge.bound(first)
        first = first.take(_one_each(first.candidates.keys, lowest))
        lowest, sizes = self.judge.bound(first), first.candidates.complexity
        order = np.argsort(lowest, kind="stable")
        if pool is None:
            leaders = order[:LEADERS].tolist()
            leaders += [int(i) for size in np.unique(sizes) for i in order[sizes[order] == size][:PER_SIZE]]
            leaders = list(dict.fromkeys(leaders))
            pool = self._lead(self._from_all_starts(first.take(np.array(leaders)), number), number)
            done = [pool]
        else:
            leaders, done = [], []
        rest = np.setdiff1d(order, leaders)
        limit = float(self.judge.rank(pool).min(initial=np.inf)) + self.delta + SLACK
        rest = rest[lowest[rest] < limit]
        if len(rest) or not done:
            done.append(self._finish(first.take(rest), number, limit))
        return Fits.join(done), dict(zip(first.candidates.keys, lowest.tolist(), strict=True))

    def _lead(self, fits: Fits, number: int) -> Fits:
        """Return continuous fits of leaders: the best, what may be as good, and the best of every length."""
        lowest, sizes = self.judge.bound(fits), fits.candidates.complexity
        order = np.argsort(lowest, kind="stable")
        head = self._finish(fits.take(order[:FIRST]), number, np.inf)
        limit = float(self.judge.rank(head).min(initial=np.inf)) + self.delta + SLACK
        rest = order[FIRST:]
        near = rest[lowest[rest] < limit]
        done = [head, self._finish(fits.take(near), number, limit)]
        there = {int(size) for part in done for size in part.candidates.complexity}
        front = [int(rest[sizes[rest] == size][0]) for size in np.unique(sizes[rest]) if size not in there]
        if front:
            done.append(self._finish(fits.take(np.array(front)), number, np.inf))
        return Fits.join(done)

    def _from_all_starts(self, fits: Fits, number: int) -> Fits:
        """Return lower bounds of leaders, each from where its free parameters start best."""
        several = [fits]
        for start in self.starts:
            moved = replace(fits, coordinates=start.expand_as(fits.coordinates))
            several.append(self.refitter.bound(moved, number, self.watch))
        joined = Fits.join(several)
        return joined.take(_one_each(joined.candidates.keys, self.judge.bound(joined)))

    def _finish(self, fits: Fits, number: int, limit: float) -> Fits:
        """Return continuous fits of those candidates whose lower bound stays under a limit after a round."""
        for following in range(number + 1, self.refitter.rounds):
            if not len(fits.candidates):
                return fits
            fits = self.refitter.bound(fits, following, self.watch)
            fits = fits.take(np.flatnonzero(self.judge.bound(fits) < limit))
        return self._close(fits, limit) if len(fits.candidates) else fits

    def _close(self, fits: Fits, limit: float) -> Fits:
        """Return continuous fits; those that are late, and could still be of interest, get the time that they need."""
        closed = self.refitter.close(fits, self.watch)
        best = float(self.judge.rank(closed).min())
        limit = min(limit, best + self.delta + SLACK)
        late = np.flatnonzero(~closed.converged & (self.judge.bound(fits) < limit))
        if not len(late):
            return closed
        return self.refitter.close_again(closed, late, closed, self.watch)

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
