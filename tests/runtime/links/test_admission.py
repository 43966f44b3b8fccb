"""Who is let in at a socket on a network, and who is not, whatever he sends."""

import contextlib
import socket
import time
from collections.abc import Iterator
from typing import ClassVar

import pytest
import zmq

from runtime.links import doorkeeper as door
from runtime.links.admission import CurveKeys, Tokens
from runtime.links.channel import Channel, Dialling
from runtime.links.doorkeeper import Doorkeeper
from runtime.state.status_page import Field, OwnedMemory, Page
from runtime.trust.keys import KeyPair, curve_pair

from .edge import open_again

KEY = b"k" * 32
HERE, ELSEWHERE = "tcp://127.0.0.1:5", "tcp://127.0.0.1:6"
TIMEOUT_S = 10.0
HANDSHAKE_MS = 2000  # in place of the doorkeeper's own, which tests would wait for
LIMITS = {"most_bytes": 4096, "limit_bytes": 4096}


@pytest.fixture
def doorkeeper(context, monkeypatch) -> Iterator[Doorkeeper]:
    monkeypatch.setattr(door, "HANDSHAKE_MS", HANDSHAKE_MS)
    doorkeeper = Doorkeeper(context)
    yield doorkeeper
    doorkeeper.close()


@pytest.fixture
def page() -> Page:
    return OwnedMemory("test").page


@pytest.fixture
def open_channel(context) -> Iterator:
    opened: list[Channel] = []

    def make(**given) -> Channel:
        opened.append(Channel(context, **LIMITS, **given))
        return opened[-1]

    yield make
    for channel in opened:
        channel.close()


def until(holds) -> None:
    deadline_s = time.monotonic() + TIMEOUT_S
    while not holds():
        assert time.monotonic() < deadline_s, "not in time"
        time.sleep(0.005)


def hears(receiver: Channel, sender: Channel, word: bytes) -> None:
    """Send until it is heard, as cores do."""

    def heard() -> bool:
        sender.send([word])
        sender.receive()
        return receiver.receive() == word

    until(heard)


# Tokens -----------------------------------------------------------------------------------------


def test_token_lets_in_once_and_no_earlier_one_after_it(page):
    ours = Tokens(KEY, page, None)
    ours.listens_at(HERE)
    shown = [(str(n).encode(), ours._token(str(n).encode(), HERE)) for n in range(1, 4)]
    assert ours._admits(b"PLAIN", list(shown[1])) == "neighbour"
    assert [ours._admits(b"PLAIN", list(token)) for token in shown[:2]] == [None, None]
    assert ours._admits(b"PLAIN", list(shown[2])) == "neighbour"
    assert page[Field.ADMITTED] == 3


def test_token_that_was_shown_to_who_stood_in_for_the_listener_is_good_there_alone(page):
    """A worker dies, and a stranger takes its port: the next token is shown to him. The worker
    listens elsewhere then."""
    ours = Tokens(KEY, page, None)
    harvested = [b"7", ours._token(b"7", ELSEWHERE)]
    assert ours._admits(b"PLAIN", harvested) is None, "it does not know yet where it listens"
    ours.listens_at(HERE)
    assert ours._admits(b"PLAIN", harvested) is None
    assert ours._admits(b"PLAIN", [b"7", ours._token(b"7", HERE)]) == "neighbour"


@pytest.mark.parametrize(
    ("mechanism", "credentials"),
    [
        (b"NULL", []),
        (b"CURVE", [b"x" * 32]),
        (b"PLAIN", []),
        (b"PLAIN", [b"5", b""]),
        (b"PLAIN", [b"5", b"0" * 64]),
        (b"PLAIN", [b"five", b"0" * 64]),
        (b"PLAIN", [b"9" * 200, b"0" * 64]),
        (b"PLAIN", [b"\xff" * 255, b"\xff" * 255]),
    ],
)
def test_what_is_no_token_lets_nobody_in(page, mechanism, credentials):
    ours = Tokens(KEY, page, None)
    ours.listens_at(HERE)
    assert ours._admits(mechanism, credentials) is None
    assert page[Field.ADMITTED] == 0


