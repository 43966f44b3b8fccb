"""Hypothesis drives whole pipelines of cores on the network of core_network."""

import random
from collections.abc import Callable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from runtime.core.messages import Data, Received, Rejected, SnapshotRequest, Tick
from runtime.core.plan import Stream
from runtime.core.state import State
from runtime.core.streams import LONGEST_PATIENCE_TICKS, RESEND_AFTER_TICKS

from .core_network import MESSAGE_BYTES, Case, Network

ACTIVATION, TIE_UP, TIE_DOWN = Stream


@st.composite
def cases(draw: st.DrawFn, *, snapshots: bool = False) -> Case:
    num_workers = draw(st.integers(2, 5))
    num_steps = draw(st.integers(1, 7))
    absent = st.tuples(st.integers(0, num_workers - 1), st.integers(0, num_steps - 1))
    every = draw(st.sampled_from([1, 2, 3, 100])) if snapshots else 0
    return Case(
        num_workers=num_workers,
        num_steps=num_steps,
        lag=draw(st.integers(0, 3)),
        tied=draw(st.sampled_from([True, True, False])),
        size=draw(st.integers(2, 4)),
        slack_bytes=draw(st.sampled_from([0, MESSAGE_BYTES, 5 * MESSAGE_BYTES])),
        spare=draw(st.sampled_from([0, 0, 1, 3, 50, None])),
        snapshot_every=every,
        checkpoint_every=draw(st.sampled_from([0, 1, 2, 3])) if every else 0,
        absent=draw(st.frozensets(absent, max_size=4)),
    )


PICK = st.integers(0, 2**16)


class SlowAndReordered(RuleBasedStateMachine):
    """Each rule lets one thing happen; whatever hypothesis does not choose is delayed."""

    network: Network

    @initialize(case=st.one_of(cases(), cases(snapshots=True)))
    def begin(self, case: Case) -> None:
        self.network = Network(case)
        self.num_ticks = [0] * case.num_workers

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

    @precondition(lambda self: self.network.saving())
    @rule(pick=PICK)
    def save_one(self, pick: int) -> None:
        saving = self.network.saving()
        self.network.save(saving[pick % len(saving)])

    @rule(pick=PICK)
    def tick_one(self, pick: int) -> None:
        k = pick % self.network.case.num_workers
        self.num_ticks[k] += 1
        self.network.handle(k, Tick())

    @rule(pick=PICK)
    def stop(self, pick: int) -> None:
        """Seldom, so that most runs are whole ones."""
        if pick % 8 == 0:
            self.network.stop()

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
        self.network.check_retention()
        self.network.check_order()
        self.check_more()

    def check_more(self) -> None:
        if max(self.num_ticks) >= RESEND_AFTER_TICKS:
            return  # who waits for long asks again, although nothing is lost
        self.network.check_waiting()
        assert sum(node.core.edges.num_duplicates for node in self.network.nodes) == 0
        assert sum(node.core.edges.num_resent for node in self.network.nodes) == 0

    def teardown(self) -> None:
        if hasattr(self, "network"):
            self.network.settle()
            self.check()
            if any(node.core.stop_at is not None for node in self.network.nodes):
                end(self.network, self.check)  # who is told before it is linked tells on a tick
            self.network.check_end()


class Faulty(SlowAndReordered):
    """The same with duplicates, losses, damage and deaths, of any message and any worker."""

    @initialize(case=cases(snapshots=True))
    def begin(self, case: Case) -> None:
        super().begin(case)

    @rule(pick=PICK, which=PICK)
    def deliver_something_again(self, pick: int, which: int) -> None:
        edges = sorted(self.network.queues)
        edge = edges[pick % len(edges)]
        if past := self.network.delivered[edge]:
            event, payload = past[which % len(past)]
            self.network.handle(edge[1], event, payload)

    @precondition(lambda self: self.network.moving())
    @rule(pick=PICK, which=PICK, damage=st.booleans())
    def lose_one(self, pick: int, which: int, damage: bool) -> None:
        moving = self.network.moving()
        edge = moving[pick % len(moving)]
        queue = self.network.queues[edge]
        event, _ = queue[which % len(queue)]
        del queue[which % len(queue)]
        if damage and isinstance(event.message, Data):
            self.network.handle(edge[1], Rejected(stream=event.message.stream))

    @rule(pick=PICK)
    def lose_an_edge(self, pick: int) -> None:
        k = pick % (self.network.case.num_workers - 1)
        self.network.queues[k, k + 1].clear()
        self.network.queues[k + 1, k].clear()

    @precondition(lambda self: self.network.moving())
    @rule(pick=PICK, which=PICK)
    def overtake(self, pick: int, which: int) -> None:
        moving = self.network.moving()
        self.network.queues[moving[pick % len(moving)]].rotate(1 + which % 3)

    @rule(pick=PICK, late=st.integers(-1, 2))
    def want_a_snapshot(self, pick: int, late: int) -> None:
        k = pick % self.network.case.num_workers
        core = self.network.nodes[k].core
        for stream, incoming in core.edges.incoming.items():
            request = SnapshotRequest(
                stream=stream,
                generation=core.edges.peers[stream.source].generation or 0,
                to=core.generation,
                durable=incoming.released + late,
            )
            self.network.handle(k, Received(side=stream.source, message=request))

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
        if hasattr(self, "network"):
            end(self.network, self.check)


def end(network: Network, check: Callable[[], None] = lambda: None) -> None:
    """Without further faults, ticks alone bring everything to its end."""
    for _ in range(4 * LONGEST_PATIENCE_TICKS):
        network.settle()
        check()
        if network.are_done:
            break
        network.tick()
    network.tick()  # what is done takes no harm from what still comes
    network.settle()
    network.check_end()


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
def test_edge_may_be_full_in_both_directions_at_once(lag, size):
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


@pytest.mark.parametrize("seed", range(12))
def test_five_workers_run_sixty_steps_in_random_order(seed):
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


@pytest.mark.parametrize("seed", range(8))
def test_workers_run_thirty_steps_with_many_deaths_and_losses(seed):
    rng = random.Random(seed)
    case = Case(
        num_workers=4,
        num_steps=30,
        lag=seed % 4,
        tied=True,
        size=2 + seed % 3,
        snapshot_every=1 + seed % 5,
        checkpoint_every=seed % 3,
        spare=seed % 2,
        absent=frozenset((k, s) for k in range(4) for s in range(30) if rng.random() < 0.1),
    )
    network = Network(case)
    num_turns = num_deaths = 0
    while not network.are_done:
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
        if rng.random() < 0.02 and (moving := network.moving()):
            queue = network.queues[rng.choice(moving)]
            del queue[rng.randrange(len(queue))]
        network.check_windows()
        network.check_retention()
        network.check_order()
    end(network)
    assert num_deaths > 10
