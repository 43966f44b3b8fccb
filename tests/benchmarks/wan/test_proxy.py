"""The wide-area proxy: its arithmetic, and bytes that go through it over loopback."""

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from benchmarks.wan.proxy import BURST_S, Pacer, WanProxy, ask_way


@pytest.fixture
def echo() -> Iterator[int]:
    """A server on loopback that sends back what it hears, to one caller; its port."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(10)

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.settimeout(10)
                while heard := connection.recv(1 << 16):
                    connection.sendall(heard)

        thread = threading.Thread(target=serve)
        thread.start()
        yield server.getsockname()[1]
        thread.join(10)
        assert not thread.is_alive()


def read(connection: socket.socket, size: int) -> bytes:
    connection.settimeout(10)
    heard = bytearray()
    while len(heard) < size and (more := connection.recv(1 << 16)):
        heard += more
    return bytes(heard)


def test_pacer_holds_the_rate():
    pacer = Pacer(bits_per_s=8e6)  # a byte a microsecond
    first = pacer.leave_s(1000, 5.0)
    assert first == pytest.approx(5.0 + 1e-3 - BURST_S)
    assert pacer.leave_s(10_000, 5.0) == pytest.approx(first + 10e-3)
    # Idle time buys no more than the burst.
    assert pacer.leave_s(1000, 9.0) == pytest.approx(9.0 + 1e-3 - BURST_S)


def test_bytes_arrive_whole_and_in_order_after_the_round_trip(echo):
    said = bytes(range(256)) * 400
    with WanProxy(rtt_s=0.04, bits_per_s=1e9) as proxy:
        address = ask_way(proxy.control, "127.0.0.1", echo)
        assert address == ask_way(proxy.control, "127.0.0.1", echo) != ("127.0.0.1", echo)
        with socket.create_connection(address, 10) as connection:
            began_s = time.monotonic()
            connection.sendall(said)
            assert read(connection, len(said)) == said
            assert time.monotonic() - began_s >= 0.04
            connection.shutdown(socket.SHUT_WR)
            assert read(connection, 1) == b""  # the end too is passed on


def test_rate_bounds_what_passes(echo):
    said = bytes(200_000)
    with (
        WanProxy(rtt_s=0.0, bits_per_s=16e6) as proxy,
        socket.create_connection(ask_way(proxy.control, "127.0.0.1", echo), 10) as connection,
    ):
        began_s = time.monotonic()
        sender = threading.Thread(target=connection.sendall, args=(said,))
        sender.start()
        assert read(connection, len(said)) == said
        assert time.monotonic() - began_s >= 0.1 - 2 * BURST_S
        sender.join(10)


def test_lost_end_is_passed_on_and_nothing_listens_afterwards(echo):
    with WanProxy(rtt_s=0.0, bits_per_s=1e9) as proxy:
        address = ask_way(proxy.control, "127.0.0.1", echo)
        connection = socket.create_connection(address, 10)
        connection.sendall(b"1")
        assert read(connection, 1) == b"1"
    assert read(connection, 1) == b""
    connection.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address, 10)


@pytest.mark.parametrize("link", [{"rtt_s": -1, "bits_per_s": 1}, {"rtt_s": 0, "bits_per_s": 0}])
def test_link_notation_that_is_wrong_is_refused(link):
    with pytest.raises(ValueError, match="give at least 0 s and a rate above 0"):
        WanProxy(**link)
