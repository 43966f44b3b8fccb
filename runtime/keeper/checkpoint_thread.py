"""Brings checkpoint parts from workers' memory to their storage, on a thread of the keeper.

Owns the thread and what happens if the storage fails: the checkpoint stays incomplete, training
goes on. A worker may die meanwhile; its part is in the keeper's memory. The keeper itself waits
for no storage.
"""

import contextlib
import errno
import os
import queue
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from runtime.faults.log import FaultLog
from runtime.faults.plan import Fault
from runtime.state import checkpoint, storage
from runtime.state.checkpoint import CheckpointWriter
from runtime.state.image import free_image, read_image
from runtime.state.status_page import Field, OwnedMemory
from runtime.state.storage import Storage, read

GIVE_UP_POLL_S = 0.2


class CheckpointThread:
    """One keeper's writer. `say` gets what the user should know, on the writer's thread."""

    def __init__(self, faults: Sequence[Fault], *, say: Callable[[str], None]) -> None:
        self._faults = [f for f in faults if f.kind in ("disk-full", "torn", "flip")]
        self._say = say
        self._given_up: set[int] = set()  # the steps of checkpoints that can't be completed
        self._is_left = False
        self._of_pages = threading.Lock()  # over which workers' memory may go when we are left
        self._complete: set[int] = set()  # the steps of checkpoints that are known to be complete
        self._looking: threading.Thread | None = None
        self._jobs: queue.SimpleQueue[tuple[CheckpointWriter, int, OwnedMemory, Path] | None]
        self._jobs = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="disk", daemon=True)
        self._thread.start()

    def write(
        self, writer: CheckpointWriter, block: int, memory: OwnedMemory, *, run_dir: Path
    ) -> None:
        """Write what lies in a worker's checkpoint memory; returns at once. `run_dir` has the log
        of faults."""
        self._jobs.put((writer, block, memory, run_dir))

    def knows_complete(self, writer: CheckpointWriter, step: int) -> bool:
        """Whether the checkpoint of a step is known to be complete; returns at once. Asking makes a
        thread look, for another keeper may write the last part, and a storage may be slow."""
        if step in self._complete:
            return True
        if self._looking is None or not self._looking.is_alive():
            self._looking = threading.Thread(
                target=self._look, args=(writer, step), name="looking", daemon=True
            )
            self._looking.start()
        return False

    def _look(self, writer: CheckpointWriter, step: int) -> None:
        with contextlib.suppress(OSError):  # it is not known, then
            if writer.is_complete(step):
                self._complete.add(step)

    def finish(self, timeout_s: float) -> bool:
        """Let the thread end when all is written; whether it has, within `timeout_s`."""
        self._jobs.put(None)
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def close(self, timeout_s: float, *, give_up: Callable[[], bool] = lambda: False) -> bool:
        """End the thread when all is written, or leave it behind after `timeout_s`, or when
        `give_up` holds; whether it has ended."""
        self._jobs.put(None)
        until_s = time.monotonic() + timeout_s
        while self._thread.is_alive() and time.monotonic() < until_s and not give_up():
            self._thread.join(min(GIVE_UP_POLL_S, timeout_s))
        with self._of_pages:
            self._is_left = True
        return not self._thread.is_alive()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            writer, block, memory, run_dir = job
            with self._of_pages:
                if self._is_left:
                    return
                announced = memory.page[Field.CHECKPOINT]
                if announced <= memory.page[Field.CHECKPOINT_DONE]:
                    continue
            self._write(writer, block, memory, announced - 1, run_dir)
            with self._of_pages:
                if self._is_left:
                    return
                free_image(memory.paths.checkpoint)
                memory.page[Field.CHECKPOINT_DONE] = announced

    def _write(
        self,
        writer: CheckpointWriter,
        block: int,
        memory: OwnedMemory,
        step: int,
        run_dir: Path,
    ) -> None:
        if step in self._given_up:
            return  # another block's part failed: this one would only take room
        try:
            image = read_image(memory.paths.checkpoint)
            assert image is not None, "a part is announced when it is whole"
            step, content = image
            faults = self._due(run_dir, block, step)
            self._write_part(writer, block, step, content, is_full="disk-full" in faults)
            _damage(writer.storage, writer.part(step, block), faults)
        except Exception as error:  # whatever it is, training goes on, and the user is told
            if self._is_left:
                return  # and nobody waits for this checkpoint
            self._given_up.add(step)
            reason = error.strerror if isinstance(error, OSError) else None
            self._say(
                f"the checkpoint at step {step} was not written: {reason or repr(error)}"
                f" ({writer.storage.locate()}); training goes on"
                f"{_give_up(writer, step, error)}"
            )

    def _write_part(
        self, writer: CheckpointWriter, block: int, step: int, content: memoryview, *, is_full: bool
    ) -> None:
        """On a full disk the oldest checkpoints make room, but for the newest one."""
        while True:
            try:
                if is_full:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                return writer.write_part(block, step, content)
            except OSError as error:
                if not (storage.is_full(error) and checkpoint.make_room(writer.storage)):
                    raise

    def _due(self, run_dir: Path, block: int, step: int) -> set[str]:
        """The kinds of faults that strike this part."""
        due = [f for f in self._faults if f.block == block and f.step <= step]
        if not due:
            return set()
        log = FaultLog(run_dir, generation=0)
        return {f.kind for f in due if log.claim(str(f))}


def _give_up(writer: CheckpointWriter, step: int, error: Exception) -> str:
    """Remove what there is of a failed checkpoint; what to say of those before it."""
    if isinstance(error, OSError) and error.errno == errno.ETIMEDOUT:
        return ""  # the next question would wait as long, and the worker with it
    with contextlib.suppress(OSError):
        writer.give_up(step)
    with contextlib.suppress(OSError):
        return ", the one before stays" if checkpoint.has_complete(writer.storage) else ""
    return ""


def _damage(place: Storage, part: str, faults: set[str]) -> None:
    if "torn" in faults:
        content = read(place, part)
        place.write(part, content[: len(content) // 2])
    if "flip" in faults:
        content = read(place, part)
        middle = len(content) // 2
        place.write(part, content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
