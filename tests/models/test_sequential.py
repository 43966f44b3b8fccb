"""The order of a step over all blocks, and which step's tie each block is given."""

import pytest

from models.block import Ties
from models.sequential import train


class Recorded:
    """A block that says what it was called with; its payloads are strings."""

    def __init__(self, k: int, calls: list) -> None:
        self.k = k
        self.calls = calls

    def forward(self, step, incoming):
        self.calls.append(("forward", self.k, step, incoming))
        return f"act{self.k}@{step}"

    def update(self, step):
        self.calls.append(("update", self.k, step))
        return Ties(up=f"up{self.k}@{step}", down=f"down{self.k}@{step}")

    def apply(self, step, from_below, from_above):
        self.calls.append(("apply", self.k, step, from_below, from_above))


def calls_of(num_blocks: int, *, num_steps: int, lag: int) -> list:
    calls: list = []
    train([Recorded(k, calls) for k in range(num_blocks)], num_steps=num_steps, lag=lag)
    return calls


def test_step_of_three_blocks_is_in_order():
    assert calls_of(3, num_steps=1, lag=0) == [
        ("forward", 0, 0, None),
        ("update", 0, 0),
        ("forward", 1, 0, "act0@0"),
        ("update", 1, 0),
        ("forward", 2, 0, "act1@0"),
        ("update", 2, 0),
        ("apply", 0, 0, None, "down1@0"),
        ("apply", 1, 0, "up0@0", "down2@0"),
        ("apply", 2, 0, "up1@0", None),
    ]


@pytest.mark.parametrize("lag", [0, 1, 3])
def test_term_from_above_is_as_old_as_the_lag_or_absent(lag):
    applied = [call for call in calls_of(2, num_steps=5, lag=lag) if call[0] == "apply"]
    assert applied == [
        call
        for step in range(5)
        for call in (
            ("apply", 0, step, None, f"down1@{step - lag}" if step >= lag else None),
            ("apply", 1, step, f"up0@{step}", None),
        )
    ]


def test_lag_longer_than_the_run_leaves_the_term_out():
    applied = [call for call in calls_of(2, num_steps=3, lag=4) if call[:2] == ("apply", 0)]
    assert [call[-1] for call in applied] == [None, None, None]


def test_block_alone_gets_nothing():
    assert calls_of(1, num_steps=1, lag=1)[-1] == ("apply", 0, 0, None, None)


def test_caller_is_told_after_each_step():
    told = []
    train([Recorded(0, [])], num_steps=3, lag=1, after_step=told.append)
    assert told == [0, 1, 2]
