"""Raw tcp connections of a stranger, who never waits long and never minds being cut off.

Owns opening, writing and closing them. Knows nothing of what is written.
"""

import contextlib
import socket
import struct
import time
from collections.abc import Iterable, Iterator

from benchmarks.security import zmtp
from benchmarks.security.sight import Listening

TIMEOUT_S = 1.0
SMALL_BUFFER_BYTES = 1 << 16


@contextlib.contextmanager
def connection(address: Listening) -> Iterator[socket.socket | None]:
    """A connection, or None if there is none to be had; a reset ends it, so that no port waits."""
    try:
        opened = socket.create_connection(address, TIMEOUT_S)
    except OSError:
        yield None
        return
    try:
        yield opened
    finally:
        with contextlib.suppress(OSError):
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        opened.close()


def greet(
    opened: socket.socket, mechanism: str, identity: bytes = b"", *, wait_s: float = TIMEOUT_S
) -> str:
    """Go through the handshake of a mechanism; return the other end's, "" if it says none.

    Each step waits for its answer: an end that refuses may drop what it has said, and libzmq cuts
    off whoever sends a message before its own part of the handshake is out.
    """
    greeting, start = zmtp.greeting(mechanism), zmtp.VERSION_BYTES
    found = ""
    with contextlib.suppress(OSError):
        opened.settimeout(wait_s)
        opened.sendall(greeting[:start])
        found = zmtp.mechanism_of(read(opened, zmtp.GREETING_BYTES))
        opened.sendall(greeting[start:])
        for said in zmtp.commands(mechanism, identity):
            opened.sendall(said)
            if not _read_frame(opened):
                break
    return found


def _read_frame(opened: socket.socket) -> bytes:
    """The next short frame, b"" if none comes."""
    start = read(opened, 2)
    return start + read(opened, start[1]) if len(start) == 2 else b""


def read(opened: socket.socket, size: int) -> bytes:
    """So many bytes, or as many as come before the other end is silent or gone."""
    found = b""
    with contextlib.suppress(OSError):
        while len(found) < size and (part := opened.recv(size - len(found))):
            found += part
    return found


def write(opened: socket.socket, parts: Iterable[bytes], *, wait_s: float = TIMEOUT_S) -> int:
    """Write until the other end does not take more; return how many of the parts it took."""
    opened.settimeout(wait_s)
    taken = 0
    with contextlib.suppress(OSError):
        for part in parts:
            opened.sendall(part)
            taken += 1
    return taken


def is_open(opened: socket.socket) -> bool:
    """Whether the other end has not cut it off yet; reads what has come."""
    opened.settimeout(0.01)
    until_s = time.monotonic() + TIMEOUT_S
    try:
        while time.monotonic() < until_s:
            if not opened.recv(SMALL_BUFFER_BYTES):
                return False
    except TimeoutError:
        return True
    except OSError:
        return False
    return True
