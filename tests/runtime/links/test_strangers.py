"""What does not belong on an edge: damage, other runs, other users, other hosts."""

import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace

import psutil
import pytest
import torch
import zmq

from runtime.core.plan import Side, Stream
from runtime.links.codec import checksum, encode, fingerprint
from runtime.links.link import Arrival, Damaged, End, Link, LinkError
from runtime.links.zeromq import zmq_link

from .edge import (
    SPECS,
    TIMEOUT_S,
    data,
    flip,
    hello,
    make_end,
    random_payload,
    receive,
    send,
)

EDGE = fingerprint("run", SPECS)
GOOD = data(Stream.ACTIVATION, 0).message


@pytest.mark.parametrize("stranger", ["another run", "other tensors"])
def test_end_that_does_not_belong_is_not_listened_to(context, stranger):
    """A worker of a run before may still dial; it must not end this one."""
    lower = make_end(context, Side.ABOVE, bind=f"ipc://@test-{secrets.token_hex(6)}")
    specs = SPECS if stranger == "another run" else {Stream.ACTIVATION: SPECS[Stream.TIE_UP]}
    run_id = "another" if stranger == "another run" else "run"
    end = End(side=Side.BELOW, run_id=run_id, specs=specs)
    upper = zmq_link(context, end, connect=lower.address)
    send(upper, hello())
    heard = receive(lower)
    assert isinstance(heard, Damaged)
    assert heard.stream is None
    assert "another run, or of other tensor shapes" in heard.reason
    upper.close()
    friend = make_end(context, Side.BELOW, connect=lower.address)
    send(friend, hello(generation=4))
    assert receive(lower).message.generation == 4
    lower.close()
    friend.close()


def test_address_in_use_is_said_so(context):
    lower = make_end(context, Side.ABOVE, bind="tcp://127.0.0.1:*")
    with pytest.raises(LinkError, match="in use"):
        make_end(context, Side.ABOVE, bind=lower.address)
    lower.close()


@pytest.fixture
def raw(context) -> Iterator[tuple[zmq.Socket, Link]]:
    """A bare socket in the lower end's place, with an upper end that dials it."""
    raw = context.socket(zmq.DEALER)
    raw.bind(f"ipc://@test-{secrets.token_hex(6)}")
    upper = make_end(context, Side.BELOW, connect=raw.getsockopt(zmq.LAST_ENDPOINT).decode())
    yield raw, upper
    raw.close(0)
    upper.close()


def good_frames() -> list[bytes]:
    payload = random_payload(Stream.ACTIVATION, 1)
    message = replace(GOOD, checksum=checksum(payload))
    frames = [tensor.reshape(-1).view(torch.uint8).numpy().tobytes() for tensor in payload]
    return [encode(message, edge=EDGE), *frames]


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
                    replace(data(Stream.ACTIVATION, 0).message, stream=Stream.TIE_DOWN), edge=EDGE
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


def test_tcp_listens_on_loopback_only(context):
    lower = make_end(context, Side.ABOVE, bind="tcp://127.0.0.1:*")
    port = int(lower.address.rpartition(":")[2])
    listening = [
        connection.laddr.ip
        for connection in psutil.Process().net_connections("tcp")
        if connection.laddr.port == port and connection.status == psutil.CONN_LISTEN
    ]
    assert listening == ["127.0.0.1"]
    lower.close()


def test_oversize_frame_is_never_taken_in(raw):
    """Its connection is closed instead; that the peer has gone silent is the driver's to see."""
    bare, upper = raw
    bare.send_multipart([bytes(64 << 20)])
    deadline_s = time.monotonic() + TIMEOUT_S
    while bare.poll(0, zmq.POLLOUT):
        assert upper.receive() is None
        assert time.monotonic() < deadline_s, "the connection was not closed"
    assert upper.receive() is None


def test_socket_on_all_interfaces_is_reached_by_name(context):
    lower = make_end(context, Side.ABOVE, bind="tcp://0.0.0.0:*")
    assert "0.0.0.0" not in lower.address
    assert socket.getfqdn() in lower.address
    lower.close()


def test_users_of_this_host_other_than_ours_cannot_connect(context):
    """Abstract ipc addresses have no file mode and are listed in /proc/net/unix for everyone."""
    lower = make_end(context, Side.ABOVE, bind=f"ipc://@test-{secrets.token_hex(6)}")
    nobody = 65534
    stranger = (
        f"import os, zmq; os.getuid() == 0 and os.setuid({nobody})\n"
        "s = zmq.Context().socket(zmq.DEALER); s.linger = 300; s.immediate = 1\n"
        f"s.connect({lower.address!r}); s.sndtimeo = 500; s.send(b'hello')"
    )
    done = subprocess.run([sys.executable, "-c", stranger], timeout=TIMEOUT_S, check=False)
    heard = bool(lower.pollables[0].poll(300))
    assert heard == (os.getuid() != 0)  # only root can play another user
    assert (done.returncode == 0) == heard
    lower.close()
