"""Which headers an end hears: those of its run, of its tensors, and that flow its way."""

import secrets

import pytest

from runtime.core.messages import SnapshotRequest
from runtime.core.plan import Side, Stream
from runtime.links.codec import encode, fingerprint
from runtime.links.guards import Checksums
from runtime.links.link import Arrival, Damaged, End
from runtime.links.zeromq import zmq_link

from .edge import SPECS, ack, data, hello, make_end, receive, send


def header(message) -> bytes:
    edge = fingerprint("run", SPECS)
    return encode(message, Checksums(edge, covers_tensors=True), edge=edge)


@pytest.mark.parametrize("stranger", ["another run", "other tensors"])
def test_end_that_does_not_belong_is_not_listened_to(context, stranger):
    """A worker of a run before may still dial; it must not end this one."""
    lower = make_end(context, Side.ABOVE, bind=f"ipc://@test-{secrets.token_hex(6)}")
    specs = SPECS if stranger == "another run" else {Stream.ACTIVATION: SPECS[Stream.TIE_UP]}
    run_id = "another" if stranger == "another run" else "run"
    end = End(side=Side.BELOW, run_id=run_id, specs=specs)
    upper = zmq_link(context, end, connect=lower.address)
    send(upper, hello())
    heard = receive(lower)
    assert isinstance(heard, Damaged)
    assert heard.stream is None
    assert "another run, or of other tensor shapes" in heard.reason
    upper.close()
    friend = make_end(context, Side.BELOW, connect=lower.address)
    send(friend, hello(generation=4))
    assert receive(lower).message.generation == 4
    lower.close()
    friend.close()


@pytest.mark.parametrize(
    "message",
    [
        data(Stream.TIE_DOWN, 0, absent=True).message,
        SnapshotRequest(stream=Stream.TIE_DOWN, generation=0, to=1, durable=4),
        ack(Stream.ACTIVATION),
    ],
)
def test_message_that_flows_the_other_way_is_damaged(raw, message):
    socket, upper = raw
    socket.send_multipart([header(message)])
    damaged = receive(upper)
    assert isinstance(damaged, Damaged)
    assert "does not flow this way" in damaged.reason


def test_message_without_tensors_that_has_some_is_damaged(raw):
    socket, upper = raw
    for message, stream in (
        (hello(), None),
        (ack(Stream.TIE_DOWN), None),
        (data(Stream.ACTIVATION, 1, absent=True).message, Stream.ACTIVATION),
    ):
        socket.send_multipart([header(message), b"a tensor"])
        reason = "a message without tensors has some"
        assert receive(upper) == Damaged(stream=stream, reason=reason)
    socket.send_multipart([header(hello())])
    assert receive(upper) == Arrival(hello())
