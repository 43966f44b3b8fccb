"""Hypothesis drives whole pipelines of cores on the network of core_network."""

import random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from runtime.core.messages import (
    Acknowledged,
    Arrived,
    Event,
    Rejected,
    SnapshotWanted,
    Tick,
)
from runtime.core.plan import Stream
from runtime.core.worker import State

from .core_network import MESSAGE_BYTES, Case, Network

ACTIVATION, TIE_UP, TIE_DOWN = Stream


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
