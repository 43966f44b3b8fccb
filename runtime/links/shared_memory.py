"""An edge between two workers of one host whose tensors stay where their sender keeps them.

Owns how a receiver finds them there. What a worker sends it has copied into its retention anyway;
the receiver maps that memory and uses a message in place, until the core lets its slot be used
again, which is after the release. Headers, credits and wake-ups go over ZeroMQ.

A checksum covers the header, and not the tensors, unless asked for: no wire can damage these. What
could is a slot that is used again too early: no writer does that, and its header would show it.
"""

import zmq

from runtime.block import Payload, Specs
from runtime.core.plan import Stream
from runtime.links.link import End, Frame
from runtime.links.message import DataMessage
from runtime.links.zeromq import HEADER_LIMIT_BYTES, ZmqLink
from runtime.state.retention import NeighboursRetention


class ShmLink(ZmqLink):
    """One end of an edge; `other` is the memory of the worker at the other end.

    The payload of a message that is sent must lie in the sender's retention. What is received is
    read-only, and stays valid until the message's slot is used again.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        end: End,
        other: NeighboursRetention,
        *,
        bind: str | None = None,
        connect: str | None = None,
    ) -> None:
        super().__init__(context, end, bind=bind, connect=connect)
        self._other = other

    def _most_bytes(self, specs: Specs) -> int:
        del specs
        return HEADER_LIMIT_BYTES

    def _tensor_frames(self, message: DataMessage) -> list[Frame]:
        del message
        return []

    def _receive_tensors(self, message: DataMessage) -> Payload | str:
        if self._has_more:
            return "it has too many frames"
        found = self._other.find(message.stream, message.step)
        return "its slot holds another message" if found is None else found

    def recycle(self, stream: Stream, payload: Payload) -> None:
        """Nothing: it is the sender's memory."""
