"""An image of a state in memory: bytes under a head that says which step, and whether all are here.

Owns the head. Imports no torch: workers write images, keepers make checkpoints of them.
"""

import os
import struct

import xxhash

HEAD = struct.Struct("<QQQ")  # step + 1 (0: nothing whole is here), bytes, their xxh3


def write_image(path: str, step: int, image: bytes | bytearray) -> None:
    """Write an image; a reader sees all of it or nothing."""
    fd = os.open(path, os.O_RDWR)
    try:
        os.pwrite(fd, HEAD.pack(0, 0, 0), 0)
        view, offset = memoryview(image), HEAD.size
        while view:
            written = os.pwrite(fd, view, offset)
            view, offset = view[written:], offset + written
        os.pwrite(fd, HEAD.pack(step + 1, len(image), xxhash.xxh3_64_intdigest(image)), 0)
    finally:
        os.close(fd)


def read_image(path: str) -> tuple[int, bytes] | None:
    """The step and bytes of the image that lies there; None if none is whole."""
    fd = os.open(path, os.O_RDONLY)
    try:
        head = os.pread(fd, HEAD.size, 0)
        if len(head) < HEAD.size:
            return None
        step_1, size, checksum = HEAD.unpack(head)
        image = b"" if step_1 == 0 else _read(fd, size)
    finally:
        os.close(fd)
    if step_1 == 0 or xxhash.xxh3_64_intdigest(image) != checksum:
        return None
    return step_1 - 1, image


def _read(fd: int, size: int) -> bytes:
    parts, offset = [], HEAD.size
    while size > 0 and (part := os.pread(fd, size, offset)):
        parts.append(part)
        size, offset = size - len(part), offset + len(part)
    return b"".join(parts)
