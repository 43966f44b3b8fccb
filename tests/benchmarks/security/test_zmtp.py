"""ZeroMQ understands what strangers say, and they understand what was recorded."""

import socket

import pytest
import zmq

from benchmarks.security import zmtp
from benchmarks.security.connections import connection, greet, is_open, read, write


@pytest.fixture
def router():
    context = zmq.Context()
    opened = context.socket(zmq.ROUTER)
    opened.bind("tcp://127.0.0.1:*")
    opened.setsockopt(zmq.RCVTIMEO, 5000)
    yield opened
    opened.close(0)
    context.term()


def address_of(opened) -> tuple[str, int]:
    host, port = opened.getsockopt(zmq.LAST_ENDPOINT).decode().rstrip("\0")[6:].split(":")
    return host, int(port)


@pytest.mark.parametrize("size", [0, 3, 255, 256, 70_000])
def test_frames_of_every_size_arrive(router, size):
    """Frames that followed the handshake at once were cut off, one time in eight: before libzmq has
    said its own READY, it takes whatever comes for a second one."""
    with connection(address_of(router)) as opened:
        assert greet(opened, "NULL", b"me") == "NULL"
        frames = [zmtp.frame(b"first", more=True), zmtp.frame(b"x" * size)]
        assert write(opened, frames) == len(frames)
        assert router.recv_multipart() == [b"me", b"first", b"x" * size]


def test_other_mechanism_is_greeted_and_refused(router):
    with connection(address_of(router)) as opened:
        assert greet(opened, "PLAIN") == "NULL"
        opened.settimeout(5)
        read(opened, 1 << 16)  # to its end
        assert not is_open(opened)


@pytest.mark.parametrize("mechanism", zmtp.MECHANISMS)
def test_greeting_names_its_mechanism(mechanism):
    greeting = zmtp.greeting(mechanism)
    assert len(greeting) == zmtp.GREETING_BYTES
    assert zmtp.mechanism_of(greeting) == mechanism
    assert zmtp.mechanism_of(b"HTTP/1.1 200 OK".ljust(64)) == ""


def test_curve_hello_has_the_size_of_one():
    hello, _ = zmtp.commands("CURVE")
    assert hello[1] == 200


def test_recorded_stream_is_cut_into_its_frames():
    frames = [zmtp.frame(b"a"), zmtp.frame(b"b" * 300, more=True), zmtp.frame(b"")]
    stream = zmtp.greeting("NULL") + b"".join(frames)
    assert zmtp.split_frames(stream) == frames
    assert zmtp.split_frames(stream[:-3]) == frames[:1], "what was cut off is left out"
    assert zmtp.split_frames(stream[:70]) == frames[:1]


def test_what_can_not_be_reached_is_none():
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        with connection(opened.getsockname()) as found:
            assert found is None


def test_writing_ends_when_nothing_is_taken():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        with connection(server.getsockname()) as opened:
            server.accept()[0].close()
            assert write(opened, [bytes(1 << 16)] * 1000, wait_s=0.1) < 1000
            assert not is_open(opened)
