"""Snapshots that a worker's core issues ahead: behind an APPLY, before what comes next.

A snapshot is of the state at its boundary, whatever has been issued when it is asked for.
"""

import pytest

from runtime.core.messages import (
    Finish,
    Snapshot,
    SnapshotDurable,
    StopWanted,
)
from runtime.core.plan import Free, WorkerPlan
from runtime.core.state import State
from runtime.core.tie_stats import TieStats
from runtime.core.worker import IllegalEvent, WorkerCore

from .words import (
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
    compute,
    done,
    linked,
    middle,
    release,
    repeated,
    run_step,
    send,
    started,
    stop_told,
    store,
    top,
    wanted,
    window,
)


def second_step(*, snapshot_every: int = 100, checkpoint_every: int = 0) -> WorkerCore:
    """A receiver of activations in the FORWARD of step 1; the activation of step 2 is not here."""
    every = {"snapshot_every": snapshot_every, "checkpoint_every": checkpoint_every}
    core = started(top(num_steps=9, size=4, **every))
    run_step(core, 0, needs=(ACTIVATION,))
    assert core.handle(arrived(ACTIVATION, 1)) == [store(ACTIVATION, 1), *begun(1)]
    return core


def in_apply(core: WorkerCore) -> WorkerCore:
    """The UPDATE of step 1 ends, and its APPLY is under way."""
    expected = core.edges.incoming[ACTIVATION].expected
    last = ack(ACTIVATION, expected, 2, 0)
    assert core.handle(done(UPDATE, 1)) == [release(ACTIVATION, 1), last]
    assert core.state is State.APPLY
    return core


# When it is handed out --------------------------------------------------------------------------


@pytest.mark.parametrize("checkpoint", [False, True])
def test_due_snapshot_goes_between_apply_and_next_step(checkpoint):
    """In an UPDATE it is issued behind the APPLY, and the next step behind it."""
    every = {"snapshot_every": 100, "checkpoint_every": 1} if checkpoint else {"snapshot_every": 1}
    core = started(WorkerPlan(num_steps=9, **every))
    assert core.handle(done(FORWARD, 0)) == [
        compute(APPLY, 0),
        Snapshot(step=1, checkpoint=checkpoint),
        *begun(1),
    ]
    assert (core.state, core.step, core.snapshots.pending) == (State.UPDATE, 0, 1)
    # It is handed out once.
    assert core.handle(done(UPDATE, 0)) == []
    assert core.handle(done(APPLY, 0)) == []


def test_due_snapshot_does_not_wait_for_the_next_activation():
    core = second_step(snapshot_every=2)
    assert core.handle(done(FORWARD, 1)) == [compute(APPLY, 1), Snapshot(step=2)]
    assert core.reached == 2
    assert core.handle(arrived(ACTIVATION, 2)) == [store(ACTIVATION, 2), *begun(2)]
    assert core.state is State.UPDATE
    assert core.reached == 3


@pytest.mark.parametrize("is_here", [True, False])
def test_due_snapshot_goes_behind_an_apply_that_was_awaited(is_here):
    """With the next activation here, or not."""
    core = started(middle(num_steps=9, snapshot_every=1))
    core.handle(arrived(ACTIVATION, 0))
    if is_here:
        core.handle(arrived(ACTIVATION, 1))
    assert core.handle(done(FORWARD, 0)) == [send(ACTIVATION, 0)]
    core.handle(done(UPDATE, 0))
    assert core.state is State.WAIT_TIE
    next_step = begun(1) if is_here else []
    last = core.handle(arrived(TIE_UP, 0))
    assert last == [store(TIE_UP, 0), compute(APPLY, 0, below=0), Snapshot(step=1), *next_step]
    assert core.state is State.APPLY
    if not is_here:
        assert core.handle(arrived(ACTIVATION, 1)) == [store(ACTIVATION, 1), *begun(1)]
    assert core.handle(done(APPLY, 0)) == [release(TIE_UP, 0), ack(TIE_UP, 1, 1, 0)]


