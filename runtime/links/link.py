"""The seam between the driver and a transport: one end of one edge.

Owns two protocols: what a link is to its driver, and how tensors travel within one (a new link is
a new TensorPath). A link carries messages in order, never blocks, and never decides.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Protocol

import zmq

from runtime.block import Payload, Specs
from runtime.core.messages import Data, Message
from runtime.core.plan import Side, Stream
from runtime.links.codec import fingerprint
from runtime.links.guards import Checksums, Guard, Macs

Frame = bytes | memoryview
Pollable = zmq.Socket[bytes] | int  # a socket or a file descriptor


class LinkError(Exception):
    """An edge can't be made, or its other end does not answer."""


class Arrival(NamedTuple):
    """A message that has arrived whole, and its tensors; none but present data has any."""

    message: Message
    payload: Payload = ()


@dataclass(frozen=True, kw_only=True)
class Damaged:
    """A message arrived that fails its checks; `stream` is known if its header was whole."""

    stream: Stream | None
    reason: str


@dataclass(frozen=True, kw_only=True)
class End:
    """One end of an edge: the worker's `side` on which it is, and what the edge carries.

    On a network it has `macs`; without them, checksums cover headers, and tensors if it
    `guards_payload`. Both ends must agree.
    """

    side: Side
    run_id: str
    specs: Specs
    guards_payload: bool = True
    macs: Macs | None = None

    @cached_property
    def fingerprint(self) -> int:
        """What both ends of an edge must agree on before anything is sent."""
        return fingerprint(self.run_id, self.specs)

    @cached_property
    def guard(self) -> Guard:
        """How messages are signed and checked."""
        return self.macs or Checksums(self.fingerprint, covers_tensors=self.guards_payload)

    @property
    def incoming(self) -> Specs:
        """What this end receives."""
        return {stream: found for stream, found in self.specs.items() if stream.source is self.side}

    @property
    def outgoing(self) -> Specs:
        """What this end sends."""
        return {stream: found for stream, found in self.specs.items() if stream.target is self.side}

    def checked(self, message: Data, payload: Payload) -> Arrival | Damaged:
        """A message with its tensors, if they are those that were sent."""
        if not self.guard.fits(payload, message.checksum):
            return Damaged(stream=message.stream, reason="its tensors fail their checksum")
        return Arrival(message, payload)


class Unreachable(LinkError):
    """Another worker listens at an address at which it can't be reached from here."""


class Link(Protocol):
    """One end of an edge. All methods are called by one thread, and none but `close` waits."""

    @property
    def pollables(self) -> Sequence[Pollable]:
        """What the driver polls for input."""

    @property
    def limit_bytes(self) -> int:
        """The largest frame that the other end takes."""

    def send(self, message: Message, payload: Payload = ()) -> bool:
        """Hand a message over; False if no peer is connected (it is then not sent).

        The link holds a reference to the payload until the transport is done with it; the caller
        must not write to it any more.
        """

    def receive(self) -> Arrival | Damaged | None:
        """The next message that has arrived, or None. Its payload is the caller's until `recycle`,
        to be read only."""

    def recycle(self, stream: Stream, payload: Payload) -> None:
        """Take back the tensors of a message that is used up; the caller has let go of them."""

    def frames(self, message: Message, payload: Payload = ()) -> list[Frame]:
        """The bytes that `send` would send: a header, then the tensors' frames."""

    def send_frames(self, frames: list[Frame]) -> bool:
        """Send bytes as they are, as `send` does."""

    @property
    def unreached(self) -> str | None:
        """The address on another host that is dialled, if nobody answers there."""

    def redial(self, address: str | None = None) -> None:
        """Connect anew, to a new address if one is given; nothing at the end that listens.

        What is on its way may be lost.
        """

    def close(self) -> None:
        """Close at once; what has not left yet is dropped."""


class TensorPath(Protocol):
    """How the tensors of one end of an edge travel, beside or behind the headers on its channel."""

    @property
    def pollables(self) -> Sequence[Pollable]:
        """What is to be polled for tensors, beside the channel."""

    def frames(self, payload: Payload) -> list[Frame]:
        """The tensors' bytes, as `send` takes them."""

    def send(self, frames: list[Frame]) -> bool:
        """Send a header and its tensors; False if no peer is connected."""

    def receive(self, message: Data) -> Arrival | Damaged | None:
        """Read what follows a header on the channel, and nothing behind it. None: the tensors
        come later, by `take_late`."""

    def take_late(self) -> Arrival | Damaged | None:
        """A message whose tensors have come since, or None."""

    def note(self, received: Message | Damaged) -> None:
        """Take note of what was read from the channel: a new generation may be there, or something
        be asked for again, or damaged."""

    def recycle(self, stream: Stream, payload: Payload) -> None:
        """As a link does."""

    def close(self) -> None:
        """Close what is this path's own, before the channel is closed."""
