"""What one worker is to do, as numbers: its steps, its streams, their windows, the ties' lag.

Owns which message is due at which step. Knows nothing of state: everything here is constant
for a run.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum


class Side(Enum):
    """A worker's two edges."""

    BELOW = "below"
    ABOVE = "above"
    __hash__ = object.__hash__  # each member is one object; Enum's own is slow, and seeded


class Stream(Enum):
    """What crosses an edge. Each stream has one direction, so a worker that receives it from
    one side sends it, if at all, to the other: a stream and a direction name one queue."""

    ACTIVATION = "activation"  # upward: the detached output of the lower home
    TIE_UP = "tie_up"  # upward: gradients or weights of the lower worker's guest
    TIE_DOWN = "tie_down"  # downward: gradients or weights of the upper worker's shared units
    __hash__ = object.__hash__

    @property
    def source(self) -> Side:
        """The side it is received from."""
        return Side.ABOVE if self is Stream.TIE_DOWN else Side.BELOW

    @property
    def target(self) -> Side:
        """The side it is sent to."""
        return Side.BELOW if self is Stream.TIE_DOWN else Side.ABOVE


@dataclass(frozen=True, kw_only=True)
class Window:
    """How much of a stream may be sent and not yet released by its receiver.

    `max_retained` is how many messages the sender can retain until the receiver's snapshot
    covers them; None sets no bound. Both ends must know it.
    """

    max_messages: int
    max_bytes: int
    message_bytes: int
    max_retained: int | None = None

    def __post_init__(self) -> None:
        if self.max_messages < 2:
            raise ValueError(f"window of {self.max_messages} message; it must hold at least 2")
        if self.max_bytes < 2 * self.message_bytes:
            raise ValueError(
                f"window of {self.max_bytes} bytes can't hold two messages of {self.message_bytes};"
                f" give it at least {2 * self.message_bytes}"
            )

    @property
    def num_largest(self) -> int:
        """How many of its largest messages it holds."""
        by_bytes = self.max_bytes // self.message_bytes if self.message_bytes else self.max_messages
        return min(self.max_messages, by_bytes)


@dataclass(frozen=True, kw_only=True)
class Free:
    """Ties without a fixed lag: a step takes what has arrived, and so no run repeats another.

    It waits only if the newest that was heard is over `max_staleness` steps old. With
    `keeps_newest` (weights) the newest message stays in use until a newer one comes; without it
    (gradients) each is used once.
    """

    max_staleness: int
    keeps_newest: bool

    def __post_init__(self) -> None:
        if self.max_staleness < 0:
            raise ValueError(f"max staleness {self.max_staleness} is negative; give 0 or more")

    def allows(self, step: int, message: int) -> bool:
        """Whether a tie that was made at step `message` is fresh enough for a step."""
        return step - message <= self.max_staleness


@dataclass(frozen=True, kw_only=True)
class WorkerPlan:
    """One worker's part in a run of `num_steps` steps.

    `incoming` and `outgoing` hold the window of each stream it receives and sends. Activations
    and upward ties are due at the step they were made at; a downward tie made at step s is due
    at step s + lag, and one that would be due after the last step is made but never sent. Under
    `free` no tie is due at any step. `snapshot_every` and `checkpoint_every` are in steps. Without
    snapshots (0) what is released is also durable; with them a checkpoint is taken at the end
    too, and 0 takes no others.
    """

    num_steps: int
    lag: int = 0
    incoming: Mapping[Stream, Window] = field(default_factory=dict)
    outgoing: Mapping[Stream, Window] = field(default_factory=dict)
    snapshot_every: int = 0
    checkpoint_every: int = 0
    free: Free | None = None

    def __post_init__(self) -> None:
        if self.num_steps < 1:
            raise ValueError(f"{self.num_steps} steps; a run has at least 1")
        if self.lag < 0:
            raise ValueError(f"lag {self.lag} is negative; 0 ties neighbours step by step")
        if self.free is not None and self.lag:
            raise ValueError(f"lag {self.lag} beside free ties; give one of them")
        if self.checkpoint_every and not self.snapshot_every:
            raise ValueError("checkpoints without snapshots; give snapshot_every")
        for windows in (self.incoming, self.outgoing):
            down = windows.get(Stream.TIE_DOWN)
            if down is not None and down.num_largest < self.lag + 1:
                raise ValueError(
                    f"the downward window of {down.num_largest} messages is too small for lag"
                    f" {self.lag}; it must hold at least {self.lag + 1}"
                )
        for stream, window in self.outgoing.items():
            least = self.min_retained(stream)
            if window.max_retained is not None and window.max_retained < least:
                raise ValueError(
                    f"room to retain {window.max_retained} messages of the {stream.value} stream;"
                    f" its window and lag need {least}"
                )

    def min_retained(self, stream: Stream) -> int:
        """How many messages of a stream its sender must be able to retain: a window, and those
        that the receiver's latest possible snapshot does not cover."""
        late = self.lag if stream is Stream.TIE_DOWN else 0
        window = self.outgoing.get(stream) or self.incoming[stream]
        return window.max_messages + late + 1

    def num_messages(self, stream: Stream) -> int:
        """How many messages the stream carries in the whole run."""
        return self.consumed_before(stream, self.num_steps)

    def due(self, stream: Stream, step: int) -> int | None:
        """The message of an incoming stream that is needed at `step`, if any is."""
        if stream not in self.incoming or self.is_free(stream):
            return None
        message = step - self.lag if stream is Stream.TIE_DOWN else step
        return message if message >= 0 else None

    def is_free(self, stream: Stream) -> bool:
        """Whether the stream's messages are taken as they come."""
        return self.free is not None and stream is not Stream.ACTIVATION

    def consumed_before(self, stream: Stream, step: int) -> int:
        """How many of a stream's messages its receiver's steps before `step` use up."""
        late = self.lag if stream is Stream.TIE_DOWN else 0
        return max(0, min(step, self.num_steps) - late)

    def sides(self) -> frozenset[Side]:
        """The sides on which this worker has a neighbour."""
        sources = {stream.source for stream in self.incoming}
        return frozenset(sources | {stream.target for stream in self.outgoing})
