"""What one worker is to do, as numbers: its steps, its streams, their windows, the tie's lag.

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


class Stream(Enum):
    """What crosses an edge. Each stream has one direction, so a worker that receives it from
    one side sends it, if at all, to the other: a stream and a direction name one queue."""

    ACTIVATION = "activation"  # upward: the detached output of the lower home
    TIE_UP = "tie_up"  # upward: gradients or weights of the lower worker's guest
    TIE_DOWN = "tie_down"  # downward: gradients or weights of the upper worker's shared units

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
    """How much of a stream may be sent and not yet released by its receiver."""

    max_messages: int
    max_bytes: int
    message_bytes: int

    def __post_init__(self) -> None:
        if self.max_messages < 2:
            raise ValueError(f"window of {self.max_messages} message; it must hold at least 2")
        if self.max_bytes < 2 * self.message_bytes:
            raise ValueError(
                f"window of {self.max_bytes} bytes can't hold two messages of {self.message_bytes};"
                f" give it at least {2 * self.message_bytes}"
            )


@dataclass(frozen=True, kw_only=True)
class WorkerPlan:
    """One worker's part in a run of `num_steps` steps.

    `incoming` and `outgoing` hold the window of each stream it receives and sends. Activations
    and upward ties are due at the step they were made at; a downward tie made at step s is due
    at step s + lag, and one that would be due after the last step is never sent.
    `snapshot_every` is in steps; 0 takes none, and then what is released is also durable.
    """

    num_steps: int
    lag: int = 0
    incoming: Mapping[Stream, Window] = field(default_factory=dict)
    outgoing: Mapping[Stream, Window] = field(default_factory=dict)
    snapshot_every: int = 0

    def __post_init__(self) -> None:
        if self.num_steps < 1:
            raise ValueError(f"{self.num_steps} steps; a run has at least 1")
        if self.lag < 0:
            raise ValueError(f"lag {self.lag} is negative; 0 ties neighbours step by step")
        for windows in (self.incoming, self.outgoing):
            down = windows.get(Stream.TIE_DOWN)
            if down is not None and down.max_messages < self.lag + 1:
                raise ValueError(
                    f"the downward window of {down.max_messages} messages is too small for lag"
                    f" {self.lag}; it must hold at least {self.lag + 1}"
                )

    def num_messages(self, stream: Stream) -> int:
        """How many messages the stream carries in the whole run."""
        late = self.lag if stream is Stream.TIE_DOWN else 0
        return max(0, self.num_steps - late)

    def due(self, stream: Stream, step: int) -> int | None:
        """The message of an incoming stream that is needed at `step`, if any is."""
        if stream not in self.incoming:
            return None
        message = step - self.lag if stream is Stream.TIE_DOWN else step
        return message if message >= 0 else None

    def consumed_before(self, stream: Stream, step: int) -> int:
        """How many of an incoming stream's messages the steps before `step` have used up."""
        late = self.lag if stream is Stream.TIE_DOWN else 0
        return max(0, min(step, self.num_steps) - late)

    def sides(self) -> frozenset[Side]:
        """The sides on which this worker has a neighbour."""
        sources = {stream.source for stream in self.incoming}
        return frozenset(sources | {stream.target for stream in self.outgoing})
