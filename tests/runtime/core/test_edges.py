"""A worker's edges: which message counts, what is here, and what is said to whom."""

from dataclasses import replace

import pytest

from runtime.core.edges import NOTHING_RETAINED, Edges
from runtime.core.messages import Ack, Data, Hello, Received, Trim
from runtime.core.plan import Side, Stream, WorkerPlan
from runtime.core.streams import RESEND_AFTER_TICKS
from runtime.core.tie_stats import TIES, TieStats

from .words import (
    ack,
    acked,
    arrived,
    ask,
    hello,
    linked,
    middle,
    send,
    stop_told,
    store,
    tell_stop,
    wanted,
    window,
)

ACTIVATION, TIE_UP, TIE_DOWN = Stream
BELOW, ABOVE = Side


def take(here: Edges, received: Received) -> list:
    """What follows from a message that is known to be current."""
    match received.message:
        case Hello():
            return list(here.take_hello(received.side, received.message))
        case Data():
            return list(here.take_data(received.message))
        case Ack():
            return list(here.take_ack(received.message))


def edges(plan=None, *, generation=0, start_step=0, retained=NOTHING_RETAINED, to=None) -> Edges:
    made = Edges(
        plan or middle(num_steps=9),
        generation=generation,
        start_step=start_step,
        retained=retained,
    )
    for side in made.peers if to is None else to:
        take(made, linked(side, to=generation))
    return made


@pytest.mark.parametrize(
    "message",
    [
        arrived(ACTIVATION, 0, generation=5, to=3),
        arrived(TIE_DOWN, 0, generation=6, to=3),
        acked(ACTIVATION, 0, 0, generation=6, to=3),
        acked(TIE_DOWN, 0, 0, generation=5, to=3),
        wanted(ACTIVATION, 1, generation=5, to=3),
        wanted(TIE_DOWN, 1, generation=6, to=3),
        stop_told(4, generation=5, to=3),
    ],
)
def test_message_counts_only_between_the_present_generations(message):
    """Here is our third generation, between a fifth below and a sixth above."""
    here = edges(generation=3, to=())
    assert not here.is_current(message.side, message.message)  # no one has said hello
    take(here, linked(BELOW, 5, to=3))
    take(here, linked(ABOVE, 6, to=3))
    assert here.is_current(message.side, message.message)
    for other in ({"generation": 4}, {"generation": 7}, {"to": 2}, {"to": 4}):
        assert not here.is_current(message.side, replace(message.message, **other))
    assert here.num_fenced == 5


def test_restart_begins_with_what_the_snapshot_has_not_used():
    retained = {TIE_DOWN: {2: False, 3: True}}
    here = edges(middle(num_steps=9), start_step=4, retained=retained, to=())
    assert {s: i.expected for s, i in here.incoming.items()} == {
        ACTIVATION: 4,
        TIE_UP: 4,
        TIE_DOWN: 3,
    }
    assert {s: (o.durable, o.made) for s, o in here.outgoing.items()} == {
        ACTIVATION: (4, 4),
        TIE_UP: (4, 4),
        TIE_DOWN: (2, 4),
    }
    assert list(here.send_what_credit_allows()) == []
    take(here, linked(BELOW, tie_down=2))
    assert list(here.send_what_credit_allows()) == [
        send(TIE_DOWN, 2),
        send(TIE_DOWN, 3, absent=True),
    ]


def test_completing_hello_alone_rewinds_the_sender():
    here = edges(middle(num_steps=9, size=4))
    for step in range(2):
        here.outgoing[ACTIVATION].make(step, absent=False)
    assert list(here.send_what_credit_allows()) == [send(ACTIVATION, 0), send(ACTIVATION, 1)]
    take(here, linked(ABOVE, 1, to=None))
    assert (here.outgoing[ACTIVATION].sent, here.are_linked) == (2, False)
    take(here, linked(ABOVE, 1, activation=1))
    assert (here.outgoing[ACTIVATION].sent, here.are_linked) == (1, True)
    assert here.num_resent == 1


def test_tie_is_used_when_it_is_due_and_not_absent():
    here = edges(middle(num_steps=9, lag=1))
    assert [here.has_arrived(stream, 0) for stream in Stream] == [False, False, True]
    stats = TieStats()
    assert here.use(TIE_DOWN, 0, stats) is None  # not due yet
    here.incoming[TIE_DOWN].accept(0, checksum=0, absent=False)
    here.incoming[TIE_UP].accept(0, checksum=0, absent=True)
    assert here.has_arrived(TIE_DOWN, 1)
    assert here.use(TIE_DOWN, 1, stats) == 0
    assert here.has_arrived(TIE_UP, 0)
    assert here.use(TIE_UP, 0, stats) is None  # a marker