def test_neighbour_comes_back_with_new_tokens(doorkeeper, open_channel, page):
    above = OwnedMemory("above").page
    lower = open_channel(bind="tcp://127.0.0.1:*", admission=Tokens(KEY, page, doorkeeper))
    address = lower.address
    upper = open_channel(connect=address, admission=Tokens(KEY, above, doorkeeper))
    hears(lower, upper, b"first")
    lower.close()
    lower = open_again(lambda: open_channel(bind=address, admission=Tokens(KEY, page, doorkeeper)))
    hears(lower, upper, b"again")
    hears(upper, lower, b"back")
    assert page[Field.ADMITTED] == above[Field.DIALLED] > 1


def test_eavesdropper_can_not_use_a_token_that_he_has_seen(doorkeeper, open_channel, page, context):
    above = OwnedMemory("above").page
    lower = open_channel(bind="tcp://127.0.0.1:*", admission=Tokens(KEY, page, doorkeeper))
    upper = open_channel(connect=lower.address, admission=Tokens(KEY, above, doorkeeper))
    hears(lower, upper, b"hello")
    eavesdropper = context.socket(zmq.DEALER)
    seen = Tokens(KEY, page, doorkeeper)._token(b"1", lower.address)
    eavesdropper.setsockopt(zmq.PLAIN_USERNAME, b"1")
    eavesdropper.setsockopt(zmq.PLAIN_PASSWORD, seen)
    eavesdropper.connect(lower.address)
    with contextlib.suppress(zmq.Again):  # he was sent away before
        eavesdropper.send(b"hello", zmq.NOBLOCK)
    until(lambda: doorkeeper.num_refused > 0)
    while lower.receive() is not None:
        pass
    for number in range(100):
        lower.send([b"%d" % number])
    assert eavesdropper.poll(200) == 0, "he is given nothing"
    assert lower.receive() is None
    eavesdropper.close(0)


# Keys -------------------------------------------------------------------------------------------


def pair(name: str) -> KeyPair:
    return curve_pair(name.encode().ljust(32, b"-"))


def test_named_peers_are_known_by_their_keys_and_others_refused(doorkeeper, context):
    server = context.socket(zmq.ROUTER)
    peers = {pair("one").public: "1", pair("two").public: "2"}
    CurveKeys(pair("server"), doorkeeper, peers=peers).guard(server)
    port = server.bind_to_random_port("tcp://127.0.0.1")
    sockets = []
    for name in ("two", "stranger"):
        socket = context.socket(zmq.DEALER)
        CurveKeys(pair(name), server=pair("server").public).show(socket, "")
        socket.connect(f"tcp://127.0.0.1:{port}")
        socket.send(name.encode())
        sockets.append(socket)
    assert server.poll(TIMEOUT_S * 1000)
    _, said = server.recv_multipart(copy=False)
    assert (said.bytes, said.get("User-Id")) == (b"two", "2")
    until(lambda: doorkeeper.num_refused > 0)
    assert server.poll(0) == 0
    for socket in (*sockets, server):
        socket.close(0)


def test_stranger_who_stands_in_for_the_server_hears_nothing(doorkeeper, context):
    server = context.socket(zmq.ROUTER)
    CurveKeys(pair("stranger"), doorkeeper, peers={pair("one").public: "1"}).guard(server)
    port = server.bind_to_random_port("tcp://127.0.0.1")
    client = context.socket(zmq.DEALER)
    CurveKeys(pair("one"), server=pair("server").public).show(client, "")
    client.connect(f"tcp://127.0.0.1:{port}")
    client.send(b"my weights")
    assert server.poll(500) == 0
    client.close(0)
    server.close(0)


# Whoever else comes -----------------------------------------------------------------------------


