"""An edge over ZeroMQ: one DEALER at each end, over ipc (same host) or tcp.

Owns the sockets and how frames become tensors. Flow control is the core's credits, so the
high-water marks are off. Tensors are sent without a copy and received straight into fresh
64-byte-aligned tensors. Links whose tensors go another way send the rest like this one.
"""

import contextlib
import os
import socket
from collections.abc import Sequence
from dataclasses import replace

import zmq

from runtime.block import Payload, Specs, message_bytes
from runtime.core.plan import Stream
from runtime.links.link import Damaged, End, Frame, LinkError, Pollable
from runtime.links.message import (
    AckMessage,
    BadMessage,
    DataMessage,
    HelloMessage,
    Message,
    WantMessage,
    checksum,
    decode,
    encode,
    fingerprint,
    tensor_bytes,
)

HEADER_LIMIT_BYTES = 4096
MOST_SPARE = 2  # payloads of a stream that are kept to receive into


def tcp_address(host: str, port: int | str = "*") -> str:
    """ZeroMQ's name of a host and port, by default a free one; a numeric IPv6 host in brackets."""
    return f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"


def bind_for_this_user(unbound: zmq.Socket[bytes], address: str) -> None:
    """Bind; over ipc, only processes of this user can connect (abstract addresses have no mode)."""
    unbound.setsockopt(zmq.IPC_FILTER_UID, os.getuid())
    unbound.setsockopt(zmq.IPV6, "[" in address)
    unbound.bind(address)


def connect_to(socket: zmq.Socket[bytes], address: str) -> None:
    """Connect; over IPv6 if the address is one of that."""
    socket.setsockopt(zmq.IPV6, "[" in address)
    socket.connect(address)


def endpoint(bound: zmq.Socket[bytes]) -> str:
    """Where others can reach a bound socket; one on all interfaces by this host's name, or by its
    address if it has IPv6 alone."""
    found = bound.getsockopt(zmq.LAST_ENDPOINT)
    assert isinstance(found, bytes)
    address = found.rstrip(b"\0").decode()
    for bind in ("0.0.0.0", "::"):
        everywhere = tcp_address(bind, "")
        if address.startswith(everywhere):
            return tcp_address(reachable_host(bind), address.removeprefix(everywhere))
    return address


def reachable_host(bind: str) -> str:
    """How others name the host that listens at `bind`, which may be all of its addresses: its name,
    or its IPv6 address (::1 if its name has none)."""
    if bind == "0.0.0.0":
        return socket.getfqdn()
    if bind != "::":
        return bind
    try:
        found = socket.getaddrinfo(socket.getfqdn(), None, socket.AF_INET6)
    except OSError:
        return "::1"
    return str(found[0][4][0])


def where_to_listen_again(known: str, bind: str) -> str:
    """The address to bind for an `endpoint` that others know: over tcp they reach it by a name,
    and it listens where it was told to."""
    if not known.startswith("tcp://"):
        return known
    return tcp_address(bind, known.rpartition(":")[2])


