"""What joins the two ends of an edge: one ZeroMQ DEALER at each, over ipc (same host) or tcp.

Owns the sockets and their addresses. Flow control is the core's credits, so that the high-water
marks are never reached by who keeps to them. Knows frames, and nothing of what they say.
"""

import contextlib
import os
import secrets
import time
from collections.abc import Mapping
from typing import Any

import zmq
from zmq.utils.monitor import recv_monitor_message

from runtime.links.admission import Admission
from runtime.links.link import Frame, LinkError

MOST_WAITING = 1000  # messages that wait in ZeroMQ, in each direction
DIAL_EVERY_S = 0.05
DIALLING_EVENTS = zmq.EVENT_CONNECTED | zmq.EVENT_CLOSED | zmq.EVENT_DISCONNECTED


def tcp_address(host: str, port: int | str = "*") -> str:
    """ZeroMQ's name of a host and port, by default a free one; a numeric IPv6 host in brackets."""
    return f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"


def bind_for_this_user(unbound: zmq.Socket[bytes], address: str) -> None:
    """Bind; over ipc, only processes of this user can connect."""
    unbound.setsockopt(zmq.IPC_FILTER_UID, os.getuid())
    unbound.setsockopt(zmq.IPV6, "[" in address)
    unbound.bind(address)


def connect_to(socket: zmq.Socket[bytes], address: str) -> None:
    """Connect; over IPv6 if the address is one of that."""
    socket.setsockopt(zmq.IPV6, "[" in address)
    socket.connect(address)


def way_to(address: str) -> str:
    """What is dialled to reach an address: itself; benchmarks lead it through a proxy."""
    return address


def endpoint(bound: zmq.Socket[bytes]) -> str:
    """Where others can reach a bound socket."""
    found = bound.getsockopt(zmq.LAST_ENDPOINT)
    assert isinstance(found, bytes)
    return found.rstrip(b"\0").decode()


class Channel:
    """One end. Exactly one of `bind` and `connect` is given.

    Binding to "tcp://host:*" picks a free port; `address` is what the other end connects to. No
    frame that is received exceeds `most_bytes`, and none that is sent may exceed `limit_bytes`.
    Over a network only whom the `admission` admits is connected. Raises LinkError if the address
    can't be used.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        *,
        most_bytes: int,
        limit_bytes: int,
        bind: str | None = None,
        connect: str | None = None,
        admission: Admission | None = None,
    ) -> None:
        self.limit_bytes = limit_bytes
        self.socket = context.socket(zmq.DEALER)
        self.socket.setsockopt(zmq.MAXMSGSIZE, most_bytes)
        self.socket.setsockopt(zmq.IMMEDIATE, 1)
        self.socket.setsockopt(zmq.LINGER, 0)  # who leaves has nothing to say that is needed
        self.socket.setsockopt(zmq.SNDHWM, MOST_WAITING)
        self.socket.setsockopt(zmq.RCVHWM, MOST_WAITING)
        self.socket.setsockopt(zmq.RECONNECT_IVL, 20)
        self.socket.setsockopt(zmq.RECONNECT_IVL_MAX, 100)
        self._dialling: Dialling | None = None
        try:
            if bind is not None:
                if admission is not None:
                    admission.guard(self.socket)
                bind_for_this_user(self.socket, bind)
                if admission is not None:
                    admission.listens_at(self.address)
            if connect is not None:
                self._dialling = Dialling(context, self.socket, connect, admission)
        except zmq.ZMQError as error:
            self.socket.close(0)
            raise LinkError(f"can't use address {bind or connect}: {error.strerror}") from error

    @property
    def address(self) -> str:
        """Where the other end is to connect."""
        return endpoint(self.socket)

    @property
    def pollables(self) -> list[zmq.Socket[bytes]]:
        """What is to be polled for input: of what is then there, `receive` takes care."""
        events = None if self._dialling is None else self._dialling.events
        return [self.socket] if events is None else [self.socket, events]

    def send(self, frames: list[Frame]) -> bool:
        """Send one message, without a copy of its later frames; False if no peer is connected."""
        try:
            if len(frames) == 1:  # in half the time
                self.socket.send(frames[0], zmq.NOBLOCK)
            else:
                self.socket.send_multipart(frames, zmq.NOBLOCK, copy=False)
        except zmq.Again:
            if self._dialling is not None:
                self._dialling.mend()
            return False
        return True

    def receive(self) -> bytes | None:
        """The first frame of the next message, or None. Dials anew if the connection has ended."""
        if self._dialling is not None:
            self._dialling.mend()
        try:
            return self.socket.recv(zmq.NOBLOCK)
        except zmq.Again:
            return None

    @property
    def has_more(self) -> bool:
        """Whether more frames follow of the message that is being read."""
        return bool(self.socket.getsockopt(zmq.RCVMORE))

    def receive_more(self) -> bytes:
        """The next frame of the message that is being read; there must be one."""
        return self.socket.recv()

    def receive_into(self, place: memoryview) -> int:
        """The same, into memory that is there; returns the frame's size."""
        size: int = self.socket.recv_into(place)
        return size

    def skip_rest(self) -> None:
        """Drop what is left of the message that is being read."""
        while self.has_more:
            self.socket.recv()

    @property
    def unreached(self) -> str | None:
        """The address that is dialled, if nobody answers there; None at the end that listens, and
        within a host."""
        return None if self._dialling is None else self._dialling.unreached

    def redial(self, address: str | None = None) -> None:
        """Connect anew, to a new address if one is given; nothing at the end that listens."""
        if self._dialling is not None:
            self._dialling.dial(address)

    def close(self) -> None:
        if self._dialling is not None:
            self._dialling.close()
        self.socket.close()


