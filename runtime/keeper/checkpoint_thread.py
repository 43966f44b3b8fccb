"""Brings checkpoint parts from workers' memory to the disk, on a thread of the keeper.

Owns the thread and what happens if the disk fails: the checkpoint stays incomplete, training
goes on. A worker may die meanwhile; its part is in the keeper's memory.
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
from runtime.state import checkpoint
from runtime.state.checkpoint import CheckpointWriter
from runtime.state.image import read_image
from runtime.state.status_page import Field, OwnedMemory

GIVE_UP_POLL_S = 0.2


class CheckpointThread:
    """One keeper's writer. `say` gets what the user should know, on the writer's thread."""

    def __init__(self, faults: Sequence[Fault], *, say: Callable[[str], None]) -> None:
        self._faults = [f for f in faults if f.kind in ("disk-full", "torn", "flip")]
        self._say = say
        self._given_up: set[int] = set()  # the steps of checkpoints that can't be completed
        self._is_left = False
        self._of_pages = threading.Lock()  # over which workers' memory may go when we are left
        self._jobs: queue.SimpleQueue[tuple[CheckpointWriter, int, OwnedMemory] | None]
        self._jobs = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="disk", daemon=True)
        self._thread.start()

    def write(self, writer: CheckpointWriter, block: int, memory: OwnedMemory) -> None:
        """Write what lies in a worker's checkpoint memory; returns at once."""
        self._jobs.put((writer, block, memory))

    def close(self, timeout_s: float, *, give_up: Callable[[], bool] = lambda: False) -> None:
        """End the thread when all is written, or leave it behind after `timeout_s`, or when
        `give_up` holds."""
        self._jobs.put(None)
        until_s = time.monotonic() + timeout_s
        while self._thread.is_alive() and time.monotonic() < until_s and not give_up():
            self._thread.join(min(GIVE_UP_POLL_S, timeout_s))
        with self._of_pages:
            self._is_left = True

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            writer, block, memory = job
            with self._of_pages:
                if self._is_left:
                    return
                announced = memory.page[Field.CHECKPOINT]
                if announced <= memory.page[Field.CHECKPOINT_DONE]:
                    continue
            self._write(writer, block, memory, announced - 1)
            with self._of_pages:
                if self._is_left:
                    return
                memory.page[Field.CHECKPOINT_DONE] = announced

    def _write(self, writer: CheckpointWriter, block: int, memory: OwnedMemory, step: int) -> None:
        if step in self._given_up:
            return  # another block's part failed: this one would only take room
        try:
            image = read_image(memory.paths.checkpoint)
            assert image is not None, "a part is announced when it is whole"
            step, content = image
            faults = self._due(writer, block, step)
            self._write_part(writer, block, step, content, is_full="disk-full" in faults)
            _damage(writer.part(step, block), faults)
        except Exception as error:  # whatever it is, training goes on, and the user is told
            if self._is_left:
                return  # and nobody waits for this checkpoint
            self._given_up.add(step)
            with contextlib.suppress(OSError):
                writer.give_up(step)
            reason = error.strerror if isinstance(error, OSError) else None
            self._say(
                f"the checkpoint at step {step} was not written: {reason or repr(error)}"
                f" ({writer.run_dir}); training goes on{_what_stays(writer.run_dir)}"
            )

    def _write_part(
        self, writer: CheckpointWriter, block: int, step: int, content: bytes, *, is_full: bool
    ) -> None:
        """On a full disk the oldest checkpoints make room, but for the newest one."""
        while True:
            try:
                if is_full:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                return writer.write_part(block, step, content)
            except OSError as error:
                if not (checkpoint.is_full(error) and checkpoint.make_room(writer.run_dir)):
                    raise

    def _due(self, writer: CheckpointWriter, block: int, step: int) -> set[str]:
        """The kinds of faults that strike this part."""
        due = [f for f in self._faults if f.block == block and f.step <= step]
        if not due:
            return set()
        log = FaultLog(writer.run_dir, generation=0)
        return {f.kind for f in due if log.claim(str(f))}


def _what_stays(run_dir: Path) -> str:
    return ", the one before stays" if checkpoint.has_complete(run_dir) else ""


def _damage(part: Path, faults: set[str]) -> None:
    if "torn" in faults:
        os.truncate(part, part.stat().st_size // 2)
    if "flip" in faults:
        with part.open("r+b") as file:
            file.seek(part.stat().st_size // 2)
            byte = file.read(1)
            file.seek(-1, os.SEEK_CUR)
            file.write(bytes([byte[0] ^ 1]))
