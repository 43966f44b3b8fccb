"""Hypothesis drives whole pipelines of cores on a network of its own.

A worker here holds one number in place of weights. Each computation hashes into it everything
that it used, so the last numbers equal those of a plain loop only if every batch was trained once
by every block, in order, on the right messages.
"""

import random
from collections import deque
from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

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
    Rejected,
    Release,
    Send,
    Snapshot,
    SnapshotTaken,
    SnapshotWanted,
    Tick,
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


@st.composite
def cases(draw: st.DrawFn, *, snapshots: bool = False) -> Case:
    num_workers = draw(st.integers(2, 5))
    num_steps = draw(st.integers(1, 7))
    absent = st.tuples(st.integers(0, num_workers - 1), st.integers(0, num_steps - 1))
    return Case(
        num_workers=num_workers,
        num_steps=num_steps,
        lag=draw(st.integers(0, 3)),
        tied=draw(st.sampled_from([True, True, False])),
        size=draw(st.integers(2, 4)),
        slack_bytes=draw(st.sampled_from([0, MESSAGE_BYTES, 5 * MESSAGE_BYTES])),
        snapshot_every=draw(st.sampled_from([1, 2, 3, 100])) if snapshots else 0,
        absent=draw(st.frozensets(absent, max_size=4)),
    )


PICK = st.integers(0, 2**16)


class SlowAndReordered(RuleBasedStateMachine):
    """Each rule lets one thing happen; whatever hypothesis does not choose is delayed."""

    network: Network

    @initialize(case=cases())
    def begin(self, case: Case) -> None:
        self.network = Network(case)

    @precondition(lambda self: self.network.moving())
    @rule(pick=PICK)
    def deliver_one(self, pick: int) -> None:
        moving = self.network.moving()
        self.network.deliver(moving[pick % len(moving)])

    @precondition(lambda self: self.network.moving())
    @rule(pick=PICK)
    def deliver_a_whole_direction(self, pick: int) -> None:
        moving = self.network.moving()
        edge = moving[pick % len(moving)]
        for _ in range(len(self.network.queues[edge])):
            self.network.deliver(edge)

    @precondition(lambda self: self.network.busy())
    @rule(pick=PICK)
    def finish_one(self, pick: int) -> None:
        busy = self.network.busy()
        self.network.finish(busy[pick % len(busy)])

    @rule(pick=PICK)
    def tick_one(self, pick: int) -> None:
        self.network.handle(pick % self.network.case.num_workers, Tick())

    @rule(slow=PICK, num_turns=st.integers(1, 8))
    def one_worker_is_slow(self, slow: int, num_turns: int) -> None:
        """All others go on for some turns; the slow one gets messages and does not compute."""
        slow %= self.network.case.num_workers
        for _ in range(num_turns):
            for edge in self.network.moving():
                self.network.deliver(edge)
            for k in set(self.network.busy()) - {slow}:
                self.network.finish(k)
            self.check()

    @rule(pick=PICK, num_turns=st.integers(1, 8))
    def one_direction_is_slow(self, pick: int, num_turns: int) -> None:
        edges = sorted(self.network.queues)
        slow = edges[pick % len(edges)]
        for _ in range(num_turns):
            for edge in set(self.network.moving()) - {slow}:
                self.network.deliver(edge)
            for k in self.network.busy():
                self.network.finish(k)
            self.check()

    @invariant()
    def check(self) -> None:
        if not hasattr(self, "network"):
            return
        self.network.check_windows()
        self.network.check_order()
        self.check_more()

    def check_more(self) -> None:
        self.network.check_waiting()
        assert sum(node.core.num_duplicates for node in self.network.nodes) == 0
        assert sum(node.core.num_replayed for node in self.network.nodes) == 0

    def teardown(self) -> None:
        if hasattr(self, "network"):
            self.network.settle()
            self.check()
            self.network.check_end()


