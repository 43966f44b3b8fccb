"""What a worker's core does between steps: snapshots, checkpoints, room to store, the stop."""

import pytest

from runtime.core.messages import (
    Finish,
    Phase,
    Snapshot,
    SnapshotDurable,
    StopWanted,
    Tick,
    Trim,
)
from runtime.core.plan import Side, Stream, WorkerPlan
from runtime.core.state import State
from runtime.core.worker import WorkerCore

from .words import (
    ack,
    acked,
    arrived,
    ask,
    begun,
    bottom,
    compute,
    done,
    hello,
    linked,
    middle,
    release,
    run_step,
    send,
    started,
    stop_told,
    store,
    tell_stop,
    top,
    wanted,
    window,
)

ACTIVATION, TIE_UP, TIE_DOWN = Stream
FORWARD, UPDATE, APPLY = Phase
BELOW, ABOVE = Side


# Snapshots -------------------------------------------------------------------------------------


def test_durable_follows_the_snapshot_which_follows_the_plan():
    core = started(top(num_steps=4, snapshot_every=2))
    actions = run_step(core, 0, needs=(ACTIVATION,))
    assert ack(ACTIVATION, 1, 1, 0) in actions
    assert not any(isinstance(action, Snapshot) for action in actions)
    actions = run_step(core, 1, needs=(ACTIVATION,))
    assert ack(ACTIVATION, 2, 2, 0) in actions
    assert actions[-4:-1] == [compute(APPLY, 1), Snapshot(step=2), release(ACTIVATION, 1)]
    # Work goes on meanwhile; what is taken counts when it is durable.
    assert core.handle(arrived(ACTIVATION, 2)) == [store(ACTIVATION, 2), *begun(2)]
    assert core.handle(SnapshotDurable(step=2)) == [ack(ACTIVATION, 3, 2, 2)]


def test_durable_figure_of_a_downward_tie_is_late_by_the_lag():
    plan = WorkerPlan(num_steps=9, lag=1, incoming={TIE_DOWN: window()}, snapshot_every=3)
    core = started(plan)
    for step in range(3):
        run_step(core, step, needs=(TIE_DOWN,))
    assert core.handle(SnapshotDurable(step=3))[0] == ack(TIE_DOWN, 3, 2, 2)


def test_messages_are_forgotten_once_durable_and_not_before():
    core = started(bottom(snapshot_every=100))
    run_step(core, 0)
    assert core.handle(acked(ACTIVATION, 1, 1, 0)) == []
    assert core.handle(acked(ACTIVATION, 1, 1, 1)) == [Trim(stream=ACTIVATION, step=1)]
    assert core.handle(acked(ACTIVATION, 1, 1, 1)) == []


def test_last_step_ends_in_a_checkpoint():
    core = started(top(num_steps=1, snapshot_every=100))
    assert run_step(core, 0, needs=(ACTIVATION,))[-1] == Snapshot(step=1, checkpoint=True)
    assert core.handle(SnapshotDurable(step=1)) == [
        ack(ACTIVATION, 1, 1, 1),
        Finish(),
    ]


def test_checkpoint_is_a_snapshot_at_a_step_of_its_own_rhythm():
    core = started(WorkerPlan(num_steps=7, snapshot_every=2, checkpoint_every=3))
    taken = []
    for step in range(7):
        for action in run_step(core, step):
            if isinstance(action, Snapshot):
                taken.append((action.step, action.checkpoint))
                core.handle(SnapshotDurable(step=action.step))
    assert taken == [(2, False), (3, True), (4, False), (6, True), (7, True)]


def test_snapshot_and_a_checkpoint_at_one_step_are_one():
    core = started(WorkerPlan(num_steps=4, snapshot_every=2, checkpoint_every=2))
    run_step(core, 0)
    assert run_step(core, 1) == [
        compute(APPLY, 1),
        Snapshot(step=2, checkpoint=True),
        *begun(2),
    ]
    assert core.handle(SnapshotDurable(step=2)) == []
    assert run_step(core, 2) == [compute(APPLY, 2), *begun(3)]


def test_checkpoints_need_snapshots():
    core = started(top(num_steps=1))
    assert run_step(core, 0, needs=(ACTIVATION,))[-1] == Finish()


def test_worker_restarted_at_the_end_retakes_its_checkpoint():
    """The dead one's may have been lost with it."""
    core = WorkerCore(top(num_steps=1, snapshot_every=1), generation=1, start_step=1)
    core.start()
    assert core.handle(linked(BELOW, to=1, activation=1)) == [Snapshot(step=1, checkpoint=True)]
    assert core.handle(SnapshotDurable(step=1)) == [
        ack(ACTIVATION, 1, 1, 1, generation=1),
        Finish(),
    ]


# Snapshots that are asked for ------------------------------------------------------------------


def waiting_for_input() -> WorkerCore:
    """Two steps are done, and the third activation is not here."""
    core = started(top(num_steps=9, snapshot_every=100))
    for step in range(2):
        run_step(core, step, needs=(ACTIVATION,))
    assert core.state is State.WAIT_INPUT
    return core


