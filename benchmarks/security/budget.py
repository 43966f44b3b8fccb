"""How much of a core a stranger takes: a share of one, slept off after each burst.

Owns the sleeping and the count. An attack is cheap if who suffers it pays more than who makes it.
"""

import threading
import time


class Budget:
    """A share of one core from now on, for all threads of this process together."""

    def __init__(self, share: float, over: threading.Event) -> None:
        """`over` is set when the attack is to end; no sleep outlasts that."""
        self._share = share
        self.over = over
        self._began_s, self._began_cpu_s = time.monotonic(), time.process_time()

    @property
    def cpu_s(self) -> float:
        """What has been taken so far."""
        return time.process_time() - self._began_cpu_s

    @property
    def taken(self) -> float:
        """The same as a share of one core."""
        return self.cpu_s / max(time.monotonic() - self._began_s, 1e-9)

    def pay(self) -> bool:
        """Sleep off what was taken too much; False if the attack is over."""
        due_s = self.cpu_s / self._share - (time.monotonic() - self._began_s)
        return not (self.over.wait(due_s) if due_s > 0 else self.over.is_set())

    def rest(self, seconds: float) -> bool:
        """Sleep for a while; False if the attack is over."""
        return not self.over.wait(seconds)
