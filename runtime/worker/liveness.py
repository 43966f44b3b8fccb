"""Whether the neighbours can still be heard, and dialling anew if they can't.

Owns the patience with silence. A neighbour says something at least every other tick, also while it
computes, so a silent one is dead, stopped, or behind a broken connection. The first two are its
keeper's business; only the last is mended here.
"""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from runtime.core.plan import Side
from runtime.links.link import Link, LinkError

log = logging.getLogger(__name__)

REDIAL_AFTER_S = 1.0  # of silence; each time that nothing comes of it, twice as long
MAX_REDIAL_S = 16.0
LONG_SILENCE_S = 3.0
ABSENCE_S = 5.0  # between two looks at the clock: this process was stopped, not its neighbours


@dataclass
class _Silence:
    since_s: float
    redial_after_s: float = REDIAL_AFTER_S


class Liveness:
    """Watches the silence on each side of one worker.

    `find_below` says where the worker below listens now, if it has said so. After `patience_s` of
    silence `check` raises LinkError: longer than any restart takes.
    """

    def __init__(
        self,
        links: Mapping[Side, Link],
        *,
        find_below: Callable[[], str | None],
        patience_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._links = links
        self._find_below = find_below
        self._patience_s = patience_s
        self._clock = clock
        self._silences = {side: _Silence(since_s=clock()) for side in links}
        self._checked_s = clock()

    def heard(self, side: Side) -> None:
        """Note that a side was heard."""
        self._silences[side] = _Silence(since_s=self._clock())

    @property
    def are_silent(self) -> bool:
        """Whether one has been silent for longer than a restart takes when all goes well."""
        return any(self._clock() - s.since_s > LONG_SILENCE_S for s in self._silences.values())

    def check(self, step: int) -> None:
        """Dial anew on a side that has been silent for long. Raises LinkError after all patience;
        `step` is for its message."""
        self._forgive_own_absence()
        for side, silence in self._silences.items():
            silent_s = self._clock() - silence.since_s
            if silent_s > self._patience_s:
                raise LinkError(
                    f"nothing from the worker {side.value} in {self._patience_s:.0f} s, at step"
                    f" {step}; can its address be reached from this host (--bind)?"
                )
            if silent_s > silence.redial_after_s:
                silence.redial_after_s = silent_s + min(MAX_REDIAL_S, silence.redial_after_s)
                log.warning("the worker %s is silent; dialling anew", side.value)
                self._links[side].redial(self._find_below() if side is Side.BELOW else None)

    def _forgive_own_absence(self) -> None:
        """One that was stopped (Ctrl-Z, a paused container) has heard nobody meanwhile."""
        absent_s = self._clock() - self._checked_s
        self._checked_s += absent_s
        if absent_s > ABSENCE_S:
            for silence in self._silences.values():
                silence.since_s += absent_s