def test_step_begins_when_all_is_sent_and_there_is_room():
    plan = WorkerPlan(num_steps=9, outgoing={ACTIVATION: window(2, retained=3)}, snapshot_every=9)
    here = edges(plan, to=[ABOVE])
    for step in range(3):
        assert here.may_begin_step()
        here.outgoing[ACTIVATION].make(step, absent=False)
        list(here.send_what_credit_allows())
    assert not here.may_begin_step()  # one waits for credit
    here.outgoing[ACTIVATION].acknowledge(expected=1, released=1, durable=0, resend=False)
    list(here.send_what_credit_allows())
    assert not here.may_begin_step()  # three are kept
    here.outgoing[ACTIVATION].acknowledge(expected=1, released=1, durable=1, resend=False)
    assert here.may_begin_step()


def making(here: Edges, stream: Stream, num_made: int) -> Edges:
    """Make so many messages of a stream and send what credit allows."""
    for step in range(num_made):
        here.outgoing[stream].make(step, absent=False)
    list(here.send_what_credit_allows())
    return here


def test_step_begins_before_a_tie_is_made_if_it_has_credit():
    here = making(edges(), TIE_UP, 2)
    assert here.may_begin_step()
    assert here.may_begin_step(unmade=[TIE_DOWN])
    assert not here.may_begin_step(unmade=TIES)
    take(here, acked(TIE_UP, 2, 1))
    assert here.may_begin_step(unmade=TIES)


def test_step_begins_before_a_tie_is_made_if_there_is_room():
    plan = WorkerPlan(num_steps=9, outgoing={TIE_UP: window(2, retained=3)}, snapshot_every=9)
    here = making(edges(plan, to=[ABOVE]), TIE_UP, 2)
    take(here, acked(TIE_UP, 2, 2))
    assert here.may_begin_step()
    assert not here.may_begin_step(unmade=TIES)
    take(here, acked(TIE_UP, 2, 2, 1))
    assert here.may_begin_step(unmade=TIES)


@pytest.mark.parametrize(("side", "tie"), [(BELOW, TIE_DOWN), (ABOVE, TIE_UP)])
def test_step_begins_before_a_tie_is_made_if_its_end_is_linked(side, tie):
    here = edges()
    assert here.may_begin_step(unmade=TIES)
    take(here, linked(side, 1, to=None))
    assert here.may_begin_step()
    assert not here.may_begin_step(unmade=[tie])
    (other,) = set(TIES) - {tie}
    assert here.may_begin_step(unmade=[other])
    take(here, linked(side, 1))
    assert here.may_begin_step(unmade=TIES)


def test_ties_that_are_not_sent_ask_for_nothing():
    here = edges(WorkerPlan(num_steps=9, outgoing={ACTIVATION: window()}), to=[])
    assert here.may_begin_step(unmade=TIES)


def test_unsent_message_holds_up_the_step_whatever_is_unmade():
    here = making(edges(), ACTIVATION, 3)
    assert not here.may_begin_step()
    assert not here.may_begin_step(unmade=TIES)


def test_snapshot_helps_if_it_covers_more_of_what_is_used():
    here = edges(middle(num_steps=9, size=4, snapshot_every=100))
    here.incoming[ACTIVATION].cover(1)
    for step in range(4):
        here.incoming[ACTIVATION].accept(step, checksum=0, absent=False)
        if step < 3:
            here.incoming[ACTIVATION].release(step)

    def needed(pending: int | None) -> list[int]:
        asked = [wanted(ACTIVATION, durable).message for durable in range(6)]
        return [request.durable for request in asked if here.helps(request, pending=pending)]

    assert needed(None) == [2, 3]
    assert needed(2) == [3]
    assert needed(3) == []


def test_pending_snapshot_covers_downward_ties_but_for_the_lag():
    here = edges(middle(num_steps=9, lag=1, snapshot_every=100))
    for step in range(2):
        here.incoming[TIE_DOWN].accept(step, checksum=0, absent=False)
        here.incoming[TIE_DOWN].release(step)
    assert here.helps(wanted(TIE_DOWN, 2).message, pending=2)
    assert not here.helps(wanted(TIE_DOWN, 2).message, pending=3)


@pytest.mark.parametrize(("stream", "late"), [(ACTIVATION, 0), (TIE_UP, 0), (TIE_DOWN, 2)])
def test_step_outruns_the_room_of_a_sender_that_retains_too_much(stream, late):
    incoming = {stream: window(5, retained=9)}
    here = edges(WorkerPlan(num_steps=99, lag=2, incoming=incoming, snapshot_every=100))
    first = 9 + late
    assert [s for s in range(20) if here.outruns_room(s, pending=None)] == list(range(first, 20))
    assert not here.outruns_room(first + 3, pending=4 + late)
    assert here.outruns_room(first + 4, pending=4 + late)
    here.incoming[stream].cover(5)
    assert not here.outruns_room(first + 4, pending=None)
    assert here.outruns_room(first + 5, pending=4 + late)


def test_step_never_outruns_room_without_snapshots_or_a_bound():
    for plan in (
        WorkerPlan(num_steps=99, incoming={ACTIVATION: window(retained=3)}),
        WorkerPlan(num_steps=99, incoming={ACTIVATION: window()}, snapshot_every=100),
    ):
        assert not edges(plan).outruns_room(90, pending=None)


