"""The sockets of an edge and their addresses: who can connect, and who is heard again."""

import os
import secrets
import subprocess
import sys
import time

import psutil
import pytest
import zmq

from runtime.core.messages import Hello
from runtime.core.plan import Side, Stream
from runtime.links.channel import tcp_address
from runtime.links.link import LinkError

from .edge import TIMEOUT_S, data, hello, make_end, open_again, receive, repeat, send


def test_address_in_use_is_said_so(context):
    lower = make_end(context, Side.ABOVE, bind="tcp://127.0.0.1:*")
    with pytest.raises(LinkError, match="in use"):
        make_end(context, Side.ABOVE, bind=lower.address)
    lower.close()


def test_tcp_listens_on_loopback_only(context):
    lower = make_end(context, Side.ABOVE, bind="tcp://127.0.0.1:*")
    port = int(lower.address.rpartition(":")[2])
    listening = [
        connection.laddr.ip
        for connection in psutil.Process().net_connections("tcp")
        if connection.laddr.port == port and connection.status == psutil.CONN_LISTEN
    ]
    assert listening == ["127.0.0.1"]
    lower.close()


def test_users_of_this_host_other_than_ours_cannot_connect(context):
    """Abstract ipc addresses have no file mode and are listed in /proc/net/unix for everyone."""
    lower = make_end(context, Side.ABOVE, bind=f"ipc://@test-{secrets.token_hex(6)}")
    nobody = 65534
    stranger = (
        f"import os, zmq; os.getuid() == 0 and os.setuid({nobody})\n"
        "s = zmq.Context().socket(zmq.DEALER); s.linger = 300; s.immediate = 1\n"
        f"s.connect({lower.address!r}); s.sndtimeo = 500; s.send(b'hello')"
    )
    done = subprocess.run([sys.executable, "-c", stranger], timeout=TIMEOUT_S, check=False)
    heard = bool(lower.pollables[0].poll(300))
    assert heard == (os.getuid() != 0)  # only root can play another user
    assert (done.returncode == 0) == heard
    lower.close()


def test_oversize_frame_is_never_taken_in(raw):
    """Its connection is closed instead; that the peer has gone silent is the driver's to see."""
    bare, upper = raw
    bare.send_multipart([bytes(64 << 20)])
    deadline_s = time.monotonic() + TIMEOUT_S
    while bare.poll(0, zmq.POLLOUT):
        assert upper.receive() is None
        assert time.monotonic() < deadline_s, "the connection was not closed"
    assert upper.receive() is None


def test_sending_to_nobody_says_so(context):
    lower = make_end(context, Side.ABOVE, bind=f"ipc://@test-{secrets.token_hex(6)}")
    assert not lower.send(*data(Stream.ACTIVATION, 0))
    lower.close()


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


def test_ipv6_host_has_brackets_in_an_address():
    assert tcp_address("::1", 7) == "tcp://[::1]:7"
    assert tcp_address("10.0.0.7") == "tcp://10.0.0.7:*"


def test_address_at_which_nobody_answers_is_told(context):
    """No step was made, and nothing said, for 760 s."""
    lower = make_end(context, Side.ABOVE, bind="tcp://127.0.0.1:*")
    address = lower.address
    lower.close()
    upper = make_end(context, Side.BELOW, connect=address)
    assert upper.unreached == address
    lower = open_again(lambda: make_end(context, Side.ABOVE, bind=address))
    assert lower.unreached is None, "it is dialled, and dials nobody"
    until_s = time.monotonic() + TIMEOUT_S
    while upper.unreached is not None and time.monotonic() < until_s:
        assert upper.receive() is None
        time.sleep(0.01)
    assert upper.unreached is None
    lower.close()
    while upper.unreached is None and time.monotonic() < until_s:
        assert upper.receive() is None
        time.sleep(0.01)
    assert upper.unreached == address
    upper.close()


def test_address_within_a_host_is_always_reached(context):
    upper = make_end(context, Side.BELOW, connect=f"ipc://@test-{secrets.token_hex(6)}")
    assert upper.unreached is None
    upper.close()
