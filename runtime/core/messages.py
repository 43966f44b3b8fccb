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
from runtime.core.tie_stats import Account


class Phase(Enum):
    """The three computations of a step."""

    FORWARD = "forward"  # home forward: makes the activation
    UPDATE = "update"  # guest, head, loss, backward (and own optimizer step): makes the ties
    APPLY = "apply"  # the partners' ties


# Events ---------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Linked:
    """A neighbour said hello: its generation, and the next message it wants of each stream.

    `heard` is the generation of ours that it knows, if it knows one; `asks` wants a hello back.
    """

    side: Side
    generation: int
    heard: int | None
    asks: bool
    wants: Mapping[Stream, int]


@dataclass(frozen=True, kw_only=True)
class Arrived:
    """A message arrived whole; `absent` marks a left-out term.

    Here and below, `generation` is the sender's and `to` the one it was meant for.
    """

    stream: Stream
    step: int
    generation: int
    to: int
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
    to: int
    expected: int
    released: int
    durable: int
    resend: bool = False


@dataclass(frozen=True, kw_only=True)
class Computed:
    """A computation finished. `absent`, of an UPDATE: its ties have no finite value, and are
    sent as absent markers."""

    phase: Phase
    step: int
    absent: bool = False


@dataclass(frozen=True, kw_only=True)
class SnapshotSafe:
    """The state before `step` is safe outside this process."""

    step: int


@dataclass(frozen=True, kw_only=True)
class SnapshotWanted:
    """The sender of an incoming stream has little room left to keep what it sent: it wants a
    snapshot that covers everything below `durable`."""

    stream: Stream
    generation: int
    to: int
    durable: int


@dataclass(frozen=True, kw_only=True)
class StopWanted:
    """The user wants the job to stop. The lowest worker decides where; the others are told."""


@dataclass(frozen=True, kw_only=True)
class StopTold:
    """The worker below says that the job stops before `step`."""

    generation: int
    to: int
    step: int


@dataclass(frozen=True, kw_only=True)
class Tick:
    """Some time has passed; repeat what a lost message would have said."""


Event = (
    Linked
    | Arrived
    | Rejected
    | Acknowledged
    | Computed
    | SnapshotSafe
    | SnapshotWanted
    | StopWanted
    | StopTold
    | Tick
)

# Actions --------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Hello:
    """Tell a neighbour who we are and which message of each of its streams we want next.

    `heard` is the generation of it that we know; `asks`: we don't know that it has heard us.
    """

    side: Side
    generation: int
    heard: int | None
    asks: bool
    wants: Mapping[Stream, int]


@dataclass(frozen=True, kw_only=True)
class Compute:
    """Run one phase of a step. For APPLY, the tie messages to use; None: that term is absent.

    Where ties are free, these are the newest of those that have come since they were last used.
    """

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
class AskSnapshot:
    """Ask the receiver of an outgoing stream for a snapshot that covers all below `durable`."""

    stream: Stream
    durable: int


@dataclass(frozen=True, kw_only=True)
class TellStop:
    """Tell the worker above that the job stops before `step`."""

    step: int


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """Save the state before `step`; as this worker's part of a checkpoint too, where it says so.
    `account` belongs to the state where timing decides what the steps came to."""

    step: int
    checkpoint: bool = False
    account: Account | None = None


@dataclass(frozen=True, kw_only=True)
class Finish:
    """All steps are done and no neighbour needs this worker any more."""


Action = (
    Hello
    | Compute
    | Send
    | Keep
    | Release
    | Acknowledge
    | Trim
    | AskSnapshot
    | TellStop
    | Snapshot
    | Finish
)
