"""A network of cores for hypothesis and random walks: it delivers, delays, repeats, loses, kills.

A worker here holds one number in place of weights. Each computation hashes into it everything
that it used, so the last numbers equal those of a plain loop only if every batch was trained once
by every block, in order, on the right messages.
"""

from collections import deque
from dataclasses import dataclass, field

from runtime.core.messages import (
    Acknowledge,
    Acknowledged,
    Arrived,
    Compute,
    Computed,
    Event,
    Finish,
    Hello,
    Keep,
    Linked,
    Phase,
    Release,
    Send,
    Snapshot,
    SnapshotTaken,
    Trim,
)
from runtime.core.plan import Side, Stream, Window, WorkerPlan
from runtime.core.worker import State, WorkerCore

ACTIVATION, TIE_UP, TIE_DOWN = Stream
MESSAGE_BYTES = 10


@dataclass(frozen=True, kw_only=True)
class Case:
    """What a run is; `absent` holds the (worker, step) whose ties are not finite."""

    num_workers: int
    num_steps: int
    lag: int
    tied: bool
    size: int  # window, in messages
    slack_bytes: int = 0  # beyond two messages
    snapshot_every: int = 0
    absent: frozenset[tuple[int, int]] = frozenset()

    def plan(self, k: int) -> WorkerPlan:
        streams = set(Stream) if self.tied else {ACTIVATION}
        sides = {Side.BELOW: k > 0, Side.ABOVE: k + 1 < self.num_workers}
        return WorkerPlan(
            num_steps=self.num_steps,
            lag=self.lag,
            incoming={s: self.window(s) for s in Stream if s in streams and sides[s.source]},
            outgoing={s: self.window(s) for s in Stream if s in streams and sides[s.target]},
            snapshot_every=self.snapshot_every,
        )

    def window(self, stream: Stream) -> Window:
        size = max(2, self.lag + 1) if stream is TIE_DOWN else self.size
        return Window(
            max_messages=size,
            max_bytes=2 * MESSAGE_BYTES + self.slack_bytes,
            message_bytes=MESSAGE_BYTES,
        )


def reference(case: Case) -> list[int]:
    """The same training as a plain loop; returns each worker's last number."""
    weights = list(range(case.num_workers))
    downs = []  # by step, then by worker
    for step in range(case.num_steps):
        activation, ups, down = None, [], []
        for k in range(case.num_workers):
            inputs, activation = activation, mix(weights[k], activation)
            weights[k] = mix(weights[k], step, inputs)
            absent = (k, step) in case.absent
            ups.append(None if absent else mix(weights[k], 1))
            down.append(None if absent else mix(weights[k], 2))
        downs.append(down)
        for k in range(case.num_workers):
            below = ups[k - 1] if case.tied and k > 0 else None
            late = step - case.lag
            has_above = case.tied and k + 1 < case.num_workers and late >= 0
            above = downs[late][k + 1] if has_above else None
            weights[k] = mix(weights[k], step, below, above)
    return weights


def mix(*values: int | None) -> int:
    """Hash numbers, alike in every process."""
    return hash(tuple(-7 if value is None else value for value in values))


@dataclass
class Node:
    """One worker: its core and what its driver and keeper would hold."""

    core: WorkerCore
    weights: int
    running: Compute | None = None
    saving: int | None = None
    inbox: dict[tuple[Stream, int], int | None] = field(default_factory=dict)
    outbox: dict[Stream, dict[int, int | None]] = field(default_factory=dict)
    phases: list[tuple[Phase, int]] = field(default_factory=list)
    saved: tuple[int, int] = (0, 0)  # step, weights


