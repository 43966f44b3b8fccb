"""The place in the order of computations, up to which they are issued."""

import pytest

from runtime.core.issued import Issued

from .words import APPLY, FORWARD, UPDATE, compute

ORDER = [(FORWARD, 4), (UPDATE, 4), (APPLY, 4), (FORWARD, 5), (UPDATE, 5), (APPLY, 5)]


def after(num_noted: int) -> Issued:
    """What a generation that begins with step 4 has issued after so many."""
    issued = Issued(4)
    for phase, step in ORDER[:num_noted]:
        issued.note(compute(phase, step))
    return issued


@pytest.mark.parametrize("num_noted", range(len(ORDER)))
def test_computations_are_issued_up_to_the_next_one(num_noted):
    issued = after(num_noted)
    has = [issued.has(phase, step) for phase, step in ORDER]
    assert has == [True] * num_noted + [False] * (len(ORDER) - num_noted)
    assert issued.has(APPLY, 3)
    assert not issued.has(FORWARD, 9)


def test_noted_computation_is_given_back():
    action = compute(FORWARD, 4)
    assert Issued(4).note(action) is action


@pytest.mark.parametrize("num_noted", range(4))
def test_computation_that_follows_alone_can_be_noted(num_noted):
    for number, (phase, step) in enumerate(ORDER):
        if number != num_noted:
            with pytest.raises(AssertionError):
                after(num_noted).note(compute(phase, step))
