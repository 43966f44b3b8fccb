"""The bytes of what crosses an edge: a header for each message.

Owns the wire format: a header frame (its signature, see runtime.links.guards, then msgpack of a
message's kind and fields in their order), then its tensors, in pieces (runtime.links.tensor_bytes).
Everything in a header is checked on receipt; what does not fit raises BadMessage. No pickle.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import msgpack
import xxhash

from runtime.block import Specs
from runtime.core.messages import Ack, Data, Hello, Message, SnapshotRequest, Stop
from runtime.core.plan import Stream
from runtime.links.guards import MAC_BYTES, Guard

VERSION = 4
KINDS: dict[str, type[Message]] = {
    "hello": Hello,
    "data": Data,
    "ack": Ack,
    "snapshot": SnapshotRequest,
    "stop": Stop,
}
_NAMES = {kind: name for name, kind in KINDS.items()}


class BadMessage(Exception):
    """Bytes that are no message of this edge: damaged, or from something else."""


def fingerprint(run_id: str, specs: Specs) -> int:
    """What both ends of an edge must agree on before anything is sent: run and tensor specs."""
    listed = [
        [stream.value, [[list(spec.shape), spec.dtype] for spec in specs[stream]]]
        for stream in sorted(specs, key=lambda stream: stream.value)
    ]
    return xxhash.xxh3_64_intdigest(msgpack.packb([VERSION, run_id, listed]))


def encode(message: Message, guard: Guard, *, edge: int = 0) -> bytes:
    """The header frame of a message; a hello brings along `edge`, the fingerprint of its edge and
    run."""
    fields = [
        _plain(name, getattr(message, name))
        for name in (field.name for field in dataclasses.fields(message))
    ]
    is_hello = isinstance(message, Hello)
    if is_hello:
        fields.append(edge)
    body: bytes = msgpack.packb([_NAMES[type(message)], *fields])
    return guard.sign(body, is_hello=is_hello) + body


def decode(frame: bytes, guard: Guard, *, edge: int = 0) -> Message:
    """The message of a header frame. Raises BadMessage."""
    signature, body = frame[: guard.size], frame[guard.size :]
    signed = [hello for hello in (False, True) if guard.is_signed(body, signature, is_hello=hello)]
    if not signed:
        raise BadMessage(f"a header of {len(frame)} bytes fails its checksum, or is another run's")
    try:
        name, *fields = msgpack.unpackb(body)
        kind = KINDS[name]
        if (kind is Hello) not in signed:
            raise BadMessage("a header with a hello's checksum that is no hello")
        if kind is Hello and fields.pop() != edge:
            raise BadMessage("it is from another run, or of other tensor shapes")
        names = [field.name for field in dataclasses.fields(kind)]
        values = zip(names, fields, strict=True)
        return kind(**{name: _READ.get((kind, name), _count)(value) for name, value in values})
    except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise BadMessage(f"a header that is no message: {error}") from error
    except (msgpack.UnpackException, RecursionError) as error:
        raise BadMessage(f"a header that is no message: {error}") from error


def _plain(name: str, value: Any) -> Any:
    """A field's value as msgpack knows it."""
    if name == "checksum":
        return value.to_bytes(MAC_BYTES)
    if isinstance(value, Stream):
        return value.value
    if isinstance(value, int) or value is None:
        return value
    return {stream.value: step for stream, step in value.items()}


def _count(value: object) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r} is no count")
    return value


def _count_or_none(value: object) -> int | None:
    return None if value is None else _count(value)


def _checksum(value: object) -> int:
    if type(value) is not bytes or len(value) != MAC_BYTES:
        raise ValueError("no checksum")
    return int.from_bytes(value)


def _flag(value: object) -> bool:
    if type(value) is not bool:
        raise ValueError(f"{value!r} is no flag")
    return value


def _wants(value: Any) -> dict[Stream, int]:
    return {Stream(name): _count(step) for name, step in value.items()}


# How the fields are read that are no counts.
_READ: dict[tuple[type[Message], str], Callable[[Any], Any]] = {
    (Hello, "to"): _count_or_none,
    (Hello, "asks"): _flag,
    (Hello, "wants"): _wants,
    (Data, "stream"): Stream,
    (Data, "absent"): _flag,
    (Data, "checksum"): _checksum,
    (Ack, "stream"): Stream,
    (Ack, "resend"): _flag,
    (SnapshotRequest, "stream"): Stream,
}
