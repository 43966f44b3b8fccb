"""What a driver leaves for the generation after it, and how that one goes on."""

import threading

import pytest

from runtime.core.state import State
from runtime.state.status_page import Field

from .pair import TIMEOUT_S, HeldBlock


def test_page_says_how_far_a_worker_is(make_pair):
    pair = make_pair(num_steps=5, lag=1, blocks=(HeldBlock(), HeldBlock()), snapshot_every=2)
    pair.start()
    pair.join()
    for seat in pair.seats:
        page = seat.memory.page
        assert list(State)[page[Field.STATE]] is State.DONE
        assert [page[w] for w in (Field.STEP, Field.STEPS_DONE, Field.REACHED)] == [5, 5, 5]
        assert (page[Field.COMPLETED], page[Field.RETRAINED], page[Field.STOP_AT]) == (5, 0, 0)
        assert page[Field.TURNS] > 5
        assert seat.announced == [5]  # where the job ends there is a checkpoint


def test_checkpoints_are_taken_at_the_steps_of_the_plan(make_pair):
    blocks = HeldBlock(), HeldBlock()
    every = {"snapshot_every": 2, "checkpoint_every": 3}
    pair = make_pair(num_steps=7, lag=2, blocks=blocks, **every)
    pair.start()
    pair.join()
    assert pair.failures == []
    assert [seat.announced for seat in pair.seats] == [[3, 6, 7]] * 2


@pytest.mark.parametrize("k", [0, 1])
def test_worker_that_is_replaced_goes_on_from_its_snapshot(make_pair, k):
    """The other one trains each step once, on the same messages as if nothing had happened."""

    has_left = threading.Event()

    class StaysInStep5(HeldBlock):
        def forward(self, step, incoming):
            assert step < 5 or has_left.wait(TIMEOUT_S)
            return super().forward(step, incoming)

    undisturbed = HeldBlock(), HeldBlock()
    pair = make_pair(num_steps=9, lag=1, blocks=undisturbed, snapshot_every=3)
    pair.start()
    pair.join()

    blocks = [HeldBlock(), HeldBlock()]
    blocks[k] = StaysInStep5()
    pair = make_pair(num_steps=9, lag=1, blocks=blocks, snapshot_every=3)
    pair.start(1 - k)
    pair.start(k, until=lambda driver: driver.core.step == 5)
    pair.join_loop()
    has_left.set()  # what it computes then is not begun anew
    pair.join(last=1)
    again = HeldBlock()
    pair.replace(k, again)
    pair.join()

    assert pair.failures == []
    assert blocks[1 - k].calls == undisturbed[1 - k].calls
    assert again.calls == undisturbed[k].calls[2 * 3 :]  # from the snapshot of step 3 on
    page = pair.seats[k].memory.page
    assert (page[Field.COMPLETED], page[Field.REACHED]) == (9, 9)
    assert page[Field.RETRAINED] == 2


def test_stop_ends_both_workers_at_one_step_with_a_checkpoint(make_pair):
    class Wishes(HeldBlock):
        page = None

        def update(self, step):
            if step == 3:
                self.page[Field.STOP_WANTED] = 1
            return super().update(step)

    lower = Wishes()
    pair = make_pair(num_steps=10**6, lag=1, blocks=(lower, HeldBlock()), snapshot_every=4)
    lower.page = pair.seats[0].memory.page
    pair.start()
    pair.join()
    assert pair.failures == []
    (step,) = {driver.core.step for driver in pair.drivers}
    assert 3 < step < 10**6
    for seat in pair.seats:
        assert seat.memory.page[Field.STOP_AT] == step + 1
        assert seat.announced == [step]


def test_absent_tie_leaves_nothing_to_receive_into(make_pair):
    """Its empty payload was given back as a buffer, and the next message did not fit into it."""

    class AbsentAt2(HeldBlock):
        def update(self, step):
            ties = super().update(step)
            return ties._replace(up=None, down=None, absent=True) if step == 2 else ties

    blocks = AbsentAt2(), AbsentAt2()
    pair = make_pair(num_steps=8, lag=1, blocks=blocks, snapshot_every=3)
    pair.start()
    pair.join()
    assert pair.failures == []
    assert [driver.status().num_damaged for driver in pair.drivers] == [0, 0]
    assert ("apply", 2, None, None) in blocks[1].calls
    assert ("apply", 3, None, None) in blocks[0].calls
