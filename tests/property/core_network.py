"""A network of cores for hypothesis and random walks: it delivers, delays, repeats, loses, kills.

Each worker here holds one number in place of weights (see runtime.testing.hashed_blocks), and what
its driver and keeper would hold.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from runtime.core.messages import (
    Ack,
    Action,
    Compute,
    Computed,
    Data,
    Event,
    Finish,
    Hello,
    Phase,
    Received,
    Release,
    Send,
    Snapshot,
    SnapshotDurable,
    StopWanted,
    Store,
    Tick,
    Trim,
)
from runtime.core.plan import Side, Stream
from runtime.core.state import State
from runtime.core.worker import WorkerCore
from runtime.testing.hashed_blocks import MESSAGE_BYTES, Case, mix, reference

ACTIVATION, TIE_UP, TIE_DOWN = Stream
OTHER = {Side.BELOW: Side.ABOVE, Side.ABOVE: Side.BELOW}


@dataclass
class Memory:
    """What the keeper owns of one worker, and no death of the worker takes away."""

    saved: tuple[int, int]  # step, weights
    outbox: dict[Stream, dict[int, int | None]] = field(default_factory=dict)
    reached: int = 0
    stop_at: int | None = None
    checkpoints: set[int] = field(default_factory=set)


@dataclass
class Node:
    """One worker: its core and what its driver would hold."""

    core: WorkerCore
    memory: Memory
    weights: int
    works: deque[Compute | Snapshot] = field(default_factory=deque)
    saving: tuple[Snapshot, int] | None = None  # and the weights that it holds
    inbox: dict[tuple[Stream, int], int | None] = field(default_factory=dict)
    phases: list[tuple[Phase, int]] = field(default_factory=list)


class Network:
    """Workers, and one queue for each direction of each edge. Nothing happens by itself."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.nodes = [
            Node(core=WorkerCore(case.plan(k)), memory=Memory(saved=(0, k)), weights=k)
            for k in range(case.num_workers)
        ]
        self.queues: dict[tuple[int, int], deque[tuple[Received, int | None]]] = {}
        for k in range(case.num_workers - 1):
            self.queues[k, k + 1] = deque()
            self.queues[k + 1, k] = deque()
        self.delivered: dict[tuple[int, int], list[tuple[Received, int | None]]] = {
            edge: [] for edge in self.queues
        }
        for k, node in enumerate(self.nodes):
            self._perform(k, node.core.start())

    # What may happen -------------------------------------------------------------------------

    def deliver(self, edge: tuple[int, int]) -> None:
        event, payload = self.queues[edge].popleft()
        self.delivered[edge].append((event, payload))
        self.handle(edge[1], event, payload)

    def finish(self, k: int) -> None:
        """End what worker k computes; without that, what it saves."""
        node = self.nodes[k]
        if not node.works:
            self.save(k)
            return
        action = node.works.popleft()
        assert isinstance(action, Compute), action
        self._calculate(k, node, action)
        self._take_snapshot(node)  # what was to be done after it begins at once
        absent = action.phase is Phase.UPDATE and (k, action.step) in self.case.absent
        self.handle(k, Computed(phase=action.phase, step=action.step, absent=absent))

    def save(self, k: int) -> None:
        """Let the snapshot that worker k has taken become durable."""
        node = self.nodes[k]
        (snapshot, weights), node.saving = node.saving, None
        node.memory.saved = (snapshot.step, weights)
        if snapshot.checkpoint:
            node.memory.checkpoints.add(snapshot.step)
        self.handle(k, SnapshotDurable(step=snapshot.step))

    def _take_snapshot(self, node: Node) -> None:
        while node.works and isinstance(node.works[0], Snapshot):
            assert node.saving is None
            node.saving = node.works.popleft(), node.weights

    def handle(self, k: int, event: Event, payload: int | None = None) -> None:
        node = self.nodes[k]
        actions = node.core.handle(event)
        node.memory.reached, node.memory.stop_at = node.core.reached, node.core.stop_at
        self._perform(k, actions, payload)

    def tick(self) -> None:
        for k in range(self.case.num_workers):
            self.handle(k, Tick())

    def stop(self) -> None:
        """The user wants the job to stop; every worker is told so."""
        for k in range(self.case.num_workers):
            self.handle(k, StopWanted())

    def kill(self, k: int, *, lose_in: bool, lose_out: bool) -> None:
        """Replace worker k by one that has its last snapshot and what the keeper retained.

        What was on its way to it and from it may be lost, or may still come.
        """
        for (a, b), queue in self.queues.items():
            if (b == k and lose_in) or (a == k and lose_out):
                queue.clear()
        node, memory = self.nodes[k], self.nodes[k].memory
        step, weights = memory.saved
        memory.outbox = {
            stream: {s: payload for s, payload in messages.items() if s < step}
            for stream, messages in memory.outbox.items()
        }
        core = WorkerCore(
            self.case.plan(k),
            generation=node.core.generation + 1,
            start_step=step,
            retained={
                stream: {s: payload is None for s, payload in messages.items()}
                for stream, messages in memory.outbox.items()
            },
            reached=memory.reached,
            stop_at=memory.stop_at,
        )
        phases = [(phase, s) for phase, s in node.phases if s < step]
        self.nodes[k] = Node(core=core, memory=memory, weights=weights, phases=phases)
        self._perform(k, core.start())

    def busy(self) -> list[int]:
        return [k for k, node in enumerate(self.nodes) if node.works or node.saving is not None]

    def saving(self) -> list[int]:
        return [k for k, node in enumerate(self.nodes) if node.saving is not None]

    def moving(self) -> list[tuple[int, int]]:
        return [edge for edge, queue in self.queues.items() if queue]

    def settle(self) -> None:
        """Let everything happen that can; it comes to an end."""
        num_turns = 0
        while self.moving() or self.busy():
            num_turns += 1
            assert num_turns < 200, [node.core.describe() for node in self.nodes]
            for edge in self.moving():
                self.deliver(edge)
            for k in self.busy():
                self.finish(k)

    @property
    def are_done(self) -> bool:
        return all(node.core.state is State.DONE for node in self.nodes)

    # What follows ----------------------------------------------------------------------------

    def _perform(self, k: int, actions: list[Action], payload: int | None = None) -> None:
        node = self.nodes[k]
        for action in actions:
            match action:
                case Compute() | Snapshot():
                    node.works.append(action)
                    self._take_snapshot(node)
                case Store(stream=stream, step=step):
                    assert (stream, step) not in node.inbox
                    node.inbox[stream, step] = payload
                case Release(stream=stream, step=step):
                    del node.inbox[stream, step]
                case Trim(stream=stream, step=step):
                    retained = node.memory.outbox.get(stream, {})
                    for s in [s for s in retained if s < step]:
                        del retained[s]
                case Finish():
                    assert node.core.step == node.core.end
                case Send():
                    self._send(k, action)

    def _send(self, k: int, send: Send) -> None:
        """Put on its way what one worker says to another; its number is a message's checksum."""
        message, content, side = send.message, None, send.side
        is_linked = self.nodes[k].core.edges.peers[side].is_linked
        if isinstance(message, Data):
            content = self.nodes[k].memory.outbox[message.stream][message.step]
            assert message.absent == (content is None)
            message = replace(message, checksum=content or 0)
        assert is_linked or isinstance(message, Hello | Ack)
        event = Received(side=OTHER[side], message=message)
        self._queue(k, side).append((event, content))

    def _queue(self, k: int, side: Side) -> deque[tuple[Received, int | None]]:
        return self.queues[k, k + 1 if side is Side.ABOVE else k - 1]

    def _calculate(self, k: int, node: Node, action: Compute) -> None:
        step = action.step
        node.phases.append((action.phase, step))
        if action.phase is Phase.FORWARD:
            activation = node.inbox[ACTIVATION, step] if k > 0 else None
            self._make(node, ACTIVATION, step, mix(node.weights, activation))
        elif action.phase is Phase.UPDATE:
            activation = node.inbox[ACTIVATION, step] if k > 0 else None  # held until now
            node.weights = mix(node.weights, step, activation)
            absent = (k, step) in self.case.absent
            self._make(node, TIE_UP, step, None if absent else mix(node.weights, 1))
            self._make(node, TIE_DOWN, step, None if absent else mix(node.weights, 2))
        else:
            below, above = action.from_below, action.from_above
            assert below in (None, step)
            assert above in (None, step - self.case.lag)
            below = None if below is None else node.inbox[TIE_UP, below]
            above = None if above is None else node.inbox[TIE_DOWN, above]
            node.weights = mix(node.weights, step, below, above)

    def _make(self, node: Node, stream: Stream, step: int, content: int | None) -> None:
        plan = node.core.plan
        if stream not in plan.outgoing or step >= plan.num_messages(stream):
            return
        retained = node.memory.outbox.setdefault(stream, {})
        room = plan.outgoing[stream].max_retained
        retained[step] = content
        if room is not None:
            retained.pop(step - room, None)  # they lie in a ring, as the keeper's do

    # What must hold --------------------------------------------------------------------------

    def check_windows(self) -> None:
        """On the way or in the inbox: never more than the window, in messages and in bytes."""
        for (a, b), queue in self.queues.items():
            node = self.nodes[b]
            generations = self.nodes[a].core.generation, node.core.generation
            for stream, incoming in node.core.edges.incoming.items():
                if (stream.source is Side.BELOW) != (a < b):
                    continue
                held = {step: content for (s, step), content in node.inbox.items() if s is stream}
                held |= {
                    data.step: content
                    for data, content in ((event.message, content) for event, content in queue)
                    if isinstance(data, Data)
                    and data.stream is stream
                    and (data.generation, data.to) == generations
                    and data.step >= incoming.released
                }
                num_bytes = MESSAGE_BYTES * sum(content is not None for content in held.values())
                assert len(held) <= incoming.window.max_messages, (a, b, stream, sorted(held))
                assert num_bytes <= incoming.window.max_bytes, (a, b, stream, held)

    def check_retention(self) -> None:
        """All that a receiver may ask for again is retained, in as many places as there are."""
        for node in self.nodes:
            for stream, outgoing in node.core.edges.outgoing.items():
                made = min(outgoing.made, node.core.plan.num_messages(stream))
                retained = node.memory.outbox.get(stream, {})
                assert retained.keys() >= set(range(outgoing.durable, made)), (
                    stream,
                    sorted(retained),
                )
                room = outgoing.window.max_retained
                assert room is None or outgoing.made - outgoing.durable <= room

    def check_order(self) -> None:
        """Every phase of every step once, in order."""
        for k, node in enumerate(self.nodes):
            expected = [(phase, step) for step in range(self.case.num_steps) for phase in Phase]
            assert node.phases == expected[: len(node.phases)], k

    def check_waiting(self) -> None:
        """At most one message a stream waits for credit, in a worker that no one restarted."""
        for node in self.nodes:
            for stream, outgoing in node.core.edges.outgoing.items():
                due = min(outgoing.made, node.core.plan.num_messages(stream))
                assert due - outgoing.sent <= 1

    def check_end(self) -> None:
        """All are done, at the same step, with what the plain loop has there."""
        assert self.are_done, [node.core.describe() for node in self.nodes]
        (end,) = {node.core.end for node in self.nodes}
        for node in self.nodes:
            plan, edges = node.core.plan, node.core.edges
            assert len(node.phases) == 3 * end
            used = {stream: plan.consumed_before(stream, end) for stream in Stream}
            # If the job stops early, the last downward ties wait for the resumed run.
            assert not list(_not_waiting(node.inbox, used))
            for stream, messages in node.memory.outbox.items():
                # What a restarted worker made again for a receiver that is durable already is
                # left; nothing that is still to be acknowledged is.
                late = [s for s in messages if s >= edges.outgoing[stream].durable]
                assert not list(_not_waiting(((stream, s) for s in late), used))
            assert all(i.released == used[stream] for stream, i in edges.incoming.items())
            assert not plan.snapshot_every or end in node.memory.checkpoints
        assert [node.weights for node in self.nodes] == reference(self.case, end)


def _not_waiting(messages, used: dict[Stream, int]) -> Iterator[tuple[Stream, int]]:
    for stream, step in messages:
        if stream is not TIE_DOWN or step < used[stream]:
            yield stream, step


__all__ = ["MESSAGE_BYTES", "Case", "Network"]
