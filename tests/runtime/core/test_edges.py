"""A worker's edges: which message counts, what is here, and what is said to whom."""

import pytest

from runtime.core.edges import NOTHING_KEPT, Edges
from runtime.core.messages import StopTold, TellStop
from runtime.core.plan import Side, Stream, WorkerPlan

from .words import ack, acked, arrived, ask, hello, linked, middle, send, wanted, window

ACTIVATION, TIE_UP, TIE_DOWN = Stream
BELOW, ABOVE = Side


def edges(plan=None, *, generation=0, start_step=0, kept=NOTHING_KEPT, heard=Side) -> Edges:
    made = Edges(
        plan or middle(num_steps=9),
        generation=generation,
        start_step=start_step,
        kept=kept,
    )
    for side in heard:
        made.hear(linked(side, heard=generation))
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
        StopTold(generation=5, to=3, step=4),
    ],
)
def test_a_message_counts_only_between_the_two_lives_that_are_here(message):
    """Here is our third life, between a fifth below and a sixth above."""
    here = edges(generation=3, heard=())
    assert not here.is_current(message)  # no one has said hello
    here.hear(linked(BELOW, 5, heard=3))
    here.hear(linked(ABOVE, 6, heard=3))
    assert here.is_current(message)
    words = vars(message)
    for other in ({"generation": 4}, {"generation": 7}, {"to": 2}, {"to": 4}):
        assert not here.is_current(type(message)(**words | other))
    assert here.num_fenced == 5


def test_a_restart_begins_where_the_snapshot_stands():
    kept = {TIE_DOWN: {2: False, 3: True}}
    here = edges(middle(num_steps=9), start_step=4, kept=kept, heard=())
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
    here.hear(linked(BELOW, tie_down=2))
    assert list(here.send_what_credit_allows()) == [
        send(TIE_DOWN, 2),
        send(TIE_DOWN, 3, absent=True),
    ]


def test_only_the_hello_that_completes_says_from_where_to_send():
    here = edges(middle(num_steps=9, size=4))
    for step in range(2):
        here.outgoing[ACTIVATION].make(step, absent=False)
    assert list(here.send_what_credit_allows()) == [send(ACTIVATION, 0), send(ACTIVATION, 1)]
    here.hear(linked(ABOVE, 1, heard=None))
    assert (here.outgoing[ACTIVATION].sent, here.are_linked) == (2, False)
    here.hear(linked(ABOVE, 1, activation=1))
    assert (here.outgoing[ACTIVATION].sent, here.are_linked) == (1, True)
    assert here.num_replayed == 1


def test_what_is_here_and_what_is_usable():
    here = edges(middle(num_steps=9, lag=1))
    assert [here.has_arrived(stream, 0) for stream in Stream] == [False, False, True]
    assert here.usable(TIE_DOWN, 0) is None  # not due yet
    here.incoming[TIE_DOWN].accept(0, checksum=0, absent=False)
    here.incoming[TIE_UP].accept(0, checksum=0, absent=True)
    assert here.has_arrived(TIE_DOWN, 1)
    assert here.usable(TIE_DOWN, 1) == 0
    assert here.has_arrived(TIE_UP, 0)
    assert here.usable(TIE_UP, 0) is None  # a marker


def test_a_step_begins_when_all_is_sent_and_there_is_room():
    plan = WorkerPlan(num_steps=9, outgoing={ACTIVATION: window(2, retained=3)}, snapshot_every=9)
    here = edges(plan, heard=[ABOVE])
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


def test_the_receivers_cover_what_they_need_before_a_step():
    """Of the downward ties, the last `lag` before the end are for the run that goes on."""
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


def test_what_a_tick_repeats_to_a_neighbour_that_is_known_and_not_linked():
    here = edges(middle(num_steps=9), heard=[])
    here.hear(linked(BELOW, heard=None))
    assert list(here.repeat()) == [
        hello(BELOW, heard=0, asks=True, activation=0, tie_up=0),
        hello(ABOVE, heard=None, asks=True, tie_down=0),
        ack(ACTIVATION, 0, 0),
        ack(TIE_UP, 0, 0),
    ]


def test_room_and_the_stop_are_spoken_of_to_linked_neighbours_only():
    plan = WorkerPlan(num_steps=9, outgoing={ACTIVATION: window(2, retained=4)}, snapshot_every=9)
    here = edges(plan, heard=[])
    for step in range(2):
        here.outgoing[ACTIVATION].make(step, absent=False)
    assert list(here.ask_for_room(ACTIVATION)) == []
    assert list(here.tell_stop(7)) == []
    here.hear(linked(ABOVE))
    assert list(here.ask_for_room(ACTIVATION)) == [ask(ACTIVATION, 1)]
    assert list(here.tell_stop(7)) == [TellStop(step=7)]
    assert list(here.tell_stop(None)) == []


def test_the_highest_worker_has_no_one_to_tell():
    here = edges(WorkerPlan(num_steps=2, incoming={ACTIVATION: window()}), heard=[BELOW])
    assert list(here.tell_stop(1)) == []
