"""What one worker has made for its neighbours, on its way to the links.

Owns its copies into retention, which are made before it is sent, and what waits for them. What is
made, sent or resent is the core's choice. Large messages are copied, and states saved, on a thread
of their own; what is small is copied at once, unless something before it waits, or it has not left
the block's device yet.
"""

import queue
import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace

from runtime.block import LEFT, Leaving, Payload, Specs, message_bytes
from runtime.core.messages import Computed, Data, Send
from runtime.core.plan import Stream
from runtime.state.retention import Retention

LARGE_BYTES = 1 << 18  # below, handing a copy over takes longer than making it
WAIT_TIMEOUT_S = 60.0
LOOK_S, FINISH_LOOKS = 1.0, 400  # longer than a copy from a device may take (models.copies)

Made = Mapping[Stream, Payload | None]
Copy = tuple[Stream, int]
Job = Callable[[], None]


class Outbox:
    """`retain` and `save` are called under the driver's lock, `fill`, `take_ready` and
    `take_durable` by the loop, and `finish_copies` by any thread. `wake` is called when there may
    be something to take."""

    def __init__(self, retention: Retention, specs: Specs, wake: Callable[[], None]) -> None:
        self._retention = retention
        self._specs = specs
        self._thread = CopyThread(retention, specs, wake)
        self._awaited: dict[Copy, Send] = {}

    def retain(self, event: Computed, made: Made, leaving: Leaving = LEFT) -> None:
        """Copy what the block made, when it has left; it stays until its receiver will never ask
        for it again."""
        for stream, payload in made.items():
            specs = self._specs.get(stream)
            if specs is None:
                continue
            if event.absent:
                self._thread.copy(stream, event.step, None)
                continue
            assert payload is not None, f"no {stream.value} was made at step {event.step}"
            for spec, tensor in zip(specs, payload, strict=True):
                spec.check(tensor)
            self._thread.copy(stream, event.step, payload, leaving)

    def fill(self, send: Send) -> tuple[Data, Payload] | None:
        """Data as it is to be sent. None if that must wait: `take_ready` gives it then."""
        data = send.message
        assert isinstance(data, Data)
        key = stream, step = data.stream, data.step
        self._awaited.pop(key, None)  # it may be for a generation that is no more
        if self._must_wait(stream, step):
            self._awaited[key] = send
            return None
        if data.absent:
            return data, ()
        checksum = self._retention.checksum(stream, step)
        return replace(data, checksum=checksum), self._retention.get(stream, step)

    def take_ready(self) -> list[Send]:
        """What has waited and is to be filled now, in the order of each stream."""
        if not self._thread.take_copied():
            return []
        ordered = sorted(self._awaited, key=lambda key: key[1])
        return [self._awaited.pop(key) for key in ordered if not self._must_wait(*key)]

    def finish_copies(self) -> None:
        """Return when all that was given to `retain` is retained. Raises what failed."""
        self._thread.finish()

    def save(self, step: int, save: Job) -> None:
        """Let `save` make the state before `step` a part of a checkpoint, before anything that is
        made after it is retained."""
        self._thread.save(step, save)

    def take_durable(self) -> list[int]:
        """The steps before which a state is part of a checkpoint now, in order."""
        return self._thread.take_saved()

    def close(self) -> None:
        """End what copies."""
        self._thread.close()

    def _must_wait(self, stream: Stream, step: int) -> bool:
        """Whether it is not retained yet, or one before it waits, which an absent marker must not
        overtake."""
        return self._thread.is_pending(stream, step) or any(
            other is stream and before < step for other, before in self._awaited
        )


class CopyThread:
    """Copies messages in the order of each stream, and saves behind all that was given before:
    what is made after a state must not overwrite what its part of a checkpoint holds.

    `wake` is called when one more thing is done. `copy` and `save` are called by one thread at a
    time, and `take_copied` and `take_saved` by the loop alone.
    """

    def __init__(self, retention: Retention, specs: Specs, wake: Callable[[], None]) -> None:
        self._retention = retention
        self._wake = wake
        self._is_large = {s: message_bytes(found) >= LARGE_BYTES for s, found in specs.items()}
        self._pending: set[Copy] = set()
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._num_given = dict.fromkeys(specs, 0)  # jobs of each stream, and of these
        self._num_done = dict.fromkeys(specs, 0)
        self._num_saves_given = self._num_saves_done = 0
        self._copied: deque[Copy] = deque()
        self._saved: deque[int] = deque()
        self._failure: BaseException | None = None
        self._num_jobs_given = self._num_jobs_done = 0
        self._ended_one = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="copying", daemon=True)
        self._thread.start()

    def copy(
        self, stream: Stream, step: int, payload: Payload | None, leaving: Leaving = LEFT
    ) -> None:
        """Retain a message (None: absent), at once or soon. Raises ProtocolError (see
        Retention)."""
        if leaving.done() and not self._must_queue(stream):
            leaving.wait()
            self._retention.put(stream, step, payload)
            return
        self._pending.add((stream, step))
        self._num_given[stream] += 1
        self._give(lambda: self._copy(stream, step, payload, leaving))

    def is_pending(self, stream: Stream, step: int) -> bool:
        """Whether a message that was given to `copy` can't be sent yet."""
        return (stream, step) in self._pending

    def take_copied(self) -> list[Copy]:
        """The messages that have been pending and are no more, in order. Raises what failed."""
        if self._failure is not None:
            raise self._failure
        found = []
        while self._copied:
            found.append(self._copied.popleft())
        self._pending.difference_update(found)
        return found

    def save(self, step: int, save: Job) -> None:
        """Call `save`, for the state before `step`, behind all that was given so far."""
        self._num_saves_given += 1
        self._give(lambda: self._save(step, save))

    def _give(self, job: Job) -> None:
        self._num_jobs_given += 1
        self._jobs.put(job)

    def finish(self) -> None:
        """Return when all that was given is done. Raises what failed, and TimeoutError."""
        given = self._num_jobs_given
        with self._ended_one:
            for _ in range(FINISH_LOOKS):  # by looks: a clock runs on while the job is suspended
                if self._ended_one.wait_for(lambda: self._num_jobs_done >= given, LOOK_S):
                    break
            is_done = self._num_jobs_done >= given
        if self._failure is not None:
            raise self._failure
        if not is_done:
            raise TimeoutError(
                f"what was made is not retained after {FINISH_LOOKS * LOOK_S:.0f} s, so the block's"
                " state can't be saved"
            )

    def take_saved(self) -> list[int]:
        """The steps before which a state is saved, in order."""
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

    # The thread -------------------------------------------------------------------------------

    def _work(self) -> None:
        """Do what is given; behind a failure nothing more, so that no snapshot relies on it."""
        while (job := self._jobs.get()) is not None:
            if self._failure is None:
                try:
                    job()
                except BaseException as error:
                    self._failure = error
            del job  # it holds a payload, and the next may be long in coming
            with self._ended_one:
                self._num_jobs_done += 1
                self._ended_one.notify_all()
            self._wake()

    def _copy(self, stream: Stream, step: int, payload: Payload | None, leaving: Leaving) -> None:
        leaving.wait()
        self._retention.put(stream, step, payload)
        self._num_done[stream] += 1
        self._copied.append((stream, step))

    def _save(self, step: int, save: Job) -> None:
        save()
        self._num_saves_done += 1
        self._saved.append(step)
