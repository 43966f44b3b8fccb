"""How long messages take: what they cost the two workers' loops, and their way between them.

Owns the figures of a machine and of its links, and what is under way on them. Knows nothing of
workers' states.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.scale.host import Clock, Happen, Host, Thread
from benchmarks.scale.transfers import Transfers


@dataclass(frozen=True, kw_only=True)
class Wire:
    """One direction of an edge.

    `latency_s` is what the smallest message takes, beside what it costs either loop. The rates, in
    bytes a second, are of tensors: `send` and `receive` keep the loop of that end busy (a checksum;
    a checksum and a copy), `transfer` the wire. A message in shared memory has no transfer.
    """

    latency_s: float = 0.0
    transfer_bytes_per_s: float = math.inf
    send_bytes_per_s: float = math.inf
    receive_bytes_per_s: float = math.inf
    takes_cores: bool = False
    """Whether a transfer is the work of the two workers' I/O threads (benchmarks.scale.transfers),
    and at that rate takes one of their host's cores."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What a worker's own threads take, in seconds; the default takes no time.

    message_s: a loop's work for one message, header and all, that it sends or receives, and any
    thread's for one thing that was done. step_overheads_s: what a step takes beside the block's own
    work, step after step, and from the beginning again: to ask the core what follows, and what the
    machine lets it wait. copy_bytes_per_s: a copy of what a block made into retention, alone.
    copy_speeds: the share of that which each of 1, 2, ... copies of a host gets; more share what
    the last of these make in all. None given: they don't share. cores: how many threads of a host
    work at once; None: all.
    """

    message_s: float = 0.0
    step_overheads_s: tuple[float, ...] = (0.0,)
    copy_bytes_per_s: float = math.inf
    copy_speeds: tuple[float, ...] = ()
    cores: int | None = None


def make_host(clock: Clock, machine: Machine) -> Host:
    """What the workers of one host share."""
    return Host(clock, cores=machine.cores, copy_speeds=machine.copy_speeds)


class Network:
    """The edges of a pipeline; `wire(k, to)` is the direction from worker k to its neighbour, and
    `host(k)` the host that worker k is on.

    What goes one way on one edge is carried one after the other; a wire has all its bandwidth in
    either direction.
    """

    def __init__(
        self, clock: Clock, *, wire: Callable[[int, int], Wire], host: Callable[[int], Host]
    ) -> None:
        self._clock = clock
        self.wire = wire
        self._transfers = Transfers(host)
        self._unshared = Host(clock)
        self._ways: dict[tuple[int, int], Thread] = {}

    def carry(self, k: int, to: int, size_bytes: int, then: Happen) -> None:
        """Let something happen when what worker k sends now is with worker `to`; never before an
        earlier message."""
        wire = self.wire(k, to)
        transfer_s = size_bytes / wire.transfer_bytes_per_s

        def arrive() -> None:
            self._clock.after(wire.latency_s, then)

        if wire.takes_cores:
            self._transfers.carry(k, to, transfer_s, arrive)
            return
        if (way := self._ways.get((k, to))) is None:
            way = self._ways[k, to] = Thread(self._unshared)
        way.add(transfer_s, arrive)
