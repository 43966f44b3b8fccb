"""An edge between two workers of one host whose tensors stay where their sender retains them.

Owns how a receiver finds them there. What a worker sends it has copied into its retention anyway;
the receiver maps that memory and uses a message in place, until the core lets its slot be used
again, which is after the release. Headers, credits and wake-ups go over the channel.

A checksum covers the header, and not the tensors, unless asked for: no wire can damage these. What
could is a slot that is used again too early: no writer does that, and its header would show it.
"""

from collections.abc import Sequence

import zmq

from runtime.block import Payload
from runtime.core.messages import Data, Message
from runtime.core.plan import Stream
from runtime.links.channel import Channel
from runtime.links.edge import EdgeLink
from runtime.links.link import Arrival, Damaged, End, Frame, Pollable
from runtime.links.zeromq import HEADER_LIMIT_BYTES
from runtime.state.retention import NeighboursRetention


def shm_link(
    context: zmq.Context[zmq.Socket[bytes]],
    end: End,
    other: NeighboursRetention,
    *,
    bind: str | None = None,
    connect: str | None = None,
) -> EdgeLink:
    """One end of an edge; `other` is the memory of the worker at the other end.

    The payload of a message that is sent must lie in the sender's retention. What is received is
    read-only, and stays valid until the message's slot is used again.
    """
    channel = Channel(
        context,
        most_bytes=HEADER_LIMIT_BYTES,
        limit_bytes=HEADER_LIMIT_BYTES,
        bind=bind,
        connect=connect,
    )
    return EdgeLink(end, channel, lambda end, channel: SharedTensors(end, channel, other))


class SharedTensors:
    """A TensorPath: the sender's own memory."""

    pollables: Sequence[Pollable] = ()

    def __init__(self, end: End, channel: Channel, other: NeighboursRetention) -> None:
        self._end = end
        self._channel = channel
        self._other = other

    def frames(self, payload: Payload) -> list[Frame]:
        del payload
        return []

    def send(self, frames: list[Frame]) -> bool:
        return self._channel.send(frames)

    def receive(self, message: Data) -> Arrival | Damaged:
        if self._channel.has_more:
            return Damaged(stream=message.stream, reason="it has too many frames")
        found = self._other.find(message.stream, message.step)
        if found is None:
            return Damaged(stream=message.stream, reason="its slot holds another message")
        return self._end.checked(message, found)

    def take_late(self) -> None:
        """Nothing is late."""

    def note(self, received: Message | Damaged) -> None:
        """Nothing changes with it."""

    def recycle(self, stream: Stream, payload: Payload) -> None:
        """Nothing: it is the sender's memory."""

    def close(self) -> None:
        """The mapping goes with the process."""
