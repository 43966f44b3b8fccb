"""How long the rest of a long phase takes, as told from time to time.

Owns when that is told, and in which words. Knows nothing of what is done.
"""

import time
from collections.abc import Callable

EVERY_S = 10.0


class Pace:
    """The time left of an amount of work, from how long the work that is done has taken."""

    def __init__(self, amount: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._amount = amount
        self._clock = clock
        self._began_s = self._worded_s = clock()
        self._words = ""

    def left(self, done: float) -> str:
        """Words to put behind a phase, which change every EVERY_S seconds; at first there are
        none."""
        now_s = self._clock()
        if done > 0 and now_s - self._worded_s >= EVERY_S:
            left_s = (now_s - self._began_s) * (self._amount - done) / done
            self._words = f": about {left_s:.0f} s left"
            self._worded_s = now_s
        return self._words
