"""What a computation uses is what was there when it was issued."""

import torch

from runtime.core.messages import Compute, Phase
from runtime.core.plan import Free, Stream, Window, WorkerPlan
from runtime.worker.inbox import FreeTies, Inbox, Ready

WINDOW = Window(max_messages=2, max_bytes=32, message_bytes=16)
INCOMING = dict.fromkeys((Stream.ACTIVATION, Stream.TIE_UP), WINDOW)
FORWARD = Compute(phase=Phase.FORWARD, step=3)


def inbox(free: Free | None = None) -> Inbox:
    return Inbox(WorkerPlan(num_steps=9, incoming=INCOMING, free=free))


def vector(value: float) -> tuple[torch.Tensor]:
    return (torch.full((4,), value),)


def apply(step: int, from_below: int | None) -> Compute:
    return Compute(phase=Phase.APPLY, step=step, from_below=from_below)


def test_phases_are_given_what_they_use_as_it_came():
    here, activation, tie = inbox(), vector(1.0), vector(2.0)
    here.store(Stream.ACTIVATION, 3, activation)
    here.store(Stream.TIE_UP, 3, tie)
    assert here.find(FORWARD).activation is activation
    update = Compute(phase=Phase.UPDATE, step=3)
    assert here.find(update) == Ready(update)
    found = here.find(apply(3, from_below=3))
    assert found.from_below is tie
    assert found.from_above is None
    assert here.find(apply(3, from_below=None)).from_below is None


def test_lowest_worker_has_no_activation():
    assert inbox().find(FORWARD) == Ready(FORWARD)


def test_activations_wait_here_until_they_are_released():
    here = inbox()
    for step in range(2):
        here.store(Stream.ACTIVATION, step, vector(step))
        here.store(Stream.TIE_UP, step, vector(step))
    assert here.num_activations == 2
    assert torch.equal(*here.release(Stream.ACTIVATION, 0), *vector(0.0))
    assert here.num_activations == 1


def test_gradient_after_the_decision_is_for_the_next_step():
    """It was once used at once by a step that had been decided before it, and missed later."""
    here = inbox(Free(max_staleness=8, keeps_newest=False))
    here.store(Stream.TIE_UP, 0, vector(1.0))
    ready = here.find(apply(0, from_below=0))
    here.store(Stream.TIE_UP, 1, vector(2.0))
    assert torch.equal(*ready.from_below, *vector(1.0))
    assert torch.equal(*here.find(apply(1, from_below=1)).from_below, *vector(2.0))


# Copies of free ties -------------------------------------------------------------------------


def free_ties(*, keeps_newest: bool) -> FreeTies:
    free = Free(max_staleness=2, keeps_newest=keeps_newest)
    return FreeTies(WorkerPlan(num_steps=9, incoming={Stream.TIE_UP: WINDOW}, free=free))


def test_newest_weights_stay():
    here = free_ties(keeps_newest=True)
    received = vector(1.0)
    here.arrived(Stream.TIE_UP, 0, received)
    received[0].zero_()  # its slot is used again
    for step in range(2):
        assert torch.equal(*here.take(Stream.TIE_UP, step), *vector(1.0))
    here.arrived(Stream.TIE_UP, 1, vector(2.0))
    assert torch.equal(*here.take(Stream.TIE_UP, 2), *vector(2.0))


def test_gradients_are_joined_once_without_the_too_stale():
    """They were summed here, in the type in which they crossed, which may be too narrow for it."""
    here = free_ties(keeps_newest=False)
    for step, value in enumerate((1.0, 2.0, 4.0)):
        here.arrived(Stream.TIE_UP, step, vector(value))
    joined = here.take(Stream.TIE_UP, 3)
    assert [tensor[0].item() for tensor in joined] == [2.0, 4.0]
    here.arrived(Stream.TIE_UP, 3, vector(8.0))
    assert torch.equal(*here.take(Stream.TIE_UP, 4), *vector(8.0))
