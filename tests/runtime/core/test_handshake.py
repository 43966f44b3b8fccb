"""Hellos by the letter, and two cores that link whatever hello is lost."""

import itertools

import pytest

from runtime.core.messages import Hello, Phase, Received, Rejected, Send, Tick
from runtime.core.plan import Side, Stream, WorkerPlan
from runtime.core.state import State
from runtime.core.worker import WorkerCore

from .words import (
    ack,
    acked,
    arrived,
    begun,
    bottom,
    compute,
    done,
    hello,
    linked,
    middle,
    run_step,
    send,
    started,
    store,
    top,
    wanted,
    window,
)

ACTIVATION, TIE_UP, TIE_DOWN = Stream
FORWARD, UPDATE, APPLY = Phase
BELOW, ABOVE = Side


# By the letter ---------------------------------------------------------------------------------


def test_first_hello_is_answered_with_what_is_known_now():
    core = WorkerCore(top(), generation=2)
    assert core.start() == [hello(BELOW, 2, to=None, asks=True, activation=0)]
    asked = linked(BELOW, 5, to=None, asks=True)
    assert core.handle(asked) == [hello(BELOW, 2, to=5, asks=True, activation=0)]
    assert core.state is State.LINKING
    assert core.handle(linked(BELOW, 5, to=2)) == []
    assert core.state is State.WAIT_INPUT


def test_hello_that_knows_us_is_answered_without_a_question():
    core = WorkerCore(bottom())
    core.start()
    assert core.handle(linked(ABOVE, asks=True)) == [
        hello(ABOVE, to=0, asks=False),
        *begun(0),
    ]


def test_neighbour_that_may_not_know_us_is_sent_nothing():
    core = started(bottom(size=3))
    run_step(core, 0)
    assert core.handle(linked(ABOVE, 1, to=None, asks=True)) == [hello(ABOVE, to=1, asks=True)]
    assert core.handle(done(FORWARD, 1)) == [compute(APPLY, 1)]  # made, and kept back
    assert core.handle(linked(ABOVE, 1, activation=0)) == [
        send(ACTIVATION, 0, to=1),
        send(ACTIVATION, 1, to=1),
        *begun(2),
    ]


def test_worker_that_has_begun_computes_while_it_links_again():
    core = started(middle(num_steps=9, size=4, lag=3))
    core.handle(arrived(ACTIVATION, 0))
    core.handle(linked(BELOW, 1, to=None))
    assert core.handle(done(FORWARD, 0)) == [send(ACTIVATION, 0)]
    assert core.state is State.UPDATE


def test_second_hello_of_a_generation_changes_nothing():
    core = started(bottom())
    run_step(core, 0)
    assert core.handle(linked(ABOVE, activation=0)) == []
    assert core.edges.num_resent == 0


def test_zombies_hello_is_fenced_off_and_not_answered():
    core = started(bottom())
    core.handle(linked(ABOVE, 2))
    assert core.handle(linked(ABOVE, 1, to=None, asks=True)) == []
    assert core.edges.num_fenced == 1
    assert (core.edges.peers[ABOVE].generation, core.edges.peers[ABOVE].is_linked) == (2, True)


def test_restarted_worker_wants_what_its_snapshot_has_not_used():
    core = WorkerCore(middle(num_steps=9, lag=1), generation=4, start_step=5)
    assert core.start() == [
        hello(BELOW, 4, to=None, asks=True, activation=5, tie_up=5),
        hello(ABOVE, 4, to=None, asks=True, tie_down=4),
    ]


def test_tick_says_hello_until_linked_and_repeats_acks():
    """Acknowledgements go to whoever is known."""
    core = WorkerCore(middle())
    core.start()
    assert (
        core.handle(Tick())
        == core.handle(Tick())
        == [
            hello(BELOW, to=None, asks=True, activation=0, tie_up=0),
            hello(ABOVE, to=None, asks=True, tie_down=0),
        ]
    )
    core.handle(linked(BELOW))
    core.handle(arrived(ACTIVATION, 0))
    core.handle(linked(ABOVE, to=None))
    assert core.handle(Tick()) == [
        hello(ABOVE, to=0, asks=True, tie_down=0),
        ack(ACTIVATION, 1, 0),
        ack(TIE_UP, 0, 0),
        ack(TIE_DOWN, 0, 0),
    ]
    core.handle(linked(ABOVE))
    assert not any(isinstance(action.message, Hello) for action in core.handle(Tick()))


def test_tick_says_hello_if_nothing_is_received():
    """Untied, a worker receives nothing from above: the upper one once was heard only at steps."""
    plan = WorkerPlan(num_steps=2, outgoing={ACTIVATION: window()})
    core = started(plan)
    assert core.handle(Tick()) == [hello(ABOVE, to=0, asks=False)]


# What is between two other generations ----------------------------------------------------------


def fenced(core: WorkerCore, *events) -> None:
    before = vars(core.edges.outgoing.get(ACTIVATION, core)).copy()
    for event in events:
        assert core.handle(event) == [], event
    assert core.edges.num_fenced == len(events)
    assert vars(core.edges.outgoing.get(ACTIVATION, core)) == before


