"""What a worker's core issues ahead of what is known to be done, and what holds it back."""

import pytest

from runtime.core.messages import Snapshot, StopWanted, Trim
from runtime.core.plan import Free, WorkerPlan
from runtime.core.state import State
from runtime.core.worker import IllegalEvent, WorkerCore

from .words import (
    ABOVE,
    ACTIVATION,
    APPLY,
    BELOW,
    FORWARD,
    TIE_DOWN,
    TIE_UP,
    UPDATE,
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
    release,
    repeated,
    run_step,
    send,
    started,
    stop_told,
    store,
    tell_stop,
    top,
    window,
)


def tied(num_steps: int = 9, *, size: int = 2, retained: int | None = None) -> WorkerPlan:
    """A sender of upward ties only."""
    windows = {TIE_UP: window(size, retained=retained)}
    return WorkerPlan(num_steps=num_steps, outgoing=windows, snapshot_every=100)


def in_forward(plan: WorkerPlan, *here) -> WorkerCore:
    """A core whose first FORWARD runs, with these messages behind it, of (stream, step)."""
    core = started(plan)
    if ACTIVATION in plan.incoming:
        core.handle(arrived(ACTIVATION, 0))
    for stream, step in here:
        assert core.handle(arrived(stream, step)) == [store(stream, step)]
    assert core.state is State.FORWARD
    return core


# What is handed out -----------------------------------------------------------------------------


def test_apply_and_next_step_are_issued_during_an_update():
    core = in_forward(middle(num_steps=9), (ACTIVATION, 1), (TIE_UP, 0))
    assert core.handle(done(FORWARD, 0)) == [
        send(ACTIVATION, 0),
        compute(APPLY, 0, below=0),
        *begun(1),
    ]
    assert (core.state, core.step, core.reached) == (State.UPDATE, 0, 2)
    assert core.handle(done(UPDATE, 0)) == [
        release(ACTIVATION, 0),
        ack(ACTIVATION, 2, 1),
        send(TIE_UP, 0),
        send(TIE_DOWN, 0),
    ]
    assert core.state is State.APPLY
    assert core.handle(done(APPLY, 0)) == [release(TIE_UP, 0), ack(TIE_UP, 1, 1)]
    assert (core.state, core.step, core.reached) == (State.FORWARD, 1, 2)


def test_apply_and_next_step_are_issued_with_the_last_tie():
    core = in_forward(middle(num_steps=9, lag=0))
    core.handle(done(FORWARD, 0))
    assert core.handle(arrived(TIE_UP, 0)) == [store(TIE_UP, 0)]
    last = core.handle(arrived(TIE_DOWN, 0))
    assert last == [store(TIE_DOWN, 0), compute(APPLY, 0, below=0, above=0)]
    assert core.handle(arrived(ACTIVATION, 1)) == [store(ACTIVATION, 1), *begun(1)]
    assert core.state is State.UPDATE


def test_absent_tie_is_left_out_ahead_too():
    core = started(middle(num_steps=9))
    core.handle(arrived(ACTIVATION, 0))
    core.handle(arrived(TIE_UP, 0, absent=True))
    assert core.handle(done(FORWARD, 0)) == [send(ACTIVATION, 0), compute(APPLY, 0)]


def test_next_step_is_issued_during_an_apply():
    core = in_forward(top(num_steps=9))
    core.handle(done(FORWARD, 0))
    core.handle(done(UPDATE, 0))
    assert core.state is State.APPLY
    assert core.handle(arrived(ACTIVATION, 1)) == [store(ACTIVATION, 1), *begun(1)]
    assert core.handle(done(APPLY, 0)) == []


def test_apply_that_was_waited_for_comes_with_the_next_step():
    core = in_forward(middle(num_steps=9), (ACTIVATION, 1))
    core.handle(done(FORWARD, 0))
    core.handle(done(UPDATE, 0))
    assert core.state is State.WAIT_TIE
    last = core.handle(arrived(TIE_UP, 0))
    assert last == [store(TIE_UP, 0), compute(APPLY, 0, below=0), *begun(1)]


