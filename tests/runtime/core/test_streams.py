"""One stream's two ends: order, credit in messages and bytes, duplicates, retention."""

from dataclasses import replace

import pytest

from runtime.core.plan import Window
from runtime.core.streams import REMEMBERED_CHECKSUMS, Incoming, Outgoing, ProtocolError

WINDOW = Window(max_messages=3, max_bytes=20, message_bytes=10)


def outgoing(num_made: int, *, window: Window = WINDOW, absent: tuple[int, ...] = ()) -> Outgoing:
    stream = Outgoing(window, 0)
    for step in range(num_made):
        stream.make(step, absent=step in absent)
    return stream


def said(expected: int, released: int, durable: int = 0, *, resend: bool = False) -> dict[str, int]:
    return {
        "expected": expected,
        "released": released,
        "durable": durable,
        "resend": resend,
    }


def test_credit_is_counted_in_messages():
    wide = Window(max_messages=3, max_bytes=1000, message_bytes=10)
    stream = outgoing(5, window=wide)
    assert stream.take_sendable() == [0, 1, 2]
    stream.acknowledge(**said(3, 0))
    assert stream.take_sendable() == []  # arrived is not released
    stream.acknowledge(**said(3, 2))
    assert stream.take_sendable() == [3, 4]
    assert stream.in_flight == range(2, 5)


def test_credit_is_counted_in_bytes():
    stream = outgoing(5)
    assert stream.take_sendable() == [0, 1]  # 3 messages would be allowed, 30 bytes are not
    stream.acknowledge(**said(1, 1))
    assert stream.take_sendable() == [2]


def test_credit_is_known_before_the_message_is_made():
    stream = outgoing(1)
    assert stream.has_credit
    stream.take_sendable()
    assert stream.has_credit
    stream.make(1, absent=False)
    stream.take_sendable()
    assert not stream.has_credit  # 20 bytes are on their way
    stream.acknowledge(**said(2, 1))
    assert stream.has_credit


def test_absent_marker_costs_a_message_and_no_bytes():
    stream = outgoing(5, absent=(1, 2))
    assert stream.take_sendable() == [0, 1, 2]
    assert [stream.is_absent(step) for step in range(3)] == [False, True, True]
    assert stream.take_sendable() == []


def test_absent_marker_stays_one_until_it_is_durable():
    stream = outgoing(3, absent=(0, 2))
    stream.take_sendable()
    stream.acknowledge(**said(2, 2, 1, resend=True))
    assert stream.take_sendable() == [2]
    assert stream.is_absent(2)
    assert not stream.is_absent(0)  # forgotten


def test_old_acknowledgement_takes_nothing_back():
    stream = outgoing(3)
    stream.take_sendable()
    assert stream.acknowledge(**said(2, 2, 2)) is True
    assert stream.acknowledge(**said(1, 1, 1)) is False
    assert (stream.released, stream.durable) == (2, 2)


def test_resend_begins_at_the_expected_message():
    stream = outgoing(5, window=Window(max_messages=4, max_bytes=40, message_bytes=10))
    assert stream.take_sendable() == [0, 1, 2, 3]
    stream.acknowledge(**said(1, 1, resend=True))
    assert stream.take_sendable() == [1, 2, 3, 4]


@pytest.mark.parametrize("expected", [4, 7])
def test_resend_of_what_was_not_sent_changes_nothing(expected):
    stream = outgoing(4, window=Window(max_messages=4, max_bytes=40, message_bytes=10))
    stream.take_sendable()
    stream.acknowledge(**said(expected, 0, resend=True))
    assert stream.take_sendable() == []


def test_resend_request_for_released_messages_changes_nothing():
    stream = outgoing(2)
    stream.take_sendable()
    stream.acknowledge(**said(2, 2))
    stream.acknowledge(**said(0, 0, resend=True))
    assert stream.take_sendable() == []


def test_new_receiver_gets_everything_from_what_it_wants():
    stream = outgoing(6)
    for released in range(5):
        stream.take_sendable()
        stream.acknowledge(**said(released + 1, released + 1, 2))
    assert stream.sent == 6
    stream.rewind(2)
    assert stream.take_sendable() == [2, 3]
    assert stream.in_flight == range(2, 4)


def test_receiver_that_wants_what_is_forgotten_is_an_error():
    stream = outgoing(3)
    stream.take_sendable()
    stream.acknowledge(**said(2, 2, 2))
    with pytest.raises(ProtocolError, match="message 1 is wanted, but all below 2 are forgotten"):
        stream.rewind(1)


def test_wanted_message_says_nothing_of_the_receivers_room():
    """A restarted sender took the receiver's next wanted message for its released ones, sent two
    more into a window that was full, and the receiver called that a protocol error."""
    stream = Outgoing(Window(max_messages=2, max_bytes=20, message_bytes=10), 1)
    stream.rewind(3)  # the receiver holds 1 and 2, unreleased
    for step in range(1, 5):
        stream.make(step, absent=False)
        assert set(stream.take_sendable()) <= {1, 2}
    stream.acknowledge(**said(3, 2))
    assert stream.take_sendable() == [3]


def test_restarted_sender_sends_what_was_retained_before():
    stream = Outgoing(WINDOW, 5, {3: False, 4: True})
    with pytest.raises(ProtocolError):
        stream.rewind(2)
    stream.rewind(3)
    assert stream.take_sendable() == [3, 4]
    assert (stream.is_absent(3), stream.is_absent(4)) == (False, True)