def test_messages_of_a_neighbour_are_taken_once_and_in_order():
    here = making(edges(middle(num_steps=9, snapshot_every=100)), ACTIVATION, 2)
    assert take(here, arrived(TIE_UP, 0)) == [store(TIE_UP, 0)]
    assert take(here, arrived(TIE_UP, 0)) == []
    assert here.num_duplicates == 1
    assert take(here, arrived(TIE_UP, 2)) == [ack(TIE_UP, 1, 0, resend=True)]
    assert list(here.ask_again(TIE_UP)) == [ack(TIE_UP, 1, 0, resend=True)]
    assert take(here, acked(ACTIVATION, 1, 0, resend=True)) == []
    assert here.num_resent == 1
    assert take(here, acked(ACTIVATION, 2, 2, 1)) == [Trim(stream=ACTIVATION, step=1)]


@pytest.mark.parametrize(
    "message",
    [arrived(TIE_DOWN, 0), acked(TIE_DOWN, 1, 1), wanted(TIE_DOWN, 1), linked(BELOW), stop_told(3)],
)
def test_message_flows_from_one_side_only(message):
    plan = WorkerPlan(num_steps=9, incoming={TIE_DOWN: window()}, outgoing={ACTIVATION: window()})
    top = edges(WorkerPlan(num_steps=9, incoming={ACTIVATION: window()}), to=[])
    for side in Side:
        expected = message.message if side is ABOVE else None
        fits = expected is not None and message.side is ABOVE
        is_acked = isinstance(message.message, Ack)  # no tie goes down from here
        assert edges(plan, to=[]).flows(side, message.message) == (
            (fits and not is_acked) or (isinstance(message.message, Hello) and side is ABOVE)
        )
    assert top.flows(BELOW, stop_told(3).message)
    assert not top.flows(ABOVE, stop_told(3).message)


def test_receivers_cover_what_they_need_before_a_step():
    """Of the downward ties, the last `lag` before the end are for the run that is resumed."""
    here = edges(middle(num_steps=9, lag=1))
    for stream in Stream:
        for step in range(3):
            here.outgoing[stream].make(step, absent=False)
        here.outgoing[stream].acknowledge(expected=2, released=2, durable=2, resend=False)
    assert here.are_covered(2)
    assert not here.are_covered(3)
    for stream in (ACTIVATION, TIE_UP):
        here.outgoing[stream].acknowledge(expected=3, released=3, durable=3, resend=False)
    assert here.are_covered(3)


def test_tick_says_hello_to_a_known_neighbour_until_linked():
    here = edges(middle(num_steps=9), to=[])
    take(here, linked(BELOW, to=None))
    assert list(here.repeat()) == [
        hello(BELOW, to=0, asks=True, activation=0, tie_up=0),
        hello(ABOVE, to=None, asks=True, tie_down=0),
        ack(ACTIVATION, 0, 0),
        ack(TIE_UP, 0, 0),
    ]


def test_snapshot_request_and_stop_go_to_linked_neighbours_only():
    plan = WorkerPlan(num_steps=9, outgoing={ACTIVATION: window(2, retained=4)}, snapshot_every=9)
    here = edges(plan, to=[])
    for step in range(4):
        here.outgoing[ACTIVATION].make(step, absent=False)
    assert list(here.ask_for_room(ACTIVATION)) == []
    assert list(here.tell_stop(7)) == []
    take(here, linked(ABOVE))
    assert list(here.ask_for_room(ACTIVATION)) == [ask(ACTIVATION, 1)]
    assert list(here.tell_stop(7)) == [tell_stop(7)]
    assert list(here.tell_stop(None)) == []


def test_highest_worker_has_no_one_to_tell():
    here = edges(WorkerPlan(num_steps=2, incoming={ACTIVATION: window()}), to=[BELOW])
    assert list(here.tell_stop(1)) == []


def test_tick_repeats_what_was_not_said_since_the_last_one():
    here = edges(middle(num_steps=9))
    take(here, arrived(TIE_UP, 0))
    here.ack(TIE_UP)
    assert list(here.repeat()) == [ack(ACTIVATION, 0, 0), ack(TIE_DOWN, 0, 0)]
    assert list(here.repeat()) == [
        ack(ACTIVATION, 0, 0),
        ack(TIE_UP, 1, 0),
        ack(TIE_DOWN, 0, 0),
    ], "it may be lost"


def test_awaited_message_is_asked_for_despite_a_fresh_ack():
    """The acknowledgement went out a moment ago, and asked for nothing."""
    here = edges(middle(num_steps=9))
    for _ in range(RESEND_AFTER_TICKS - 1):
        here.hear(Side.BELOW)
        list(here.repeat())
    here.ack(TIE_UP)
    here.hear(Side.BELOW)
    assert ack(TIE_UP, 0, 0, resend=True) in list(here.repeat())