def test_computations_are_issued_once_and_one_step_ahead():
    """All that step 1 needs is here, and the activation of step 2."""
    here = [(ACTIVATION, 1), (ACTIVATION, 2), (TIE_UP, 0), (TIE_UP, 1), (TIE_DOWN, 0)]
    core = in_forward(middle(num_steps=9, size=4), *here)
    issued = core.handle(done(FORWARD, 0))
    assert issued == [send(ACTIVATION, 0), compute(APPLY, 0, below=0), *begun(1)]
    acks = [ack(ACTIVATION, 3, 0), ack(TIE_UP, 2, 0), ack(TIE_DOWN, 1, 0)]
    assert repeated(core) == acks
    core.handle(done(UPDATE, 0))
    assert repeated(core) == [ack(ACTIVATION, 3, 1), *acks[1:]]
    assert core.handle(done(APPLY, 0)) == [release(TIE_UP, 0), ack(TIE_UP, 2, 1)]
    assert core.handle(arrived(TIE_UP, 2)) == [store(TIE_UP, 2)]
    next_ones = core.handle(done(FORWARD, 1))
    assert next_ones == [send(ACTIVATION, 1), compute(APPLY, 1, below=1, above=0), *begun(2)]


@pytest.mark.parametrize("event", [done(FORWARD, 1), done(APPLY, 0), done(UPDATE, 1)])
def test_issued_computations_end_in_order(event):
    core = in_forward(bottom())
    assert core.handle(done(FORWARD, 0)) == [send(ACTIVATION, 0), compute(APPLY, 0), *begun(1)]
    with pytest.raises(IllegalEvent):
        core.handle(event)
    assert core.handle(done(UPDATE, 0)) == []


# What holds it back: what is not here -----------------------------------------------------------


def test_next_step_is_not_issued_without_its_activation():
    core = in_forward(middle(num_steps=9), (TIE_UP, 0))
    assert core.handle(done(FORWARD, 0)) == [send(ACTIVATION, 0), compute(APPLY, 0, below=0)]
    assert core.reached == 1
    assert core.handle(arrived(ACTIVATION, 1)) == [store(ACTIVATION, 1), *begun(1)]
    assert core.reached == 2


def test_apply_and_next_step_are_not_issued_without_a_tie():
    core = in_forward(middle(num_steps=9), (ACTIVATION, 1))
    assert core.handle(done(FORWARD, 0)) == [send(ACTIVATION, 0)]
    last = core.handle(arrived(TIE_UP, 0))
    assert last == [store(TIE_UP, 0), compute(APPLY, 0, below=0), *begun(1)]


def test_free_ties_are_taken_only_when_the_update_is_done():
    """The next step is not issued before the apply either."""
    free = Free(max_staleness=9, keeps_newest=True)
    plan = WorkerPlan(num_steps=9, incoming=dict.fromkeys((ACTIVATION, TIE_DOWN), window()))
    core = started(WorkerPlan(**vars(plan) | {"free": free}))
    assert core.handle(arrived(ACTIVATION, 0)) == [store(ACTIVATION, 0), *begun(0)]
    core.handle(arrived(ACTIVATION, 1))
    core.handle(arrived(TIE_DOWN, 0))
    assert core.handle(done(FORWARD, 0)) == []
    core.handle(arrived(TIE_DOWN, 1))
    assert core.handle(done(UPDATE, 0)) == [
        release(ACTIVATION, 0),
        ack(ACTIVATION, 2, 1),
        compute(APPLY, 0, above=1),
    ]
    assert repeated(core) == [ack(ACTIVATION, 2, 1), ack(TIE_DOWN, 2, 2)]
    assert core.handle(done(APPLY, 0)) == begun(1)


# What holds it back: the boundary ---------------------------------------------------------------


