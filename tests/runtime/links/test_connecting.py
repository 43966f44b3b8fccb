"""Connections that break, and ends that come back, whatever broke or died."""

import secrets
import time

import pytest
import zmq

from runtime.core.messages import Hello
from runtime.core.plan import Side

from .edge import TIMEOUT_S, hello, make_end, receive, repeat, send


def test_ends_are_both_heard_after_a_redial(ends):
    for generation in range(1, 4):
        ends.upper.redial()
        ends.lower.redial()  # it listens: nothing to do
        repeat(ends.upper, ends.lower, hello(generation))
        repeat(ends.lower, ends.upper, hello(generation))


def test_redial_takes_a_new_address(ends, context):
    elsewhere = make_end(context, Side.ABOVE, bind=f"ipc://@test-{secrets.token_hex(6)}")
    ends.upper.redial(elsewhere.address)
    repeat(ends.upper, elsewhere, hello(generation=5))
    repeat(elsewhere, ends.upper, hello(generation=6))
    ends.upper.redial()  # the address stays the new one
    repeat(ends.upper, elsewhere, hello(generation=7))
    elsewhere.close()


TOO_LARGE = [bytes(80 << 20)]


def test_redial_mends_what_an_oversize_frame_from_below_cut(ends):
    """The end that dialled closes the connection for good; the other one can't make it again."""
    assert ends.lower.send_frames(TOO_LARGE)
    deadline_s = time.monotonic() + TIMEOUT_S
    while ends.lower.send(hello()):
        assert time.monotonic() < deadline_s, "the connection was not closed"
        assert ends.upper.receive() is None
    ends.upper.redial()
    repeat(ends.upper, ends.lower, hello(generation=7))
    repeat(ends.lower, ends.upper, hello(generation=8))


def test_oversize_frame_from_above_mends_itself(ends):
    assert ends.upper.send_frames(TOO_LARGE)
    repeat(ends.upper, ends.lower, hello(generation=7))
    repeat(ends.lower, ends.upper, hello(generation=8))


def test_end_that_comes_back_is_heard_again(context):
    """A message back may go to the connection of the end that left, and be lost with it."""
    lower = make_end(context, Side.ABOVE, bind=f"ipc://@test-{secrets.token_hex(6)}")
    for generation in range(3):
        upper = make_end(context, Side.BELOW, connect=lower.address)
        send(upper, hello(generation))
        heard = receive(lower).message
        assert isinstance(heard, Hello)
        assert heard.generation == generation
        repeat(lower, upper, hello(generation))
        upper.close()
    lower.close()


@pytest.mark.parametrize("address", ["ipc://@test-{token}", "tcp://127.0.0.1:*"])
def test_new_generation_listens_at_the_address_of_the_last(context, address):
    """The other end finds it there by itself; an abstract address leaves no file to remove."""
    address = address.format(token=secrets.token_hex(6))
    upper = None
    for generation in range(3):
        context_of_one = zmq.Context()
        lower = make_end(context_of_one, Side.ABOVE, bind=address)
        address = lower.address
        upper = upper or make_end(context, Side.BELOW, connect=address)
        send(lower, hello(generation))
        assert receive(upper).message.generation == generation
        lower.close()
        context_of_one.term()
    upper.close()
