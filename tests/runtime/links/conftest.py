"""Each test that takes `ends` runs on every link."""

import secrets
from collections.abc import Iterator

import pytest
import zmq

from runtime.core.messages import Hello
from runtime.core.plan import Side
from runtime.links.link import Link

from .edge import LINKS, Ends, hello, make_end, receive, send


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
    ends.close()


@pytest.fixture
def raw(context) -> Iterator[tuple[zmq.Socket, Link]]:
    """A bare socket in the lower end's place, with an upper end that dials it."""
    raw = context.socket(zmq.DEALER)
    raw.bind(f"ipc://@test-{secrets.token_hex(6)}")
    upper = make_end(context, Side.BELOW, connect=raw.getsockopt(zmq.LAST_ENDPOINT).decode())
    yield raw, upper
    raw.close(0)
    upper.close()