def test_last_step_has_nothing_issued_behind_it():
    core = in_forward(bottom(num_steps=1))
    assert core.handle(done(FORWARD, 0)) == [send(ACTIVATION, 0), compute(APPLY, 0)]
    core.handle(done(UPDATE, 0))
    assert core.handle(done(APPLY, 0)) == []
    assert core.state is State.DRAINING


def test_stop_has_nothing_issued_behind_it():
    core = in_forward(bottom(num_steps=9))
    assert core.handle(StopWanted()) == [tell_stop(1)]
    assert core.handle(done(FORWARD, 0)) == [send(ACTIVATION, 0), compute(APPLY, 0)]


def test_stop_told_by_a_neighbour_has_nothing_issued_behind_it():
    core = in_forward(top(num_steps=9), (ACTIVATION, 1))
    core.handle(stop_told(1))
    assert core.handle(done(FORWARD, 0)) == [compute(APPLY, 0)]
    core.handle(done(UPDATE, 0))
    assert core.state is State.APPLY
    assert repeated(core) == [ack(ACTIVATION, 2, 1)]


# What holds it back: what is still to be made ---------------------------------------------------


def without_credit_for_the_third_tie() -> WorkerCore:
    core = started(tied())
    for step in range(2):
        assert core.handle(done(FORWARD, step)) == [compute(APPLY, step), *begun(step + 1)]
        assert core.handle(done(UPDATE, step)) == [send(TIE_UP, step)]
        assert core.handle(done(APPLY, step)) == []
    assert core.handle(done(FORWARD, 2)) == [compute(APPLY, 2)]
    return core


def test_next_step_waits_for_credit_for_an_unmade_tie():
    core = without_credit_for_the_third_tie()
    assert core.handle(acked(TIE_UP, 2, 0)) == []
    assert core.handle(acked(TIE_UP, 2, 1)) == begun(3)


def test_next_step_waits_until_the_tie_that_was_made_is_sent():
    core = without_credit_for_the_third_tie()
    assert core.handle(done(UPDATE, 2)) == []
    assert core.state is State.APPLY
    assert core.handle(acked(TIE_UP, 2, 1)) == [send(TIE_UP, 2), *begun(3)]


def test_second_activation_never_waits_for_credit_ahead_of_time():
    """Room that its tie would have does not help."""
    windows = {ACTIVATION: window(2), TIE_UP: window(9)}
    core = started(WorkerPlan(num_steps=9, outgoing=windows))
    for step in range(2):
        run_step(core, step)
    assert core.handle(done(FORWARD, 2)) == [compute(APPLY, 2)]
    assert core.handle(acked(ACTIVATION, 2, 1)) == [send(ACTIVATION, 2), *begun(3)]


def test_next_step_waits_for_room_for_two_more_ties():
    """One is of this step and yet to be made, the other of the next."""
    core = started(tied(retained=3))
    for step in range(2):
        assert core.handle(done(FORWARD, step)) == [compute(APPLY, step), *begun(step + 1)]
        assert core.handle(done(UPDATE, step)) == [send(TIE_UP, step)]
        assert core.handle(done(APPLY, step)) == []
    assert core.handle(acked(TIE_UP, 2, 2)) == []  # there is credit
    assert core.handle(done(FORWARD, 2)) == [compute(APPLY, 2)]
    assert core.handle(acked(TIE_UP, 2, 2, 1)) == [Trim(stream=TIE_UP, step=1), *begun(3)]


def test_room_for_one_more_is_enough_when_the_tie_is_made():
    core = started(tied(retained=4))
    for step in range(2):
        run_step(core, step)
    core.handle(acked(TIE_UP, 2, 2))
    core.handle(linked(ABOVE, 1, to=None))  # so that step 3 is not issued in the UPDATE
    assert core.handle(done(FORWARD, 2)) == [compute(APPLY, 2)]
    assert core.handle(done(UPDATE, 2)) == []
    # Three are kept, and four may be.
    assert core.handle(linked(ABOVE, 1, tie_up=2)) == [send(TIE_UP, 2, to=1), *begun(3)]