def test_durable_messages_are_not_resent():
    """A restarted sender, told that message 2 was durable before it had made it again, trimmed it
    and then sent it: the driver had nothing to send."""
    stream = Outgoing(WINDOW, 1)
    stream.rewind(3)
    assert stream.acknowledge(**said(3, 3, 3)) is True
    for step in range(1, 4):
        stream.make(step, absent=False)
    assert stream.take_sendable() == [3]


def test_restarted_sender_never_sends_the_last_downward_ties():
    """Restarted behind its last downward tie (here 2 of 5 with lag 3), retaining nothing because
    all was durable, it took its own step for what is durable; the receiver's "I want 2 next" was
    then a protocol error, and the worker died again in every generation."""
    stream = Outgoing(WINDOW, 4, limit=2)
    assert (stream.durable, stream.made) == (2, 4)
    stream.rewind(2)
    assert stream.take_sendable() == []
    assert not stream.waits


def test_messages_from_the_limit_on_are_made_and_never_sent():
    stream = Outgoing(WINDOW, 0, limit=2)
    for step in range(4):
        stream.make(step, absent=False)
    assert stream.take_sendable() == [0, 1]
    assert not stream.waits
    stream.acknowledge(**said(2, 2, 2))
    assert stream.take_sendable() == []
    stream.rewind(2)
    assert (stream.sent, stream.made) == (2, 4)


def test_room_lasts_until_as_many_are_retained_as_may_be():
    stream = outgoing(0, window=replace(WINDOW, max_retained=4))
    assert (stream.has_room_behind(0), stream.wanted_durable) == (True, None)
    for step in range(4):
        assert stream.has_room_behind(0)
        stream.make(step, absent=False)
    assert not stream.has_room_behind(0)
    stream.acknowledge(**said(3, 3, 0))
    assert not stream.has_room_behind(0)  # released is not durable
    stream.acknowledge(**said(3, 3, 1))
    assert stream.has_room_behind(0)


@pytest.mark.parametrize("num_made", [0, 1, 2, 3])
def test_room_counts_unmade_messages_as_made(num_made):
    stream = outgoing(num_made, window=replace(WINDOW, max_retained=4))
    for unmade in range(4):
        assert stream.has_room_behind(unmade) == (num_made + unmade < 4)
    stream.acknowledge(**said(num_made, num_made, num_made))
    assert stream.has_room_behind(3)
    assert not stream.has_room_behind(4)


def test_snapshot_is_wanted_when_there_is_no_room():
    """It has to cover one message more."""
    stream = outgoing(3, window=replace(WINDOW, max_retained=4))
    assert stream.wanted_durable is None
    stream.make(3, absent=False)
    assert stream.wanted_durable == 1
    stream.acknowledge(**said(1, 1, 1))
    assert stream.wanted_durable is None
    stream.make(4, absent=False)
    assert stream.wanted_durable == 2


def test_room_is_unbounded_without_a_bound():
    stream = outgoing(1000)
    assert stream.has_room_behind(0)
    assert stream.has_room_behind(1)
    assert stream.wanted_durable is None


def test_messages_are_taken_once_and_in_order():
    stream = Incoming(WINDOW, 0)
    assert stream.accept(0, checksum=7, absent=False) is True
    assert stream.accept(0, checksum=7, absent=False) is False
    assert stream.accept(1, checksum=8, absent=True) is True
    assert stream.is_gap(3)
    assert not stream.is_gap(2)
    assert stream.absent == {1}
    stream.release(0)
    stream.release(1)
    assert (stream.expected, stream.released, stream.absent) == (2, 2, set())


def test_duplicate_with_other_contents_is_an_error():
    stream = Incoming(WINDOW, 0)
    stream.accept(0, checksum=0xAB, absent=False)
    with pytest.raises(ProtocolError, match=r"message 0 came twice .*0ab, then .*0cd"):
        stream.accept(0, checksum=0xCD, absent=False)


def test_duplicate_from_before_a_restart_is_dropped_uncompared():
    """A dead generation took the first, and its checksum is gone."""
    assert Incoming(WINDOW, 5).accept(4, checksum=1, absent=False) is False


def test_checksums_are_of_a_bounded_number_of_messages():
    stream = Incoming(WINDOW, 0)
    for step in range(REMEMBERED_CHECKSUMS + 1):
        stream.accept(step, checksum=step, absent=False)
        stream.release(step)
    assert stream.accept(0, checksum=-1, absent=False) is False
    with pytest.raises(ProtocolError):
        stream.accept(1, checksum=-1, absent=False)


def test_message_beyond_the_window_is_an_error():
    stream = Incoming(WINDOW, 0)
    for step in range(3):
        stream.accept(step, checksum=0, absent=False)
    with pytest.raises(ProtocolError, match=r"message 3 exceeds the window of 3 .*released: 0"):
        stream.accept(3, checksum=0, absent=False)
    stream.release(0)
    assert stream.accept(3, checksum=0, absent=False) is True


def test_expected_message_is_asked_for_ever_more_rarely():
    """Two lost activations once left both sides waiting for ever, repeating the same
    acknowledgements."""
    incoming = Incoming(WINDOW, 0)
    asked = [tick for tick in range(1, 701) if incoming.count_quiet_tick()]
    assert asked == [10, 30, 70, 150, 310, 470, 630]  # at most 160 apart
    assert incoming.accept(0, checksum=1, absent=False)
    assert [tick for tick in range(1, 60) if incoming.count_quiet_tick()] == [10, 30]
