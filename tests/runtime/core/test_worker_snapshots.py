"""A worker's core while a snapshot is taken and not yet durable: what goes on and what waits."""

import pytest

from runtime.core.messages import (
    Finish,
    Snapshot,
    SnapshotDurable,
    Tick,
    Trim,
)
from runtime.core.plan import WorkerPlan
from runtime.core.state import State
from runtime.core.worker import IllegalEvent, WorkerCore

from .words import (
    ABOVE,
    ACTIVATION,
    APPLY,
    FORWARD,
    TIE_DOWN,
    UPDATE,
    ack,
    acked,
    arrived,
    begun,
    bottom,
    compute,
    done,
    hello,
    release,
    repeated,
    run_step,
    started,
    stop_told,
    store,
    top,
    wanted,
    window,
)


def pending(*, size: int = 2, snapshot_every: int = 2, num_steps: int = 9) -> WorkerCore:
    """A receiver of activations whose snapshot before step 2, due or asked for, was taken ahead and
    is under way; it waits for input."""
    core = started(top(num_steps=num_steps, size=size, snapshot_every=snapshot_every))
    run_step(core, 0, needs=(ACTIVATION,))
    core.handle(arrived(ACTIVATION, 1))
    if snapshot_every > 2:
        core.handle(wanted(ACTIVATION, 1))
    assert run_step(core, 1) == [
        compute(APPLY, 1),
        Snapshot(step=2),
        release(ACTIVATION, 1),
        ack(ACTIVATION, 2, 2, 0),
    ]
    assert core.state is State.WAIT_INPUT
    return core


def finish(core: WorkerCore, step: int, *, expected: int, durable: int) -> None:
    """End a step whose successor is not issued."""
    assert core.handle(done(FORWARD, step)) == [compute(APPLY, step)]
    last = ack(ACTIVATION, expected, step + 1, durable)
    assert core.handle(done(UPDATE, step)) == [release(ACTIVATION, step), last]
    assert core.handle(done(APPLY, step)) == []


# What goes on -----------------------------------------------------------------------------------


def test_steps_go_on_and_only_durable_snapshots_cover():
    core = pending()
    assert repeated(core) == [ack(ACTIVATION, 2, 2, 0)]
    assert core.handle(arrived(ACTIVATION, 2)) == [store(ACTIVATION, 2), *begun(2)]
    finish(core, 2, expected=3, durable=0)
    assert core.handle(arrived(ACTIVATION, 3)) == [store(ACTIVATION, 3), *begun(3)]
    assert repeated(core) == [ack(ACTIVATION, 4, 3, 0)]
    # It is of step 2, whatever has been used up since.
    assert core.handle(SnapshotDurable(step=2)) == [ack(ACTIVATION, 4, 3, 2)]
    assert repeated(core) == [ack(ACTIVATION, 4, 3, 2)]


def test_next_step_is_issued_ahead_while_a_snapshot_is_under_way():
    core = pending(snapshot_every=100)
    core.handle(arrived(ACTIVATION, 2))
    core.handle(arrived(ACTIVATION, 3))
    assert core.handle(done(FORWARD, 2)) == [compute(APPLY, 2), *begun(3)]
    assert core.handle(SnapshotDurable(step=2)) == [ack(ACTIVATION, 4, 2, 2)]


SECOND_STEP = [
    (None, State.WAIT_INPUT),
    (arrived(ACTIVATION, 1), State.FORWARD),
    (done(FORWARD, 1), State.UPDATE),
    (done(UPDATE, 1), State.WAIT_TIE),
    (arrived(TIE_DOWN, 1), State.APPLY),
    (done(APPLY, 1), State.WAIT_CREDIT),
]


@pytest.mark.parametrize("num_events", range(len(SECOND_STEP)))
def test_snapshot_may_become_durable_in_any_state(num_events):
    windows = {"incoming": dict.fromkeys((ACTIVATION, TIE_DOWN), window())}
    core = started(WorkerPlan(num_steps=9, snapshot_every=1, **windows))
    run_step(core, 0, needs=(ACTIVATION, TIE_DOWN))
    for event, state in SECOND_STEP[: num_events + 1]:
        if event is not None:
            core.handle(event)
        assert core.state is state
    activations, ties = core.edges.incoming[ACTIVATION], core.edges.incoming[TIE_DOWN]
    # The next one is due behind an APPLY that is issued.
    next_one = [Snapshot(step=2)] if core.state in (State.APPLY, State.WAIT_CREDIT) else []
    assert core.handle(SnapshotDurable(step=1)) == [
        ack(ACTIVATION, activations.expected, activations.released, 1),
        ack(TIE_DOWN, ties.expected, ties.released, 1),
        *next_one,
    ]


# What waits -------------------------------------------------------------------------------------