def test_unmade_tie_must_find_its_neighbour_linked():
    core = in_forward(tied())
    core.handle(linked(ABOVE, 1, to=None))
    assert core.handle(done(FORWARD, 0)) == [compute(APPLY, 0)]
    assert core.handle(linked(ABOVE, 1)) == begun(1)


def test_next_activation_need_not_find_its_neighbour_linked():
    """It may wait: at most one message of a stream does."""
    windows = {"incoming": {ACTIVATION: window()}, "outgoing": {ACTIVATION: window()}}
    core = in_forward(WorkerPlan(num_steps=9, **windows))
    assert core.handle(done(FORWARD, 0)) == [send(ACTIVATION, 0), compute(APPLY, 0)]
    asked = core.handle(linked(ABOVE, 1, to=None, asks=True))
    assert asked == [hello(ABOVE, to=1, asks=True)]
    assert core.handle(arrived(ACTIVATION, 1)) == [store(ACTIVATION, 1), *begun(1)]


def test_new_generation_below_takes_back_nothing_that_is_issued():
    core = in_forward(middle(num_steps=9), (ACTIVATION, 1), (TIE_UP, 0))
    core.handle(done(FORWARD, 0))
    asked = core.handle(linked(BELOW, 1, to=None, asks=True))
    assert asked == [hello(BELOW, to=1, asks=True, activation=2, tie_up=1)]
    core.handle(done(UPDATE, 0))
    core.handle(done(APPLY, 0))
    assert core.handle(done(FORWARD, 1)) == [send(ACTIVATION, 1)]


# The stop behind a hand-out ---------------------------------------------------------------------


@pytest.mark.parametrize("num_events", range(10))
def test_stop_is_never_below_what_is_issued(num_events):
    """Whenever it is wanted: the job stops behind the last FORWARD that was issued."""
    core = WorkerCore(bottom(num_steps=9, size=9))
    actions = core.start() + core.handle(linked(ABOVE))
    events = [done(phase, step) for step in range(4) for phase in (FORWARD, UPDATE, APPLY)]
    for event in events[:num_events]:
        actions += core.handle(event)
    last = max(step for step in range(9) if compute(FORWARD, step) in actions)
    assert last == (num_events + 2) // 3
    assert core.handle(StopWanted()) == [tell_stop(last + 1)]
    assert core.end == core.reached == last + 1


def test_issued_step_is_done_before_the_stop():
    core = in_forward(bottom(num_steps=9, snapshot_every=100))
    assert core.handle(done(FORWARD, 0)) == [send(ACTIVATION, 0), compute(APPLY, 0), *begun(1)]
    assert core.handle(StopWanted()) == [tell_stop(2)]
    assert core.handle(done(UPDATE, 0)) == []
    assert core.handle(done(APPLY, 0)) == []
    assert core.handle(done(FORWARD, 1)) == [send(ACTIVATION, 1), compute(APPLY, 1)]
    assert core.handle(done(UPDATE, 1)) == []
    assert core.handle(done(APPLY, 1)) == [Snapshot(step=2, checkpoint=True)]


def test_stop_told_right_behind_what_is_issued_ends_there():
    core = in_forward(top(num_steps=9, snapshot_every=100), (ACTIVATION, 1))
    assert core.handle(done(FORWARD, 0)) == [compute(APPLY, 0), *begun(1)]
    assert core.handle(stop_told(2)) == []
    core.handle(done(UPDATE, 0))
    core.handle(done(APPLY, 0))
    assert core.handle(done(FORWARD, 1)) == [compute(APPLY, 1)]
    core.handle(done(UPDATE, 1))
    assert core.handle(done(APPLY, 1)) == [Snapshot(step=2, checkpoint=True)]
