"""One measurement of a link: how much is in flight, and where its ends meet."""

from dataclasses import replace

import pytest
import torch

from benchmarks.links.cases import OURS, RAW, Case, copy, stream
from runtime.core.plan import Stream

CASE = Case(system="shm", size_bytes=1000, num_messages=7, window=3, where="/tmp/case")


class Delivers:
    """A sender whose messages are acknowledged only when it waits, one at a time."""

    def __init__(self, first: int = 0) -> None:
        self.sent: list[int] = []
        self.num_acknowledged = first
        self.most_in_flight = 0

    def send(self, step: int) -> None:
        self.sent.append(step)
        self.most_in_flight = max(self.most_in_flight, step + 1 - self.num_acknowledged)

    def acknowledged(self, *, wait: bool) -> int:
        if wait:
            self.num_acknowledged += 1
        return self.num_acknowledged


@pytest.mark.parametrize("window", [1, 3, 20])
def test_stream_has_a_window_in_flight_and_ends_with_the_last(window):
    sender = Delivers(first=4)
    assert stream(sender, replace(CASE, window=window), 4) >= 0
    assert sender.sent == list(range(4, 11))
    assert sender.num_acknowledged == 11
    assert sender.most_in_flight == min(window, 7)


def test_plan_of_a_case_has_its_window_but_two_at_least():
    window = CASE.plan.outgoing[Stream.ACTIVATION]
    assert (window.max_messages, window.max_bytes, window.max_retained) == (3, 3000, 4)
    assert replace(CASE, window=1).plan.outgoing[Stream.ACTIVATION].max_messages == 2
    assert CASE.specs[Stream.ACTIVATION][0].size_bytes == 1000


def test_address_is_on_tcp_for_what_has_it_in_its_name():
    schemes = {
        system: replace(CASE, system=system).address.partition(":")[0] for system in (*OURS, *RAW)
    }
    assert {system for system, scheme in schemes.items() if scheme == "tcp"} == {
        *("zmq-tcp", "zmq-tcp unsigned", "zmq-tcp encrypted", "raw tcp")
    }


def test_copies_go_around_all_rooms():
    rooms = [torch.zeros(3, dtype=torch.uint8) for _ in range(3)]
    assert copy(torch.ones(3, dtype=torch.uint8), rooms, 2) >= 0
    assert all(room.tolist() == [1, 1, 1] for room in rooms), "each was copied to before"
