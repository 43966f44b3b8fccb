"""Sleeps that add up to what was asked for.

Owns the correction of the kernel's timer: a sleep ends some ten microseconds late, which would
punish whoever sleeps often (a schedule of many micro-batches) over who sleeps seldom.
"""

import time
from collections.abc import Callable

MOST_CARRIED_S = 2e-4  # a later end is no matter of timers, but of a busy core: it stays lost


class Sleeper:
    """Sleeps on the calling thread; what one sleep was late is taken off the next."""

    def __init__(
        self,
        *,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.asked_s = 0.0
        """All that was asked for so far."""
        self._sleep = sleep
        self._clock = clock
        self._late_s = 0.0

    def sleep(self, seconds: float) -> None:
        """Sleep for `seconds`, less what the sleep before was late."""
        self.asked_s += seconds
        began_s = self._clock()
        wanted_s = seconds - self._late_s
        if wanted_s > 0:
            self._sleep(wanted_s)
        late_s = self._clock() - began_s - wanted_s
        self._late_s = min(late_s, MOST_CARRIED_S)