def test_due_snapshot_waits_for_the_last_tie_of_its_step():
    core = started(middle(num_steps=9, snapshot_every=1))
    core.handle(arrived(ACTIVATION, 0))
    core.handle(arrived(ACTIVATION, 1))
    assert core.handle(done(FORWARD, 0)) == [send(ACTIVATION, 0)]
    assert core.state is State.UPDATE
    last = core.handle(arrived(TIE_UP, 0))
    assert last == [store(TIE_UP, 0), compute(APPLY, 0, below=0), Snapshot(step=1), *begun(1)]


def test_due_snapshot_does_not_wait_for_credit():
    windows = {TIE_UP: window()}
    core = started(WorkerPlan(num_steps=9, outgoing=windows, snapshot_every=3))
    for step in range(2):
        run_step(core, step)
    assert core.handle(done(FORWARD, 2)) == [compute(APPLY, 2), Snapshot(step=3)]
    assert core.handle(acked(TIE_UP, 2, 1)) == begun(3)


def test_snapshot_with_free_ties_is_taken_at_its_boundary():
    """Its stats are of the steps before it, and an APPLY says late which ties it uses."""
    free = Free(max_staleness=9, keeps_newest=True)
    incoming = dict.fromkeys((ACTIVATION, TIE_DOWN), window())
    core = started(WorkerPlan(num_steps=9, incoming=incoming, snapshot_every=1, free=free))
    for event in (arrived(ACTIVATION, 0), arrived(ACTIVATION, 1), arrived(TIE_DOWN, 0)):
        core.handle(event)
    assert core.handle(done(FORWARD, 0)) == []
    assert core.handle(done(UPDATE, 0))[-1] == compute(APPLY, 0, above=0)
    tie_stats = TieStats()
    tie_stats.note(TIE_DOWN, 0)
    assert core.handle(done(APPLY, 0)) == [Snapshot(step=1, tie_stats=tie_stats), *begun(1)]


def test_due_snapshots_are_taken_once_between_two_steps():
    core = started(WorkerPlan(num_steps=7, snapshot_every=2, checkpoint_every=3))
    order = [*begun(0)]
    for step in range(7):
        for phase in (FORWARD, UPDATE, APPLY):
            order += core.handle(done(phase, step))
        if core.snapshots.pending is not None:
            order += core.handle(SnapshotDurable(step=core.snapshots.pending))
    assert order.pop() == Finish()
    taken = {2: False, 3: True, 4: False, 6: True, 7: True}
    expected = []
    for step in range(8):
        if step in taken:
            expected.append(Snapshot(step=step, checkpoint=taken[step]))
        if step < 7:
            expected += [*begun(step), compute(APPLY, step)]
    assert order == expected


@pytest.mark.parametrize(
    ("start_step", "steps"), [(3, [4, 8]), (4, [8]), (5, [8]), (7, [8]), (8, [])]
)
def test_generation_takes_every_fourth_and_none_at_its_start(start_step, steps):
    core = WorkerCore(top(num_steps=99, snapshot_every=4), start_step=start_step, generation=1)
    actions = core.start() + core.handle(linked(BELOW, to=1, activation=start_step))
    for step in range(start_step, 10):
        actions += core.handle(arrived(ACTIVATION, step, to=1))
        actions += run_step(core, step)
        if core.snapshots.pending is not None:
            core.handle(SnapshotDurable(step=core.snapshots.pending))
    taken = [action for action in actions if isinstance(action, Snapshot)]
    assert taken == [Snapshot(step=step) for step in steps]
    for snapshot in taken:  # behind the last APPLY before it
        assert actions[actions.index(snapshot) - 1] == compute(APPLY, snapshot.step - 1)


# One that is asked for --------------------------------------------------------------------------


def test_snapshot_requested_in_a_forward_goes_behind_the_apply():
    core = second_step()
    core.handle(arrived(ACTIVATION, 2))
    assert core.handle(wanted(ACTIVATION, 1)) == []
    assert core.handle(done(FORWARD, 1)) == [compute(APPLY, 1), Snapshot(step=2), *begun(2)]


