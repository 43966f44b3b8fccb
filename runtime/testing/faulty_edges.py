"""What faults do to simulated messages: which one is struck, and what becomes of it.

Owns the faults of edges that wait, the cuts, and what the dead say. Knows nothing of time but
what it is told, and of workers only their step.
"""

import random
from collections import Counter
from collections.abc import Sequence

from runtime.core.messages import Ack, Data, Event, Message, Received, Rejected, Stop
from runtime.core.plan import Side
from runtime.core.worker import WorkerCore
from runtime.faults.plan import Fault
from runtime.testing.simulation import neighbour

LOSSES = {"drop", "corrupt-header"}
DAMAGES = {"corrupt", "truncate"}
CUTS = {"cut", "oversize", "partition"}
LATE = {"delay", "reorder"}
OVERTAKEN_S = 0.03


class FaultyEdges:
    """The edges of a pipeline, each named by its lower worker, and what is to strike them."""

    def __init__(
        self, faults: Sequence[Fault], rng: random.Random, *, silent: set[tuple[int, int]]
    ) -> None:
        """A fault strikes a payload or, on the `silent` directions that carry none and on some
        others, any message."""
        self.epochs: Counter[int] = Counter()  # what was sent in an earlier one is lost
        self._parted_until_s: dict[int, float] = {}
        self._waiting: dict[tuple[int, int], list[tuple[bool, Fault]]] = {}
        for fault in faults:
            if fault.edge is not None:
                is_any = fault.edge in silent or rng.random() < 0.3
                self._waiting.setdefault(fault.edge, []).append((is_any, fault))

    def strike(self, edge: tuple[int, int], message: Message, *, step: int) -> Fault | None:
        """The fault that strikes this message, sent at `step`: the first from its step on."""
        for waiting in self._waiting.get(edge, ()):
            is_any, fault = waiting
            if not is_any:
                if not isinstance(message, Data):
                    continue
                step = message.step
            if step >= fault.step:
                self._waiting[edge].remove(waiting)
                return fault
        return None

    def pass_on(
        self, fault: Fault | None, low: int, received: Received, now_s: float
    ) -> Event | None:
        """What is left of a message on the edge above worker `low`; None: nothing."""
        kind = None if fault is None else fault.kind
        if fault is not None and kind in CUTS:
            self.epochs[low] += 1
            self._parted_until_s[low] = now_s + fault.amount
        if kind in LOSSES or kind in CUTS or now_s < self._parted_until_s.get(low, 0.0):
            return None
        if kind in DAMAGES:
            # Damage to any other message leaves nothing that says what it was.
            data = received.message
            return Rejected(stream=data.stream) if isinstance(data, Data) else None
        return received


def messages_of_the_dead(generation: int, hearer: WorkerCore, side: Side) -> list[Received]:
    """The worst that a dead generation on the hearer's `side` could say: all of it would be
    believed."""
    to = hearer.generation
    messages: list[Message] = [
        Data(stream=stream, step=incoming.expected, generation=generation, to=to, checksum=-1)
        for stream, incoming in hearer.edges.incoming.items()
        if stream.source is side
    ]
    for stream, outgoing in hearer.edges.outgoing.items():
        if stream.target is side:
            messages.append(
                Ack(
                    stream=stream,
                    generation=generation,
                    to=to,
                    expected=outgoing.sent,
                    released=outgoing.sent,
                    durable=outgoing.sent,
                )
            )
    if side is Side.BELOW:
        messages.append(Stop(generation=generation, to=to, step=hearer.reached))
    return [Received(side=side, message=message) for message in messages]


def edge_of(k: int, side: Side) -> tuple[int, int]:
    """The neighbour on a side, and the lower worker of the edge to it."""
    other = neighbour(k, side)
    return other, min(k, other)
