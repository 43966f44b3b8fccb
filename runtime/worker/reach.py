"""Whether another process's address answers, on another host, and what the user is told if not.

Owns the patience with it: a wrong --bind or a firewall won't mend itself, a cable may be put back.
"""

import socket
from collections.abc import Callable

from runtime.links.link import Unreachable

TOLD_AFTER_S = 5.0


class Reach:
    """The way from `who` to `whom`; `tell` is told once each time that it is not there.

    What has been reached once is there again when its process is, or its network: only what never
    was can't be reached.
    """

    def __init__(
        self,
        who: str,
        whom: str,
        tell: Callable[[str], None],
        *,
        timeout_s: float,
        was_reached: bool = False,
    ) -> None:
        self._who, self._whom = who, whom
        self._tell = tell
        self._timeout_s = timeout_s
        self._was_reached = was_reached
        self._since_s: float | None = None
        self._was_told = False

    def forgive(self) -> None:
        """Begin to watch anew."""
        self._since_s, self._was_told = None, False

    def check(self, unreached: str | None, now_s: float) -> None:
        """Take the address at which nobody answers, None if there is a connection. Raises
        Unreachable after the timeout if there never was one."""
        if unreached is None:
            self._was_reached = True
            self.forgive()
            return
        if self._since_s is None:
            self._since_s = now_s
        lasted_s = now_s - self._since_s
        told = (
            f"{self._who} (host {socket.gethostname()}) does not reach {self._whom} at {unreached},"
            f" for {lasted_s:.0f} s now"
        )
        if not self._was_reached:
            told += "; is a firewall between them, or --bind needed there?"
        if lasted_s > self._timeout_s and not self._was_reached:
            raise Unreachable(told)
        if lasted_s > TOLD_AFTER_S and not self._was_told:
            self._was_told = True
            self._tell(told)
