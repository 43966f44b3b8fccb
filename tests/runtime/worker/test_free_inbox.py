"""Copies of what is released and not yet used."""

import torch

from runtime.core.plan import Free, Stream, Window, WorkerPlan
from runtime.worker.free_inbox import FreeInbox

WINDOW = Window(max_messages=2, max_bytes=32, message_bytes=16)


def inbox(*, keeps_newest: bool) -> FreeInbox:
    free = Free(max_staleness=2, keeps_newest=keeps_newest)
    return FreeInbox(WorkerPlan(num_steps=9, incoming={Stream.TIE_UP: WINDOW}, free=free))


def vector(value: float) -> tuple[torch.Tensor]:
    return (torch.full((4,), value),)


def test_of_weights_the_newest_stays():
    here = inbox(keeps_newest=True)
    received = vector(1.0)
    here.arrived(Stream.TIE_UP, 0, received)
    received[0].zero_()  # its slot is used again
    for step in range(2):
        assert torch.equal(*here.take(Stream.TIE_UP, step), *vector(1.0))
    here.arrived(Stream.TIE_UP, 1, vector(2.0))
    assert torch.equal(*here.take(Stream.TIE_UP, 2), *vector(2.0))


def test_gradients_are_summed_once_without_those_that_are_too_stale():
    here = inbox(keeps_newest=False)
    for step, value in enumerate((1.0, 2.0, 4.0)):
        here.arrived(Stream.TIE_UP, step, vector(value))
    assert torch.equal(*here.take(Stream.TIE_UP, 3), *vector(6.0))
    here.arrived(Stream.TIE_UP, 3, vector(8.0))
    assert torch.equal(*here.take(Stream.TIE_UP, 4), *vector(8.0))
