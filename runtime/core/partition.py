"""Where a network is cut: home segments, and the guests that overlap them.

Owns cuts as numbers. Knows nothing of what a unit is or why it costs what it costs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
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
    `overlap` units of home k+1; the last block has none. Raises ValueError where the cuts are
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


def balanced_cuts(costs: Sequence[float], num_blocks: int, overlap: int) -> tuple[int, ...]:
    """Return the cuts whose costliest block, guest included, is cheapest (dynamic programming).

    `costs` holds one figure a unit. Among equals the lowest first cut wins, and the blocks
    above it are balanced in turn, so the answer is a function of its arguments. Raises
    ValueError where the units don't suffice.
    """
    num_units = len(costs)
    upper_home = max(overlap, 1)
    if num_units < 1 + (num_blocks - 1) * upper_home:
        most = 1 + (num_units - 1) // upper_home
        raise ValueError(
            f"{num_blocks} workers with overlap {overlap} don't fit a network of {num_units} units;"
            f" at most {most} do"
        )

    @cache
    def best(first: int, blocks_left: int) -> tuple[float, tuple[int, ...]]:
        """The lowest maximum for units first.. in blocks_left blocks, and its cuts."""
        if blocks_left == 1:
            return sum(costs[first:]), (first,)
        candidates = []
        shortest = 1 if first == 0 else upper_home
        for second in range(first + shortest, num_units - (blocks_left - 1) * upper_home + 1):
            own = sum(costs[first : second + overlap])
            rest, cuts = best(second, blocks_left - 1)
            candidates.append((max(own, rest), (first, *cuts)))
        return min(candidates)

    return best(0, num_blocks)[1]


def _show(cuts: tuple[int, ...]) -> str:
    return ",".join(map(str, cuts))
