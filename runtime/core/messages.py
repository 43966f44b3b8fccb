"""The vocabulary of a worker's core: events in, actions out.

Owns the words only. Payloads never appear: a message is named by its stream and step, and the
driver keeps the tensors. Step n of a stream is its n-th message; `expected`, `released` and
`durable` are cumulative: everything below them has arrived, been used up, or is covered by the
receiver's snapshot.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from runtime.core.plan import Side, Stream


class Phase(Enum):
    """The three computations of a step."""

    FORWARD = "forward"  # home forward: makes the activation
    UPDATE = "update"  # guest, head, loss, backward (and own optimizer step): makes the ties
    APPLY = "apply"  # the partners' ties


# Events ---------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Linked:
    """A neighbour said hello: its generation, and the next message it wants of each stream."""

    side: Side
    generation: int
    wants: Mapping[Stream, int]


@dataclass(frozen=True, kw_only=True)
class Arrived:
    """A message arrived whole. `generation` is its sender's; `absent` marks a left-out term."""

    stream: Stream
    step: int
    generation: int
    checksum: int
    absent: bool = False


@dataclass(frozen=True, kw_only=True)
class Rejected:
    """A message of the stream arrived damaged and was thrown away."""

    stream: Stream


@dataclass(frozen=True, kw_only=True)
class Acknowledged:
    """The receiver of an outgoing stream told how far it is; `resend` asks again from expected."""

    stream: Stream
    generation: int
    expected: int
    released: int
    durable: int
    resend: bool = False


@dataclass(frozen=True, kw_only=True)
class Computed:
    """A computation finished. `absent`: its tie has no finite value, and is sent as a marker."""

    phase: Phase
    step: int
    absent: bool = False


@dataclass(frozen=True, kw_only=True)
class SnapshotTaken:
    """The state before `step` is safe outside this process."""

    step: int


@dataclass(frozen=True, kw_only=True)
class SnapshotWanted:
    """A neighbour's retention is filling up: take a snapshot at the next step boundary."""


@dataclass(frozen=True, kw_only=True)
class Tick:
    """Some time has passed; repeat what a lost message would have said."""


Event = (
    Linked | Arrived | Rejected | Acknowledged | Computed | SnapshotTaken | SnapshotWanted | Tick
)

# Actions --------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Hello:
    """Tell a neighbour who we are and which message of each of its streams we want next."""

    side: Side
    generation: int
    wants: Mapping[Stream, int]


@dataclass(frozen=True, kw_only=True)
class Compute:
    """Run one phase of a step. For APPLY, the tie messages to use; None: that term is absent."""

    phase: Phase
    step: int
    from_below: int | None = None
    from_above: int | None = None


@dataclass(frozen=True, kw_only=True)
class Send:
    """Send one message of an outgoing stream."""

    stream: Stream
    step: int
    absent: bool = False


@dataclass(frozen=True, kw_only=True)
class Keep:
    """Keep the payload that has just arrived; a payload without this word is to be dropped."""

    stream: Stream
    step: int


@dataclass(frozen=True, kw_only=True)
class Release:
    """Drop the payload of an incoming message: it is used up."""

    stream: Stream
    step: int


@dataclass(frozen=True, kw_only=True)
class Acknowledge:
    """Tell the sender of an incoming stream how far we are."""

    stream: Stream
    expected: int
    released: int
    durable: int
    resend: bool = False


@dataclass(frozen=True, kw_only=True)
class Trim:
    """Forget the outgoing messages below `step`: their receiver will never ask for them."""

    stream: Stream
    step: int


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """Save the state before `step`."""

    step: int


@dataclass(frozen=True, kw_only=True)
class Finish:
    """All steps are done and no neighbour needs this worker any more."""


Action = Hello | Compute | Send | Keep | Release | Acknowledge | Trim | Snapshot | Finish
