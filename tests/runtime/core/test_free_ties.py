"""Both ends of a tie that no lag is fixed for."""

import pytest

from runtime.core.free_ties import FreeIncoming, FreeOutgoing
from runtime.core.messages import Compute, Phase, Release, Store
from runtime.core.plan import Free, Stream, WorkerPlan

from .words import TIE_DOWN, UPDATE, ack, arrived, compute, done, started, window

WEIGHTS = Free(max_staleness=2, keeps_newest=True)
GRADIENTS = Free(max_staleness=2, keeps_newest=False)


def hear(incoming: FreeIncoming, *steps: int, absent: bool = False) -> list[bool]:
    return [incoming.accept(step, checksum=0, absent=absent) for step in steps]


@pytest.mark.parametrize("free", [WEIGHTS, GRADIENTS])
def test_free_tie_is_taken_at_once_despite_gaps_and_only_once(free):
    incoming = FreeIncoming(window(), free)
    assert hear(incoming, 0, 3, 3, 1) == [True, True, False, False]
    assert incoming.expected == incoming.released == incoming.durable == 4
    assert not incoming.is_gap(99)


def test_weights_stay_in_use_until_newer_ones_come():
    incoming = FreeIncoming(window(), WEIGHTS)
    assert incoming.take(0) == ([], 0)
    hear(incoming, 0, 1)
    assert [incoming.take(step) for step in (1, 2, 3)] == [([1], 0)] * 3
    assert [incoming.is_fresh(step) for step in (3, 4)] == [True, False]
    hear(incoming, 2, absent=True)
    assert not incoming.is_fresh(4), "a step that was passed over says nothing of the weights"


def test_gradients_are_used_once_and_missing_ones_not_awaited():
    incoming = FreeIncoming(window(), GRADIENTS)
    hear(incoming, 0, 1)
    assert incoming.take(1) == ([0, 1], 0)
    assert incoming.take(2) == ([], 0)
    hear(incoming, 2, absent=True)
    assert incoming.is_fresh(4)
    hear(incoming, 3, 4)
    assert incoming.take(6) == ([4], 1), "3 is too stale for step 6"


def test_steps_are_free_up_to_the_bound_before_any_message():
    incoming = FreeIncoming(window(), WEIGHTS)
    assert [incoming.is_fresh(step) for step in range(4)] == [True, True, False, False]


def sent(outgoing: FreeOutgoing) -> list[int]:
    return outgoing.take_sendable()


def test_newest_tie_is_resent_with_the_absent_markers_behind_it():
    outgoing = FreeOutgoing(window(9), 0, {})
    for step in range(6):
        outgoing.make(step, absent=step > 3)
    assert sent(outgoing) == [0, 1, 2, 3, 4, 5]
    assert outgoing.acknowledge(expected=6, released=6, durable=6, resend=False)
    assert outgoing.needed_from == 3
    outgoing.rewind(0)
    assert [(step, outgoing.is_absent(step)) for step in sent(outgoing)] == [
        (3, False),
        (4, True),
        (5, True),
    ]
    outgoing.acknowledge(expected=0, released=0, durable=0, resend=True)
    assert sent(outgoing) == [3, 4, 5], "it may be lost again, before anything is heard"


def test_restarted_sender_resends_what_it_finds_or_a_marker():
    """Without one it says by the absent marker of its last step that there is nothing."""
    outgoing = FreeOutgoing(window(9), 7, {5: False})
    outgoing.rewind(0)
    assert [(step, outgoing.is_absent(step)) for step in sent(outgoing)] == [(5, False), (6, True)]
    outgoing = FreeOutgoing(window(9), 7, {})
    outgoing.rewind(0)
    assert [(step, outgoing.is_absent(step)) for step in sent(outgoing)] == [(6, True)]
    outgoing = FreeOutgoing(window(9), 7, {6: False})
    outgoing.rewind(9)
    assert sent(outgoing) == []


def test_core_stores_releases_and_acknowledges_a_free_tie_in_one():
    plan = WorkerPlan(num_steps=9, incoming={TIE_DOWN: window()}, free=GRADIENTS)
    core = started(plan)
    assert core.handle(arrived(TIE_DOWN, 0)) == [
        Store(stream=TIE_DOWN, step=0),
        Release(stream=TIE_DOWN, step=0),
        ack(TIE_DOWN, 1, 1),
    ]
    assert core.handle(arrived(TIE_DOWN, 1, absent=True)) == [ack(TIE_DOWN, 2, 2)]
    core.handle(done(Phase.FORWARD, 0))
    assert core.handle(done(UPDATE, 0)) == [compute(Phase.APPLY, 0, above=0)]
    assert core.tie_stats.staleness[Stream.TIE_DOWN] == {0: 1}
    core.handle(done(Phase.APPLY, 0))
    core.handle(done(Phase.FORWARD, 1))
    assert core.handle(done(UPDATE, 1)) == [Compute(phase=Phase.APPLY, step=1)]
