"""The bytes of ZMTP 3.1, by which ZeroMQ's peers speak: what a stranger writes to a raw socket.

Owns greetings, commands and frames, and how recorded bytes are cut into frames. Knows nothing of
what the frames say. (https://rfc.zeromq.org/spec/37)
"""

import os
import struct

MECHANISMS = ("NULL", "PLAIN", "CURVE")
GREETING_BYTES = 64
VERSION_BYTES = 12  # of a greeting, before it names its mechanism
MORE, LONG, COMMAND = 0x01, 0x02, 0x04
CURVE_HELLO_BYTES = 200 - len(b"\x05HELLO")


def greeting(mechanism: str) -> bytes:
    """What a client of the security mechanism says first."""
    signature = b"\xff" + bytes(7) + b"\x01\x7f"
    return (signature + b"\x03\x01" + mechanism.encode().ljust(20, b"\0")).ljust(64, b"\0")


def mechanism_of(found: bytes) -> str:
    """The mechanism of a greeting, "" if it is none."""
    if len(found) < GREETING_BYTES or found[:1] != b"\xff":
        return ""
    return found[12:32].rstrip(b"\0").decode(errors="replace")


def frame(body: bytes, *, more: bool = False, flags: int = 0) -> bytes:
    """One frame; `more` of its message follow."""
    flags |= MORE if more else 0
    if len(body) < 256:
        return bytes((flags, len(body))) + body
    return frame_start(len(body), flags=flags) + body


def frame_start(size_bytes: int, *, flags: int = 0) -> bytes:
    """The start of a long frame, whose body may never come."""
    return bytes((flags | LONG,)) + struct.pack(">Q", size_bytes)


def command(name: str, body: bytes = b"") -> bytes:
    """A command, such as those of a handshake."""
    return frame(bytes((len(name),)) + name.encode() + body, flags=COMMAND)


def metadata(identity: bytes = b"") -> bytes:
    """What a DEALER says of itself at the end of a handshake."""
    return b"".join(
        bytes((len(name),)) + name + struct.pack(">I", len(value)) + value
        for name, value in ((b"Socket-Type", b"DEALER"), (b"Identity", identity))
    )


def commands(mechanism: str, identity: bytes = b"") -> list[bytes]:
    """What a client says after its greeting, each once the one before is answered. Keys are random,
    so a CURVE server that knows its peers can only refuse them; name and password are made up."""
    match mechanism:
        case "NULL":
            return [command("READY", metadata(identity))]
        case "PLAIN":
            named = b"\x05admin\x05admin"
            return [command("HELLO", named), command("INITIATE", metadata(identity))]
        case _:
            version, random = b"\x01\0", os.urandom(CURVE_HELLO_BYTES - 74)
            hello = command("HELLO", version + bytes(72) + random)
            return [hello, command("INITIATE", os.urandom(250))]


def split_frames(stream: bytes) -> list[bytes]:
    """The frames, each with its flags and size, of what one end of a connection has sent; what
    was cut off at the end is left out."""
    found, at = [], GREETING_BYTES
    while at + 2 <= len(stream):
        is_long = stream[at] & LONG
        if is_long and at + 9 > len(stream):
            break
        size = struct.unpack_from(">Q", stream, at + 1)[0] if is_long else stream[at + 1]
        end = at + (9 if is_long else 2) + size
        if end > len(stream):
            break
        found.append(stream[at:end])
        at = end
    return found
