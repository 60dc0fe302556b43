"""Laws for each hole while the network stays in the others, and what they make together.

Laws with many terms in several holes are too many to try, and most of them are so bad that nothing leads from one to
the next. Where a network fits the data, one hole after another may be searched as if the rest of the equation were
known; what looks best in each makes laws that look best together, up to what the holes have to do with each other.
"""

from __future__ import annotations

from collections.abc import Mapping

from sciml_discover.blocks import Blocks, Law
from sciml_discover.outlook import Surroundings
from sciml_discover.seeds import cheapest
from sciml_discover.shortlist import Score, Shortlist

OF_EACH, WITHIN = 12, 50.0
"""Laws of each hole that are combined, and how much worse than its best one they may look."""

TOGETHER = 200
"""Most combinations."""


def hole_by_hole(
    surroundings: Surroundings,
    blocks: Blocks,
    score: Score,
    begin: Mapping[Law, str],
    *,
    exhaustive: int,
    width: int,
) -> tuple[list[Law], int]:
    """Return combinations of what looks best in each hole alone, and how many laws of single holes were looked at.

    There are none where all holes have one law, or where nothing is known of one.

    Args:
        surroundings: chi-square around a trajectory that fits the data.
        blocks: what laws are put together from.
        score: what they are ranked by.
        begin: laws of all holes; the part in each of them takes part in its comparison.
        exhaustive: all laws of a hole with one term are looked at, and longer ones, as far as there are no more.
        width: laws whose surroundings are looked at in a round.
    """
    groups = blocks.constraints.groups
    if len(groups) == 1:
        return [], 0
    choices, looked_at = [], 0
    for group in groups:
        outlook = surroundings.outlook(group)
        if outlook is None:
            return [], looked_at
        own = {
            tuple(block for block in law if blocks.added[block, list(group)].any()): source
            for law, source in begin.items()
        }
        found = Shortlist(outlook, blocks, score, own, exhaustive=exhaustive, width=width, holes=group)
        looked_at += found.looked_at
        choices.append([(found.score(law), law) for law in found.best(OF_EACH, WITHIN)])
    together = cheapest(choices, TOGETHER)
    return [tuple(sorted(block for _, law in choice for block in law)) for choice in together], looked_at
