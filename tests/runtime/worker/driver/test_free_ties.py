"""Drivers whose ties are free: what is used was there when it was decided, and once."""

import itertools

import pytest
import torch

from runtime.core.plan import Free
from runtime.core.state import State
from runtime.state.saving import split_tie_stats

from .pair import HeldBlock, Ties

NUM_STEPS = 12


class PowersBlock(HeldBlock):
    """Its ties are powers of two, so that a sum says which of them are in it."""

    def update(self, step):
        self._phase("update", step)
        tie = (torch.full((4,), float(2**step)),)
        return Ties(up=tie, down=tie)


def used(block: HeldBlock) -> list[list[int]]:
    """The steps of the ties that each apply was given, from either side."""
    found = []
    for name, _, *ties in block.calls:
        if name == "apply":
            bits = sum(int(tie) for tie in ties if tie is not None)
            found.append([step for step in range(NUM_STEPS) if bits >> step & 1])
    return found


@pytest.mark.parametrize("keeps_newest", [False, True])
def test_ties_are_used_by_the_step_whose_decision_found_them(make_pair, keeps_newest):
    """A gradient that comes during an apply was once summed into it, and missed by the next."""
    free = Free(max_staleness=2, keeps_newest=keeps_newest)
    blocks = PowersBlock(), PowersBlock()
    pair = make_pair(num_steps=NUM_STEPS, lag=0, blocks=blocks, free=free, snapshot_every=5)
    pair.start()
    pair.join()
    assert pair.failures == []
    for block, driver, seat in zip(blocks, pair.drivers, pair.seats, strict=True):
        assert driver.core.state is State.DONE
        tie_stats = driver.core.tie_stats
        counted = itertools.chain(*(counts.elements() for counts in tie_stats.staleness.values()))
        steps = used(block)
        told = [step - tie for step, ties in enumerate(steps) for tie in ties]
        assert sorted(told) == sorted(counted)
        assert max(told) <= 2
        if not keeps_newest:
            everything = list(itertools.chain(*steps))
            assert len(everything) == len(set(everything))
        assert seat.announced == [NUM_STEPS]


def test_snapshot_tells_what_the_steps_came_to(make_pair):
    free = Free(max_staleness=2, keeps_newest=True)
    pair = make_pair(
        num_steps=NUM_STEPS, lag=0, blocks=(HeldBlock(), HeldBlock()), free=free, snapshot_every=3
    )
    pair.start()
    pair.join()
    for seat, driver in zip(pair.seats, pair.drivers, strict=True):
        step, saved = seat.saved()
        assert step == NUM_STEPS
        assert split_tie_stats(saved)[1].as_rows() == driver.core.tie_stats.as_rows()
