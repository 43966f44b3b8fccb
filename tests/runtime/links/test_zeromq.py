"""Tensors that follow their header over ZeroMQ: whole, or reported as damaged."""

from dataclasses import replace

import pytest
import torch
import xxhash

from runtime.core.plan import Stream
from runtime.links.codec import encode, fingerprint
from runtime.links.guards import Checksums, digest_of
from runtime.links.link import Arrival, Damaged

from .edge import SPECS, data, flip, random_payload, receive

EDGE = fingerprint("run", SPECS)
GUARD = Checksums(EDGE, covers_tensors=True)


GOOD = data(Stream.ACTIVATION, 0).message


def good_frames() -> list[bytes]:
    payload = random_payload(Stream.ACTIVATION, 1)
    message = replace(GOOD, checksum=digest_of(xxhash.xxh3_64, payload))
    frames = [tensor.reshape(-1).view(torch.uint8).numpy().tobytes() for tensor in payload]
    return [encode(message, GUARD, edge=EDGE), *frames]


@pytest.mark.parametrize(
    ("spoil", "stream", "reason"),
    [
        (lambda f: [flip(f[0]), *f[1:]], None, "header"),
        (lambda f: [f[0], flip(f[1]), *f[2:]], Stream.ACTIVATION, "checksum"),
        (lambda f: f[:-1], Stream.ACTIVATION, "too few"),
        (lambda f: [*f, b"more"], Stream.ACTIVATION, "too many"),
        (lambda f: [f[0], f[1] + b"x", *f[2:]], Stream.ACTIVATION, "bytes"),
        (lambda f: [f[0], f[1][:-1], *f[2:]], Stream.ACTIVATION, "bytes"),
        (lambda f: [b"", *f[1:]], None, "header"),
        (
            lambda f: [
                encode(
                    replace(data(Stream.ACTIVATION, 0).message, stream=Stream.TIE_DOWN),
                    GUARD,
                    edge=EDGE,
                ),
                *f[1:],
            ],
            None,
            "this way",
        ),
    ],
)
def test_damaged_message_is_reported_and_the_next_one_taken(raw, spoil, stream, reason):
    socket, upper = raw
    socket.send_multipart(spoil(good_frames()))
    socket.send_multipart(good_frames())
    damaged = receive(upper)
    assert isinstance(damaged, Damaged)
    assert damaged.stream is stream
    assert reason in damaged.reason
    assert isinstance(receive(upper), Arrival)
