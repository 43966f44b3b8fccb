"""Copies what a block has made into retention, and saves its states: on a thread of their own.

Owns that thread, and the word that a message lies where it can be sent from, or that a state is
safe. What is small is copied where it is given, unless something before it waits.
"""

import queue
import threading
from collections import deque
from collections.abc import Callable

from runtime.block import Payload, Specs, message_bytes
from runtime.core.plan import Stream
from runtime.state.retention import Retention

LARGE_BYTES = 1 << 18  # below, handing a copy over takes longer than making it
WAIT_TIMEOUT_S = 60.0


class Keeping:
    """Keeps messages in the order of each stream, and saves behind all that was given before: a
    snapshot must not outrun what it relies on, nor what is made after it overwrite that.

    `wake` is called when one more thing is done. `keep` and `save` are called by one thread
    at a time, and `take_kept` and `take_saved` by the loop alone.
    """

    def __init__(self, retention: Retention, specs: Specs, wake: Callable[[], None]) -> None:
        self._retention = retention
        self._wake = wake
        self._is_large = {s: message_bytes(found) >= LARGE_BYTES for s, found in specs.items()}
        self._pending: set[tuple[Stream, int]] = set()
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._num_given = dict.fromkeys(specs, 0)  # jobs of each stream, and of these
        self._num_done = dict.fromkeys(specs, 0)
        self._num_saves_given = self._num_saves_done = 0
        self._kept: deque[tuple[Stream, int]] = deque()
        self._saved: deque[int] = deque()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="keeping", daemon=True)
        self._thread.start()

    def keep(self, stream: Stream, step: int, payload: Payload | None) -> None:
        """Keep a message (None: absent), at once or soon. Raises ProtocolError (see Retention)."""
        if self._must_queue(stream):
            self._queue((stream, step), lambda: self._retention.put(stream, step, payload))
        else:
            self._retention.put(stream, step, payload)

    def is_pending(self, stream: Stream, step: int) -> bool:
        """Whether a message that was given to `keep` can't be sent yet."""
        return (stream, step) in self._pending

    def take_kept(self) -> list[tuple[Stream, int]]:
        """The messages that have been pending and are no more, in order. Raises what failed."""
        if self._failure is not None:
            raise self._failure
        found = []
        while self._kept:
            found.append(self._kept.popleft())
        self._pending.difference_update(found)
        return found

    def save(self, step: int, save: Callable[[], None]) -> None:
        """Let `save` make the state before `step` safe, behind all that was given so far."""
        self._num_saves_given += 1
        self._jobs.put(lambda: self._save(step, save))

    def take_saved(self) -> list[int]:
        """The steps before which a state has become safe, in order."""
        return [self._saved.popleft() for _ in range(len(self._saved))]

    def close(self) -> None:
        """End the thread, when what it has is done."""
        self._jobs.put(None)
        self._thread.join(WAIT_TIMEOUT_S)

    def _must_queue(self, stream: Stream) -> bool:
        """Whether a message is copied later: it is large, or something before it waits."""
        is_behind = self._num_given[stream] != self._num_done[stream]
        is_saving = self._num_saves_given != self._num_saves_done
        return self._is_large[stream] or is_behind or is_saving

    def _queue(self, key: tuple[Stream, int], job: Callable[[], None]) -> None:
        self._pending.add(key)
        self._num_given[key[0]] += 1
        self._jobs.put(lambda: self._copy(key, job))

    # The thread -------------------------------------------------------------------------------

    def _work(self) -> None:
        """Do what is given; behind a failure nothing more, so that no snapshot relies on it."""
        while (job := self._jobs.get()) is not None:
            if self._failure is None:
                try:
                    job()
                except BaseException as error:
                    self._failure = error
            del job  # it holds a payload or a whole state, and the next may be long in coming
            self._wake()

    def _copy(self, key: tuple[Stream, int], job: Callable[[], None]) -> None:
        job()
        self._num_done[key[0]] += 1
        self._kept.append(key)

    def _save(self, step: int, save: Callable[[], None]) -> None:
        save()
        self._num_saves_done += 1
        self._saved.append(step)
