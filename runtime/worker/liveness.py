"""Whether the neighbours can still be heard, and dialling anew if they can't.

Owns the patience with silence. A neighbour says something at least every other tick, also while it
computes, so a silent one is dead, stopped, behind a broken connection or behind a long message of
its own. The first two are its keeper's business; only the third is mended here.
"""

import logging
import time
from collections.abc import Callable, Mapping

from runtime.core.plan import Side
from runtime.links.link import Link, LinkError
from runtime.worker.lookup import Lookup
from runtime.worker.reach import Reach

log = logging.getLogger(__name__)

REDIAL_AFTER_S = 1.0  # of silence, at least; each time that no data come of it, twice as long
MAX_REDIAL_S = 30.0
LONG_SILENCE_S = 3.0
LOOK_BEFORE_S = 0.5  # a side is dialled: for where it listens now
ABSENCE_S = 5.0  # between two looks at the clock: this process was stopped, not its neighbours


class _Silence:
    """One side: since when it has been silent, and when it is dialled next.

    A neighbour is silent behind a long message on a slow link, and dialling anew would lose that
    message. So the patience doubles until data come, and stays twice the longest silence that data
    have ended.
    """

    def __init__(self, now_s: float) -> None:
        self.since_s = now_s
        self.dial_at_s = now_s + REDIAL_AFTER_S
        self._patience_s = REDIAL_AFTER_S
        self._longest_s = 0.0
        self._was_dialled = False

    def dialled(self, now_s: float) -> None:
        self._was_dialled = True
        self.dial_at_s = now_s + self._patience_s
        self._patience_s = min(2 * self._patience_s, MAX_REDIAL_S)

    def ended(self, now_s: float, *, by_data: bool) -> None:
        if by_data:
            if not self._was_dialled:
                self._longest_s = max(self._longest_s, now_s - self.since_s)
            self._patience_s = max(REDIAL_AFTER_S, min(2 * self._longest_s, MAX_REDIAL_S))
        self._was_dialled = False
        self.since_s, self.dial_at_s = now_s, now_s + self._patience_s

    def is_long(self, now_s: float) -> bool:
        return now_s - self.since_s > max(LONG_SILENCE_S, 2 * self._longest_s)

    def forgive(self, absent_s: float) -> None:
        self.since_s += absent_s
        self.dial_at_s += absent_s


class Liveness:
    """Watches the silence on each side of one worker.

    `below` says where the worker below listens now, if it has said so, and `tell` tells the user if
    it does not answer there; after `reach_timeout_s` `check` raises Unreachable, unless it answered
    once, or did to an earlier generation of this worker (`was_reached`). After `patience_s` of
    silence `check` raises LinkError: longer than any restart takes.
    """

    def __init__(
        self,
        links: Mapping[Side, Link],
        *,
        below: Lookup,
        block_index: int,
        tell: Callable[[str], None],
        reach_timeout_s: float,
        was_reached: bool = False,
        patience_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._links = links
        self._below = below
        self._reach = Reach(
            f"worker {block_index}",
            f"worker {block_index - 1}",
            tell,
            timeout_s=reach_timeout_s,
            was_reached=was_reached,
        )
        self._patience_s = patience_s
        self._clock = clock
        self._silences = {side: _Silence(clock()) for side in links}
        self._checked_s = clock()

    def heard(self, side: Side, *, by_data: bool = False) -> None:
        """Note that a side was heard: by a message with tensors, or by a short one."""
        self._silences[side].ended(self._clock(), by_data=by_data)

    @property
    def are_silent(self) -> bool:
        """Whether one has been silent for longer than a restart takes when all goes well, and than
        its messages do."""
        return any(silence.is_long(self._clock()) for silence in self._silences.values())

    def check(self, step: int) -> None:
        """Dial anew on a side that has been silent for long. Raises LinkError after all patience;
        `step` is for its message."""
        self._forgive_own_absence()
        if Side.BELOW in self._links:
            self._reach.check(self._links[Side.BELOW].unreached, self._clock())
        for side, silence in self._silences.items():
            now_s = self._clock()
            if now_s - silence.since_s > self._patience_s:
                raise LinkError(
                    f"nothing from the worker {side.value} in {self._patience_s:.0f} s, at step"
                    f" {step}; can its address be reached from this host (--bind)?"
                )
            if now_s > silence.dial_at_s:
                silence.dialled(now_s)
                log.warning("the worker %s is silent; dialling anew", side.value)
                self._links[side].redial(self._below.latest if side is Side.BELOW else None)
            elif side is Side.BELOW and now_s > silence.dial_at_s - LOOK_BEFORE_S:
                self._below.ask()

    def _forgive_own_absence(self) -> None:
        """One that was stopped (Ctrl-Z, a paused container) has heard nobody meanwhile."""
        absent_s = self._clock() - self._checked_s
        self._checked_s += absent_s
        if absent_s > ABSENCE_S:
            self._reach.forgive()
            for silence in self._silences.values():
                silence.forgive(absent_s)