class Network:
    """Workers, and one queue for each direction of each edge. Nothing happens by itself."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.nodes = [
            Node(core=WorkerCore(case.plan(k)), weights=k, saved=(0, k))
            for k in range(case.num_workers)
        ]
        self.queues: dict[tuple[int, int], deque[tuple[Event, int | None, int | None]]] = {}
        for k in range(case.num_workers - 1):
            self.queues[k, k + 1] = deque()
            self.queues[k + 1, k] = deque()
        self.delivered: dict[tuple[int, int], list[tuple[Event, int | None]]] = {
            edge: [] for edge in self.queues
        }
        for k, node in enumerate(self.nodes):
            self._perform(k, node.core.start())

    # What may happen -------------------------------------------------------------------------

    def deliver(self, edge: tuple[int, int]) -> None:
        event, payload, addressee = self.queues[edge].popleft()
        if isinstance(event, Arrived) and addressee != self.nodes[edge[1]].core.generation:
            return  # a link's duty: what was sent to a dead generation is not for its successor
        self.delivered[edge].append((event, payload))
        self.handle(edge[1], event, payload)

    def finish(self, k: int) -> None:
        """End what worker k computes or saves."""
        node = self.nodes[k]
        if node.saving is not None:
            step, node.saving = node.saving, None
            node.saved = (step, node.weights)
            self.handle(k, SnapshotTaken(step=step))
            return
        action, node.running = node.running, None
        self._calculate(k, node, action)
        absent = action.phase is Phase.UPDATE and (k, action.step) in self.case.absent
        self.handle(k, Computed(phase=action.phase, step=action.step, absent=absent))

    def handle(self, k: int, event: Event, payload: int | None = None) -> None:
        self._perform(k, self.nodes[k].core.handle(event), payload)

    def kill(self, k: int, *, lose_in: bool, lose_out: bool) -> None:
        """Replace worker k by one that has its last snapshot and what the keeper kept.

        What was on its way to it and from it may be lost, or may still come.
        """
        for (a, b), queue in self.queues.items():
            if (b == k and lose_in) or (a == k and lose_out):
                queue.clear()
        for (_, b), delivered in self.delivered.items():
            if b == k:
                delivered.clear()  # nor is it delivered again
        node, (step, weights) = self.nodes[k], self.nodes[k].saved
        kept = {
            stream: {s: payload is None for s, payload in messages.items() if s < step}
            for stream, messages in node.outbox.items()
        }
        core = WorkerCore(
            self.case.plan(k),
            generation=node.core.generation + 1,
            start_step=step,
            kept=kept,
        )
        phases = [(phase, s) for phase, s in node.phases if s < step]
        self.nodes[k] = Node(
            core=core,
            weights=weights,
            outbox={
                stream: {s: p for s, p in messages.items() if s < step}
                for stream, messages in node.outbox.items()
            },
            phases=phases,
            saved=node.saved,
        )
        self._perform(k, core.start())

    def busy(self) -> list[int]:
        return [
            k
            for k, node in enumerate(self.nodes)
            if node.running is not None or node.saving is not None
        ]

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

    # What follows ----------------------------------------------------------------------------

    def _perform(self, k: int, actions: list, payload: int | None = None) -> None:
        node = self.nodes[k]
        for action in actions:
            match action:
                case Compute():
                    assert node.running is node.saving is None
                    node.running = action
                case Snapshot(step=step):
                    assert node.running is node.saving is None
                    node.saving = step
                case Send(stream=stream, step=step, absent=absent):
                    content = node.outbox[stream][step]
                    assert absent == (content is None)
                    event = Arrived(
                        stream=stream,
                        step=step,
                        generation=node.core.generation,
                        checksum=content or 0,
                        absent=absent,
                    )
                    self._put(k, stream.target, event, content)
                case Keep(stream=stream, step=step):
                    assert (stream, step) not in node.inbox
                    node.inbox[stream, step] = payload
                case Release(stream=stream, step=step):
                    del node.inbox[stream, step]
                case Trim(stream=stream, step=step):
                    messages = node.outbox.get(stream, {})
                    node.outbox[stream] = {s: p for s, p in messages.items() if s >= step}
                case Acknowledge(stream=stream):
                    word = {
                        name: getattr(action, name)
                        for name in ("stream", "expected", "released", "durable", "resend")
                    }
                    event = Acknowledged(generation=node.core.generation, **word)
                    self._put(k, stream.source, event)
                case Hello(side=side, generation=generation, wants=wants):
                    other = Side.BELOW if side is Side.ABOVE else Side.ABOVE
                    event = Linked(side=other, generation=generation, wants=wants)
                    self._put(k, side, event)
                case Finish():
                    assert node.core.step == self.case.num_steps
                case _:
                    raise AssertionError(action)

    def _put(self, k: int, side: Side, event: Event, payload: int | None = None) -> None:
        to = k + 1 if side is Side.ABOVE else k - 1
        self.queues[k, to].append((event, payload, self.nodes[k].core.peers[side]))

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
        if stream in node.core.outgoing and step < node.core.plan.num_messages(stream):
            node.outbox.setdefault(stream, {})[step] = content

    # What must hold --------------------------------------------------------------------------

    def check_windows(self) -> None:
        """On the way or in the inbox: never more than the window, in messages and in bytes."""
        for (a, b), queue in self.queues.items():
            node = self.nodes[b]
            for stream, incoming in node.core.incoming.items():
                if (stream.source is Side.BELOW) != (a < b):
                    continue
                held = {step: content for (s, step), content in node.inbox.items() if s is stream}
                held |= {
                    event.step: content
                    for event, content, addressee in queue
                    if isinstance(event, Arrived)
                    and event.stream is stream
                    and event.generation == self.nodes[a].core.generation
                    and addressee == node.core.generation
                    and event.step >= incoming.released
                }
                num_bytes = MESSAGE_BYTES * sum(content is not None for content in held.values())
                assert len(held) <= incoming.window.max_messages, (a, b, stream, sorted(held))
                assert num_bytes <= incoming.window.max_bytes, (a, b, stream, held)

    def check_order(self) -> None:
        """Every phase of every step once, in order."""
        for k, node in enumerate(self.nodes):
            expected = [(phase, step) for step in range(self.case.num_steps) for phase in Phase]
            assert node.phases == expected[: len(node.phases)], k

    def check_waiting(self) -> None:
        """At most one message a stream waits for credit, in a worker that no one restarted."""
        for node in self.nodes:
            for outgoing in node.core.outgoing.values():
                assert outgoing.made - outgoing.sent <= 1

    def check_end(self) -> None:
        states = [node.core.state for node in self.nodes]
        assert set(states) == {State.DONE}, [node.core.describe() for node in self.nodes]
        for node in self.nodes:
            assert len(node.phases) == 3 * self.case.num_steps
            assert node.inbox == {}
            for stream, messages in node.outbox.items():
                # What a restarted worker made again for a receiver that is durable already is
                # left; nothing that is still to be acknowledged is.
                assert all(step < node.core.outgoing[stream].durable for step in messages)
            assert [i.released for i in node.core.incoming.values()] == [
                node.core.plan.num_messages(stream) for stream in node.core.incoming
            ]
        assert [node.weights for node in self.nodes] == reference(self.case)
