"""An edge whose tensors follow their header over ZeroMQ.

Owns how frames become tensors: they are sent without a copy, in chunks, and received straight into
64-byte-aligned tensors, used ones if there are any.
"""

from collections.abc import Sequence

import zmq

from runtime.block import Payload, Specs, message_bytes
from runtime.core.messages import Data, Message
from runtime.core.plan import Stream
from runtime.links.admission import Admission
from runtime.links.channel import Channel
from runtime.links.edge import EdgeLink
from runtime.links.link import Arrival, Damaged, End, Frame, Pollable
from runtime.links.tensor_bytes import CHUNK_BYTES, chunks, tensor_bytes

HEADER_LIMIT_BYTES = 4096
MOST_SPARE = 2  # payloads of a stream that are stored to receive into


def zmq_link(
    context: zmq.Context[zmq.Socket[bytes]],
    end: End,
    *,
    bind: str | None = None,
    connect: str | None = None,
    admission: Admission | None = None,
) -> EdgeLink:
    """One end of an edge over ipc or tcp (see Channel)."""
    channel = Channel(
        context,
        most_bytes=_most_bytes(end.incoming),
        limit_bytes=_most_bytes(end.outgoing),
        bind=bind,
        connect=connect,
        admission=admission,
    )
    return EdgeLink(end, channel, FollowingTensors)


def _most_bytes(specs: Specs) -> int:
    """The size that no frame of these streams exceeds."""
    largest = max(map(message_bytes, specs.values()), default=0)
    return min(largest, CHUNK_BYTES) + HEADER_LIMIT_BYTES


class SpareTensors:
    """Tensors to receive into, whose pages need not be made anew."""

    def __init__(self, specs: Specs) -> None:
        self._specs = specs
        self._spare: dict[Stream, list[Payload]] = {stream: [] for stream in specs}

    def take(self, stream: Stream) -> Payload:
        """Tensors for a message of the stream: used ones if there are any."""
        try:
            return self._spare[stream].pop()
        except IndexError:
            return tuple(spec.empty() for spec in self._specs[stream])

    def recycle(self, stream: Stream, payload: Payload) -> None:
        """Take back what nobody uses any more."""
        if len(self._spare[stream]) < MOST_SPARE:
            self._spare[stream].append(payload)


class FollowingTensors:
    """A TensorPath: the channel itself."""

    pollables: Sequence[Pollable] = ()

    def __init__(self, end: End, channel: Channel) -> None:
        self._end = end
        self._channel = channel
        self._spare = SpareTensors(end.incoming)
        self.recycle = self._spare.recycle

    def frames(self, payload: Payload) -> list[Frame]:
        return [chunk for tensor in payload for chunk in chunks(tensor_bytes(tensor))]

    def send(self, frames: list[Frame]) -> bool:
        return self._channel.send(frames)

    def receive(self, message: Data) -> Arrival | Damaged:
        payload = self._spare.take(message.stream)
        for tensor in payload:
            for chunk in chunks(tensor_bytes(tensor)):
                if not self._channel.has_more:
                    return Damaged(stream=message.stream, reason="it has too few frames")
                size = self._channel.receive_into(chunk)
                if size != len(chunk):
                    reason = f"a frame of {size} bytes for {len(chunk)}"
                    return Damaged(stream=message.stream, reason=reason)
        if self._channel.has_more:
            return Damaged(stream=message.stream, reason="it has too many frames")
        return self._end.checked(message, payload)

    def take_late(self) -> None:
        """Nothing is late."""

    def note(self, received: Message | Damaged) -> None:
        """Nothing changes with it."""

    def close(self) -> None:
        """It has nothing of its own."""