class Dialling:
    """The connection of the end that dials, which is watched if it crosses a network.

    ZeroMQ connects anew by itself, but shows the same token again. If that is good but once, each
    connection is dialled here.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        socket: zmq.Socket[bytes],
        address: str,
        admission: Admission | None,
    ) -> None:
        self.events: zmq.Socket[bytes] | None = None
        self._socket = socket
        self._address = self._way = address
        self._admission = admission
        self._connection: int | None = None  # the file descriptor of the one that is there
        self._is_broken = self._is_pending = False
        self._num_abandoned = 0  # dials that were pending when another was begun
        self._dialled_s = 0.0
        self._dials_itself = admission is not None and admission.is_for_once
        if self._dials_itself:
            socket.setsockopt(zmq.RECONNECT_IVL, -1)
        if address.startswith("tcp://"):
            place = f"inproc://dialling-{secrets.token_hex(8)}"
            socket.monitor(place, DIALLING_EVENTS)
            self.events = context.socket(zmq.PAIR)
            self.events.setsockopt(zmq.LINGER, 0)
            self.events.connect(place)
        self._connect()

    @property
    def unreached(self) -> str | None:
        """The address, if nobody answers there; only told of what crosses a network."""
        return None if self.events is None or self._connection is not None else self._address

    def dial(self, address: str | None = None) -> None:
        """Connect anew, to a new address if one is given."""
        self._num_abandoned += self._is_pending
        with contextlib.suppress(zmq.ZMQError):  # it may be gone already
            self._socket.disconnect(self._way)
        self._address = address or self._address
        self._connect()

    def mend(self) -> None:
        """Note what has become of the connection. If it has ended and ZeroMQ does not, connect
        anew, but not at once again and again."""
        if self.events is None:
            return
        while self.events.poll(0):
            self._note(recv_monitor_message(self.events))
        if (
            self._dials_itself
            and self._is_broken
            and time.monotonic() - self._dialled_s > DIAL_EVERY_S
        ):
            self.dial()

    def _connect(self) -> None:
        self._connection, self._is_broken, self._is_pending = None, False, True
        self._dialled_s = time.monotonic()
        if self._admission is not None:
            self._admission.show(self._socket, self._address)
        self._way = way_to(self._address)
        connect_to(self._socket, self._way)

    def _note(self, told: Mapping[str, Any]) -> None:
        """What an earlier dial or connection came to may still be told behind the next one."""
        event, connection = told["event"], told["value"]
        if event == zmq.EVENT_CONNECTED:
            self._connection, self._is_broken, self._is_pending = connection, False, False
            self._num_abandoned = 0
        elif event == zmq.EVENT_CLOSED and self._num_abandoned:
            self._num_abandoned -= 1
        elif event == zmq.EVENT_CLOSED and self._is_pending:  # nobody listens
            self._is_broken, self._is_pending = True, False
        elif event == zmq.EVENT_DISCONNECTED and connection == self._connection:
            self._is_broken, self._connection = True, None

    def close(self) -> None:
        """Close what is this connection's own, but for the socket."""
        if self.events is not None:
            self._socket.disable_monitor()
            self.events.close(0)
