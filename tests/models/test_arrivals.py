"""What comes to a block is brought to its device before it is needed; here that is pretended."""

import torch

from models.arrivals import Arrivals
from models.copies import CopiesBeside, HostsWay

from .test_copies import LARGE, HeldWay

GPU = torch.device("cuda")  # by name alone


def test_host_uses_a_message_where_it_lies():
    arrivals = Arrivals(CopiesBeside(HeldWay()), torch.device("cpu"))
    message = torch.ones(LARGE)
    arrivals.expect(message)
    assert arrivals.take(message) is message


def test_expected_message_is_on_its_way_until_it_is_taken():
    way = HeldWay()
    arrivals, message = Arrivals(CopiesBeside(way), GPU), torch.ones(LARGE)
    arrivals.expect(message)
    way.gate.release()
    (_, there, copy) = arrivals._coming[id(message)]
    copy.wait()  # before anybody takes it
    assert torch.equal(there, message)
    assert arrivals.take(message) is there


def test_messages_are_not_mistaken_for_each_other():
    arrivals = Arrivals(CopiesBeside(HostsWay()), GPU)
    messages = [torch.full((LARGE,), float(i)) for i in range(3)]
    for message in messages:
        arrivals.expect(message)
    for message in reversed(messages):
        assert torch.equal(arrivals.take(message), message)


def test_message_that_nobody_expected_is_brought_when_it_is_taken():
    arrivals = Arrivals(CopiesBeside(HostsWay()), GPU)
    assert torch.equal(arrivals.take(torch.ones(3)), torch.ones(3))


def test_message_is_let_go_when_it_is_taken():
    """Its sender may write to its slot again then."""
    arrivals, message = Arrivals(CopiesBeside(HostsWay()), GPU), torch.ones(LARGE)
    arrivals.expect(message)
    taken = arrivals.take(message)
    message.zero_()
    assert taken.all()
