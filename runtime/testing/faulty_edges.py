"""What faults do to simulated messages: which one is struck, and what becomes of it.

Owns the faults of edges that wait, the cuts, and the words of the dead. Knows nothing of time but
what it is told, and of workers only their step.
"""

import random
from collections import Counter
from collections.abc import Sequence

from runtime.core.messages import Acknowledged, Arrived, Event, Rejected, StopTold
from runtime.core.plan import Side
from runtime.core.worker import WorkerCore
from runtime.faults.plan import Fault

LOSSES = {"drop", "corrupt-header"}
DAMAGES = {"corrupt", "truncate"}
CUTS = {"cut", "oversize", "partition"}
LATE = {"delay", "reorder"}
OVERTAKEN_S = 0.03
OTHER = {Side.BELOW: Side.ABOVE, Side.ABOVE: Side.BELOW}


class FaultyEdges:
    """The edges of a pipeline, each named by its lower worker, and what is to strike them."""

    def __init__(
        self, faults: Sequence[Fault], rng: random.Random, *, silent: set[tuple[int, int]]
    ) -> None:
        """A fault strikes a payload or, on the `silent` directions that carry none and on some
        others, any word."""
        self.epochs: Counter[int] = Counter()  # what was sent in an earlier one is lost
        self._parted_until_s: dict[int, float] = {}
        self._waiting: dict[tuple[int, int], list[tuple[bool, Fault]]] = {}
        for fault in faults:
            if fault.edge is not None:
                any_word = fault.edge in silent or rng.random() < 0.3
                self._waiting.setdefault(fault.edge, []).append((any_word, fault))

    def strike(self, edge: tuple[int, int], event: Event, *, step: int) -> Fault | None:
        """The fault that strikes this message, sent at `step`: the first from its step on."""
        for waiting in self._waiting.get(edge, ()):
            any_word, fault = waiting
            if not any_word:
                if not isinstance(event, Arrived):
                    continue
                step = event.step
            if step >= fault.step:
                self._waiting[edge].remove(waiting)
                return fault
        return None

    def pass_on(self, fault: Fault | None, low: int, event: Event, now_s: float) -> Event | None:
        """What is left of a message on the edge above worker `low`; None: nothing."""
        kind = None if fault is None else fault.kind
        if fault is not None and kind in CUTS:
            self.epochs[low] += 1
            self._parted_until_s[low] = now_s + fault.amount
        if kind in LOSSES or kind in CUTS or now_s < self._parted_until_s.get(low, 0.0):
            return None
        if kind in DAMAGES:
            # Damage to any other word leaves nothing that says what it was.
            return Rejected(stream=event.stream) if isinstance(event, Arrived) else None
        return event


def words_of_the_dead(generation: int, hearer: WorkerCore, side: Side) -> list[Event]:
    """The worst that a dead life on the hearer's `side` could say: all of it would be believed."""
    to = hearer.generation
    words: list[Event] = []
    for stream, incoming in hearer.edges.incoming.items():
        if stream.source is side:
            words.append(
                Arrived(
                    stream=stream,
                    step=incoming.expected,
                    generation=generation,
                    to=to,
                    checksum=-1,
                )
            )
    for stream, outgoing in hearer.edges.outgoing.items():
        if stream.target is side:
            words.append(
                Acknowledged(
                    stream=stream,
                    generation=generation,
                    to=to,
                    expected=outgoing.sent,
                    released=outgoing.sent,
                    durable=outgoing.sent,
                )
            )
    if side is Side.BELOW:
        words.append(StopTold(generation=generation, to=to, step=hearer.reached))
    return words


def edge_of(k: int, side: Side) -> tuple[int, int]:
    """The neighbour on a side, and the lower worker of the edge to it."""
    return (k + 1, k) if side is Side.ABOVE else (k - 1, k - 1)
