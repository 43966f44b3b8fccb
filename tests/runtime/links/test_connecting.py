"""Connections that break and are made again, on every link: a suite beside test_conformance."""

import time

from .edge import TIMEOUT_S, hello, repeat


def test_ends_are_both_heard_after_a_redial(ends):
    for generation in range(1, 4):
        ends.upper.redial()
        ends.lower.redial()  # it listens: nothing to do
        repeat(ends.upper, ends.lower, hello(generation))
        repeat(ends.lower, ends.upper, hello(generation))


def test_redial_takes_a_new_address(ends):
    elsewhere = ends.make_another_lower()
    ends.upper.redial(elsewhere.address)
    repeat(ends.upper, elsewhere, hello(generation=5))
    repeat(elsewhere, ends.upper, hello(generation=6))
    ends.upper.redial()  # the address stays the new one
    repeat(ends.upper, elsewhere, hello(generation=7))
    elsewhere.close()


TOO_LARGE = [bytes(80 << 20)]


def test_redial_mends_what_an_oversize_frame_from_below_cut(ends):
    """The end that dialled closes the connection, for good or to dial anew with another token; the
    other one can't make it again."""
    assert ends.lower.send_frames(TOO_LARGE)
    deadline_s = time.monotonic() + TIMEOUT_S
    while ends.lower.send(hello()) and ends.upper.receive() is None:
        assert time.monotonic() < deadline_s, "the connection was not closed"
    ends.upper.redial()
    repeat(ends.upper, ends.lower, hello(generation=7))
    repeat(ends.lower, ends.upper, hello(generation=8))


def test_oversize_frame_from_above_mends_itself(ends):
    assert ends.upper.send_frames(TOO_LARGE)
    repeat(ends.upper, ends.lower, hello(generation=7))
    repeat(ends.lower, ends.upper, hello(generation=8))
