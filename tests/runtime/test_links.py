"""One suite that every link passes; a link joins it by a line in LINKS."""

import os
import secrets
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import psutil
import pytest
import torch
import zmq

from runtime.core.plan import Side, Stream
from runtime.links.link import Damaged, Link, LinkError
from runtime.links.message import AckMessage, DataMessage, HelloMessage, Message, encode
from runtime.links.zeromq import ZmqLink
from runtime.step import Specs, TensorSpec

TIMEOUT_S = 20.0
DTYPES = ("float32", "float64", "float16", "bfloat16", "int64", "int32", "uint8", "bool")
SPECS: Specs = {
    Stream.ACTIVATION: tuple(TensorSpec(shape=(3, 5), dtype=dtype) for dtype in DTYPES),
    Stream.TIE_UP: (TensorSpec(shape=(0,), dtype="float32"), TensorSpec(shape=(), dtype="int64")),
    Stream.TIE_DOWN: (TensorSpec(shape=(16 << 20,), dtype="float32"),),  # 64 MiB
}


@dataclass
class Ends:
    """Both ends of an edge; `raw` sends frames that no link would."""

    lower: Link
    upper: Link
    address: str


def zmq_ends(address: str) -> Callable[[zmq.Context], Ends]:
    def make(context: zmq.Context) -> Ends:
        lower = make_end(context, Side.ABOVE, bind=address.format(token=secrets.token_hex(6)))
        upper = make_end(context, Side.BELOW, connect=lower.address)
        return Ends(lower=lower, upper=upper, address=lower.address)

    return make


def make_end(context: zmq.Context, side: Side, *, run_id: str = "run", **address: str) -> ZmqLink:
    incoming = {stream: specs for stream, specs in SPECS.items() if stream.source is side}
    return ZmqLink(context, run_id=run_id, incoming=incoming, specs=SPECS, **address)


LINKS = {"zmq-ipc": zmq_ends("ipc://@test-{token}"), "zmq-tcp": zmq_ends("tcp://127.0.0.1:*")}


@pytest.fixture
def context() -> Iterator[zmq.Context]:
    context = zmq.Context()
    yield context
    context.destroy(linger=0)


@pytest.fixture(params=sorted(LINKS))
def ends(request, context) -> Iterator[Ends]:
    ends = LINKS[request.param](context)
    send(ends.upper, HelloMessage(generation=0, wants={}, fingerprint=0))  # they are connected
    assert isinstance(receive(ends.lower), HelloMessage)
    yield ends
    ends.lower.close()
    ends.upper.close()


def wait(link: Link) -> None:
    poller = zmq.Poller()
    poller.register(link.pollable, zmq.POLLIN)
    assert poller.poll(TIMEOUT_S * 1000), "nothing arrived in time"


def receive(link: Link) -> Message | Damaged:
    while (message := link.receive()) is None:
        wait(link)
    return message


def send(link: Link, message: Message) -> None:
    deadline_s = time.monotonic() + TIMEOUT_S
    while not link.send(message):
        assert time.monotonic() < deadline_s, "no peer in time"
        select.select([], [], [], 0.001)


def random_payload(stream: Stream, seed: int) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(
        torch.randint(0, 2, spec.shape, generator=generator).to(spec.torch_dtype)
        for spec in SPECS[stream]
    )


def data(stream: Stream, step: int, *, absent: bool = False, seed: int = 0) -> DataMessage:
    payload = () if absent else random_payload(stream, seed)
    return DataMessage(
        stream=stream, step=step, generation=1, absent=absent, checksum=0, payload=payload
    )


def test_every_dtype_arrives_as_it_was_sent(ends):
    sent = data(Stream.ACTIVATION, 3, seed=1)
    send(ends.lower, sent)
    got = receive(ends.upper)
    assert isinstance(got, DataMessage)
    assert (got.stream, got.step, got.generation, got.absent) == (Stream.ACTIVATION, 3, 1, False)
    for a, b in zip(sent.payload, got.payload, strict=True):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)
        assert b.is_contiguous()
        assert b.data_ptr() % 64 == 0


def test_empty_and_scalar_tensors_cross(ends):
    send(ends.lower, data(Stream.TIE_UP, 0, seed=5))
    got = receive(ends.upper)
    assert isinstance(got, DataMessage)
    assert [tuple(tensor.shape) for tensor in got.payload] == [(0,), ()]


def test_the_receivers_tensors_are_its_own(ends):
    sent = data(Stream.ACTIVATION, 0, seed=2)
    before = [tensor.clone() for tensor in sent.payload]
    send(ends.lower, sent)
    got = receive(ends.upper)
    for tensor in got.payload:
        tensor.zero_()
    assert all(torch.equal(a, b) for a, b in zip(before, sent.payload, strict=True))


def test_order_is_kept_within_and_across_streams(ends):
    for step in range(50):
        send(ends.lower, data(Stream.ACTIVATION, step, seed=step))
        send(ends.lower, data(Stream.TIE_UP, step, seed=step))
    got = [receive(ends.upper) for _ in range(100)]
    assert [(m.stream, m.step) for m in got] == [
        (stream, step) for step in range(50) for stream in (Stream.ACTIVATION, Stream.TIE_UP)
    ]


def test_64_mib_both_ways_at_once(ends):
    messages = [data(Stream.TIE_DOWN, step, seed=step) for step in range(2)]
    for message in messages:
        send(ends.upper, message)
    for step in range(20):
        send(ends.lower, data(Stream.ACTIVATION, step))
    assert [receive(ends.upper).step for _ in range(20)] == list(range(20))
    for message in messages:
        assert torch.equal(receive(ends.lower).payload[0], message.payload[0])