GREETING = b"\xff\0\0\0\0\0\0\0\1\x7f\3\0%s\0" + bytes(31)


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"GET / HTTP/1.1\r\n\r\n",
        b"\0" * 500,
        GREETING % b"NULL".ljust(20, b"\0"),
        GREETING % b"PLAIN".ljust(20, b"\0") + b"\6" + b"\xff" * 8,  # a command without end
        GREETING % b"CURVE".ljust(20, b"\0") + b"\4\xff" + b"x" * 255,
    ],
)
def test_stranger_is_refused_and_counted_and_the_neighbour_let_in(
    doorkeeper, open_channel, page, said
):
    lower = open_channel(bind="tcp://127.0.0.1:*", admission=Tokens(KEY, page, doorkeeper))
    port = int(lower.address.rpartition(":")[2])
    strangers = [socket.create_connection(("127.0.0.1", port)) for _ in range(3)]
    for stranger in strangers:
        stranger.sendall(said)
    above = OwnedMemory("above").page
    upper = open_channel(connect=lower.address, admission=Tokens(KEY, above, doorkeeper))
    hears(lower, upper, b"hello")
    until(lambda: doorkeeper.num_refused == 3)
    for stranger in strangers:
        stranger.close()


def test_neighbour_is_not_counted_as_a_stranger(doorkeeper, open_channel, page):
    above = OwnedMemory("above").page
    lower = open_channel(bind="tcp://127.0.0.1:*", admission=Tokens(KEY, page, doorkeeper))
    upper = open_channel(connect=lower.address, admission=Tokens(KEY, above, doorkeeper))
    for word in (b"one", b"two"):
        hears(lower, upper, word)
        upper.redial()
    time.sleep(HANDSHAKE_MS / 1000 + 0.5)
    assert doorkeeper.num_refused == 0


def test_doorkeeper_that_fails_to_judge_one_lets_the_next_one_in(doorkeeper, open_channel, page):
    admission = Tokens(KEY, page, doorkeeper)
    admits, failures = admission._admits, ["once"]

    def stumble(*given):
        if failures:
            raise RuntimeError(failures.pop())
        return admits(*given)

    admission._admits = stumble
    lower = open_channel(bind="tcp://127.0.0.1:*", admission=admission)
    above = OwnedMemory("above").page
    upper = open_channel(connect=lower.address, admission=Tokens(KEY, above, doorkeeper))
    hears(lower, upper, b"hello")
    assert failures == []


# Dialling anew ------------------------------------------------------------------------------------


class FakeSocket:
    """Counts its dials."""

    def __init__(self) -> None:
        self.num_dials = 0

    def setsockopt(self, *given) -> None:
        pass

    def disconnect(self, address: str) -> None:
        pass

    def connect(self, address: str) -> None:
        self.num_dials += 1


@pytest.fixture
def dialling() -> Dialling:
    return Dialling(None, FakeSocket(), "ipc://below", None)


def note(dialling: Dialling, *events: tuple[int, int]) -> bool:
    for event, value in events:
        dialling._note({"event": event, "value": value})
    return dialling._is_broken


def test_dial_that_finds_nobody_is_broken(dialling):
    assert note(dialling, (zmq.EVENT_CLOSED, 7))


def test_connection_that_ends_is_broken(dialling):
    assert not note(dialling, (zmq.EVENT_CONNECTED, 7))
    assert not note(dialling, (zmq.EVENT_DISCONNECTED, 6)), "that was an earlier one"
    assert note(dialling, (zmq.EVENT_DISCONNECTED, 7))


def test_dial_that_was_given_up_is_not_taken_for_the_next_one(dialling):
    """It once was: on a far link each dial was given up for the next, and none came through."""
    dialling.dial()
    assert not note(dialling, (zmq.EVENT_CLOSED, 7))
    assert not note(dialling, (zmq.EVENT_CONNECTED, 8))
    dialling.dial()
    assert not note(dialling, (zmq.EVENT_DISCONNECTED, 8)), "it was ended by dialling anew"
    assert note(dialling, (zmq.EVENT_CLOSED, 9))


class LateSocket(zmq.Socket):
    """ZeroMQ closes on a thread of its own, after `close` has returned: here, when asked to."""

    late: ClassVar[list[zmq.Socket]] = []

    def close(self, linger: int | None = None) -> None:
        if not self.closed:
            self.late.append(self)


def test_next_doorkeeper_may_come_before_the_sockets_are_closed(context, monkeypatch):
    """A coordinator that finds its address taken listens elsewhere at once."""
    monkeypatch.setattr(context, "_socket_class", LateSocket)
    try:
        for _ in range(2):
            Doorkeeper(context).close()
    finally:
        for late in LateSocket.late:
            zmq.Socket.close(late, 0)
