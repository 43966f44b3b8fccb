"""Every word of a core gets to the other one with all that it says."""

import pytest
import torch

from runtime.core.messages import (
    Acknowledge,
    Acknowledged,
    Arrived,
    AskSnapshot,
    Hello,
    Linked,
    Send,
    SnapshotWanted,
    StopTold,
    TellStop,
)
from runtime.core.plan import Side, Stream, Window, WorkerPlan
from runtime.core.worker import WorkerCore
from runtime.links.message import DataMessage, decode, encode
from runtime.worker.wire import event_of, message_of

WINDOW = Window(max_messages=4, max_bytes=400, message_bytes=100)
OTHER = {Side.BELOW: Side.ABOVE, Side.ABOVE: Side.BELOW}
OURS, THEIRS = 3, {Side.BELOW: 5, Side.ABOVE: 7}


@pytest.fixture
def core() -> WorkerCore:
    """A worker with both neighbours, in its life 3, who knows lives 5 and 7 of theirs."""
    plan = WorkerPlan(
        num_steps=50,
        incoming=dict.fromkeys(Stream, WINDOW),
        outgoing=dict.fromkeys(Stream, WINDOW),
    )
    core = WorkerCore(plan, generation=OURS)
    for side, generation in THEIRS.items():
        core.handle(Linked(side=side, generation=generation, heard=OURS, asks=False, wants={}))
    return core


def arrive(core: WorkerCore, said, payload=()):
    """The side that it goes to, and what it is to the core there, over real headers."""
    side, message = message_of(said, core, payload)
    found = decode(encode(message))
    return side, event_of(OTHER[side], found)


@pytest.mark.parametrize("side", Side)
@pytest.mark.parametrize("heard", [None, 0, 5])
@pytest.mark.parametrize("asks", [True, False])
def test_hello(core, side, heard, asks):
    wants = {Stream.ACTIVATION: 8, Stream.TIE_UP: 0}
    said = Hello(side=side, generation=OURS, heard=heard, asks=asks, wants=wants)
    to, event = arrive(core, said)
    assert to is side
    assert event == Linked(side=OTHER[side], generation=OURS, heard=heard, asks=asks, wants=wants)


def test_a_hello_needs_no_neighbour_that_is_known():
    core = WorkerCore(WorkerPlan(num_steps=5, outgoing={Stream.ACTIVATION: WINDOW}))
    said = Hello(side=Side.ABOVE, generation=0, heard=None, asks=True, wants={})
    assert message_of(said, core)[0] is Side.ABOVE
    with pytest.raises(AssertionError, match="before a hello"):
        message_of(Send(stream=Stream.ACTIVATION, step=0), core)


@pytest.mark.parametrize("stream", Stream)
@pytest.mark.parametrize("absent", [True, False])
def test_data(core, stream, absent):
    to, event = arrive(core, Send(stream=stream, step=9, absent=absent))
    assert to is stream.target
    assert event == Arrived(
        stream=stream, step=9, generation=OURS, to=THEIRS[to], checksum=0, absent=absent
    )


def test_tensors_go_with_the_data(core):
    payload = (torch.ones(3),)
    _, message = message_of(Send(stream=Stream.TIE_UP, step=9), core, payload)
    assert isinstance(message, DataMessage)
    assert message.payload is payload


@pytest.mark.parametrize("stream", Stream)
@pytest.mark.parametrize("resend", [True, False])
def test_acknowledgement(core, stream, resend):
    said = Acknowledge(stream=stream, expected=9, released=8, durable=4, resend=resend)
    to, event = arrive(core, said)
    assert to is stream.source
    assert event == Acknowledged(
        stream=stream,
        generation=OURS,
        to=THEIRS[to],
        expected=9,
        released=8,
        durable=4,
        resend=resend,
    )


@pytest.mark.parametrize("stream", Stream)
def test_wish_for_a_snapshot(core, stream):
    to, event = arrive(core, AskSnapshot(stream=stream, durable=6))
    assert to is stream.target
    assert event == SnapshotWanted(stream=stream, generation=OURS, to=THEIRS[to], durable=6)


def test_word_to_stop(core):
    to, event = arrive(core, TellStop(step=12))
    assert to is Side.ABOVE
    assert event == StopTold(generation=OURS, to=THEIRS[to], step=12)
