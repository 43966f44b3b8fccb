"""One stream of an edge, as each of its ends sees it.

Owns order, credit, duplicates and retention. A sender may have at most a window of messages
that are sent and not released; the receiver takes messages in order, once.
"""

from collections import OrderedDict
from collections.abc import Mapping
from types import MappingProxyType

from runtime.core.plan import Window

RESEND_AFTER_TICKS = 10  # the first time; each time that nothing comes of it, twice as long
LONGEST_PATIENCE_TICKS = 160  # what is lost after a long wait must not take as long again
REMEMBERED_CHECKSUMS = 1024  # duplicates older than this are dropped without a comparison


class ProtocolError(Exception):
    """A neighbour broke the protocol; going on would train on something wrong."""


class Outgoing:
    """The sending end: what is made, sent, released by the receiver, and still retained."""

    def __init__(
        self,
        window: Window,
        start: int,
        retained: Mapping[int, bool] = MappingProxyType({}),
        *,
        limit: int | None = None,
    ) -> None:
        """`retained`: messages below `start` that an earlier generation made and that can still be
        sent, and whether each is absent. Messages from `limit` on are made and never
        sent."""
        self.window = window
        self._limit = limit
        self.made = start  # everything below is made
        self._sendable = start if limit is None else min(start, limit)  # of these, what is sent
        self.sent = start
        self.durable = min(retained, default=self._sendable)
        self.released = self.durable  # the least it can be, until the receiver tells
        self._absent = {step for step, absent in retained.items() if absent}

    def make(self, step: int, *, absent: bool) -> None:
        """Note that message `step` exists and waits to be sent."""
        assert step == self.made, (step, self.made)
        self.made += 1
        if self._limit is None or step < self._limit:
            self._sendable = self.made
        if absent:
            self._absent.add(step)

    def is_absent(self, step: int) -> bool:
        return step in self._absent

    @property
    def needed_from(self) -> int:
        """Everything below will never be sent again."""
        return self.durable

    @property
    def waits(self) -> bool:
        """Whether a message that is made has not been sent."""
        return self.sent < self._sendable

    def has_room_behind(self, unmade: int) -> bool:
        """Whether there is room to retain one more message after `unmade` others."""
        room = self.window.max_retained
        return room is None or self.made + unmade - self.durable < room

    @property
    def wanted_durable(self) -> int | None:
        """What the receiver's next snapshot should cover, if there is no room to retain more."""
        room = self.window.max_retained
        if room is None or self.made - self.durable < room:
            return None
        return self.durable + 1

    @property
    def in_flight(self) -> range:
        return range(self.released, max(self.sent, self.released))

    def take_sendable(self) -> list[int]:
        """Take every message that credit lets go now, in order.

        What is made again although the receiver's snapshot covers it may be trimmed; no one
        needs it.
        """
        steps = []
        self.sent = max(self.sent, min(self.durable, self._sendable))
        while self.waits and self.has_credit:
            steps.append(self.sent)
            self.sent += 1
        return steps

    @property
    def has_credit(self) -> bool:
        """Whether credit lets the next message go."""
        used_bytes = sum(self._size(step) for step in self.in_flight)
        return (
            len(self.in_flight) < self.window.max_messages
            and used_bytes + self._size(self.sent) <= self.window.max_bytes
        )

    def _size(self, step: int) -> int:
        return 0 if step in self._absent else self.window.message_bytes

    def acknowledge(self, *, expected: int, released: int, durable: int, resend: bool) -> bool:
        """Take the receiver's acknowledgement; return whether messages became forgettable.

        It is cumulative and may be old: only what is news counts.
        """
        self.released = max(self.released, released)
        if resend and self.released <= expected < self.sent:
            self.sent = expected
        if durable <= self.durable:
            return False
        self.durable = durable
        self._absent = {step for step in self._absent if step >= self.needed_from}
        return True

    def rewind(self, wanted: int) -> None:
        """A new generation of the receiver wants everything from `wanted` on."""
        if wanted < self.durable:
            raise ProtocolError(
                f"message {wanted} is wanted, but all below {self.durable} are forgotten"
            )
        self.sent = min(wanted, self._sendable)
        # What it wants next it may not have room for yet: only its releases are credit.
        self.released = min(self.released, wanted)


class Incoming:
    """The receiving end: what has arrived, is used up, and is covered by a snapshot."""

    def __init__(self, window: Window, start: int, *, compares: bool = True) -> None:
        """`compares`: what comes twice must be the same both times."""
        self.window = window
        self._compares = compares
        self.expected = start
        self.released = start
        self.durable = start
        self.absent: set[int] = set()
        self._quiet_ticks = 0
        self._patience_ticks = RESEND_AFTER_TICKS
        self._checksums: OrderedDict[int, int] = OrderedDict()

    def accept(self, step: int, *, checksum: int, absent: bool) -> bool:
        """Take the next message; return False for a duplicate. Raises ProtocolError.

        A step beyond the expected one is refused by the caller (see `is_gap`).
        """
        if step < self.expected:
            known = self._checksums.get(step, checksum)
            if known != checksum and self._compares:
                raise ProtocolError(
                    f"message {step} came twice with different contents"
                    f" ({known:016x}, then {checksum:016x}): its sender is not deterministic"
                )
            return False
        if step - self.released >= self.window.max_messages:
            raise ProtocolError(
                f"message {step} exceeds the window of {self.window.max_messages}"
                f" messages (released: {self.released})"
            )
        self.expected += 1
        self._quiet_ticks, self._patience_ticks = 0, RESEND_AFTER_TICKS
        self._checksums[step] = checksum
        if len(self._checksums) > REMEMBERED_CHECKSUMS:
            self._checksums.popitem(last=False)
        if absent:
            self.absent.add(step)
        return True

    def count_quiet_tick(self) -> bool:
        """Count a tick without news from a sender that was heard; True when it is time to ask again
        for what is expected.

        A sender that has not yet sent it ignores the question, so a slow one does no harm.
        """
        self._quiet_ticks += 1
        if self._quiet_ticks < self._patience_ticks:
            return False
        self._quiet_ticks = 0
        self._patience_ticks = min(2 * self._patience_ticks, LONGEST_PATIENCE_TICKS)
        return True

    def is_gap(self, step: int) -> bool:
        return step > self.expected

    def cover(self, durable: int) -> None:
        """A snapshot covers everything below `durable`."""
        self.durable = durable

    def release(self, step: int) -> None:
        """Note that message `step` is used up."""
        assert step == self.released < self.expected, (step, self.released, self.expected)
        self.released += 1
        self.absent.discard(step)
