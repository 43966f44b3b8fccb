"""Memory that outlives a worker: files in memory which its keeper owns and both can open.

Owns their creation and names, and the page on which keeper and worker tell each other how things
are. Imports no torch: the keeper reads this. What lies in the other files is the worker's.
"""

import mmap
import os
from dataclasses import dataclass, fields
from enum import IntEnum, auto
from pathlib import Path

PAGE_BYTES = 4096


@dataclass(frozen=True, kw_only=True)
class MemoryPaths:
    """Where a worker finds its memory; the paths live as long as its keeper."""

    page: str
    messages: str
    live: str  # the state that is computed on
    snapshot: str  # a copy of it
    checkpoint: str  # a part of one, on its way to the disk


class OwnedMemory:
    """The keeper's hold on one worker's memory; `close` gives it back to the system."""

    def __init__(self, name: str) -> None:
        parts = [field.name for field in fields(MemoryPaths)]
        self._fds = [os.memfd_create(f"{name}-{part}") for part in parts]
        paths = (f"/proc/{os.getpid()}/fd/{fd}" for fd in self._fds)
        self.paths = MemoryPaths(**dict(zip(parts, paths, strict=True)))
        os.truncate(self.paths.page, PAGE_BYTES)
        self.page = Page(self.paths.page)

    def close(self) -> None:
        """Let go; what a worker still has open stays until it ends."""
        self.page.close()
        for fd in self._fds:
            os.close(fd)


class Field(IntEnum):
    """The fields of the page: 64-bit integers, each written by one side while the worker lives;
    before a new generation the keeper clears what the one before has said of itself."""

    # By the worker:
    TURNS = 0  # of its loop, in this generation
    STATE = auto()  # index of the core's state in its enum
    STEP = auto()
    STEPS_DONE = auto()  # in this generation
    REACHED = auto()  # the first step that no generation has begun
    COMPLETED = auto()  # the first step that no generation has ended
    STOP_AT = auto()  # the step before which the job stops, plus 1; 0: not known yet
    FIRST_STEP = auto()  # the job's first step here, and when it was done
    FIRST_STEP_T_NS = auto()
    RETRAINED = auto()
    RESENT = auto()
    DUPLICATES = auto()
    FENCED = auto()
    DAMAGED = auto()
    REFUSED = auto()  # connections of strangers
    DIALLED = auto()  # tokens that this worker has shown to the one below
    ADMITTED = auto()  # the highest token of the one above that was taken
    LEAVING = auto()  # its loop has ended: it only closes what it has open
    SILENT = auto()  # a neighbour has not been heard for long
    SAVING = auto()  # 1 + step of the pending snapshot, from when that step is reached; 0: none
    CHECKPOINT_DUE = auto()  # the step of the newest snapshot that is to be a part too, plus 1
    CHECKPOINT = auto()  # the step of what lies in the checkpoint's memory, plus 1
    # By the keeper:
    CHECKPOINT_DONE = auto()  # the last of these that it has dealt with, plus 1
    STOP_WANTED = auto()


class Page:
    """The page of one worker. Fields are aligned, so that each is read and written whole."""

    def __init__(self, path: str) -> None:
        with Path(path).open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), PAGE_BYTES)
        self._fields = memoryview(self._map).cast("q")

    def __getitem__(self, field: Field) -> int:
        return self._fields[field]

    def __setitem__(self, field: Field, value: int) -> None:
        self._fields[field] = value

    def close(self) -> None:
        self._fields.release()
        self._map.close()
