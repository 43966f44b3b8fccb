"""Each test that takes `ends` runs on every link."""

from collections.abc import Iterator

import pytest
import zmq

from runtime.core.messages import Hello

from .edge import LINKS, Ends, hello, receive, send


@pytest.fixture
def context() -> Iterator[zmq.Context]:
    context = zmq.Context()
    yield context
    context.destroy(linger=0)


@pytest.fixture(params=sorted(LINKS))
def ends(request, context) -> Iterator[Ends]:
    ends = LINKS[request.param](context)
    send(ends.upper, hello())  # they are connected
    assert isinstance(receive(ends.lower).message, Hello)
    yield ends
    ends.lower.close()
    ends.upper.close()
