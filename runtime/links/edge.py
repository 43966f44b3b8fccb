"""One end of an edge as every transport makes it: headers over a channel, tensors by their path.

Owns what a header must be to be heard: of this run, whole, and flowing this way.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from runtime.block import Payload
from runtime.core.messages import Ack, Data, Message, SnapshotRequest, Stop
from runtime.core.plan import Side, Stream
from runtime.links.channel import Channel
from runtime.links.codec import BadMessage, decode, encode
from runtime.links.guards import digest_of
from runtime.links.link import Arrival, Damaged, End, Frame, Pollable, TensorPath


class EdgeLink:
    """A Link; `tensors` makes the path of its tensors over or beside the channel."""

    def __init__(
        self, end: End, channel: Channel, tensors: Callable[[End, Channel], TensorPath]
    ) -> None:
        self._end = end
        self._incoming, self._outgoing = end.incoming, end.outgoing
        self._guard, self._fingerprint = end.guard, end.fingerprint
        self._channel = channel
        self._tensors = tensors(end, channel)

    @property
    def address(self) -> str:
        """Where the other end is to connect."""
        return self._channel.address

    @property
    def pollables(self) -> Sequence[Pollable]:
        return [*self._channel.pollables, *self._tensors.pollables]

    @property
    def limit_bytes(self) -> int:
        return self._channel.limit_bytes

    def send(self, message: Message, payload: Payload = ()) -> bool:
        return self.send_frames(self.frames(message, payload))

    def frames(self, message: Message, payload: Payload = ()) -> list[Frame]:
        make = self._guard.makes_hash
        if isinstance(message, Data) and make is not None and not message.checksum:
            message = replace(message, checksum=digest_of(make, payload))
        header = encode(message, self._guard, edge=self._fingerprint)
        return [header, *self._tensors.frames(payload)]

    def send_frames(self, frames: list[Frame]) -> bool:
        return self._tensors.send(frames)

    def receive(self) -> Arrival | Damaged | None:
        found = self._tensors.take_late()
        while found is None and (header := self._channel.receive()) is not None:
            found = self._read(header)
            self._channel.skip_rest()
            if found is not None:
                self._tensors.note(found.message if isinstance(found, Arrival) else found)
        return found

    def _read(self, header: bytes) -> Arrival | Damaged | None:
        """The message of a header; of what follows it, only what belongs to it is taken."""
        try:
            message = decode(header, self._guard, edge=self._fingerprint)
        except BadMessage as error:
            return Damaged(stream=None, reason=str(error))
        if not self._flows_here(message):
            return Damaged(stream=None, reason=f"{message} does not flow this way")
        if isinstance(message, Data) and not message.absent:
            return self._tensors.receive(message)
        if self._channel.has_more:
            stream = message.stream if isinstance(message, Data) else None
            return Damaged(stream=stream, reason="a message without tensors has some")
        return Arrival(message)

    def _flows_here(self, message: Message) -> bool:
        """Whether this end receives that stream, or sends it if the message is about that; a stop
        is said upward."""
        match message:
            case Data(stream=stream) | SnapshotRequest(stream=stream):
                return stream in self._incoming
            case Ack(stream=stream):
                return stream in self._outgoing
            case Stop():
                return self._end.side is Side.BELOW
        return True

    def recycle(self, stream: Stream, payload: Payload) -> None:
        self._tensors.recycle(stream, payload)

    @property
    def unreached(self) -> str | None:
        return self._channel.unreached

    def redial(self, address: str | None = None) -> None:
        self._channel.redial(address)

    def close(self) -> None:
        self._tensors.close()
        self._channel.close()
