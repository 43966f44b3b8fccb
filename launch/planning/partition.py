"""Where a network is cut: home segments, and the guests that overlap them.

Owns cuts as numbers. Knows nothing of what a unit is or why a block costs what it costs.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True, kw_only=True)
class Block:
    """One local block: the half-open ranges of units in its home and in its guest."""

    index: int
    home: range
    guest: range


@dataclass(frozen=True, kw_only=True)
class Partition:
    """A network of `num_units` units cut into len(cuts) homes that overlap by `overlap` units.

    `cuts` is the first unit of each home. The guest of block k is a replica of the first
    `overlap` units of home k+1; the last block has none. Raises ValueError if the cuts are
    out of order or the overlap exceeds a home that is to be overlapped.
    """

    num_units: int
    cuts: tuple[int, ...]
    overlap: int

    def __post_init__(self) -> None:
        cuts = self.cuts
        if not cuts or cuts[0] != 0:
            raise ValueError(f"cuts {_show(cuts)} must begin with 0, the first unit")
        if any(a >= b for a, b in pairwise(cuts)):
            raise ValueError(f"cuts {_show(cuts)} are out of order; each must exceed the last")
        if cuts[-1] >= self.num_units:
            last = self.num_units - 1
            raise ValueError(f"cuts {_show(cuts)} end past the last unit; the highest is {last}")
        if self.overlap < 0:
            raise ValueError(f"overlap {self.overlap} is negative; 0 shares nothing")
        for home in self.homes[1:]:
            if self.overlap > len(home):
                raise ValueError(
                    f"overlap {self.overlap} exceeds the home of units"
                    f" {home.start}..{home.stop - 1}; with cuts {_show(cuts)} it can be at most"
                    f" {self.max_overlap}"
                )

    @property
    def num_blocks(self) -> int:
        return len(self.cuts)

    @property
    def homes(self) -> tuple[range, ...]:
        stops = (*self.cuts[1:], self.num_units)
        return tuple(range(a, b) for a, b in zip(self.cuts, stops, strict=True))

    @property
    def max_overlap(self) -> int:
        return min((len(home) for home in self.homes[1:]), default=0)

    @property
    def blocks(self) -> tuple[Block, ...]:
        """Every block, lowest first."""
        homes = self.homes
        return tuple(
            Block(index=k, home=home, guest=_guest(homes, k, self.overlap))
            for k, home in enumerate(homes)
        )


def _guest(homes: tuple[range, ...], k: int, overlap: int) -> range:
    if k + 1 == len(homes):
        return range(homes[k].stop, homes[k].stop)
    start = homes[k + 1].start
    return range(start, start + overlap)


def balanced_cuts(
    num_units: int,
    num_blocks: int,
    overlap: int,
    *,
    cost: Callable[[Block], float],
    memory_mb: Callable[[Block], float] | None = None,
    max_memory_mb: float | None = None,
) -> tuple[int, ...]:
    """Return the cuts whose costliest block is cheapest, of those whose blocks all fit.

    What a block costs and takes may depend on its index, home and guest, and on nothing else; so
    the answer is exact (dynamic programming). Among equals the lowest first cut wins, and the
    blocks above it are balanced in turn, so it is a function of the arguments. Raises ValueError
    if the units don't suffice, or if no cut holds every block within `max_memory_mb`.
    """
    if num_units < 1 + (num_blocks - 1) * max(overlap, 1):
        most = 1 + (num_units - 1) // max(overlap, 1)
        raise ValueError(
            f"{num_blocks} workers with overlap {overlap} don't fit a network of {num_units} units;"
            f" at most {most} do"
        )

    def bounded(block: Block) -> float:
        if max_memory_mb is None or memory_mb is None or memory_mb(block) <= max_memory_mb:
            return cost(block)
        return math.inf

    worst, cuts = _min_max(num_units, num_blocks, overlap, bounded)
    if worst < math.inf:
        return cuts
    assert memory_mb is not None, "without a bound every cut will do"
    needed, _ = _min_max(num_units, num_blocks, overlap, memory_mb)
    raise ValueError(
        f"max-memory-mb {max_memory_mb} is too little: no cut into {num_blocks} blocks with overlap"
        f" {overlap} holds every worker within it; give --max-memory-mb {math.ceil(needed)}, or a"
        " smaller --batch-size"
    )


def _min_max(
    num_units: int, num_blocks: int, overlap: int, cost: Callable[[Block], float]
) -> tuple[float, tuple[int, ...]]:
    """The lowest maximum of `cost` over the blocks, and the first of the cuts that reach it."""
    upper_home = max(overlap, 1)
    top = num_blocks - 1
    best: dict[int, tuple[float, tuple[int, ...]]] = {num_units: (-math.inf, ())}
    for index in range(top, -1, -1):
        shortest = upper_home if index else 1
        guest_units = overlap if index < top else 0
        above = best
        # Each home below takes its least, and the lowest home begins with unit 0.
        lowest = 1 + (index - 1) * upper_home if index else 0
        best = {}
        for first in range(lowest, num_units if index else 1):
            candidates = []
            for stop, (rest, cuts) in above.items():
                if stop - first >= shortest:
                    guest = range(stop, stop + guest_units)
                    own = cost(Block(index=index, home=range(first, stop), guest=guest))
                    candidates.append((max(own, rest), (first, *cuts)))
            if candidates:
                best[first] = min(candidates)
    return best[0]


def _show(cuts: tuple[int, ...]) -> str:
    return ",".join(map(str, cuts))