def test_next_snapshot_waits_and_its_step_with_it():
    core = pending()
    core.handle(arrived(ACTIVATION, 2))
    finish(core, 2, expected=3, durable=0)
    core.handle(arrived(ACTIVATION, 3))
    finish(core, 3, expected=4, durable=0)
    assert core.state is State.WAIT_CREDIT
    # Messages are taken meanwhile.
    assert core.handle(arrived(ACTIVATION, 4)) == [store(ACTIVATION, 4)]
    assert repeated(core) == [ack(ACTIVATION, 5, 4, 0)]
    assert core.handle(SnapshotDurable(step=2)) == [
        ack(ACTIVATION, 5, 4, 2),
        Snapshot(step=4),
        *begun(4),
    ]
    assert core.handle(SnapshotDurable(step=4)) == [ack(ACTIVATION, 5, 4, 4)]


@pytest.mark.parametrize("ends", [[], [done(UPDATE, 3)]], ids=["in_update", "in_apply"])
def test_next_snapshot_is_taken_ahead_when_the_first_is_durable(ends):
    core = pending(size=4)
    for step in (2, 3, 4):
        core.handle(arrived(ACTIVATION, step))
    assert core.handle(done(FORWARD, 2)) == [compute(APPLY, 2), *begun(3)]
    core.handle(done(UPDATE, 2))
    core.handle(done(APPLY, 2))
    assert core.handle(done(FORWARD, 3)) == [compute(APPLY, 3)]
    for event in ends:
        assert core.handle(event) == [release(ACTIVATION, 3), ack(ACTIVATION, 5, 4, 0)]
    last = ack(ACTIVATION, 5, 3 + len(ends), 2)
    assert core.handle(SnapshotDurable(step=2)) == [last, Snapshot(step=4), *begun(4)]


def test_requested_snapshot_waits_for_the_one_under_way():
    """Asked for while the worker waits for input."""
    core = pending(snapshot_every=100)
    core.handle(arrived(ACTIVATION, 2))
    finish(core, 2, expected=3, durable=0)
    assert core.state is State.WAIT_INPUT
    assert core.handle(wanted(ACTIVATION, 3)) == []
    assert core.handle(arrived(ACTIVATION, 3)) == [store(ACTIVATION, 3)]
    assert core.handle(SnapshotDurable(step=2)) == [
        ack(ACTIVATION, 4, 3, 2),
        Snapshot(step=3),
        *begun(3),
    ]


def test_last_checkpoint_waits_and_the_end_waits_for_it():
    core = pending(num_steps=3)
    core.handle(arrived(ACTIVATION, 2))
    finish(core, 2, expected=3, durable=0)
    assert core.handle(SnapshotDurable(step=2)) == [
        ack(ACTIVATION, 3, 3, 2),
        Snapshot(step=3, checkpoint=True),
    ]
    assert core.state is State.DRAINING
    assert repeated(core) == [ack(ACTIVATION, 3, 3, 2)]
    assert core.handle(SnapshotDurable(step=3)) == [ack(ACTIVATION, 3, 3, 3), Finish()]
    assert core.state is State.DONE


def test_end_waits_though_no_neighbour_needs_the_worker():
    core = started(bottom(num_steps=1, snapshot_every=100))
    assert run_step(core, 0)[-1] == Snapshot(step=1, checkpoint=True)
    assert core.handle(acked(ACTIVATION, 1, 1, 1)) == [Trim(stream=ACTIVATION, step=1)]
    assert core.handle(Tick()) == [hello(ABOVE, to=0, asks=False)]
    assert core.state is State.DRAINING
    assert core.handle(SnapshotDurable(step=1)) == [Finish()]


def test_stop_at_a_pending_snapshot_waits_for_it():
    """Both are of one step, and the checkpoint follows: the first was no part of one."""
    core = pending()
    assert core.handle(stop_told(2)) == []
    assert core.state is State.WAIT_INPUT
    assert core.handle(SnapshotDurable(step=2)) == [
        ack(ACTIVATION, 2, 2, 2),
        Snapshot(step=2, checkpoint=True),
    ]
    assert core.handle(SnapshotDurable(step=2)) == [ack(ACTIVATION, 2, 2, 2), Finish()]


# What is asked for meanwhile --------------------------------------------------------------------


@pytest.mark.parametrize("durable", [0, 1, 2])
def test_request_a_pending_snapshot_covers_changes_nothing(durable):
    core = pending(snapshot_every=100)
    assert core.handle(wanted(ACTIVATION, durable)) == []
    core.handle(arrived(ACTIVATION, 2))
    core.handle(arrived(ACTIVATION, 3))
    assert core.handle(wanted(ACTIVATION, durable)) == []
    # It neither holds back the next step nor waits for the one under way.
    assert core.handle(done(FORWARD, 2)) == [compute(APPLY, 2), *begun(3)]
    assert core.handle(SnapshotDurable(step=2)) == [ack(ACTIVATION, 4, 2, 2)]
    assert core.handle(wanted(ACTIVATION, durable)) == []
    core.handle(done(UPDATE, 2))
    assert core.handle(done(APPLY, 2)) == []
    assert run_step(core, 3)[-1] == ack(ACTIVATION, 4, 4, 2)


