"""Drivers whose ties are free: what is used was there when it was decided, and once."""

import itertools
import threading

import pytest
import torch

from runtime.core.plan import Free
from runtime.core.worker import State
from runtime.state.saving import split_account

from .pair import TIMEOUT_S, HeldBlock, Ties

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
        account = driver.core.account
        counted = itertools.chain(*(counts.elements() for counts in account.staleness.values()))
        steps = used(block)
        told = [step - tie for step, ties in enumerate(steps) for tie in ties]
        assert sorted(told) == sorted(counted)
        assert max(told) <= 2
        if not keeps_newest:
            everything = list(itertools.chain(*steps))
            assert len(everything) == len(set(everything))
        assert seat.announced == [NUM_STEPS]


def test_a_starved_worker_trains_again_on_what_it_has(make_pair):
    free = Free(max_staleness=8, keeps_newest=True, num_kept=2)
    lower, upper = HeldBlock(held=True), HeldBlock()
    pair = make_pair(num_steps=2, lag=0, blocks=(lower, upper), free=free)
    pair.start()
    for _ in range(3):
        lower.allow()  # its first step
    names = [upper.begun.get(timeout=TIMEOUT_S) for _ in range(9)]
    phases = ("forward", "update", "apply")
    assert names == [(phase, 0) for phase in phases] * 3
    for _ in range(3):
        lower.allow()
    pair.join()
    assert pair.failures == []
    assert {call[:3] for call in upper.calls if call[0] == "forward"} == {
        ("forward", 0, 1.0),
        ("forward", 1, 1.0),
    }
    assert pair.drivers[1].core.num_replayed_steps >= 2
    assert ("apply", 0, None, None) in upper.calls


def test_a_flooded_worker_loses_batches_and_both_ends_say_so(make_pair):
    free = Free(max_staleness=NUM_STEPS, keeps_newest=True, drops_oldest=True)
    lower, upper = HeldBlock(), HeldBlock(held=True)
    pair = make_pair(num_steps=NUM_STEPS, lag=0, blocks=(lower, upper), free=free)
    turned = threading.Semaphore(0)

    def note_turn(_):
        turned.release()
        return False

    pair.start(0)
    pair.start(1, until=note_turn)
    for step in range(NUM_STEPS):  # the upper one has not begun: it holds two, and the newest
        for phase in ("forward", "update", "apply"):
            assert lower.begun.get(timeout=TIMEOUT_S) == (phase, step)
    for _ in range(6):
        upper.allow()
    begun = [upper.begun.get(timeout=TIMEOUT_S) for _ in range(7)]
    while turned.acquire(blocking=False):
        pass
    for _ in range(3):  # what was passed over is released by then
        assert turned.acquire(timeout=TIMEOUT_S)
    for _ in range(3 * NUM_STEPS):
        upper.allow()
    pair.join()
    assert pair.failures == []
    assert begun[-1][1] > 2
    trained = [call[1] for call in upper.calls if call[0] == "forward"]
    account = pair.drivers[1].core.account
    assert account.lost == NUM_STEPS - len(trained) > 0
    assert trained == sorted(trained)
    assert trained[-1] == NUM_STEPS - 1
    assert pair.drivers[1].core.step == NUM_STEPS


def test_a_snapshot_tells_what_the_steps_came_to(make_pair):
    free = Free(max_staleness=2, keeps_newest=True)
    pair = make_pair(
        num_steps=NUM_STEPS, lag=0, blocks=(HeldBlock(), HeldBlock()), free=free, snapshot_every=3
    )
    pair.start()
    pair.join()
    for seat, driver in zip(pair.seats, pair.drivers, strict=True):
        step, saved = seat.saved()
        assert step == NUM_STEPS
        assert split_account(saved)[1].as_rows() == driver.core.account.as_rows()