class ZmqLink:
    """One end of an edge.

    Exactly one of `bind` and `connect` is given. Binding to "tcp://host:*" picks a free port;
    `address` is what the other end connects to. Raises LinkError where binding fails.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        end: End,
        *,
        bind: str | None = None,
        connect: str | None = None,
    ) -> None:
        self._end = end
        self._incoming, self._outgoing = end.incoming, end.outgoing
        self._spare: dict[Stream, list[Payload]] = {stream: [] for stream in self._incoming}
        self._dialled = connect
        self._fingerprint = fingerprint(end.run_id, end.specs)
        self._socket = context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.MAXMSGSIZE, self._most_bytes(self._incoming))
        self.limit_bytes = self._most_bytes(self._outgoing)
        self._socket.setsockopt(zmq.IMMEDIATE, 1)
        self._socket.setsockopt(zmq.LINGER, 0)  # who leaves has nothing to say that is needed
        self._socket.setsockopt(zmq.SNDHWM, 0)
        self._socket.setsockopt(zmq.RCVHWM, 0)
        self._socket.setsockopt(zmq.RECONNECT_IVL, 20)
        self._socket.setsockopt(zmq.RECONNECT_IVL_MAX, 100)
        try:
            if bind is not None:
                bind_for_this_user(self._socket, bind)
            if connect is not None:
                connect_to(self._socket, connect)
        except zmq.ZMQError as error:
            self._socket.close(0)
            raise LinkError(f"can't use address {bind or connect}: {error.strerror}") from error

    def _most_bytes(self, specs: Specs) -> int:
        """The size that no frame of these streams exceeds."""
        return max(map(message_bytes, specs.values()), default=0) + HEADER_LIMIT_BYTES

    @property
    def address(self) -> str:
        """Where the other end is to connect."""
        return endpoint(self._socket)

    @property
    def pollables(self) -> Sequence[Pollable]:
        return [self._socket]

    def send(self, message: Message) -> bool:
        return self.send_frames(self.frames(message))

    def frames(self, message: Message) -> list[Frame]:
        tensors: list[Frame] = []
        if isinstance(message, HelloMessage):
            message = replace(message, fingerprint=self._fingerprint)
        if isinstance(message, DataMessage):
            if self._end.guards_payload and not message.checksum:
                message = replace(message, checksum=checksum(message.payload))
            tensors = self._tensor_frames(message)
        return [encode(message, edge=self._fingerprint), *tensors]

    def _tensor_frames(self, message: DataMessage) -> list[Frame]:
        return [tensor_bytes(tensor) for tensor in message.payload]

    def send_frames(self, frames: list[Frame]) -> bool:
        try:
            if len(frames) == 1:  # in half the time
                self._socket.send(frames[0], zmq.NOBLOCK)
            else:
                self._socket.send_multipart(frames, zmq.NOBLOCK, copy=False)
        except zmq.Again:
            return False
        return True

    def receive(self) -> Message | Damaged | None:
        while True:
            try:
                header = self._socket.recv(zmq.NOBLOCK)
            except zmq.Again:
                return None
            message = self._read(header)
            while self._has_more:
                self._socket.recv()
            if message is not None:
                return message

    def _read(self, header: bytes) -> Message | Damaged | None:
        """The message of a header; of what follows it, only what belongs to it is taken."""
        try:
            message = decode(header, edge=self._fingerprint)
        except BadMessage as error:
            return Damaged(stream=None, reason=str(error))
        if isinstance(message, HelloMessage) and message.fingerprint != self._fingerprint:
            return Damaged(stream=None, reason="it is from another run, or of other tensor shapes")
        if not self._flows_here(message):
            return Damaged(stream=None, reason=f"{message} does not flow this way")
        if not isinstance(message, DataMessage):
            return Damaged(stream=None, reason="a word with tensors") if self._has_more else message
        if message.absent:
            found: Payload | str | None = "tensors of an absent message" if self._has_more else ()
        else:
            found = self._receive_tensors(message)
        if isinstance(found, str):
            return Damaged(stream=message.stream, reason=found)
        return None if found is None else self._checked(message, found)

    def _checked(self, message: DataMessage, payload: Payload) -> DataMessage | Damaged:
        """A message with its tensors, if they are those that were sent."""
        if self._end.guards_payload and checksum(payload) != message.checksum:
            return Damaged(stream=message.stream, reason="its tensors fail their checksum")
        return replace(message, payload=payload)

    def _flows_here(self, message: Message) -> bool:
        """Whether this end receives that stream, or sends it where the message is about that."""
        match message:
            case DataMessage(stream=stream) | WantMessage(stream=stream):
                return stream in self._incoming
            case AckMessage(stream=stream):
                return stream in self._outgoing
        return True

    def _receive_tensors(self, message: DataMessage) -> Payload | str | None:
        """A message's tensors, what is wrong with them, or None where they follow later."""
        payload = self._room(message.stream)
        for tensor in payload:
            if not self._has_more:
                return "it has too few frames"
            size = self._socket.recv_into(tensor_bytes(tensor)) if tensor.numel() else 0
            if tensor.numel() == 0:
                size = len(self._socket.recv())
            if size != tensor.nbytes:
                return f"a frame of {size} bytes for {tensor.nbytes}"
        return "it has too many frames" if self._has_more else payload

    def _room(self, stream: Stream) -> Payload:
        """Tensors to receive into: used ones if there are any, whose pages need not be made."""
        try:
            return self._spare[stream].pop()
        except IndexError:
            return tuple(spec.empty() for spec in self._incoming[stream])

    def recycle(self, stream: Stream, payload: Payload) -> None:
        if len(self._spare[stream]) < MOST_SPARE:
            self._spare[stream].append(payload)

    @property
    def _has_more(self) -> bool:
        """Whether more frames follow of the message that is being read."""
        return bool(self._socket.getsockopt(zmq.RCVMORE))

    def redial(self, address: str | None = None) -> None:
        if self._dialled is None:
            return
        with contextlib.suppress(zmq.ZMQError):  # it may be gone already
            self._socket.disconnect(self._dialled)
        self._dialled = address or self._dialled
        connect_to(self._socket, self._dialled)

    def close(self) -> None:
        self._socket.close()
