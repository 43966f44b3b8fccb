"""When a worker's snapshots are due, and which of them are for a checkpoint."""

import pytest

from runtime.core.account import Account
from runtime.core.messages import Snapshot
from runtime.core.plan import WorkerPlan
from runtime.core.snapshot_schedule import SnapshotSchedule

END = 99


def schedule(snapshot_every: int = 0, checkpoint_every: int = 0) -> SnapshotSchedule:
    return SnapshotSchedule(
        WorkerPlan(num_steps=END, snapshot_every=snapshot_every, checkpoint_every=checkpoint_every)
    )


def due(snapshots: SnapshotSchedule, step: int, *, end: int = END, can_wait: bool = False) -> bool:
    return snapshots.is_due(step, end=end, can_wait=can_wait)


def walk(snapshots: SnapshotSchedule, steps: range, *, end: int = END) -> list[Snapshot]:
    """Go from boundary to boundary and take what is due."""
    taken = []
    for step in steps:
        snapshots.reached(step)
        if due(snapshots, step, end=end):
            taken.append(snapshots.take(step, end=end, account=Account()))
    return taken


def test_each_is_due_in_its_own_rhythm_and_at_the_end_there_is_a_checkpoint():
    assert walk(schedule(2, 3), range(1, 8), end=7) == [
        Snapshot(step=2),
        Snapshot(step=3, checkpoint=True),
        Snapshot(step=4),
        Snapshot(step=6, checkpoint=True),
        Snapshot(step=7, checkpoint=True),
    ]


def test_without_snapshots_none_is_due_asked_for_or_not():
    snapshots = schedule()
    snapshots.ask()
    assert walk(snapshots, range(1, 6), end=5) == []


def test_one_that_was_asked_for_is_due_at_the_next_boundary_and_once():
    snapshots = schedule(100)
    assert not due(snapshots, 3)
    snapshots.ask()
    assert walk(snapshots, range(4, 9)) == [Snapshot(step=4)]


def test_one_that_is_due_stays_so_until_it_is_taken():
    """The one that is under way may take many steps to be safe, where all are passed over."""
    snapshots = schedule(2, 4)
    for step in range(1, 6):
        snapshots.reached(step)
    assert due(snapshots, 5)
    assert snapshots.take(5, end=END, account=Account()) == Snapshot(step=5, checkpoint=True)
    assert not due(snapshots, 5)
    assert not due(snapshots, 6)


def test_one_that_is_asked_for_where_it_was_taken_is_for_the_next_boundary():
    snapshots = schedule(100)
    walk(snapshots, range(99, 101), end=200)
    snapshots.ask()
    assert not due(snapshots, 100, end=200)
    assert due(snapshots, 101, end=200)


def test_one_is_pending_from_when_it_is_taken_and_does_not_hide_the_next():
    snapshots = schedule(2)
    assert snapshots.pending is None
    walk(snapshots, range(1, 3))
    assert snapshots.pending == 2
    snapshots.reached(3)
    assert not due(snapshots, 3)
    snapshots.reached(4)
    assert due(snapshots, 4)
    assert snapshots.pending == 2
    snapshots.take(4, end=END, account=Account())
    assert snapshots.pending == 4


def test_where_nothing_is_learned_a_snapshot_can_wait_and_a_checkpoint_cannot():
    snapshots = schedule(2, 4)
    snapshots.reached(2)
    assert due(snapshots, 2)
    assert not due(snapshots, 2, can_wait=True)
    assert not due(snapshots, 3, can_wait=True)
    assert due(snapshots, 3)  # one that waited
    snapshots.reached(4)
    assert due(snapshots, 4, can_wait=True)
    assert due(snapshots, 3, end=3, can_wait=True)


def test_the_end_takes_a_checkpoint_where_it_has_a_snapshot_already():
    snapshots = schedule(2)
    walk(snapshots, range(1, 3))
    assert not due(snapshots, 2)
    assert due(snapshots, 2, end=2)
    assert snapshots.take(2, end=2, account=Account()) == Snapshot(step=2, checkpoint=True)
    assert not due(snapshots, 2, end=2)


def test_a_checkpoint_in_its_rhythm_serves_as_the_one_at_the_end():
    snapshots = schedule(100, 2)
    assert walk(snapshots, range(1, 3)) == [Snapshot(step=2, checkpoint=True)]
    assert not due(snapshots, 2, end=2)


@pytest.mark.parametrize(
    ("every", "steps"), [((3, 0), {3, 6}), ((3, 2), {2, 3, 4, 6}), ((100, 5), {5}), ((0, 0), set())]
)
def test_what_will_be_due_is_what_is_due_when_it_is_reached(every, steps):
    snapshots = schedule(*every)
    expected = set()
    for step in range(1, 8):
        foreseen = snapshots.will_be_due(step)
        assert bool(walk(snapshots, range(step, step + 1))) == foreseen
        expected |= {step} if foreseen else set()
    assert expected == steps


def test_one_that_was_asked_for_or_waits_will_be_due_wherever_the_next_boundary_is():
    snapshots = schedule(4)
    assert not snapshots.will_be_due(3)
    snapshots.ask()
    assert snapshots.will_be_due(3)
    snapshots.take(3, end=END, account=Account())
    assert not snapshots.will_be_due(3)
    snapshots.reached(4)  # and is not taken there
    assert snapshots.will_be_due(5)
    snapshots = schedule(100, 4)
    snapshots.reached(4)
    assert snapshots.will_be_due(5)
