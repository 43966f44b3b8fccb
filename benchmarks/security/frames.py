"""A million frames of all sorts, at every socket of a run.

Owns what is in them. Each connection says a whole handshake of one of the three mechanisms first,
so that its frames get as far as they can.
"""

import os
import random
import struct
from collections.abc import Callable, Iterator, Sequence

import msgpack

from benchmarks.security import forged, zmtp
from benchmarks.security.connections import connection, greet, write
from benchmarks.security.earlier import Earlier
from benchmarks.security.sight import Sight
from benchmarks.security.stranger import Means, Report

FRAMES_A_CONNECTION = 2000
POOL = 40  # batches that are made before; the rest repeat them
DEEP = 2000
ENDS_A_CONNECTION = "huge length"

Maker = Callable[[random.Random, Sequence[bytes]], bytes]


def _random(rng: random.Random, real: Sequence[bytes]) -> bytes:
    del real
    flags = rng.choice((0, zmtp.MORE, zmtp.COMMAND))
    return zmtp.frame(rng.randbytes(rng.randrange(200)), flags=flags)


def _truncated(rng: random.Random, real: Sequence[bytes]) -> bytes:
    """A real frame's beginning, whose size is that of what is left."""
    body = _body(rng.choice(real))
    return zmtp.frame(body[: rng.randrange(len(body) + 1)])


def _flipped(rng: random.Random, real: Sequence[bytes]) -> bytes:
    body = bytearray(_body(rng.choice(real)))
    if body:
        body[rng.randrange(len(body))] ^= 1 << rng.randrange(8)
    return zmtp.frame(bytes(body), more=rng.random() < 0.1)


def _sealed_wrongly(rng: random.Random, real: Sequence[bytes]) -> bytes:
    """A real body under a seal of a made-up key: as long as ours, and well formed."""
    body = _body(rng.choice(real))
    return zmtp.frame(rng.randbytes(rng.choice((8, 16, 32))) + body[8:])


def _replayed(rng: random.Random, real: Sequence[bytes]) -> bytes:
    return rng.choice(real)


def _nested(rng: random.Random, real: Sequence[bytes]) -> bytes:
    """msgpack that is deep, or says that it is long."""
    del real
    deep = b"\x91" * rng.randrange(1, DEEP) + b"\x01"
    long = b"\xdd" + struct.pack(">I", rng.randrange(1 << 32))
    wide = msgpack.packb({"block": rng.randrange(9), "records": [[]] * rng.randrange(50)})
    return zmtp.frame(rng.randbytes(8) + rng.choice((deep, long, wide)))


def _huge_length(rng: random.Random, real: Sequence[bytes]) -> bytes:
    """The start of a frame that says it is huge; nothing after it is a frame any more."""
    del real
    return zmtp.frame_start(1 << rng.randrange(31, 63), flags=rng.choice((0, zmtp.COMMAND)))


SORTS: dict[str, Maker] = {
    "random": _random,
    "truncated": _truncated,
    "flipped": _flipped,
    "sealed wrongly": _sealed_wrongly,
    "replayed": _replayed,
    "nested": _nested,
    ENDS_A_CONNECTION: _huge_length,
}


def _body(frame: bytes) -> bytes:
    return frame[9:] if frame[0] & zmtp.LONG else frame[2:]


def batch(rng: random.Random, real: Sequence[bytes], size: int) -> tuple[bytes, dict[str, int]]:
    """Frames of all sorts in one piece, and how many of each. Those that end a connection come
    last: commands that are none, and a huge one."""
    sorts = [rng.choice(list(SORTS)[:-1]) for _ in range(size - 1)]
    frames = [SORTS[sort](rng, real) for sort in sorts]
    frames.sort(key=lambda frame: frame[0] & zmtp.COMMAND)
    sorts.append(ENDS_A_CONNECTION)
    frames.append(SORTS[ENDS_A_CONNECTION](rng, real))
    return b"".join(frames), {sort: sorts.count(sort) for sort in SORTS}


def real_frames(earlier: Earlier) -> list[bytes]:
    """Recorded ones, short enough to send many; without a recording, such as the code makes."""
    found = [
        frame
        for streams in earlier.streams.values()
        for stream in streams
        for frame in zmtp.split_frames(stream)
        if len(frame) < 4096
    ]
    made = [forged.report(1)[1], forged.stop(3, 7), forged.far_hello(7)]
    return found or [zmtp.frame(body) for body in made]


def replay_connections(earlier: Earlier) -> Iterator[bytes]:
    """Whole connections of the earlier run, handshake and all."""
    for streams in earlier.streams.values():
        yield from streams


def send_all_sorts(sight: Sight, means: Means, total: int) -> Report:
    """Spread so many frames over all sockets and mechanisms."""
    earlier, rng = Earlier.read(sight.earlier), random.Random(0)
    real = real_frames(earlier)
    size = max(1, min(FRAMES_A_CONNECTION, total))
    batches = list[tuple[bytes, dict[str, int]]]()
    while len(batches) < POOL and means.budget.pay():
        batches.append(batch(rng, real, size))
    sent, sorts, answers, turn = 0, dict.fromkeys(SORTS, 0), dict[str, int](), 0
    replayed = 0
    for address in sight.targets:
        for stream in replay_connections(earlier):
            with connection(address) as opened:
                replayed += opened is not None and write(opened, [stream]) > 0
            means.budget.pay()
    while sent < total and sight.targets and means.budget.pay():
        address = sight.targets[turn % len(sight.targets)]
        mechanism = zmtp.MECHANISMS[turn // len(sight.targets) % len(zmtp.MECHANISMS)]
        with connection(address) as opened:
            if opened is None:
                means.budget.rest(0.1)
            else:
                answer = greet(opened, mechanism, os.urandom(4), wait_s=0.2) or "none"
                answers[answer] = answers.get(answer, 0) + 1
                piece, counts = batches[turn % len(batches)]
                write(opened, [piece], wait_s=0.2)
                sent += size
                sorts = {sort: count + counts[sort] for sort, count in sorts.items()}
        turn += 1
    means.budget.over.wait()
    return {
        "frames": sent,
        "sorts": sorts,
        "greeted_as": answers,
        "connections": turn,
        "replayed_connections": replayed,
        "recorded_frames": len(real) if earlier.streams else 0,
    }