def test_snapshot_requested_in_wait_input_is_taken_at_once():
    core = waiting_for_input()
    assert core.handle(wanted(ACTIVATION, 1)) == [Snapshot(step=2)]
    assert core.handle(SnapshotDurable(step=2)) == [ack(ACTIVATION, 2, 2, 2)]
    assert core.state is State.WAIT_INPUT


def test_snapshot_requested_in_wait_credit_is_taken_at_once():
    windows = {"incoming": {ACTIVATION: window(9)}, "outgoing": {ACTIVATION: window()}}
    core = started(WorkerPlan(num_steps=9, snapshot_every=100, **windows))
    for step in range(3):
        run_step(core, step, needs=(ACTIVATION,))
    assert core.state is State.WAIT_CREDIT
    assert core.handle(wanted(ACTIVATION, 3)) == [Snapshot(step=3)]
    assert core.handle(SnapshotDurable(step=3)) == [ack(ACTIVATION, 3, 3, 3)]
    assert core.state is State.WAIT_CREDIT


def test_snapshot_requested_within_a_step_is_behind_its_apply():
    core = waiting_for_input()
    assert core.handle(arrived(ACTIVATION, 2)) == [store(ACTIVATION, 2), *begun(2)]
    core.handle(arrived(ACTIVATION, 3))
    assert core.handle(wanted(ACTIVATION, 1)) == []
    assert core.handle(done(FORWARD, 2)) == [compute(APPLY, 2), Snapshot(step=3), *begun(3)]
    assert core.handle(done(UPDATE, 2)) == [release(ACTIVATION, 2), ack(ACTIVATION, 4, 3, 0)]
    assert core.handle(done(APPLY, 2)) == []


@pytest.mark.parametrize("durable", [0, 3, 9])
def test_snapshot_that_would_not_help_is_not_taken(durable):
    """Nothing new is asked for, or what is asked for is not used up."""
    assert waiting_for_input().handle(wanted(ACTIVATION, durable)) == []


def test_request_that_was_answered_is_not_answered_again():
    core = waiting_for_input()
    core.handle(wanted(ACTIVATION, 1))
    core.handle(SnapshotDurable(step=2))
    assert core.handle(wanted(ACTIVATION, 1)) == []


# Room to keep what is sent ----------------------------------------------------------------------


def test_snapshot_is_requested_when_there_is_no_room():
    """Until there is, the step waits."""
    core = started(bottom(num_steps=9, retained=4, snapshot_every=100))
    assert core.handle(done(FORWARD, 0)) == made_and_applied(0) + begun(1)
    finish(core, 0)
    ask_1 = ask(ACTIVATION, 1)
    assert core.handle(done(FORWARD, 1)) == [*made_and_applied(1), *begun(2)]
    finish(core, 1)
    assert core.handle(acked(ACTIVATION, 2, 1)) == []
    assert core.handle(done(FORWARD, 2)) == [*made_and_applied(2), *begun(3)]
    finish(core, 2)
    assert core.handle(acked(ACTIVATION, 3, 2)) == []
    assert core.handle(done(FORWARD, 3)) == [ask_1, *made_and_applied(3)]  # four are kept
    finish(core, 3)
    assert core.state is State.WAIT_CREDIT
    assert core.handle(acked(ACTIVATION, 4, 4)) == []  # released: credit, and no room
    assert core.handle(Tick()) == [hello(ABOVE, to=0, asks=False), ask_1]
    assert core.handle(acked(ACTIVATION, 4, 4, 1)) == [
        Trim(stream=ACTIVATION, step=1),
        *begun(4),
    ]


def made_and_applied(step: int) -> list:
    """What follows the FORWARD of a worker without ties, but for the next step."""
    return [send(ACTIVATION, step), compute(APPLY, step)]


def finish(core: WorkerCore, step: int) -> None:
    assert core.handle(done(UPDATE, step)) == []
    assert core.handle(done(APPLY, step)) == []


@pytest.mark.parametrize("lag", [0, 1, 3])
@pytest.mark.parametrize("size", [2, 3])
def test_least_room_is_enough_for_a_window_and_one_more(size, lag):
    """Full, with everything sent: at least one message is used up and not covered, so that the
    snapshot which is asked for makes room."""
    size = max(size, lag + 1)
    least = WorkerPlan(
        num_steps=99, lag=lag, outgoing={TIE_DOWN: window(size)}, snapshot_every=100
    ).min_retained(TIE_DOWN)
    assert least == size + lag + 1
    plan = WorkerPlan(
        num_steps=99,
        lag=lag,
        outgoing={TIE_DOWN: window(size, retained=least)},
        snapshot_every=100,
    )
    core = started(plan)
    for step in range(least):
        run_step(core, step)
        core.handle(acked(TIE_DOWN, step + 1, max(0, step + 1 - lag)))
    assert core.state is State.WAIT_CREDIT
    # The receiver has used up all but `lag`; a snapshot there covers just as many.
    assert core.handle(acked(TIE_DOWN, least, least - lag, least - lag)) == [
        Trim(stream=TIE_DOWN, step=least - lag),
        *begun(least),
    ]