def test_snapshot_requested_in_an_update_is_issued_at_once():
    core = second_step()
    assert core.handle(done(FORWARD, 1)) == [compute(APPLY, 1)]
    assert core.handle(wanted(ACTIVATION, 1)) == [Snapshot(step=2)]
    assert core.handle(wanted(ACTIVATION, 1)) == []
    assert core.handle(arrived(ACTIVATION, 2)) == [store(ACTIVATION, 2), *begun(2)]


def test_snapshot_requested_in_an_apply_is_issued_at_once():
    core = second_step()
    core.handle(done(FORWARD, 1))
    in_apply(core)
    assert core.handle(wanted(ACTIVATION, 2)) == [Snapshot(step=2)]
    assert core.handle(wanted(ACTIVATION, 2)) == []
    assert core.handle(arrived(ACTIVATION, 2)) == [store(ACTIVATION, 2), *begun(2)]
    assert core.state is State.APPLY


@pytest.mark.parametrize("state", [State.UPDATE, State.APPLY])
def test_snapshot_requested_behind_the_next_step_is_after_it(state):
    """It was taken as the one before step 2, behind what step 2 had done to the state."""
    core = second_step()
    core.handle(arrived(ACTIVATION, 2))
    assert core.handle(done(FORWARD, 1)) == [compute(APPLY, 1), *begun(2)]
    core.handle(arrived(ACTIVATION, 3))
    if state is State.APPLY:
        in_apply(core)
    assert core.handle(wanted(ACTIVATION, 1)) == []
    if state is State.UPDATE:
        in_apply(core)
    assert repeated(core) == [ack(ACTIVATION, 4, 2, 0)]
    assert core.handle(done(APPLY, 1)) == []
    assert core.state is State.FORWARD
    assert core.handle(done(FORWARD, 2)) == [compute(APPLY, 2), Snapshot(step=3), *begun(3)]
    core.handle(done(UPDATE, 2))
    core.handle(done(APPLY, 2))
    assert core.handle(SnapshotDurable(step=3)) == [ack(ACTIVATION, 4, 3, 3)]


def test_requested_snapshot_is_taken_while_waiting_for_a_tie():
    """The next step is issued up to its APPLY, which needs ties; behind these is the boundary."""
    core = started(middle(num_steps=9, snapshot_every=100))
    for message in (arrived(ACTIVATION, 0), arrived(ACTIVATION, 1), arrived(TIE_UP, 0)):
        core.handle(message)
    assert core.handle(done(FORWARD, 0))[1:] == [compute(APPLY, 0, below=0), *begun(1)]
    core.handle(done(UPDATE, 0))
    assert core.handle(wanted(ACTIVATION, 1)) == []
    for event in (done(APPLY, 0), done(FORWARD, 1), done(UPDATE, 1), arrived(TIE_UP, 1)):
        assert not any(isinstance(action, Snapshot) for action in core.handle(event))
    assert core.state is State.WAIT_TIE
    last = core.handle(arrived(TIE_DOWN, 0))
    assert last == [store(TIE_DOWN, 0), compute(APPLY, 1, below=1, above=0), Snapshot(step=2)]


# When it counts ---------------------------------------------------------------------------------


@pytest.mark.parametrize("state", [State.UPDATE, State.APPLY])
def test_durable_before_its_step_is_reached_is_illegal(state):
    core = second_step(snapshot_every=2)
    assert core.handle(done(FORWARD, 1)) == [compute(APPLY, 1), Snapshot(step=2)]
    if state is State.APPLY:
        in_apply(core)
    with pytest.raises(IllegalEvent):
        core.handle(SnapshotDurable(step=2))
    assert core.snapshots.pending == 2
    if state is State.UPDATE:
        in_apply(core)
    assert core.handle(done(APPLY, 1)) == []
    assert core.handle(SnapshotDurable(step=2)) == [ack(ACTIVATION, 2, 2, 2)]


