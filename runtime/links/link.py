"""The seam between the driver and a transport: one end of one edge.

Owns the Protocol only. A link carries messages in order, never blocks, and never decides.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import zmq

from runtime.block import Payload, Specs
from runtime.core.plan import Side, Stream
from runtime.links.message import Message

Frame = bytes | memoryview
Pollable = zmq.Socket[bytes] | int  # a socket or a file descriptor


class LinkError(Exception):
    """An edge can't be made, or its other end does not answer."""


@dataclass(frozen=True, kw_only=True)
class Damaged:
    """A message arrived that fails its checks; `stream` is known if its header was whole."""

    stream: Stream | None
    reason: str


@dataclass(frozen=True, kw_only=True)
class End:
    """One end of an edge: the worker's `side` on which it is, and what the edge carries.

    Where it does not guard payloads, checksums cover headers only; both ends must agree.
    """

    side: Side
    run_id: str
    specs: Specs
    guards_payload: bool = True

    @property
    def incoming(self) -> Specs:
        """What this end receives."""
        return {stream: found for stream, found in self.specs.items() if stream.source is self.side}

    @property
    def outgoing(self) -> Specs:
        """What this end sends."""
        return {stream: found for stream, found in self.specs.items() if stream.target is self.side}


class Link(Protocol):
    """One end of an edge. All methods are called by one thread, and none but `close` waits."""

    @property
    def pollables(self) -> Sequence[Pollable]:
        """What the driver polls for input."""

    @property
    def limit_bytes(self) -> int:
        """The largest frame that the other end takes."""

    def send(self, message: Message) -> bool:
        """Hand a message over; False where no peer is connected (it is then not sent).

        The link holds a reference to the payload until the transport is done with it; the caller
        must not write to it any more.
        """

    def receive(self) -> Message | Damaged | None:
        """The next message that has arrived, or None. Its payload is the caller's until `recycle`,
        to be read only."""

    def recycle(self, stream: Stream, payload: Payload) -> None:
        """Take back the tensors of a message that is used up; the caller has let go of them."""

    def frames(self, message: Message) -> list[Frame]:
        """The bytes that `send` would send: a header, then one frame a tensor."""

    def send_frames(self, frames: list[Frame]) -> bool:
        """Send bytes as they are, as `send` does."""

    def redial(self, address: str | None = None) -> None:
        """Connect anew, to a new address if one is given; nothing at the end that listens.

        What is on its way may be lost.
        """

    def close(self) -> None:
        """Close at once; what has not left yet is dropped."""
