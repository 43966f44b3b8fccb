"""Where a network is cut: home segments, and the guests that overlap them.

Owns cuts and overlaps as numbers. Knows nothing of what a unit is or why a block costs what it
costs.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from launch.config import Overlap, show

Cost = Callable[["Block"], float]


@dataclass(frozen=True, kw_only=True)
class Block:
    """One local block: the half-open ranges of units in its home and in its guest, and the units of
    its home that are lent: the block below replicates them."""

    index: int
    home: range
    guest: range
    lent: range


class Sharing:
    """Which units of the home above each edge the block below replicates; edge k is between blocks
    k and k + 1.

    `overlap` is a number of units for all edges, or one per edge, or "stage": from the cut to the
    end of that stage, or of that home if it ends first (LoCo's rule, arXiv 2008.01342). `stages`
    holds the first unit of each stage.
    """

    def __init__(self, overlap: Overlap, *, stages: Sequence[int] = ()) -> None:
        self._overlap = overlap
        self._stages = stages

    def guest(self, edge: int, home: range) -> range | None:
        """The first units of the `home` above the edge; None if it is too short for that."""
        num = self.num_units(edge)
        if num is None:
            stop = min((first for first in self._stages if first > home.start), default=home.stop)
            return range(home.start, min(stop, home.stop))
        return range(home.start, home.start + num) if num <= len(home) else None

    def check_edges(self, num_edges: int) -> None:
        """Raise ValueError if it says otherwise how many edges there are."""
        if isinstance(self._overlap, tuple) and len(self._overlap) != num_edges:
            raise ValueError(
                f"overlap {self} has {len(self._overlap)} numbers for {num_edges} edges; give one"
                " for all, or one per edge"
            )

    def num_units(self, edge: int) -> int | None:
        """How many units the edge shares; None if that follows from the stages."""
        if isinstance(self._overlap, str):
            return None
        return self._overlap if isinstance(self._overlap, int) else self._overlap[edge]

    def check_units(self, num_units: int) -> None:
        """Raise ValueError if so many units are too few for all overlaps that are given."""
        if isinstance(self._overlap, tuple):
            least = self.least_units(len(self._overlap) + 1)
            if least > num_units:
                raise ValueError(
                    f"overlap {self} needs at least {least} units, and the network has {num_units};"
                    " give smaller numbers"
                )

    def least_units(self, num_blocks: int) -> int:
        """The fewest units of a network that can be cut into so many blocks."""
        return 1 + sum(max(1, self.num_units(edge) or 0) for edge in range(num_blocks - 1))

    def most_blocks(self, num_units: int) -> int:
        """The most blocks that so many units can be cut into, with one overlap for all edges."""
        num = 1
        while self.least_units(num + 1) <= num_units:
            num += 1
        return num

    def __str__(self) -> str:
        return show(self._overlap)


@dataclass(frozen=True, kw_only=True)
class Partition:
    """A network of `num_units` units cut into homes, which the blocks below overlap.

    `cuts` is the first unit of each home. The guest of block k is a replica of the first
    `overlaps[k]` units of home k+1; the last block has none. Raises ValueError if the cuts are
    out of order or an overlap exceeds the home that it is of.
    """

    num_units: int
    cuts: tuple[int, ...]
    overlaps: tuple[int, ...]

    def __post_init__(self) -> None:
        _check_cuts(self.cuts, self.num_units)
        Sharing(self.overlaps).check_edges(len(self.cuts) - 1)
        for edge, (num, home) in enumerate(zip(self.overlaps, self.homes[1:], strict=True)):
            if num < 0:
                raise ValueError(f"overlap {num} is negative; 0 shares nothing")
            if num > len(home):
                raise ValueError(
                    f"overlap {num} exceeds the home of units {home.start}..{home.stop - 1};"
                    f" with cuts {show(self.cuts)} edge {edge} can share {len(home)} at most"
                )

    @classmethod
    def shared(cls, *, num_units: int, cuts: tuple[int, ...], sharing: Sharing) -> "Partition":
        """That of these cuts, with the overlaps that a sharing makes of them. Raises ValueError."""
        _check_cuts(cuts, num_units)
        sharing.check_edges(len(cuts) - 1)
        homes = _homes(cuts, num_units)[1:]
        guests = [sharing.guest(edge, home) for edge, home in enumerate(homes)]
        overlaps = tuple(
            sharing.num_units(edge) or len(guest or ()) for edge, guest in enumerate(guests)
        )
        return cls(num_units=num_units, cuts=cuts, overlaps=overlaps)

    @property
    def num_blocks(self) -> int:
        return len(self.cuts)

    @property
    def homes(self) -> tuple[range, ...]:
        return _homes(self.cuts, self.num_units)

    @property
    def blocks(self) -> tuple[Block, ...]:
        """Every block, lowest first."""
        homes = self.homes
        lent = [range(0)]
        for num, home in zip(self.overlaps, homes[1:], strict=True):
            lent.append(range(home.start, home.start + num))
        guests = [*lent[1:], range(self.num_units, self.num_units)]
        return tuple(
            Block(index=k, home=home, guest=guests[k], lent=lent[k]) for k, home in enumerate(homes)
        )


def balanced_cuts(
    num_units: int,
    num_blocks: int,
    sharing: Sharing,
    *,
    cost: Cost,
    memory_mb: Cost | None = None,
    max_memory_mb: float | None = None,
) -> tuple[int, ...]:
    """Return the cuts whose costliest block is cheapest, of those whose blocks all fit.

    What a block costs and takes may depend on its index, home, guest and what it lends, and on
    nothing else; so the answer is exact (dynamic programming). Among equals the lowest first cut
    wins, and the blocks above it are balanced in turn, so it is a function of the arguments. Raises
    ValueError if the units don't suffice, or if no cut holds every block within `max_memory_mb`.
    """
    sharing.check_edges(num_blocks - 1)
    sharing.check_units(num_units)
    if num_units < sharing.least_units(num_blocks):
        raise ValueError(
            f"{num_blocks} workers with overlap {sharing} don't fit a network of {num_units} units;"
            f" at most {sharing.most_blocks(num_units)} do"
        )

    def bounded(block: Block) -> float:
        if max_memory_mb is None or memory_mb is None or memory_mb(block) <= max_memory_mb:
            return cost(block)
        return math.inf

    worst, cuts = _min_max(num_units, num_blocks, sharing, bounded)
    if worst < math.inf:
        return cuts
    assert memory_mb is not None, "without a bound every cut will do"
    needed, _ = _min_max(num_units, num_blocks, sharing, memory_mb)
    raise ValueError(
        f"max-memory-mb {max_memory_mb} is too little: no cut into {num_blocks} blocks with overlap"
        f" {sharing} holds every worker within it; give --max-memory-mb {math.ceil(needed)}, or a"
        " smaller --batch-size"
    )


def _min_max(
    num_units: int, num_blocks: int, sharing: Sharing, cost: Cost
) -> tuple[float, tuple[int, ...]]:
    """The lowest maximum of `cost` over the blocks, and the first of the cuts that reach it.

    From the top block down, each home is combined with what is best above it, for each guest that
    its block may have there: what a block costs depends on both.
    """
    top, end = num_blocks - 1, range(num_units, num_units)
    above: dict[int, dict[range, tuple[float, tuple[int, ...]]]]
    above = {num_units: {end: (-math.inf, ())}}
    for index in range(top, -1, -1):
        here: dict[int, dict[range, tuple[float, tuple[int, ...]]]] = {}
        for first in range(index, num_units) if index else (0,):
            for stop, guests in above.items():
                home = range(first, stop)
                lent = sharing.guest(index - 1, home) if index else range(0)
                if stop <= first or lent is None:
                    continue
                found = []
                for guest, (rest, cuts) in guests.items():
                    own = cost(Block(index=index, home=home, guest=guest, lent=lent))
                    found.append((max(own, rest), rest, (first, *cuts)))
                worst, _, cuts = min(found)
                best = here.setdefault(first, {})
                best[lent] = min(best.get(lent, (math.inf, ())), (worst, cuts))
        above = here
    return min(above[0].values())


def _check_cuts(cuts: tuple[int, ...], num_units: int) -> None:
    if not cuts or cuts[0] != 0:
        raise ValueError(f"cuts {show(cuts)} must begin with 0, the first unit")
    if any(a >= b for a, b in pairwise(cuts)):
        raise ValueError(f"cuts {show(cuts)} are out of order; each must exceed the last")
    if cuts[-1] >= num_units:
        raise ValueError(
            f"cuts {show(cuts)} end past the last unit; the highest is {num_units - 1}"
        )


def _homes(cuts: tuple[int, ...], num_units: int) -> tuple[range, ...]:
    return tuple(range(a, b) for a, b in zip(cuts, (*cuts[1:], num_units), strict=True))
