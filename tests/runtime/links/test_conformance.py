"""One suite that every link passes."""

import threading

import torch

from runtime.core.messages import Ack, Data, Hello, SnapshotRequest, Stop
from runtime.core.plan import Stream
from runtime.links.link import Arrival, Damaged

from .edge import ack, data, flip, receive, send


def test_every_dtype_arrives_as_it_was_sent(ends):
    sent = data(Stream.ACTIVATION, 3, seed=1)
    send(ends.lower, *sent)
    got = receive(ends.upper)
    message = got.message
    assert isinstance(message, Data)
    assert (message.stream, message.step, message.absent) == (Stream.ACTIVATION, 3, False)
    assert (message.generation, message.to) == (1, 2)
    for a, b in zip(sent.payload, got.payload, strict=True):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)
        assert b.is_contiguous()
        assert b.data_ptr() % 64 == 0


def test_empty_and_scalar_tensors_cross(ends):
    send(ends.lower, *data(Stream.TIE_UP, 0, seed=5))
    got = receive(ends.upper)
    assert isinstance(got, Arrival)
    assert [tuple(tensor.shape) for tensor in got.payload] == [(0,), ()]


def test_received_message_stays_while_more_is_sent(ends):
    sent = [data(Stream.ACTIVATION, step, seed=step) for step in range(3)]
    for message in sent:
        send(ends.lower, *message)
    got = [receive(ends.upper) for _ in sent]
    for a, b in zip(sent, got, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a.payload, b.payload, strict=True))


def test_buffers_given_back_may_be_received_into_again(ends):
    for step in range(4):
        sent = data(Stream.ACTIVATION, step, seed=step)
        send(ends.lower, *sent)
        got = receive(ends.upper)
        assert all(torch.equal(a, b) for a, b in zip(sent.payload, got.payload, strict=True))
        ends.upper.recycle(Stream.ACTIVATION, got.payload)


def test_order_is_preserved_within_and_across_streams(ends):
    for step in range(50):
        send(ends.lower, *data(Stream.ACTIVATION, step, seed=step))
        send(ends.lower, *data(Stream.TIE_UP, step, seed=step))
    got = [receive(ends.upper) for _ in range(100)]
    assert [(found.message.stream, found.message.step) for found in got] == [
        (stream, step) for step in range(50) for stream in (Stream.ACTIVATION, Stream.TIE_UP)
    ]


def test_messages_of_64_mib_cross_both_ways_at_once(ends):
    messages = [data(Stream.TIE_DOWN, step, seed=step) for step in range(2)]
    for message in messages:
        send(ends.upper, *message)
    for step in range(20):
        send(ends.lower, *data(Stream.ACTIVATION, step))
    assert [receive(ends.upper).message.step for _ in range(20)] == list(range(20))
    for message in messages:
        assert torch.equal(receive(ends.lower).payload[0], message.payload[0])


STOP = Stop(generation=0, to=1, step=40)


def test_messages_without_tensors_cross(ends):
    others = [
        ack(Stream.ACTIVATION),
        SnapshotRequest(stream=Stream.TIE_DOWN, generation=0, to=1, durable=4),
    ]
    send(ends.lower, *data(Stream.ACTIVATION, 4, absent=True))
    send(ends.lower, STOP)
    for message in others:
        send(ends.upper, message)
    got = receive(ends.upper)
    assert (got.message.absent, got.payload) == (True, ())
    assert receive(ends.upper) == Arrival(STOP)
    assert [receive(ends.lower) for _ in others] == [Arrival(message) for message in others]


def test_stop_from_above_is_damaged(ends):
    """The lowest worker leads: no other can end the job."""
    send(ends.upper, STOP)
    assert "does not flow this way" in receive(ends.lower).reason


def test_hello_carries_who_speaks_and_what_it_wants(ends):
    said = Hello(generation=3, to=2, asks=False, wants={Stream.TIE_DOWN: 7})
    send(ends.lower, said)
    assert receive(ends.upper).message == said


def test_frames_sent_as_they_are_are_what_send_sends(ends):
    sent = data(Stream.ACTIVATION, 3, seed=1)
    frames = ends.lower.frames(*sent)
    assert ends.lower.send_frames(frames)
    assert ends.lower.send_frames([bytes(frame) for frame in frames])
    send(ends.lower, *sent)
    got = [receive(ends.upper) for _ in range(3)]
    assert got[0].message == got[1].message == got[2].message
    for message, payload in got:
        assert bool(message.checksum) == ends.guards_payload
        for a, b in zip(sent.payload, payload, strict=True):
            assert torch.equal(a, b)


def test_frames_that_were_damaged_on_the_way_are_not_a_message(ends):
    header, *tensors = ends.lower.frames(*data(Stream.ACTIVATION, 3))
    damaged = [[header, *tensors, b"more"], [flip(bytes(header)), *tensors]]
    if tensors:
        damaged += [[header, *tensors[:-1]], [header, *tensors[:-1], flip(bytes(tensors[-1]))]]
    for frames in damaged:
        assert ends.lower.send_frames(frames)
        assert isinstance(receive(ends.upper), Damaged)
    send(ends.upper, ack(Stream.ACTIVATION, resend=True))  # as cores do
    assert isinstance(receive(ends.lower).message, Ack)
    send(ends.lower, *data(Stream.ACTIVATION, 4))
    assert isinstance(receive(ends.upper), Arrival)


def test_receive_never_waits(ends):
    assert ends.lower.receive() is None
    assert ends.upper.receive() is None


def test_arrival_wakes_a_waiter(ends):
    timer = threading.Timer(0.05, lambda: ends.lower.send(*data(Stream.TIE_UP, 0)))
    timer.start()
    assert isinstance(receive(ends.upper), Arrival)
    timer.join()
