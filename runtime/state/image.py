"""An image of a state in memory: bytes under a head that says which step, and whether all are here.

Owns the head. Imports no torch: workers write images, keepers make checkpoints of them.
"""

import mmap
import os
import struct
from collections.abc import Callable, Sequence
from pathlib import Path

HEAD = struct.Struct("<QQ")  # step + 1 (0: nothing whole is here), bytes
Piece = bytes | memoryview


def write_image(
    path: str, step: int, pieces: Sequence[Piece], *, halfway: Callable[[], None] = lambda: None
) -> None:
    """Write an image, piece after piece; a reader sees all of it or nothing. `halfway` is called
    when half of the pieces are there (a place where a fault can strike)."""
    fd = os.open(path, os.O_RDWR)
    try:
        os.pwrite(fd, HEAD.pack(0, 0), 0)
        offset = HEAD.size
        for i, piece in enumerate(pieces):
            if i == len(pieces) // 2:
                halfway()
            offset = _write(fd, piece, offset)
        os.pwrite(fd, HEAD.pack(step + 1, offset - HEAD.size), 0)
    finally:
        os.close(fd)


def _write(fd: int, piece: Piece, offset: int) -> int:
    """Write all of a piece; return where the next one begins."""
    view = memoryview(piece)
    while view:
        written = os.pwrite(fd, view, offset)
        view, offset = view[written:], offset + written
    return offset


def read_image(path: str) -> tuple[int, memoryview] | None:
    """The step and the bytes, where they lie, of the image that is there; None if none is whole.
    They are valid until another image is written, or this one freed."""
    with Path(path).open("rb", buffering=0) as file:
        head = file.read(HEAD.size)
        step_1, size = HEAD.unpack(head) if len(head) == HEAD.size else (0, 0)
        if step_1 == 0 or os.fstat(file.fileno()).st_size < HEAD.size + size:
            return None
        memory = mmap.mmap(file.fileno(), HEAD.size + size, prot=mmap.PROT_READ)
    return step_1 - 1, memoryview(memory)[HEAD.size :]


def free_image(path: str) -> None:
    """Give the memory of an image back to the system."""
    os.truncate(path, 0)
