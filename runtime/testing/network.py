"""How long messages take: what they cost the two workers' loops, and their way between them.

Owns the figures of a machine and of its links, and what is under way on them. Knows nothing of
workers' states: a simulation asks when something that begins now will have happened.
"""

import heapq
import math
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Wire:
    """One direction of an edge.

    `latency_s` is what the smallest word takes, beside what it costs either loop. The rates, in
    bytes a second, are of tensors: `send` and `receive` keep the loop of that end busy (a checksum;
    a checksum and a copy), `transfer` the wire. A message in shared memory has no transfer.
    """

    latency_s: float = 0.0
    transfer_bytes_per_s: float = math.inf
    send_bytes_per_s: float = math.inf
    receive_bytes_per_s: float = math.inf
    takes_cores: bool = False
    """Whether a transfer is the work of its host's cores, so that a host has one at a time."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What a worker's own threads take, in seconds; the default takes no time.

    message_s: a loop's work for one message, header and all, that it sends or receives.
    hand_over_s: what a phase of the block, or a snapshot, takes beside the block's own work: to
    ask the core what follows. copy_bytes_per_s: the copy of what a block made to where it is
    kept. cores: how many loops of a host can be busy at once; None: all of them.
    """

    message_s: float = 0.0
    hand_over_s: float = 0.0
    copy_bytes_per_s: float = math.inf
    cores: int | None = None


class Cores:
    """The cores of one host, each at one thing at a time, in the order of asking."""

    def __init__(self, num: int | None) -> None:
        self._free_s = None if num is None else [0.0] * num

    def end_s(self, from_s: float, duration_s: float) -> float:
        """When work that could begin at `from_s` ends; it takes a core until then."""
        if self._free_s is None or duration_s == 0.0:
            return from_s + duration_s
        end_s = max(from_s, self._free_s[0]) + duration_s
        heapq.heapreplace(self._free_s, end_s)
        return end_s


@dataclass
class Network:
    """The edges of a pipeline; `wire(k, to)` is the direction from worker k to its neighbour.

    What goes one way on one edge is carried one after the other, at the whole bandwidth.
    """

    wire: Callable[[int, int], Wire]
    host: Callable[[int], int] = lambda _: 0
    _free_s: dict[tuple[int, ...], float] = field(default_factory=dict)

    def arrival_s(self, now_s: float, k: int, to: int, size_bytes: int) -> float:
        """When what worker k has sent is with worker `to`; never before an earlier message."""
        wire = self.wire(k, to)
        line = (self.host(k),) if wire.takes_cores and size_bytes else (k, to)
        begins_s = max(now_s, self._free_s.get(line, 0.0), self._free_s.get((k, to), 0.0))
        sent_s = begins_s + size_bytes / wire.transfer_bytes_per_s
        self._free_s[line] = self._free_s[k, to] = sent_s
        return sent_s + wire.latency_s
