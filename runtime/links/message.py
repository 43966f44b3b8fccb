"""What crosses an edge, and the bytes of its header.

Owns the wire format: a header frame (xxh3 of the rest, then msgpack), then one frame a tensor.
Everything in a header is checked on receipt; what does not fit raises BadMessage. No pickle.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import msgpack
import torch
import xxhash
from torch import Tensor

from runtime.block import Payload, Specs
from runtime.core.plan import Stream

VERSION = 2
HEADER_CHECKSUM_BYTES = 8


class BadMessage(Exception):
    """Bytes that are no message of this edge: damaged, or from something else."""


@dataclass(frozen=True, kw_only=True)
class HelloMessage:
    """Who is at the other end, what it wants next, and what it thinks this edge carries."""

    generation: int
    heard: int | None
    asks: bool
    wants: dict[Stream, int]
    fingerprint: int


@dataclass(frozen=True, kw_only=True)
class AckMessage:
    """How far the receiver of a stream is; all figures are cumulative.

    Here and below, `generation` is the sender's and `to` the one it is meant for.
    """

    stream: Stream
    generation: int
    to: int
    expected: int
    released: int
    durable: int
    resend: bool


@dataclass(frozen=True, kw_only=True)
class DataMessage:
    """One message of a stream. `checksum` is over the tensors' bytes; 0 where that is not known
    yet, or not wanted."""

    stream: Stream
    step: int
    generation: int
    to: int
    absent: bool
    checksum: int
    payload: Payload = field(default=(), compare=False)


@dataclass(frozen=True, kw_only=True)
class WantMessage:
    """The sender of a stream wants a snapshot of its receiver that covers all below `durable`."""

    stream: Stream
    generation: int
    to: int
    durable: int


@dataclass(frozen=True, kw_only=True)
class StopMessage:
    """The job stops before `step`."""

    generation: int
    to: int
    step: int


Message = HelloMessage | AckMessage | DataMessage | WantMessage | StopMessage


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
    edge and run, so that no other run can be heard; a hello's is not, for it brings its own."""
    match message:
        case HelloMessage():
            wants = {stream.value: step for stream, step in message.wants.items()}
            fields = [
                "hello",
                message.generation,
                message.heard,
                message.asks,
                wants,
                message.fingerprint,
            ]
        case AckMessage():
            fields = [
                "ack",
                message.stream.value,
                message.generation,
                message.to,
                message.expected,
                message.released,
                message.durable,
                message.resend,
            ]
        case DataMessage():
            fields = [
                "data",
                message.stream.value,
                message.step,
                message.generation,
                message.to,
                message.absent,
                message.checksum,
            ]
        case WantMessage():
            stream = message.stream.value
            fields = ["want", stream, message.generation, message.to, message.durable]
        case StopMessage():
            fields = ["stop", message.generation, message.to, message.step]
    body: bytes = msgpack.packb(fields)
    return _checksum(message, body, edge) + body


def decode(frame: bytes, *, edge: int = 0) -> Message:
    """The message of a header frame, without its tensors. Raises BadMessage."""
    body = frame[HEADER_CHECKSUM_BYTES:]
    found = frame[:HEADER_CHECKSUM_BYTES]
    seeds = {seed: xxhash.xxh3_64_digest(body, seed=seed) for seed in (edge, 0)}
    if found not in seeds.values():
        raise BadMessage(f"a header of {len(frame)} bytes fails its checksum, or is another run's")
    try:
        kind, *fields = msgpack.unpackb(body)
        message: Message = _DECODERS[kind](*fields)
        if _checksum(message, body, edge) != found:
            raise BadMessage("a header with a hello's checksum that is no hello")
        return message
    except (ValueError, TypeError, KeyError, AttributeError, msgpack.UnpackException) as error:
        raise BadMessage(f"a header that is no message: {error}") from error


def _checksum(message: Message, body: bytes, edge: int) -> bytes:
    return xxhash.xxh3_64_digest(body, seed=0 if isinstance(message, HelloMessage) else edge)


def _hello(
    generation: int, heard: int | None, asks: bool, wants: dict[str, int], found: int
) -> Message:
    return HelloMessage(
        generation=_count(generation),
        heard=None if heard is None else _count(heard),
        asks=_flag(asks),
        wants={Stream(name): _count(step) for name, step in wants.items()},
        fingerprint=_count(found),
    )


def _ack(
    stream: str, generation: int, to: int, expected: int, released: int, durable: int, resend: bool
) -> Message:
    return AckMessage(
        stream=Stream(stream),
        generation=_count(generation),
        to=_count(to),
        expected=_count(expected),
        released=_count(released),
        durable=_count(durable),
        resend=_flag(resend),
    )


def _data(stream: str, step: int, generation: int, to: int, absent: bool, found: int) -> Message:
    return DataMessage(
        stream=Stream(stream),
        step=_count(step),
        generation=_count(generation),
        to=_count(to),
        absent=_flag(absent),
        checksum=_count(found),
    )


def _want(stream: str, generation: int, to: int, durable: int) -> Message:
    return WantMessage(
        stream=Stream(stream),
        generation=_count(generation),
        to=_count(to),
        durable=_count(durable),
    )


def _stop(generation: int, to: int, step: int) -> Message:
    return StopMessage(generation=_count(generation), to=_count(to), step=_count(step))


def _count(value: object) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r} is no count")
    return value


def _flag(value: object) -> bool:
    if type(value) is not bool:
        raise ValueError(f"{value!r} is no flag")
    return value


_DECODERS: dict[str, Callable[..., Message]] = {
    "hello": _hello,
    "ack": _ack,
    "data": _data,
    "want": _want,
    "stop": _stop,
}