class Faulty(SlowAndReordered):
    """The same with duplicates, losses, damage and deaths.

    What this version can't mend is not done: the last message of a stream, a request to resend
    and a hello are never lost (nothing asks again on silence).
    """

    @initialize(case=cases(snapshots=True))
    def begin(self, case: Case) -> None:
        self.network = Network(case)

    @rule(pick=PICK, which=PICK)
    def deliver_something_again(self, pick: int, which: int) -> None:
        edges = sorted(self.network.queues)
        edge = edges[pick % len(edges)]
        if past := self.network.delivered[edge]:
            event, payload = past[which % len(past)]
            self.network.handle(edge[1], event, payload)

    @precondition(lambda self: self.network.moving())
    @rule(pick=PICK, damage=st.booleans())
    def lose_one(self, pick: int, damage: bool) -> None:
        moving = self.network.moving()
        edge = moving[pick % len(moving)]
        queue = self.network.queues[edge]
        event, *_ = queue[0]
        match event:
            case Arrived() if damage:
                queue.popleft()
                self.network.handle(edge[1], Rejected(stream=event.stream))
            case Arrived() if any(_shows_gap(event, later) for later, *_ in list(queue)[1:]):
                queue.popleft()
            case Acknowledged(resend=False):
                queue.popleft()

    @rule(pick=PICK)
    def want_a_snapshot(self, pick: int) -> None:
        self.network.handle(pick % self.network.case.num_workers, SnapshotWanted())

    @rule(pick=PICK, lose_in=st.booleans(), lose_out=st.booleans())
    def kill_one(self, pick: int, lose_in: bool, lose_out: bool) -> None:
        k = pick % self.network.case.num_workers
        self.network.kill(k, lose_in=lose_in, lose_out=lose_out)

    @rule(pick=PICK, lose_in=st.booleans(), lose_out=st.booleans())
    def kill_two_neighbours(self, pick: int, lose_in: bool, lose_out: bool) -> None:
        k = pick % (self.network.case.num_workers - 1)
        self.network.kill(k, lose_in=lose_in, lose_out=lose_out)
        self.network.kill(k + 1, lose_in=lose_in, lose_out=lose_out)

    def check_more(self) -> None:
        pass

    def teardown(self) -> None:
        if not hasattr(self, "network"):
            return
        for _ in range(20):
            self.network.settle()
            self.check()
            if all(node.core.state is State.DONE for node in self.network.nodes):
                break
            for k in range(self.network.case.num_workers):
                self.network.handle(k, Tick())
        self.network.settle()
        for k in range(self.network.case.num_workers):
            self.network.handle(k, Tick())
        self.network.settle()
        self.network.check_end()


def _shows_gap(lost: Arrived, later: Event) -> bool:
    return (
        isinstance(later, Arrived)
        and later.stream is lost.stream
        and later.generation == lost.generation
        and later.step > lost.step
    )


SlowAndReordered.TestCase.settings = settings(
    derandomize=True, deadline=None, max_examples=120, stateful_step_count=40
)
Faulty.TestCase.settings = settings(
    derandomize=True, deadline=None, max_examples=120, stateful_step_count=40
)
# Green in seconds; where red, there is time to find the shortest history that shows it.
TestSlowAndReordered = pytest.mark.timeout(600)(SlowAndReordered.TestCase)
TestFaulty = pytest.mark.timeout(600)(Faulty.TestCase)


# Cases made by hand ----------------------------------------------------------------------------


@pytest.mark.parametrize("lag", [0, 1, 3])
@pytest.mark.parametrize("size", [2, 4])
def test_both_directions_of_an_edge_full_at_once(lag, size):
    """Up and down press back on each other: neither side delivers until both are stuck."""
    network = Network(Case(num_workers=2, num_steps=12, lag=lag, tied=True, size=size))
    seen = set()
    for edge in [(0, 1), (1, 0)] * 30:
        # One direction stands still until nothing can happen any more.
        while network.busy() or network.queues[edge]:
            for k in network.busy():
                network.finish(k)
            if network.queues[edge]:
                network.deliver(edge)
            network.check_windows()
        seen |= {node.core.state for node in network.nodes}
    network.settle()
    network.check_end()
    assert State.WAIT_INPUT in seen
    if lag:
        assert State.WAIT_CREDIT in seen or State.WAIT_TIE in seen


@pytest.mark.parametrize("seed", range(20))
def test_sixty_steps_of_five_workers_in_random_order(seed):
    rng = random.Random(seed)
    case = Case(
        num_workers=5, num_steps=60, lag=seed % 4, tied=True, size=2 + seed % 3, slack_bytes=10
    )
    network = Network(case)
    while network.moving() or network.busy():
        happenings = [(network.deliver, edge) for edge in network.moving()]
        happenings += [(network.finish, k) for k in network.busy()]
        act, what = happenings[int(len(happenings) * rng.random() ** (1 + seed % 3))]
        act(what)
        network.check_windows()
        network.check_waiting()
    network.check_end()


@pytest.mark.parametrize("seed", range(20))
def test_thirty_steps_with_many_deaths(seed):
    rng = random.Random(seed)
    case = Case(
        num_workers=4,
        num_steps=30,
        lag=seed % 4,
        tied=True,
        size=2 + seed % 3,
        snapshot_every=1 + seed % 5,
        absent=frozenset((k, s) for k in range(4) for s in range(30) if rng.random() < 0.1),
    )
    network = Network(case)
    num_turns = num_deaths = 0
    while any(node.core.state is not State.DONE for node in network.nodes):
        num_turns += 1
        assert num_turns < 20_000, [node.core.describe() for node in network.nodes]
        happenings = [(network.deliver, edge) for edge in network.moving()] * 4
        happenings += [(network.finish, k) for k in network.busy()] * 4
        happenings += [(lambda k: network.handle(k, Tick()), rng.randrange(4))]
        act, what = rng.choice(happenings)
        act(what)
        if rng.random() < 0.02 and num_deaths < 25:
            num_deaths += 1
            k = rng.randrange(4)
            network.kill(k, lose_in=rng.random() < 0.5, lose_out=rng.random() < 0.5)
        network.check_windows()
        network.check_order()
    for _ in range(2):
        network.settle()
        for k in range(4):
            network.handle(k, Tick())
    network.settle()
    network.check_end()
    assert num_deaths > 10
