"""A simulated host: what its threads share, and how long each then takes.

Owns the sharing. A core does one thing at a time, for a slice of time where others wait; who begins
anew goes before those whose slice is over, as with a fair scheduler. Things of one kind that go on
at once may slow each other down beside that, as copies do that share the memory. A thread does one
thing after the other.
"""

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

SLICE_S = 3e-3  # Linux's, for a few cores

Happen = Callable[[], None]


class Clock(Protocol):
    """Simulated time."""

    now_s: float

    def after(self, delay_s: float, happen: Happen) -> None: ...


class Work(Enum):
    """What a thread is at."""

    LOOP = "a loop's work"
    COPY = "a copy in memory"
    TRANSFER = "a transfer by the kernel, on both sides"


@dataclass(eq=False)
class Job:
    """One thing that is done: what is left of it at full speed, and of its slice."""

    kind: Work
    left_s: float
    then: Happen
    slice_s: float = SLICE_S


class Host:
    """Threads at work on `cores` cores (None: as many as there is work).

    `speeds`: how fast each thing of a kind goes on while 1, 2, ... of it do; more than that share
    what the last of these make in all. A kind that it does not name goes on at full speed, 1.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        cores: int | None = None,
        speeds: Mapping[Work, Sequence[float]] = {},
    ) -> None:
        self._clock = clock
        self._cores = math.inf if cores is None else cores
        self._speeds = speeds
        self._running: list[Job] = []
        self._anew: deque[Job] = deque()
        self._waiting: deque[Job] = deque()
        self._since_s = 0.0
        self._version = 0
        self.num_done = 0
        """Things that took time, so far."""

    def work(self, kind: Work, duration_s: float, then: Happen) -> None:
        """Let something happen after work that takes `duration_s` at full speed."""
        if duration_s == 0.0:
            then()
            return
        self.num_done += 1
        if math.isinf(self._cores) and kind not in self._speeds:
            self._clock.after(duration_s, then)
            return
        self._advance()
        self._anew.append(Job(kind=kind, left_s=duration_s, then=then))
        self._fill()
        self._foresee()

    def _speed(self, kind: Work) -> float:
        speeds, num = self._speeds.get(kind), sum(job.kind is kind for job in self._running)
        if speeds is None:
            return 1.0
        return speeds[num - 1] if num <= len(speeds) else speeds[-1] * len(speeds) / num

    def _advance(self) -> None:
        """Let the time that has passed be worked; a slice begins anew where nobody waits."""
        passed_s = self._clock.now_s - self._since_s
        for job in self._running:
            job.left_s -= passed_s * self._speed(job.kind)
            job.slice_s -= passed_s
            if not self._is_crowded:
                job.slice_s %= SLICE_S
        self._since_s = self._clock.now_s

    @property
    def _is_crowded(self) -> bool:
        return bool(self._anew or self._waiting)

    def _fill(self) -> None:
        """Let cores that are free take up who is next."""
        while self._is_crowded and len(self._running) < self._cores:
            job = (self._anew or self._waiting).popleft()
            job.slice_s = SLICE_S
            self._running.append(job)

    def _foresee(self) -> None:
        """Come back when the next thing or slice ends, unless something changes before that."""
        self._version += 1
        if not self._running:
            return
        nexts = []
        for job in self._running:
            end_s = job.left_s / self._speed(job.kind)
            is_cut = self._is_crowded and job.slice_s < end_s
            nexts.append((job.slice_s if is_cut else end_s, is_cut, job))
        delay_s, is_cut, job = min(nexts, key=lambda found: found[0])
        version = self._version
        self._clock.after(max(0.0, delay_s), lambda: self._turn(version, job, is_cut))

    def _turn(self, version: int, job: Job, is_cut: bool) -> None:
        """Something ends, or has to let others go on."""
        if version != self._version:
            return
        self._advance()
        self._running.remove(job)
        if is_cut:
            self._waiting.append(job)
        self._fill()
        self._foresee()
        if not is_cut:
            job.then()


class Thread:
    """Does one thing after the other on its host."""

    def __init__(self, host: Host, kind: Work) -> None:
        self._host = host
        self._kind = kind
        self._first: deque[tuple[Callable[[], float], Happen]] = deque()
        self._waiting: deque[tuple[Callable[[], float], Happen]] = deque()
        self._is_busy = False

    def add(self, cost_s: Callable[[], float], happen: Happen, *, first: bool = False) -> None:
        """Let something happen after work of `cost_s`, which is asked when that begins: behind all
        that waits, or `first`, behind what was to be first before it."""
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

        self._host.work(self._kind, cost_s(), end)