def test_snapshot_counts_as_soon_as_its_step_is_reached():
    """Though the next step runs."""
    core = second_step(snapshot_every=2)
    core.handle(arrived(ACTIVATION, 2))
    assert core.handle(done(FORWARD, 1)) == [compute(APPLY, 1), Snapshot(step=2), *begun(2)]
    in_apply(core)
    assert core.handle(done(APPLY, 1)) == []
    assert core.state is State.FORWARD
    assert core.handle(SnapshotDurable(step=2)) == [ack(ACTIVATION, 3, 2, 2)]


@pytest.mark.parametrize("durable", [1, 2])
def test_request_that_a_snapshot_ahead_covers_changes_nothing(durable):
    core = second_step(snapshot_every=2)
    core.handle(done(FORWARD, 1))
    in_apply(core)
    assert core.handle(wanted(ACTIVATION, durable)) == []
    assert core.handle(done(APPLY, 1)) == []
    assert core.handle(SnapshotDurable(step=2)) == [ack(ACTIVATION, 2, 2, 2)]
    assert core.handle(arrived(ACTIVATION, 2)) == [store(ACTIVATION, 2), *begun(2)]
    assert core.handle(done(FORWARD, 2)) == [compute(APPLY, 2)]


# The stop behind it -----------------------------------------------------------------------------


@pytest.mark.parametrize("state", [State.UPDATE, State.APPLY])
def test_stop_at_a_snapshot_ahead_makes_a_checkpoint_there(state):
    """The one that was taken is no part of a checkpoint."""
    core = second_step(snapshot_every=2)
    assert core.handle(done(FORWARD, 1)) == [compute(APPLY, 1), Snapshot(step=2)]
    if state is State.APPLY:
        in_apply(core)
    assert core.handle(stop_told(2)) == []
    # Nothing is handed out behind the stop, though it is here.
    assert core.handle(arrived(ACTIVATION, 2)) == [store(ACTIVATION, 2)]
    if state is State.UPDATE:
        in_apply(core)
    assert core.handle(done(APPLY, 1)) == []
    assert core.handle(SnapshotDurable(step=2)) == [
        ack(ACTIVATION, 3, 2, 2),
        Snapshot(step=2, checkpoint=True),
    ]
    assert core.handle(SnapshotDurable(step=2)) == [ack(ACTIVATION, 3, 2, 2), Finish()]


def test_checkpoint_taken_ahead_serves_a_stop_told_there():
    core = second_step(checkpoint_every=2)
    snapshot = Snapshot(step=2, checkpoint=True)
    assert core.handle(done(FORWARD, 1)) == [compute(APPLY, 1), snapshot]
    core.handle(stop_told(2))
    in_apply(core)
    assert core.handle(done(APPLY, 1)) == []
    assert core.handle(SnapshotDurable(step=2)) == [ack(ACTIVATION, 2, 2, 2), Finish()]


def test_stop_behind_a_snapshot_ahead_lets_the_issued_step_end():
    core = started(WorkerPlan(num_steps=9, snapshot_every=1))
    assert core.handle(done(FORWARD, 0)) == [compute(APPLY, 0), Snapshot(step=1), *begun(1)]
    assert core.handle(StopWanted()) == []
    assert core.end == 2
    core.handle(done(UPDATE, 0))
    core.handle(done(APPLY, 0))
    core.handle(SnapshotDurable(step=1))
    assert run_step(core, 1) == [compute(APPLY, 1), Snapshot(step=2, checkpoint=True)]


def test_last_snapshot_is_taken_when_the_end_is_reached():
    core = started(WorkerPlan(num_steps=1, snapshot_every=1))
    assert core.handle(done(FORWARD, 0)) == [compute(APPLY, 0)]
    assert core.handle(done(UPDATE, 0)) == []
    assert core.handle(done(APPLY, 0)) == [Snapshot(step=1, checkpoint=True)]
