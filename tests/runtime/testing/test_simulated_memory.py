"""What a simulated keeper holds: the messages it has retained, and which checkpoints are whole."""

import pytest

from runtime.core.plan import Free, Stream
from runtime.core.worker import WorkerCore
from runtime.testing.hashed_blocks import Case
from runtime.testing.simulated_memory import Memory, Part, is_complete, retained_below

ACTIVATION, TIE_UP, TIE_DOWN = Stream


def core(*, free: Free | None = None) -> WorkerCore:
    """The middle of three workers, which sends activations and ties."""
    case = Case(num_workers=3, num_steps=9, lag=0 if free else 1, tied=True, size=2, free=free)
    return WorkerCore(case.plan(1))


def outbox(**steps: list[int]) -> dict:
    return {(Stream(name), step): step for name, numbers in steps.items() for step in numbers}


def test_retained_messages_end_at_the_first_gap_below():
    found = retained_below(core(), outbox(activation=[0, 2, 3, 4], tie_up=[4]), 4)
    assert found == {
        ACTIVATION: {2: False, 3: False},
        TIE_UP: {},
        TIE_DOWN: {},
    }


def test_absent_message_is_retained_as_such():
    held = outbox(tie_up=[1]) | {(TIE_UP, 2): None}
    assert retained_below(core(), held, 3)[TIE_UP] == {1: False, 2: True}


def test_downward_ties_that_are_never_sent_are_not_looked_for():
    """Of 9 steps with lag 1 the last downward tie is no message."""
    assert retained_below(core(), outbox(tie_down=[7]), 9)[TIE_DOWN] == {7: False}


def test_newest_free_tie_below_is_retained_whatever_is_missing():
    free = Free(max_staleness=3, keeps_newest=True)
    held = outbox(tie_up=[1, 3, 6], activation=[5])
    found = retained_below(core(free=free), held, 6)
    assert found == {ACTIVATION: {5: False}, TIE_UP: {3: False}, TIE_DOWN: {}}


@pytest.mark.parametrize(
    ("parts", "complete"),
    [
        ([True, True], True),
        ([True, False], False),
        ([True, None], False),
    ],
)
def test_checkpoint_is_complete_if_every_part_is_there_and_whole(parts, complete):
    memories = [Memory(saved=(0, 0)) for _ in parts]
    for memory, is_whole in zip(memories, parts, strict=True):
        if is_whole is not None:
            memory.parts[4] = Part(weights=1, ties={}, is_whole=is_whole)
    assert is_complete(4, memories) is complete
    assert not is_complete(5, memories)
