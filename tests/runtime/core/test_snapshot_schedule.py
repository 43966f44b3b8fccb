"""When a worker's snapshots are due, and which of them are for a checkpoint."""

import pytest

from runtime.core.messages import Snapshot
from runtime.core.plan import WorkerPlan
from runtime.core.snapshot_schedule import SnapshotSchedule
from runtime.core.tie_stats import TieStats

END = 99


def schedule(
    snapshot_every: int = 0, checkpoint_every: int = 0, *, start_step: int = 0
) -> SnapshotSchedule:
    plan = WorkerPlan(
        num_steps=END, snapshot_every=snapshot_every, checkpoint_every=checkpoint_every
    )
    return SnapshotSchedule(plan, start_step=start_step)


def due(snapshots: SnapshotSchedule, step: int, *, end: int = END) -> bool:
    return snapshots.is_due(step, end=end)


def walk(snapshots: SnapshotSchedule, steps: range, *, end: int = END) -> list[Snapshot]:
    """Go from boundary to boundary and take what is due."""
    taken = []
    for step in steps:
        if due(snapshots, step, end=end):
            taken.append(snapshots.take(step, end=end, tie_stats=TieStats()))
    return taken


def test_snapshots_and_checkpoints_have_rhythms_of_their_own():
    """At the end there is a checkpoint."""
    assert walk(schedule(2, 3), range(1, 8), end=7) == [
        Snapshot(step=2),
        Snapshot(step=3, checkpoint=True),
        Snapshot(step=4),
        Snapshot(step=6, checkpoint=True),
        Snapshot(step=7, checkpoint=True),
    ]


def test_snapshot_is_never_due_in_a_plan_without_snapshots():
    snapshots = schedule()
    snapshots.ask()
    assert walk(snapshots, range(1, 6), end=5) == []


def test_requested_snapshot_is_due_once_at_the_next_boundary():
    snapshots = schedule(100)
    assert not due(snapshots, 3)
    snapshots.ask()
    assert walk(snapshots, range(4, 9)) == [Snapshot(step=4)]


def test_due_snapshot_stays_due_until_it_is_taken():
    """The one that is under way may take many steps to be durable, all passed over."""
    snapshots = schedule(2, 4)
    assert [step for step in range(6) if due(snapshots, step)] == [2, 3, 4, 5]
    assert snapshots.take(5, end=END, tie_stats=TieStats()) == Snapshot(step=5, checkpoint=True)
    assert not due(snapshots, 5)


def test_late_or_early_snapshot_does_not_shift_the_rhythm():
    snapshots = schedule(4, 8)
    taken = [snapshots.take(step, end=END, tie_stats=TieStats()) for step in (3, 6, 9)]
    assert [snapshot.checkpoint for snapshot in taken] == [False, False, True]
    assert not due(snapshots, 11)
    assert walk(snapshots, range(10, 18)) == [
        Snapshot(step=12),
        Snapshot(step=16, checkpoint=True),
    ]


def test_missed_snapshots_are_made_good_by_one():
    snapshots = schedule(2, 3)
    assert walk(snapshots, range(7, 9)) == [
        Snapshot(step=7, checkpoint=True),
        Snapshot(step=8),
    ]


def test_is_due_changes_nothing_and_may_be_asked_ahead():
    snapshots = schedule(4)
    assert [due(snapshots, step) for step in (3, 4, 3, 4)] == [False, True] * 2
    assert walk(snapshots, range(1, 6)) == [Snapshot(step=4)]


@pytest.mark.parametrize("start_step", [0, 3, 4, 5, 7])
def test_generation_has_the_same_rhythm_wherever_it_begins(start_step):
    """It begins with a state that is durable: there none is due."""
    snapshots = schedule(4, 8, start_step=start_step)
    taken = walk(snapshots, range(start_step, 18))
    steps = [step for step in (4, 8, 12, 16) if step > start_step]
    assert taken == [Snapshot(step=step, checkpoint=step % 8 == 0) for step in steps]


def test_generation_from_step_3_takes_a_snapshot_at_4_not_at_3():
    snapshots = schedule(4, start_step=3)
    assert not due(snapshots, 3)
    assert due(snapshots, 4)


def test_requested_snapshot_is_due_at_the_first_boundary_too():
    snapshots = schedule(4, start_step=3)
    snapshots.ask()
    assert walk(snapshots, range(3, 5)) == [Snapshot(step=3), Snapshot(step=4)]


def test_generation_that_begins_at_the_end_takes_its_checkpoint():
    assert walk(schedule(4, start_step=4), range(4, 5), end=4) == [
        Snapshot(step=4, checkpoint=True)
    ]


def test_snapshot_requested_when_just_taken_is_for_the_next_step():
    snapshots = schedule(100)
    walk(snapshots, range(99, 101), end=200)
    snapshots.ask()
    assert not due(snapshots, 100, end=200)
    assert due(snapshots, 101, end=200)


def test_pending_snapshot_does_not_hide_the_next_one():
    snapshots = schedule(2)
    assert snapshots.pending is None
    walk(snapshots, range(1, 3))
    assert snapshots.pending == 2
    assert not due(snapshots, 3)
    assert due(snapshots, 4)
    assert snapshots.pending == 2
    snapshots.take(4, end=END, tie_stats=TieStats())
    assert snapshots.pending == 4


def test_end_takes_a_checkpoint_despite_a_snapshot_there():
    snapshots = schedule(2)
    walk(snapshots, range(1, 3))
    assert not due(snapshots, 2)
    assert due(snapshots, 2, end=2)
    assert snapshots.take(2, end=2, tie_stats=TieStats()) == Snapshot(step=2, checkpoint=True)
    assert not due(snapshots, 2, end=2)


def test_checkpoint_in_its_rhythm_serves_as_the_one_at_the_end():
    snapshots = schedule(100, 2)
    assert walk(snapshots, range(1, 3)) == [Snapshot(step=2, checkpoint=True)]
    assert not due(snapshots, 2, end=2)


def test_requested_snapshot_does_not_shift_the_rhythm():
    snapshots = schedule(4)
    snapshots.ask()
    assert due(snapshots, 1)
    assert due(snapshots, 3)
    snapshots.take(3, end=END, tie_stats=TieStats())
    assert walk(snapshots, range(3, 9)) == [Snapshot(step=4), Snapshot(step=8)]