# The stop ---------------------------------------------------------------------------------------


def test_lowest_worker_stops_behind_the_highest_step_it_began():
    core = started(bottom(num_steps=9, snapshot_every=100))
    run_step(core, 0)
    assert core.handle(StopWanted()) == [tell_stop(2)]
    assert core.handle(StopWanted()) == []  # decided is decided
    assert core.handle(Tick()) == [hello(ABOVE, to=0, asks=False), tell_stop(2)]
    assert run_step(core, 1)[-1] == Snapshot(step=2, checkpoint=True)
    core.handle(SnapshotDurable(step=2))
    assert core.state is State.DRAINING
    assert core.handle(acked(ACTIVATION, 2, 2, 2)) == [
        Trim(stream=ACTIVATION, step=2),
        Finish(),
    ]


def test_restarted_lowest_worker_stops_behind_what_was_begun():
    """Begun by the generation before it."""
    core = WorkerCore(bottom(num_steps=9, snapshot_every=3), start_step=3, reached=5)
    core.start()
    core.handle(linked(ABOVE, activation=3))
    assert core.handle(StopWanted()) == [tell_stop(5)]


def test_upper_workers_wait_to_be_told_the_stop():
    core = started(middle(num_steps=9, snapshot_every=100))
    assert core.handle(StopWanted()) == []
    assert core.handle(stop_told(3)) == [tell_stop(3)]
    assert core.handle(stop_told(3)) == []
    assert core.end == 3


def test_stop_told_by_a_dead_generation_is_fenced_off():
    core = started(middle(num_steps=9, snapshot_every=100))
    core.handle(linked(BELOW, 1))
    assert core.handle(stop_told(3)) == []
    assert core.handle(stop_told(3, generation=1, to=1)) == []
    assert core.end == 9


def test_worker_that_waits_for_input_at_the_stop_ends_there():
    core = waiting_for_input()
    assert core.handle(stop_told(2)) == [Snapshot(step=2, checkpoint=True)]
    assert core.handle(SnapshotDurable(step=2)) == [ack(ACTIVATION, 2, 2, 2), Finish()]


def test_stop_takes_a_checkpoint_despite_a_snapshot_there():
    core = waiting_for_input()
    core.handle(wanted(ACTIVATION, 2))
    core.handle(SnapshotDurable(step=2))
    assert core.handle(stop_told(2)) == [Snapshot(step=2, checkpoint=True)]


def test_checkpoint_at_the_stop_is_not_taken_twice():
    core = started(WorkerPlan(num_steps=9, snapshot_every=100, checkpoint_every=2))
    run_step(core, 0)
    core.handle(StopWanted())
    assert core.end == 2
    assert core.handle(done(FORWARD, 1)) == [compute(APPLY, 1)]
    core.handle(done(UPDATE, 1))
    assert core.handle(done(APPLY, 1)) == [Snapshot(step=2, checkpoint=True)]
    assert core.handle(SnapshotDurable(step=2)) == [Finish()]


def test_stop_after_the_last_step_has_begun_changes_nothing():
    core = started(WorkerPlan(num_steps=1))
    core.handle(StopWanted())
    assert core.end == 1
    assert run_step(core, 0)[-1] == Finish()


def test_stop_before_the_first_step_trains_nothing():
    core = WorkerCore(bottom(num_steps=9, snapshot_every=1))
    core.start()
    assert core.handle(StopWanted()) == []
    assert core.handle(linked(ABOVE)) == [Snapshot(step=0, checkpoint=True)]
    assert core.handle(SnapshotDurable(step=0)) == [Finish()]
    assert core.handle(Tick()) == [hello(ABOVE, to=0, asks=False), tell_stop(0)]


def test_downward_ties_behind_a_stop_stay_with_their_receiver():
    """They are due in the steps that a resumed run takes; nothing here releases them."""
    plan = WorkerPlan(num_steps=9, lag=1, incoming={TIE_DOWN: window()}, snapshot_every=100)
    core = started(plan)
    core.handle(StopWanted())  # before step 1 is issued
    assert core.handle(done(FORWARD, 0)) == [compute(APPLY, 0)]
    core.handle(done(UPDATE, 0))
    assert core.handle(arrived(TIE_DOWN, 0)) == [store(TIE_DOWN, 0)]
    assert core.handle(done(APPLY, 0)) == [Snapshot(step=1, checkpoint=True)]
    last = core.handle(SnapshotDurable(step=1))
    assert last == [ack(TIE_DOWN, 1, 0, 0), Finish()]
    assert release(TIE_DOWN, 0) not in last


def test_stop_before_what_has_begun_is_left_out():
    """The lowest worker stops behind all that it has begun, so none of it can mean that."""
    core = waiting_for_input()
    before = core.end
    assert core.handle(stop_told(core.reached - 1)) == []
    assert core.end == before
