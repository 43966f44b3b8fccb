"""One suite that every link passes."""

import secrets
import threading
from dataclasses import replace

import torch

from runtime.core.plan import Side, Stream
from runtime.links.link import Damaged
from runtime.links.message import (
    AckMessage,
    DataMessage,
    HelloMessage,
    StopMessage,
    WantMessage,
    checksum,
    fingerprint,
)

from .edge import SPECS, ack, data, flip, make_end, receive, send


def test_every_dtype_arrives_as_it_was_sent(ends):
    sent = data(Stream.ACTIVATION, 3, seed=1)
    send(ends.lower, sent)
    got = receive(ends.upper)
    assert isinstance(got, DataMessage)
    assert (got.stream, got.step, got.absent) == (Stream.ACTIVATION, 3, False)
    assert (got.generation, got.to) == (1, 2)
    for a, b in zip(sent.payload, got.payload, strict=True):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)
        assert b.is_contiguous()
        assert b.data_ptr() % 64 == 0


def test_empty_and_scalar_tensors_cross(ends):
    send(ends.lower, data(Stream.TIE_UP, 0, seed=5))
    got = receive(ends.upper)
    assert isinstance(got, DataMessage)
    assert [tuple(tensor.shape) for tensor in got.payload] == [(0,), ()]


def test_what_was_received_stays_while_more_is_sent(ends):
    sent = [data(Stream.ACTIVATION, step, seed=step) for step in range(3)]
    for message in sent:
        send(ends.lower, message)
    got = [receive(ends.upper) for _ in sent]
    for a, b in zip(sent, got, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a.payload, b.payload, strict=True))


def test_what_is_given_back_may_be_received_into_again(ends):
    for step in range(4):
        sent = data(Stream.ACTIVATION, step, seed=step)
        send(ends.lower, sent)
        got = receive(ends.upper)
        assert all(torch.equal(a, b) for a, b in zip(sent.payload, got.payload, strict=True))
        ends.upper.recycle(Stream.ACTIVATION, got.payload)


def test_order_is_kept_within_and_across_streams(ends):
    for step in range(50):
        send(ends.lower, data(Stream.ACTIVATION, step, seed=step))
        send(ends.lower, data(Stream.TIE_UP, step, seed=step))
    got = [receive(ends.upper) for _ in range(100)]
    assert [(m.stream, m.step) for m in got] == [
        (stream, step) for step in range(50) for stream in (Stream.ACTIVATION, Stream.TIE_UP)
    ]


def test_64_mib_both_ways_at_once(ends):
    messages = [data(Stream.TIE_DOWN, step, seed=step) for step in range(2)]
    for message in messages:
        send(ends.upper, message)
    for step in range(20):
        send(ends.lower, data(Stream.ACTIVATION, step))
    assert [receive(ends.upper).step for _ in range(20)] == list(range(20))
    for message in messages:
        assert torch.equal(receive(ends.lower).payload[0], message.payload[0])


def test_absent_messages_and_words_carry_no_tensors(ends):
    words = [
        ack(Stream.ACTIVATION),
        WantMessage(stream=Stream.TIE_DOWN, generation=0, to=1, durable=4),
        StopMessage(generation=0, to=1, step=40),
    ]
    send(ends.lower, data(Stream.ACTIVATION, 4, absent=True))
    for word in words:
        send(ends.upper, word)
    got = receive(ends.upper)
    assert isinstance(got, DataMessage)
    assert (got.absent, got.payload) == (True, ())
    assert [receive(ends.lower) for _ in words] == words


def test_a_hello_carries_who_speaks_and_what_the_edge_is(ends):
    said = HelloMessage(
        generation=3, heard=2, asks=False, wants={Stream.TIE_DOWN: 7}, fingerprint=0
    )
    send(ends.lower, said)
    assert receive(ends.upper) == replace(said, fingerprint=fingerprint("run", SPECS))


def test_frames_sent_as_they_are_are_what_send_sends(ends):
    sent = data(Stream.ACTIVATION, 3, seed=1)
    frames = ends.lower.frames(sent)
    assert ends.lower.send_frames(frames)
    assert ends.lower.send_frames([bytes(frame) for frame in frames])
    send(ends.lower, sent)
    got = [receive(ends.upper) for _ in range(3)]
    assert got[0] == got[1] == got[2]
    for message in got:
        assert isinstance(message, DataMessage)
        assert message.checksum == (checksum(sent.payload) if ends.guards_payload else 0)
        for a, b in zip(sent.payload, message.payload, strict=True):
            assert torch.equal(a, b)


def test_frames_that_were_damaged_on_the_way_are_not_a_message(ends):
    header, *tensors = ends.lower.frames(data(Stream.ACTIVATION, 3))
    damaged = [[header, *tensors, b"more"], [flip(bytes(header)), *tensors]]
    if tensors:
        damaged += [[header, *tensors[:-1]], [header, *tensors[:-1], flip(bytes(tensors[-1]))]]
    for frames in damaged:
        assert ends.lower.send_frames(frames)
        assert isinstance(receive(ends.upper), Damaged)
    send(ends.upper, ack(Stream.ACTIVATION, resend=True))  # as cores do
    assert isinstance(receive(ends.lower), AckMessage)
    send(ends.lower, data(Stream.ACTIVATION, 4))
    assert isinstance(receive(ends.upper), DataMessage)


def test_receive_never_waits(ends):
    assert ends.lower.receive() is None
    assert ends.upper.receive() is None


def test_arrival_wakes_a_waiter(ends):
    timer = threading.Timer(0.05, lambda: ends.lower.send(data(Stream.TIE_UP, 0)))
    timer.start()
    assert isinstance(receive(ends.upper), DataMessage)
    timer.join()


def test_sending_to_nobody_says_so(context):
    lower = make_end(context, Side.ABOVE, bind=f"ipc://@test-{secrets.token_hex(6)}")
    assert not lower.send(data(Stream.ACTIVATION, 0))
    lower.close()
