"""An edge over ZeroMQ: one DEALER at each end, over ipc (same host) or tcp.

Owns the sockets and how frames become tensors. Flow control is the core's credits, so the
high-water marks are off. Tensors are sent without a copy and received straight into fresh
64-byte-aligned tensors.
"""

import contextlib
import os
import socket
from dataclasses import replace

import zmq

from runtime.core.plan import Stream
from runtime.links.link import Damaged, Frame, LinkError
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
from runtime.step import Specs, message_bytes

HEADER_LIMIT_BYTES = 4096


def bind_for_this_user(unbound: zmq.Socket[bytes], address: str) -> None:
    """Bind; over ipc, only processes of this user can connect (abstract addresses have no mode)."""
    unbound.setsockopt(zmq.IPC_FILTER_UID, os.getuid())
    unbound.bind(address)


def endpoint(bound: zmq.Socket[bytes]) -> str:
    """Where others can reach a bound socket; one on all interfaces by this host's name."""
    found = bound.getsockopt(zmq.LAST_ENDPOINT)
    assert isinstance(found, bytes)
    address = found.rstrip(b"\0").decode()
    return address.replace("tcp://0.0.0.0:", f"tcp://{socket.getfqdn()}:")


def where_to_listen_again(known: str, bind: str) -> str:
    """The address to bind for an `endpoint` that others know: over tcp they reach it by a name,
    and it listens where it was told to."""
    return f"tcp://{bind}:{known.rpartition(':')[2]}" if known.startswith("tcp://") else known


def _limit_bytes(specs: Specs) -> int:
    largest = max((message_bytes(found) for found in specs.values()), default=0)
    return largest + HEADER_LIMIT_BYTES


class ZmqLink:
    """One end of an edge. `incoming` are the specs of what this end receives.

    Exactly one of `bind` and `connect` is given. Binding to "tcp://host:*" picks a free port;
    `address` is what the other end connects to. Raises LinkError where binding fails.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        *,
        run_id: str,
        incoming: Specs,
        specs: Specs,
        bind: str | None = None,
        connect: str | None = None,
    ) -> None:
        self._incoming = incoming
        self._specs = specs
        self._dialled = connect
        self._fingerprint = fingerprint(run_id, specs)
        self._socket = context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.MAXMSGSIZE, _limit_bytes(incoming))
        outgoing = {stream: specs[stream] for stream in specs.keys() - incoming.keys()}
        self.limit_bytes = _limit_bytes(outgoing)
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
                self._socket.connect(connect)
        except zmq.ZMQError as error:
            self._socket.close(0)
            raise LinkError(f"can't use address {bind or connect}: {error.strerror}") from error

    @property
    def address(self) -> str:
        """Where the other end is to connect."""
        return endpoint(self._socket)

    @property
    def pollable(self) -> zmq.Socket[bytes]:
        return self._socket

    def send(self, message: Message) -> bool:
        return self.send_frames(self.frames(message))

    def frames(self, message: Message) -> list[Frame]:
        frames: list[Frame]
        if isinstance(message, HelloMessage):
            message = replace(message, fingerprint=self._fingerprint)
        if isinstance(message, DataMessage):
            frames = [tensor_bytes(tensor) for tensor in message.payload]
            message = replace(message, checksum=checksum(message.payload))
        else:
            frames = []
        return [encode(message, edge=self._fingerprint), *frames]

    def send_frames(self, frames: list[Frame]) -> bool:
        try:
            self._socket.send_multipart(frames, zmq.NOBLOCK, copy=False)
        except zmq.Again:
            return False
        return True

    def receive(self) -> Message | Damaged | None:
        try:
            header = self._socket.recv(zmq.NOBLOCK)
        except zmq.Again:
            return None
        try:
            message = decode(header, edge=self._fingerprint)
        except BadMessage as error:
            self._skip_rest()
            return Damaged(stream=None, reason=str(error))
        if isinstance(message, HelloMessage) and message.fingerprint != self._fingerprint:
            self._skip_rest()
            return Damaged(stream=None, reason="it is from another run, or of other tensor shapes")
        if not self._flows_here(message):
            self._skip_rest()
            return Damaged(stream=None, reason=f"{message} does not flow this way")
        if isinstance(message, DataMessage) and not message.absent:
            return self._receive_tensors(message)
        self._skip_rest()
        return message

    def _flows_here(self, message: Message) -> bool:
        """Whether this end receives that stream, or sends it where the message is about that."""
        match message:
            case DataMessage(stream=stream) | WantMessage(stream=stream):
                return stream in self._incoming
            case AckMessage(stream=stream):
                return stream in self._specs and stream not in self._incoming
        return True

    def _receive_tensors(self, message: DataMessage) -> Message | Damaged:
        payload = tuple(spec.empty() for spec in self._incoming[message.stream])
        for tensor in payload:
            if not self._socket.getsockopt(zmq.RCVMORE):
                return self._damaged(message.stream, "it has too few frames")
            size = self._socket.recv_into(tensor_bytes(tensor)) if tensor.numel() else 0
            if tensor.numel() == 0:
                size = len(self._socket.recv())
            if size != tensor.nbytes:
                return self._damaged(message.stream, f"a frame of {size} bytes for {tensor.nbytes}")
        if self._socket.getsockopt(zmq.RCVMORE):
            return self._damaged(message.stream, "it has too many frames")
        if checksum(payload) != message.checksum:
            return self._damaged(message.stream, "its tensors fail their checksum")
        return replace(message, payload=payload)

    def _damaged(self, stream: Stream, reason: str) -> Damaged:
        self._skip_rest()
        return Damaged(stream=stream, reason=reason)

    def _skip_rest(self) -> None:
        while self._socket.getsockopt(zmq.RCVMORE):
            self._socket.recv()

    def redial(self, address: str | None = None) -> None:
        if self._dialled is None:
            return
        with contextlib.suppress(zmq.ZMQError):  # it may be gone already
            self._socket.disconnect(self._dialled)
        self._dialled = address or self._dialled
        self._socket.connect(self._dialled)

    def close(self) -> None:
        self._socket.close()
