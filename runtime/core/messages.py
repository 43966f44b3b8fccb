"""The vocabulary of a worker's core: what neighbours say, events in, actions out.

Owns the names only. Payloads never appear: a message is named by its stream and step, and the
driver has the tensors. Step n of a stream is its n-th message; `expected`, `released` and
`durable` are cumulative: everything below them has arrived, been used up, or is covered by the
receiver's snapshot.

What one worker sends is what the other receives, so both directions have the same messages, in one
action, `Send(side, message)`, and one event, `Received(side, message)`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from runtime.core.plan import Side, Stream
from runtime.core.tie_stats import TieStats


class Phase(Enum):
    """The three computations of a step."""

    FORWARD = "forward"  # home forward: makes the activation
    UPDATE = "update"  # guest, head, loss, backward (and own optimizer step): makes the ties
    APPLY = "apply"  # the partners' ties


# What neighbours say to each other. `generation` is the sender's, and `to` the receiver's that it
# is meant for: a message counts only if both are those of now.


@dataclass(frozen=True, kw_only=True)
class Hello:
    """Who the sender is, and the next message that it wants of each stream.

    `to` is None if the sender knows no generation of the receiver; `asks` wants a hello back.
    """

    generation: int
    to: int | None
    asks: bool
    wants: Mapping[Stream, int]


@dataclass(frozen=True, kw_only=True)
class Data:
    """One message of a stream; `absent` marks a term that is left out, and has no tensors.

    `checksum` is over the tensors' bytes; 0 if it is not known yet, or not wanted.
    """

    stream: Stream
    step: int
    generation: int
    to: int
    absent: bool = False
    checksum: int = 0


@dataclass(frozen=True, kw_only=True)
class Ack:
    """How far the receiver of a stream is; `resend` asks for everything from `expected` on."""

    stream: Stream
    generation: int
    to: int
    expected: int
    released: int
    durable: int
    resend: bool = False


@dataclass(frozen=True, kw_only=True)
class SnapshotRequest:
    """The sender of a stream has no room left for what may be resent: it wants a snapshot of the
    receiver that covers everything below `durable`."""

    stream: Stream
    generation: int
    to: int
    durable: int


@dataclass(frozen=True, kw_only=True)
class Stop:
    """The job stops before `step`; said by each worker to the one above."""

    generation: int
    to: int
    step: int


Message = Hello | Data | Ack | SnapshotRequest | Stop

# Events ---------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Received:
    """A message arrived whole from the neighbour on a side."""

    side: Side
    message: Message


@dataclass(frozen=True, kw_only=True)
class Rejected:
    """A message of the stream arrived damaged and was thrown away."""

    stream: Stream


@dataclass(frozen=True, kw_only=True)
class Computed:
    """A computation finished. `absent`, of an UPDATE: its ties have no finite value, and are
    sent as absent markers."""

    phase: Phase
    step: int
    absent: bool = False


@dataclass(frozen=True, kw_only=True)
class SnapshotDurable:
    """The snapshot before `step` is stored outside this process."""

    step: int


@dataclass(frozen=True, kw_only=True)
class StopWanted:
    """The user wants the job to stop. The lowest worker decides before which step."""


@dataclass(frozen=True, kw_only=True)
class Tick:
    """Some time has passed; repeat what a lost message would have said."""


Event = Received | Rejected | Computed | SnapshotDurable | StopWanted | Tick

# Actions --------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Send:
    """Send a message to the neighbour on a side. The tensors of `Data` are the driver's to add."""

    side: Side
    message: Message


@dataclass(frozen=True, kw_only=True)
class Compute:
    """Run one phase of a step. For APPLY, the tie messages to use; None: that term is absent.

    If ties are free, these are the newest of those that have come since they were last used.
    """

    phase: Phase
    step: int
    from_below: int | None = None
    from_above: int | None = None


@dataclass(frozen=True, kw_only=True)
class Store:
    """Store the payload that has just arrived; one without this action is to be dropped."""

    stream: Stream
    step: int


@dataclass(frozen=True, kw_only=True)
class Release:
    """Drop the payload of an incoming message: it is used up."""

    stream: Stream
    step: int


@dataclass(frozen=True, kw_only=True)
class Trim:
    """The outgoing messages below `step` may be forgotten: their receiver will never ask for them.
    A driver whose messages lie in a ring has nothing to do."""

    stream: Stream
    step: int


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """Save the state before `step`; with `checkpoint`, as this worker's part of one too. If ties
    are free, `tie_stats` belong to the state."""

    step: int
    checkpoint: bool = False
    tie_stats: TieStats | None = None


@dataclass(frozen=True, kw_only=True)
class Finish:
    """All steps are done and no neighbour needs this worker any more."""


Action = Send | Compute | Store | Release | Trim | Snapshot | Finish