def test_dead_generation_of_a_neighbour_is_fenced_off():
    core = started(middle(snapshot_every=9))
    for side in Side:
        core.handle(linked(side, 2))
    fenced(
        core,
        arrived(ACTIVATION, 0, generation=1),
        arrived(TIE_DOWN, 0, generation=1),
        acked(ACTIVATION, 9, 9, 9, generation=1),
        wanted(ACTIVATION, 0, generation=1),
        linked(BELOW, 1, asks=True),
    )
    assert core.edges.incoming[ACTIVATION].expected == 0


def test_messages_for_a_dead_generation_of_ours_are_fenced_off():
    """A message on its way to the dead worker once overran the window of its successor."""
    core = started(middle(snapshot_every=9), generation=3)
    fenced(
        core,
        arrived(ACTIVATION, 0, to=2),
        arrived(TIE_DOWN, 0, to=2),
        acked(ACTIVATION, 9, 9, 9, to=2),
        wanted(ACTIVATION, 0, to=2),
    )
    assert core.handle(arrived(ACTIVATION, 0, to=3)) == [store(ACTIVATION, 0), *begun(0)]


def test_messages_before_a_hello_are_fenced_off():
    core = WorkerCore(top())
    core.start()
    fenced(core, arrived(ACTIVATION, 0))
    assert core.handle(Rejected(stream=ACTIVATION)) == []  # there is no one to ask


# Two cores --------------------------------------------------------------------------------------


class Pair:
    """A lower and an upper core and the hellos between them; other messages are thrown away."""

    def __init__(self) -> None:
        windows = dict.fromkeys((ACTIVATION, TIE_UP), window())
        down = {TIE_DOWN: window()}
        self.lower = WorkerCore(WorkerPlan(num_steps=3, incoming=down, outgoing=windows))
        self.upper = WorkerCore(WorkerPlan(num_steps=3, incoming=windows, outgoing=down))
        self.flying = [*self._said(self.lower.start()), *self._said(self.upper.start())]

    def _said(self, actions) -> list[tuple[WorkerCore, Received]]:
        said = []
        for action in actions:
            if isinstance(action, Send) and isinstance(action.message, Hello):
                to, side = (self.upper, BELOW) if action.side is ABOVE else (self.lower, ABOVE)
                said.append((to, Received(side=side, message=action.message)))
        return said

    def deliver(self, index: int = 0) -> None:
        core, event = self.flying.pop(index)
        self.flying += self._said(core.handle(event))

    def tick(self) -> None:
        for core in (self.lower, self.upper):
            self.flying += self._said(core.handle(Tick()))

    @property
    def are_linked(self) -> bool:
        return all(core.edges.are_linked for core in (self.lower, self.upper))


def test_hellos_that_cross_link_both_sides_in_six_messages():
    pair, num_messages = Pair(), 0
    while pair.flying:
        pair.deliver()
        num_messages += 1
    assert pair.are_linked
    assert num_messages == 6  # both asked at once, and each answered an answer too


def test_hellos_in_turn_link_both_sides_in_three_messages():
    pair = Pair()
    pair.flying.pop(0)  # the lower one's came before there was an upper one
    for _ in range(3):
        pair.deliver()
    assert pair.are_linked
    assert pair.flying == []


@pytest.mark.parametrize("lost", [{n} for n in range(6)] + [{0, 1}, {2, 3}, {0, 1, 2, 3}])
def test_lost_hellos_are_made_up_for_by_a_tick(lost):
    pair = Pair()
    for number in itertools.count():
        if not pair.flying:
            if number > max(lost) and pair.are_linked:
                break
            assert number < 40
            pair.tick()
        if number in lost:
            pair.flying.pop(0)
        elif pair.flying:
            pair.deliver()
    assert pair.lower.state is State.FORWARD
    assert pair.upper.state is State.WAIT_INPUT


@pytest.mark.parametrize("order", list(itertools.product([0, -1], repeat=5)))
def test_hellos_may_overtake_each_other(order):
    pair = Pair()
    for index in order:
        if pair.flying:
            pair.deliver(index)
    while pair.flying:
        pair.deliver()
    assert pair.are_linked


def test_neighbours_that_restart_at_once_link_behind_dead_hellos():
    """The hellos of both dead generations are still on their way when the new ones speak."""
    pair = Pair()
    dead = list(pair.flying)
    pair.lower = WorkerCore(pair.lower.plan, generation=1)
    pair.upper = WorkerCore(pair.upper.plan, generation=1)
    living = {True: pair.lower, False: pair.upper}
    pair.flying = [(living[event.side is ABOVE], event) for _, event in dead]
    pair.flying += [*pair._said(pair.lower.start()), *pair._said(pair.upper.start())]
    while pair.flying:
        pair.deliver()
    assert pair.are_linked
    assert {
        core.edges.peers[side].generation
        for core, side in ((pair.lower, ABOVE), (pair.upper, BELOW))
    } == {1}
