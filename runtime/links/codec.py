"""The bytes of what crosses an edge: a header for each message, and checksums.

Owns the wire format: a header frame (xxh3 of the rest, then msgpack of a message's kind and fields
in their order), then one frame a tensor. Everything in a header is checked on receipt; what does
not fit raises BadMessage. No pickle.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import msgpack
import torch
import xxhash
from torch import Tensor

from runtime.block import Specs
from runtime.core.messages import Ack, Data, Hello, Message, SnapshotRequest, Stop
from runtime.core.plan import Stream

VERSION = 3
HEADER_CHECKSUM_BYTES = 8
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


def tensor_bytes(tensor: Tensor) -> memoryview:
    """A contiguous CPU tensor's own memory, writable, without a copy."""
    view: memoryview = tensor.reshape(-1).view(torch.uint8).numpy().data
    return view


def checksum(payload: Sequence[Tensor]) -> int:
    """xxh3-64 over the tensors' bytes in order."""
    digest = xxhash.xxh3_64()
    for tensor in payload:
        digest.update(tensor_bytes(tensor))
    return digest.intdigest()


def fingerprint(run_id: str, specs: Specs) -> int:
    """What both ends of an edge must agree on before anything is sent: run and tensor specs."""
    listed = [
        [stream.value, [[list(spec.shape), spec.dtype] for spec in specs[stream]]]
        for stream in sorted(specs, key=lambda stream: stream.value)
    ]
    return xxhash.xxh3_64_intdigest(msgpack.packb([VERSION, run_id, listed]))


def encode(message: Message, *, edge: int = 0) -> bytes:
    """The header frame of a message. Its checksum is seeded by `edge`, the fingerprint of its
    edge and run, so that no other run can be heard; a hello's is not, for it brings `edge` along,
    to be told apart from damage."""
    fields = [_plain(getattr(message, field.name)) for field in dataclasses.fields(message)]
    if isinstance(message, Hello):
        fields.append(edge)
    body: bytes = msgpack.packb([_NAMES[type(message)], *fields])
    return _checksum(type(message), body, edge) + body


def decode(frame: bytes, *, edge: int = 0) -> Message:
    """The message of a header frame. Raises BadMessage."""
    body = frame[HEADER_CHECKSUM_BYTES:]
    found = frame[:HEADER_CHECKSUM_BYTES]
    if found not in (_checksum(Data, body, edge), _checksum(Hello, body, edge)):
        raise BadMessage(f"a header of {len(frame)} bytes fails its checksum, or is another run's")
    try:
        name, *fields = msgpack.unpackb(body)
        kind = KINDS[name]
        if _checksum(kind, body, edge) != found:
            raise BadMessage("a header with a hello's checksum that is no hello")
        if kind is Hello and fields.pop() != edge:
            raise BadMessage("it is from another run, or of other tensor shapes")
        names = [field.name for field in dataclasses.fields(kind)]
        values = zip(names, fields, strict=True)
        return kind(**{name: _READ.get((kind, name), _count)(value) for name, value in values})
    except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise BadMessage(f"a header that is no message: {error}") from error
    except msgpack.UnpackException as error:
        raise BadMessage(f"a header that is no message: {error}") from error


def _checksum(kind: type[Message], body: bytes, edge: int) -> bytes:
    return xxhash.xxh3_64_digest(body, seed=0 if kind is Hello else edge)


def _plain(value: Any) -> Any:
    """A field's value as msgpack knows it."""
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
    (Ack, "stream"): Stream,
    (Ack, "resend"): _flag,
    (SnapshotRequest, "stream"): Stream,
}