def test_absent_messages_and_words_carry_no_tensors(ends):
    ack = AckMessage(
        stream=Stream.ACTIVATION, generation=0, expected=3, released=2, durable=1, resend=False
    )
    send(ends.lower, data(Stream.ACTIVATION, 4, absent=True))
    send(ends.upper, ack)
    got = receive(ends.upper)
    assert isinstance(got, DataMessage)
    assert (got.absent, got.payload) == (True, ())
    assert receive(ends.lower) == ack


def test_receive_never_waits(ends):
    assert ends.lower.receive() is None
    assert ends.upper.receive() is None


def test_arrival_wakes_a_waiter(ends):
    timer = threading.Timer(0.05, lambda: ends.lower.send(data(Stream.TIE_UP, 0)))
    timer.start()
    assert isinstance(receive(ends.upper), DataMessage)
    timer.join()


def test_sending_to_nobody_says_so(context):
    lower = make_end(context, Side.ABOVE, bind=f"ipc://@test-{secrets.token_hex(6)}")
    assert not lower.send(data(Stream.ACTIVATION, 0))
    lower.close()


def test_an_end_that_comes_back_is_heard_again(context):
    lower = make_end(context, Side.ABOVE, bind=f"ipc://@test-{secrets.token_hex(6)}")
    for generation in range(3):
        upper = make_end(context, Side.BELOW, connect=lower.address)
        send(upper, HelloMessage(generation=generation, wants={}, fingerprint=0))
        hello = receive(lower)
        assert isinstance(hello, HelloMessage)
        assert hello.generation == generation
        send(lower, data(Stream.TIE_UP, generation))
        assert receive(upper).step == generation
        upper.close()
    lower.close()


@pytest.mark.parametrize("stranger", ["another run", "other tensors"])
def test_an_end_that_does_not_belong_is_refused(context, stranger):
    lower = make_end(context, Side.ABOVE, bind=f"ipc://@test-{secrets.token_hex(6)}")
    specs = SPECS if stranger == "another run" else {Stream.ACTIVATION: SPECS[Stream.TIE_UP]}
    upper = ZmqLink(context, run_id=stranger, incoming=specs, specs=specs, connect=lower.address)
    send(upper, HelloMessage(generation=0, wants={}, fingerprint=0))
    with pytest.raises(LinkError, match="start all workers with the same config"):
        receive(lower)
    lower.close()
    upper.close()


def test_an_address_in_use_is_said_so(context):
    lower = make_end(context, Side.ABOVE, bind="tcp://127.0.0.1:*")
    with pytest.raises(LinkError, match="in use"):
        make_end(context, Side.ABOVE, bind=lower.address)
    lower.close()


@pytest.fixture
def raw(context, ends) -> Iterator[tuple[zmq.Socket, Link]]:
    """A bare socket in the lower end's place, at a fresh upper end."""
    raw = context.socket(zmq.DEALER)
    raw.bind(f"ipc://@test-{secrets.token_hex(6)}")
    upper = make_end(context, Side.BELOW, connect=raw.getsockopt(zmq.LAST_ENDPOINT).decode())
    yield raw, upper
    raw.close(0)
    upper.close()


def good_frames() -> list[bytes]:
    from runtime.links.message import checksum

    payload = random_payload(Stream.ACTIVATION, 1)
    message = DataMessage(
        stream=Stream.ACTIVATION, step=0, generation=0, absent=False, checksum=checksum(payload)
    )
    frames = [tensor.reshape(-1).view(torch.uint8).numpy().tobytes() for tensor in payload]
    return [encode(message), *frames]


def flip(frame: bytes) -> bytes:
    return bytes([frame[0] ^ 1]) + frame[1:]


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
        (lambda f: [encode(data(Stream.TIE_DOWN, 0)), *f[1:]], None, "this way"),
    ],
)
def test_a_damaged_message_is_reported_and_the_next_one_taken(raw, spoil, stream, reason):
    socket, upper = raw
    socket.send_multipart(spoil(good_frames()))
    socket.send_multipart(good_frames())
    damaged = receive(upper)
    assert isinstance(damaged, Damaged)
    assert damaged.stream is stream
    assert reason in damaged.reason
    assert isinstance(receive(upper), DataMessage)


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


def test_an_oversize_frame_is_never_taken_in(raw):
    """Its connection is closed instead; that the peer has gone silent is the driver's to see."""
    bare, upper = raw
    bare.send_multipart([bytes(64 << 20)])
    deadline_s = time.monotonic() + TIMEOUT_S
    while bare.poll(0, zmq.POLLOUT):
        assert upper.receive() is None
        assert time.monotonic() < deadline_s, "the connection was not closed"
    assert upper.receive() is None


def test_a_socket_on_all_interfaces_is_reached_by_name(context):
    lower = make_end(context, Side.ABOVE, bind="tcp://0.0.0.0:*")
    assert "0.0.0.0" not in lower.address
    assert socket.getfqdn() in lower.address
    lower.close()


def test_another_user_of_this_host_cannot_connect(context):
    """Abstract ipc addresses have no file mode and are listed in /proc/net/unix for everyone."""
    lower = make_end(context, Side.ABOVE, bind=f"ipc://@test-{secrets.token_hex(6)}")
    nobody = 65534
    stranger = (
        f"import os, zmq; os.getuid() == 0 and os.setuid({nobody})\n"
        "s = zmq.Context().socket(zmq.DEALER); s.linger = 300; s.immediate = 1\n"
        f"s.connect({lower.address!r}); s.sndtimeo = 500; s.send(b'hello')"
    )
    done = subprocess.run([sys.executable, "-c", stranger], timeout=TIMEOUT_S, check=False)
    heard = bool(lower.pollable.poll(300))
    assert heard == (os.getuid() != 0)  # only root can play another user
    assert (done.returncode == 0) == heard
    lower.close()
