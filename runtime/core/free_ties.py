"""A tie's stream if no lag is fixed, as each of its ends sees it.

Owns what makes it differ from streams.py: what arrives is taken at once, gaps and all, so that it
needs no snapshot; and of all that was ever sent only the newest message may be wanted again, by a
receiver that lost it in its death.
"""

from collections.abc import Mapping

from runtime.core.plan import Free, Window
from runtime.core.streams import RESEND_AFTER_TICKS, Incoming, Outgoing


class FreeIncoming(Incoming):
    """The receiving end: what has arrived and what of it is to be used."""

    def __init__(self, window: Window, free: Free) -> None:
        super().__init__(window, 0, compares=False)
        self._free = free
        self._heard = -1  # the newest that counts for the bound; guests begin as exact copies
        self._usable: list[int] = []

    def accept(self, step: int, *, checksum: int, absent: bool) -> bool:
        """Take a message as received, released and durable; False for one that is not news.

        An absent gradient is heard of, for its sender has none. An absent message of weights says
        nothing: its sender is waited for on.
        """
        del checksum
        if step < self.expected:
            return False
        self.expected = self.released = self.durable = step + 1
        self._quiet_ticks, self._patience_ticks = 0, RESEND_AFTER_TICKS
        if not absent:
            self._usable = [step] if self._free.keeps_newest else [*self._usable, step]
        if not (absent and self._free.keeps_newest):
            self._heard = step
        return True

    def is_gap(self, step: int) -> bool:
        """Never: what is missing is passed over."""
        del step
        return False

    def cover(self, durable: int) -> None:
        """Nothing: what has arrived is covered."""

    def is_fresh(self, step: int) -> bool:
        """Whether what has been heard is no staler at `step` than the bound allows."""
        return self._free.allows(step, self._heard)

    def take(self, step: int) -> tuple[list[int], int]:
        """The messages that a step uses, and how many are too stale for it by now, which can only
        be after steps that were passed over. Gradients are gone then, used or not."""
        used = [message for message in self._usable if self._free.allows(step, message)]
        num_stale = len(self._usable) - len(used)
        if not self._free.keeps_newest:
            self._usable = []
        return used, num_stale


class FreeOutgoing(Outgoing):
    """The sending end. The newest message that is not absent is needed for ever: a receiver that
    dies may wait for it, while this worker waits for that receiver's next activation."""

    def __init__(
        self, window: Window, start: int, retained: Mapping[int, bool], *, limit: int | None = None
    ) -> None:
        """`retained`: the newest message below `start`. If none outlived the generation before, the
        receiver is told that there is none: it waits for a message of every step."""
        present = [step for step, absent in retained.items() if not absent]
        self._newest = max(present, default=max(0, start - 1))
        retained = {step: step not in present for step in range(self._newest, start)}
        super().__init__(window, start, retained, limit=limit)

    def make(self, step: int, *, absent: bool) -> None:
        super().make(step, absent=absent)
        if not absent:
            self._newest = step

    @property
    def needed_from(self) -> int:
        return min(self.durable, self._newest)

    def acknowledge(self, *, expected: int, released: int, durable: int, resend: bool) -> bool:
        """Take the receiver's acknowledgement; a new generation of it may still ask for what no
        longer exists."""
        expected = max(expected, self.durable)
        return super().acknowledge(
            expected=expected, released=released, durable=durable, resend=resend
        )

    def rewind(self, wanted: int) -> None:
        """A new generation is at one of the ends: go on with what is wanted, or the newest."""
        self.sent = min(max(wanted, self._newest), self._sendable)
        self.released = self.durable = self.sent
