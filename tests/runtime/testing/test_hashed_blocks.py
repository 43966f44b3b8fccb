"""Blocks of one number: the plain loop does what blocks do in order, and tells cases apart.

That pipelines end as the loop does is what tests/property is about.
"""

from dataclasses import replace

import pytest

from runtime.core.plan import Free, Stream
from runtime.testing.hashed_blocks import MESSAGE_BYTES, Case, HashedBlock, mix, reference

CASE = Case(num_workers=3, num_steps=5, lag=1, tied=True, size=2, absent=frozenset({(1, 2)}))


def by_blocks(case: Case) -> list[int]:
    """The reference by stepping blocks, in order."""
    blocks = [HashedBlock(case, k) for k in range(case.num_workers)]
    made = []
    for step in range(case.num_steps):
        activation, ties = None, []
        for block in blocks:
            activation = block.forward(step, activation)
            ties.append(block.update(step))
        made.append(ties)
        for k, block in enumerate(blocks):
            below = ties[k - 1].up if case.tied and k else None
            late = made[step - case.lag] if case.tied and step >= case.lag else None
            above = late[k + 1].down if late and k + 1 < len(blocks) else None
            block.apply(step, below, above)
    return [block.weights for block in blocks]


@pytest.mark.parametrize(
    "changes",
    [{}, {"lag": 0}, {"lag": 3}, {"lag": 9}, {"tied": False}, {"num_workers": 1}, {"num_steps": 0}],
)
def test_reference_is_what_blocks_come_to_in_order(changes):
    case = replace(CASE, **changes)
    assert reference(case) == by_blocks(case)


@pytest.mark.parametrize(
    "changes", [{"lag": 0}, {"tied": False}, {"absent": frozenset()}, {"num_steps": 4}]
)
def test_reference_tells_cases_apart(changes):
    assert reference(replace(CASE, **changes))[:2] != reference(CASE)[:2]


def test_reference_may_end_early():
    assert reference(CASE, end=3) == reference(replace(CASE, num_steps=3))


def test_absent_ties_are_absent_on_both_sides():
    block = HashedBlock(CASE, 1)
    block.forward(2, 7)
    ties = block.update(2)
    assert (ties.up, ties.down, ties.absent) == (None, None, True)


def test_mix_tells_absence_from_any_number():
    assert mix(1, None) != mix(1, 0)
    assert mix(1, 2) != mix(2, 1)


def test_plan_of_a_case_has_the_least_room_and_what_is_spare():
    plan = replace(CASE, spare=2, snapshot_every=3).plan(1)
    for stream, window in plan.outgoing.items():
        assert window.max_retained == plan.min_retained(stream) + 2
    assert replace(CASE, spare=None).plan(1).outgoing[Stream.ACTIVATION].max_retained is None


def test_downward_window_holds_the_lag_and_free_ties_their_bound():
    case = replace(CASE, lag=4, slack_bytes=3)
    assert case.window(Stream.TIE_DOWN).max_messages == 5
    assert case.window(Stream.TIE_DOWN).max_bytes == 5 * MESSAGE_BYTES + 3
    free = replace(case, free=Free(max_staleness=6, keeps_newest=True))
    assert [free.window(stream).max_messages for stream in Stream] == [2, 7, 7]