def test_request_beyond_the_pending_snapshot_is_for_the_next():
    core = pending(size=4, snapshot_every=100)
    core.handle(arrived(ACTIVATION, 2))
    core.handle(arrived(ACTIVATION, 3))
    assert core.handle(done(FORWARD, 2)) == [compute(APPLY, 2), *begun(3)]
    core.handle(done(UPDATE, 2))
    assert core.handle(wanted(ACTIVATION, 3)) == []
    core.handle(done(APPLY, 2))
    core.handle(SnapshotDurable(step=2))
    core.handle(arrived(ACTIVATION, 4))
    assert core.handle(done(FORWARD, 3)) == [compute(APPLY, 3), Snapshot(step=4), *begun(4)]
    core.handle(done(UPDATE, 3))
    assert core.handle(done(APPLY, 3)) == []


def test_pending_snapshot_covers_downward_ties_but_for_the_lag():
    windows = {"incoming": {TIE_DOWN: window()}}
    core = started(WorkerPlan(num_steps=9, lag=1, snapshot_every=3, **windows))
    for step in range(3):
        actions = run_step(core, step, needs=(TIE_DOWN,))
    assert actions == [
        store(TIE_DOWN, 2),
        compute(APPLY, 2, above=1),
        Snapshot(step=3),
        *begun(3),
        release(TIE_DOWN, 1),
        ack(TIE_DOWN, 3, 2, 0),
    ]
    assert core.handle(wanted(TIE_DOWN, 2)) == []  # will be covered
    assert core.handle(done(FORWARD, 3)) == [compute(APPLY, 3, above=2), *begun(4)]
    assert core.handle(done(UPDATE, 3)) == []
    assert core.handle(done(APPLY, 3)) == [release(TIE_DOWN, 2), ack(TIE_DOWN, 3, 3, 0)]
    assert core.handle(wanted(TIE_DOWN, 3)) == []  # will not
    assert core.handle(SnapshotDurable(step=3)) == [ack(TIE_DOWN, 3, 3, 2)]
    core.handle(arrived(TIE_DOWN, 3))
    assert core.handle(done(FORWARD, 4)) == [
        compute(APPLY, 4, above=3),
        Snapshot(step=5),
        *begun(5),
    ]
    assert core.handle(done(UPDATE, 4)) == []
    assert core.handle(done(APPLY, 4)) == [release(TIE_DOWN, 3), ack(TIE_DOWN, 4, 4, 2)]


# What is illegal --------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [0, 1, 3, 4])
def test_durable_of_another_snapshot_is_illegal(step):
    core = pending()
    core.handle(arrived(ACTIVATION, 2))
    with pytest.raises(IllegalEvent):
        core.handle(SnapshotDurable(step=step))
    assert repeated(core) == [ack(ACTIVATION, 3, 2, 0)]
    assert core.handle(SnapshotDurable(step=2)) == [ack(ACTIVATION, 3, 2, 2)]


def test_durable_is_said_once():
    core = pending()
    core.handle(SnapshotDurable(step=2))
    with pytest.raises(IllegalEvent):
        core.handle(SnapshotDurable(step=2))


def test_durable_of_a_snapshot_not_taken_is_illegal():
    core = started(top(snapshot_every=1))
    run_step(core, 0, needs=(ACTIVATION,))
    run_step(core, 1, needs=(ACTIVATION,))
    assert core.state is State.WAIT_CREDIT
    with pytest.raises(IllegalEvent):
        core.handle(SnapshotDurable(step=2))
    core.handle(SnapshotDurable(step=1))
    core.handle(SnapshotDurable(step=2))


# Room at the sender -----------------------------------------------------------------------------


def test_step_that_needs_what_its_sender_can_not_retain_waits():
    """A restarted worker went on while its snapshot was not durable, and waited within a step
    for a tie; its sender had no room for that one, and waited for a snapshot."""
    retaining = window(retained=3)
    core = started(WorkerPlan(num_steps=9, incoming={ACTIVATION: retaining}, snapshot_every=100))
    for step in range(2):
        assert run_step(core, step, needs=(ACTIVATION,))[-1] == ack(
            ACTIVATION, step + 1, step + 1, 0
        )
    core.handle(arrived(ACTIVATION, 2))
    # Message 3 can't be retained beside 0, 1 and 2, so that it never comes before a snapshot.
    assert core.handle(done(FORWARD, 2)) == [compute(APPLY, 2), Snapshot(step=3)]
    assert core.handle(done(UPDATE, 2)) == [release(ACTIVATION, 2), ack(ACTIVATION, 3, 3, 0)]
    assert core.handle(done(APPLY, 2)) == []
    assert core.handle(SnapshotDurable(step=3)) == [ack(ACTIVATION, 3, 3, 3)]
    assert core.handle(arrived(ACTIVATION, 3)) == [store(ACTIVATION, 3), *begun(3)]
