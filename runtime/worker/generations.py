"""Which generations of the neighbours there are: a hello that names another is not believed.

Owns the bound. A hello of a generation that does not exist would fence off those that do.
"""

import time
from collections.abc import Callable

from runtime.core.plan import Side

LOOK_EVERY_S = 1.0


class Generations:
    """`find` looks up the latest generation of the neighbour on a side, which has said so before it
    said hello."""

    def __init__(
        self, find: Callable[[Side], int], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._find = find
        self._clock = clock
        self._latest = dict.fromkeys(Side, -1)
        self._looked_s = dict.fromkeys(Side, -LOOK_EVERY_S)

    def has(self, side: Side, generation: int) -> bool:
        """Whether there is such a generation; looks, but not too often, if it is a new one."""
        now_s = self._clock()
        if generation > self._latest[side] and now_s - self._looked_s[side] >= LOOK_EVERY_S:
            self._looked_s[side] = now_s
            self._latest[side] = max(self._latest[side], self._find(side))
        return generation <= self._latest[side]
