"""A simulated host: what its threads share, and how long each then takes.

Owns the sharing. A core does one thing at a time, and lets others go on after a slice of time if
any wait; who had least of the cores goes first, as with Linux's scheduler. Copies that are made at
once slow each other down beside that, for they share the memory.
"""

import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

SLICE_S = 3e-3
"""Of Linux 6.18 on two cores: who wakes while both are busy waits for up to 3 or 4 ms."""

Happen = Callable[[], None]
Cost = float | Callable[[], float]


class Clock(Protocol):
    """Simulated time."""

    now_s: float

    def after(self, delay_s: float, happen: Happen) -> None: ...


class Host:
    """Threads at work on `cores` cores (None: as many as there is work).

    `copy_speeds`: how fast each copy goes on while 1, 2, ... of them do; more than that share what
    the last of these make in all. None given: all at full speed, 1.
    """

    def __init__(
        self, clock: Clock, *, cores: int | None = None, copy_speeds: Sequence[float] = ()
    ) -> None:
        self._clock = clock
        self._cores = math.inf if cores is None else cores
        self._copy_speeds = copy_speeds
        self._running: list[Thread] = []
        self._waiting: list[Thread] = []
        self._since_s = 0.0
        self._version = 0
        self.num_begun = 0
        """Things that take time, begun so far."""

    def work(self, thread: "Thread", duration_s: float, then: Happen) -> None:
        """Let something happen after work of a thread that takes `duration_s` at full speed; it has
        nothing else to do. One that has just ended something goes on with its core."""
        if duration_s == 0.0:
            then()
            return
        self.num_begun += 1
        if math.isinf(self._cores) and not (thread.copies and self._copy_speeds):
            self._clock.after(duration_s, then)
            return
        self._advance()
        thread.left_s, thread.then = duration_s, then
        if thread not in self._running:
            others = [*self._running, *self._waiting]
            least_s = min((other.had_s for other in others), default=0.0)
            thread.had_s = max(thread.had_s, least_s - SLICE_S)  # who slept is not owed all of that
            self._waiting.append(thread)
        self._go_on()

    def _speed(self, thread: "Thread") -> float:
        if not (thread.copies and self._copy_speeds):
            return 1.0
        speeds, num = self._copy_speeds, sum(other.copies for other in self._running)
        return speeds[num - 1] if num <= len(speeds) else speeds[-1] * len(speeds) / num

    def _advance(self) -> None:
        """Let the time that has passed be worked."""
        passed_s = self._clock.now_s - self._since_s
        for thread in self._running:
            thread.left_s -= passed_s * self._speed(thread)
            thread.had_s += passed_s
            thread.slice_s -= passed_s
            if thread.slice_s <= 0.0 and not self._waiting:
                thread.slice_s += SLICE_S * math.ceil(-thread.slice_s / SLICE_S + 1e-9)
        self._since_s = self._clock.now_s

    def _go_on(self) -> None:
        """Let cores that are free take up who is next, and come back when the next thing or slice
        ends, unless something changes before that."""
        while self._waiting and len(self._running) < self._cores:
            thread = min(self._waiting, key=lambda waiting: waiting.had_s)
            self._waiting.remove(thread)
            thread.slice_s = SLICE_S
            self._running.append(thread)
        self._version += 1
        nexts = []
        for thread in self._running:
            end_s = thread.left_s / self._speed(thread)
            is_cut = bool(self._waiting) and thread.slice_s < end_s
            nexts.append((max(0.0, thread.slice_s if is_cut else end_s), is_cut, thread))
        if nexts:
            delay_s, is_cut, thread = min(nexts, key=lambda found: found[0])
            version = self._version
            if math.isfinite(delay_s):
                self._clock.after(delay_s, lambda: self._turn(version, thread, is_cut))

    def _turn(self, version: int, thread: "Thread", is_cut: bool) -> None:
        """A thread ends something, or has to let others go on."""
        if version != self._version:
            return
        self._advance()
        if is_cut:
            self._running.remove(thread)
            self._waiting.append(thread)
        else:
            thread.left_s = math.inf
            thread.then()
            if math.isinf(thread.left_s):  # nothing followed
                self._running.remove(thread)
        self._go_on()


class Thread:
    """Does one thing after the other on its host; `copies`: in memory that others use too."""

    def __init__(self, host: Host, *, copies: bool = False) -> None:
        self.copies = copies
        self.had_s = 0.0
        """What it had of the cores, as the host counts it; that is also who sets what follows."""
        self.left_s = 0.0
        self.slice_s = 0.0
        self.then: Happen = _nothing
        self._host = host
        self._first: deque[tuple[Cost, Happen]] = deque()
        self._waiting: deque[tuple[Cost, Happen]] = deque()
        self._is_busy = False

    def add(self, cost_s: Cost, happen: Happen, *, first: bool = False) -> None:
        """Let something happen after work of `cost_s`, which is asked when that begins where it is
        a function: behind all that waits, or `first`, behind what was to be first before it."""
        (self._first if first else self._waiting).append((cost_s, happen))
        self._go_on()

    def _go_on(self) -> None:
        if self._is_busy or not (tasks := self._first or self._waiting):
            return
        self._is_busy = True
        cost_s, happen = tasks.popleft()

        def end() -> None:
            happen()
            self._is_busy = False
            self._go_on()

        self._host.work(self, cost_s() if callable(cost_s) else cost_s, end)


def _nothing() -> None:
    pass
