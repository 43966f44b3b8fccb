"""A worker's core when something was lost: generations, what is resent, the end."""

import pytest

from runtime.core.messages import (
    Ack,
    Finish,
    Phase,
    Received,
    SnapshotDurable,
    Tick,
    Trim,
)
from runtime.core.plan import Side, Stream, WorkerPlan
from runtime.core.state import State
from runtime.core.streams import RESEND_AFTER_TICKS, ProtocolError
from runtime.core.worker import WorkerCore

from .words import (
    ack,
    acked,
    begun,
    bottom,
    compute,
    done,
    hello,
    linked,
    repeated,
    run_step,
    send,
    started,
    top,
    window,
)

ACTIVATION, TIE_UP, TIE_DOWN = Stream
FORWARD, UPDATE, APPLY = Phase
BELOW, ABOVE = Side


# Generations -----------------------------------------------------------------------------------


def test_new_generation_is_resent_what_it_wants():
    core = started(bottom(size=3, snapshot_every=100))
    for step in range(3):
        run_step(core, step)
        core.handle(acked(ACTIVATION, step + 1, step + 1, 1 if step else 0))
    asked = core.handle(linked(ABOVE, 1, to=None, asks=True, activation=1))
    assert asked == [hello(ABOVE, to=1, asks=True)]
    actions = core.handle(linked(ABOVE, 1, activation=1))
    assert actions == [send(ACTIVATION, 1, to=1), send(ACTIVATION, 2, to=1)]
    assert core.edges.num_resent == 2


def test_resent_messages_stay_within_the_window():
    core = started(bottom(num_steps=9, snapshot_every=100))
    for step in range(5):
        run_step(core, step)
        core.handle(acked(ACTIVATION, step + 1, step + 1, 0))
    actions = core.handle(linked(ABOVE, generation=1))
    assert actions == [send(ACTIVATION, 0, to=1), send(ACTIVATION, 1, to=1)]
    actions = core.handle(acked(ACTIVATION, 2, 1, generation=1))
    assert actions == [send(ACTIVATION, 2, to=1)]


def test_neighbour_that_wants_what_is_forgotten_is_an_error():
    core = started(bottom())
    run_step(core, 0)
    core.handle(acked(ACTIVATION, 1, 1, 1))
    with pytest.raises(ProtocolError, match="message 0 is wanted"):
        core.handle(linked(ABOVE, generation=1, activation=0))


def test_restarted_worker_sends_what_was_retained_for_it():
    retained = {ACTIVATION: {3: False, 4: False}}
    core = WorkerCore(
        bottom(num_steps=9, snapshot_every=5), generation=1, start_step=5, retained=retained
    )
    core.start()
    assert core.handle(linked(ABOVE, to=1, activation=4)) == [
        send(ACTIVATION, 4, generation=1),
        *begun(5),
    ]
    # Message 3 may still fill the window: what is made next waits for the receiver's ack.
    assert core.handle(done(FORWARD, 5)) == [compute(APPLY, 5)]
    assert core.handle(acked(ACTIVATION, 5, 4, to=1)) == [
        send(ACTIVATION, 5, generation=1),
        *begun(6),
    ]


def test_worker_restarted_after_its_last_step_only_drains():
    core = WorkerCore(bottom(num_steps=2), generation=1, start_step=2)
    core.start()
    assert core.handle(linked(ABOVE, to=1, activation=2)) == [Finish()]


# The end and the tick --------------------------------------------------------------------------


def test_worker_drains_until_its_neighbour_does_not_need_it():
    core = started(bottom(num_steps=1, snapshot_every=1))
    run_step(core, 0)
    core.handle(SnapshotDurable(step=1))
    assert core.state is State.DRAINING
    assert core.handle(acked(ACTIVATION, 1, 1, 0)) == []  # a restart would want it again
    assert core.handle(linked(ABOVE, generation=1)) == [send(ACTIVATION, 0, to=1)]
    last = core.handle(acked(ACTIVATION, 1, 1, 1, generation=1))
    assert last == [Trim(stream=ACTIVATION, step=1), Finish()]


def test_restarted_worker_knows_what_the_dead_one_had_begun():
    core = WorkerCore(bottom(num_steps=9, snapshot_every=3), start_step=3, reached=5, stop_at=6)
    assert (core.reached, core.stop_at, core.end) == (5, 6, 6)
    assert WorkerCore(bottom(), start_step=3, reached=0).reached == 3


def test_finished_worker_repeats_its_last_acknowledgement():
    core = started(top(num_steps=1))
    run_step(core, 0, needs=(ACTIVATION,))
    assert core.state is State.DONE
    assert repeated(core) == [ack(ACTIVATION, 1, 1)]


def asked_for(upper: WorkerCore, lower: WorkerCore, *, hears: bool) -> list[Ack]:
    """What a receiver asks to be sent again within the patience; `hears`: what the sender says on
    its ticks reaches it."""
    asked = []
    for _ in range(RESEND_AFTER_TICKS):
        for said in lower.handle(Tick()) if hears else ():
            upper.handle(Received(side=BELOW, message=said.message))
        asked += [said.message for said in upper.handle(Tick())]
    return [message for message in asked if isinstance(message, Ack) and message.resend]


def test_message_lost_in_silence_is_resent():
    lower = started(WorkerPlan(num_steps=2, outgoing={ACTIVATION: window()}))
    upper = started(WorkerPlan(num_steps=2, incoming={ACTIVATION: window()}))
    lower.handle(done(FORWARD, 0))  # its message is lost
    (again,) = asked_for(upper, lower, hears=True)
    answer = lower.handle(Received(side=ABOVE, message=again))
    assert send(ACTIVATION, 0) in answer


def test_message_that_takes_long_to_cross_is_not_asked_for():
    """Over a link with 100 Mbit/s an activation of 17 MB took longer than the patience. It was
    asked for while it was under way, came again and again, and little else got through. Whatever
    the sender says lies behind it, so it is not heard meanwhile."""
    lower = started(WorkerPlan(num_steps=2, outgoing={ACTIVATION: window()}))
    upper = started(WorkerPlan(num_steps=2, incoming={ACTIVATION: window()}))
    (under_way,) = (said for said in lower.handle(done(FORWARD, 0)) if said == send(ACTIVATION, 0))
    assert asked_for(upper, lower, hears=False) == []
    upper.handle(Received(side=BELOW, message=under_way.message))
    assert upper.edges.incoming[ACTIVATION].expected == 1
