"""Copies what a block has made into retention: large messages on a thread of their own.

Owns that thread and the word that a message lies where it can be sent from. A copy of megabytes in
the loop would hold up everything that the loop is for.
"""

import queue
import threading
from collections import deque
from collections.abc import Callable

from runtime.core.plan import Stream
from runtime.state.retention import Retention
from runtime.step import Payload, Specs, message_bytes

LARGE_BYTES = 1 << 18  # below, handing a copy over takes longer than making it
WAIT_TIMEOUT_S = 60.0


class Keeping:
    """Keeps messages in the order of each stream. `wake` is called when one more is kept.

    `keep` and `drop` are called by one thread at a time, `take_kept` by the loop alone, and
    `await_all` by the compute thread, after `keep` for all that it is to wait for.
    """

    def __init__(self, retention: Retention, specs: Specs, wake: Callable[[], None]) -> None:
        self._retention = retention
        self._wake = wake
        self._is_large = {s: message_bytes(found) >= LARGE_BYTES for s, found in specs.items()}
        self._pending: set[tuple[Stream, int, bool]] = set()  # and whether it is dropped
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._kept: deque[tuple[Stream, int, bool]] = deque()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="keeping", daemon=True)
        if any(self._is_large.values()):
            self._thread.start()

    def keep(self, stream: Stream, step: int, payload: Payload | None) -> None:
        """Keep a message (None: absent), at once or soon. Raises ProtocolError (see Retention)."""
        if self._is_large[stream]:
            self._pending.add((stream, step, False))
            self._jobs.put(lambda: self._put(stream, step, payload))
        else:
            self._retention.put(stream, step, payload)

    def drop(self, stream: Stream, step: int) -> None:
        """Let a message be absent, behind its copy where that is pending."""
        if self._is_large[stream]:
            self._pending.add((stream, step, True))
            self._jobs.put(lambda: self._drop(stream, step))
        else:
            self._retention.drop(stream, step)

    def is_pending(self, stream: Stream, step: int) -> bool:
        """Whether a message that was given to `keep` or `drop` can't be sent yet."""
        return not self._pending.isdisjoint([(stream, step, False), (stream, step, True)])

    def take_kept(self) -> list[tuple[Stream, int]]:
        """The messages that have been pending and are no more, in order. Raises what failed."""
        if self._failure is not None:
            raise self._failure
        found = []
        while self._kept:
            found.append(self._kept.popleft())
        self._pending.difference_update(found)
        return [(stream, step) for stream, step, _ in found]

    def await_all(self) -> None:
        """Wait until all that was given is kept: a snapshot must not outrun what it relies on."""
        if not any(self._is_large.values()):
            return
        done = threading.Event()
        self._jobs.put(done.set)
        if not done.wait(WAIT_TIMEOUT_S):
            raise TimeoutError(f"messages were not copied in {WAIT_TIMEOUT_S:.0f} s")
        if self._failure is not None:
            raise self._failure

    def close(self) -> None:
        """End the thread, when what it has is done."""
        self._jobs.put(None)
        if self._thread.is_alive():
            self._thread.join(WAIT_TIMEOUT_S)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()

    def _put(self, stream: Stream, step: int, payload: Payload | None) -> None:
        try:
            self._retention.put(stream, step, payload)
        except BaseException as error:
            self._failure = error
        self._kept.append((stream, step, False))
        self._wake()

    def _drop(self, stream: Stream, step: int) -> None:
        self._retention.drop(stream, step)
        self._kept.append((stream, step, True))
        self._wake()
