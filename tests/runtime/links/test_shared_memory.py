"""Messages that are read in the memory in which their sender retains them."""

import os
import signal
import subprocess
import sys

import pytest
import torch

from runtime.core.plan import Side, Stream, WorkerPlan
from runtime.core.streams import ProtocolError
from runtime.links.link import Arrival, Damaged
from runtime.state.retention import NeighboursRetention, Retention

from .edge import (
    ROOM,
    data,
    random_payload,
    receive,
    retention,
    retention_of_other,
    send,
    shm_ends,
)

FIRST = 7


@pytest.fixture
def make_ends(context):
    made = []

    def make(*, guards_payload):
        made.append(shm_ends(guards_payload=guards_payload)(context))
        return made[-1]

    yield make
    for ends in made:
        ends.lower.close()
        ends.upper.close()


@pytest.fixture
def ends(make_ends):
    return make_ends(guards_payload=False)


def test_message_is_used_in_place(ends):
    send(ends.lower, *data(Stream.ACTIVATION, FIRST, seed=1))
    got = receive(ends.upper)
    retained = ends.lower.retention.get(Stream.ACTIVATION, FIRST)
    retained[0].fill_(5.0)  # the same memory, under two addresses
    assert torch.equal(got.payload[0], torch.full_like(retained[0], 5.0))
    assert got.payload[0].data_ptr() != retained[0].data_ptr()


def test_slot_that_is_used_again_is_no_message(ends):
    """A header that comes very late must not bring the tensors of another step."""
    late = ends.lower.frames(*data(Stream.ACTIVATION, FIRST))
    ends.lower.retention.put(
        Stream.ACTIVATION, FIRST + ROOM, random_payload(Stream.ACTIVATION, seed=2)
    )
    for _ in range(2):  # the first time, they may not be connected
        send(ends.lower, *data(Stream.TIE_UP, 0))
        assert isinstance(receive(ends.upper), Arrival)
    assert ends.lower.send_frames(late)
    heard = receive(ends.upper)
    assert isinstance(heard, Damaged)
    assert (heard.stream, heard.reason) == (Stream.ACTIVATION, "its slot holds another message")


def test_message_made_again_leaves_what_a_neighbour_reads(ends):
    """A writer that was killed comes back and repeats its steps while the reader computes."""
    payload = random_payload(Stream.ACTIVATION, seed=3)
    send(ends.lower, *data(Stream.ACTIVATION, FIRST, seed=3))
    retention = ends.lower.retention
    retention.put(Stream.ACTIVATION, FIRST, payload)
    with pytest.raises(ProtocolError, match="activation 7 was made again with different contents"):
        retention.put(Stream.ACTIVATION, FIRST, random_payload(Stream.ACTIVATION, seed=4))
    with pytest.raises(ProtocolError, match="not deterministic"):
        retention.put(Stream.ACTIVATION, FIRST, None)
    got = receive(ends.upper)
    assert all(torch.equal(a, b) for a, b in zip(got.payload, payload, strict=True))


def test_message_made_again_takes_no_place_of_a_later_one(ends):
    """With few places and rare snapshots a restarted worker wrote over what its neighbour read."""
    late = FIRST + ROOM
    send(ends.lower, *data(Stream.ACTIVATION, late, seed=5))
    ends.lower.retention.put(Stream.ACTIVATION, FIRST, random_payload(Stream.ACTIVATION, seed=6))
    got = receive(ends.upper)
    sent = random_payload(Stream.ACTIVATION, seed=5)
    assert all(torch.equal(a, b) for a, b in zip(got.payload, sent, strict=True))


def test_neighbour_that_sends_nothing_retains_nothing():
    """The top worker has nothing to send if there are no ties, and its memory is empty."""
    plan = WorkerPlan(num_steps=1)
    fd = os.memfd_create("test")
    path = f"/proc/self/fd/{fd}"
    assert Retention(path, plan, {}).size_bytes == 0
    assert NeighboursRetention(path, plan, {}).memory.numel() == 0
    os.close(fd)


def test_all_that_a_neighbour_retains_lies_in_one_memory():
    """Which may be registered with a GPU's driver."""
    fd = os.memfd_create("test")
    payload = random_payload(Stream.ACTIVATION, seed=1)
    retention(fd, Side.ABOVE).put(Stream.ACTIVATION, FIRST, payload)
    other = retention_of_other(fd, Side.ABOVE)
    begin, end = other.memory.data_ptr(), other.memory.data_ptr() + other.memory.nbytes
    for tensor in other.find(Stream.ACTIVATION, FIRST):
        assert begin <= tensor.data_ptr() <= tensor.data_ptr() + tensor.nbytes <= end
    os.close(fd)


def test_guarded_message_shows_damage_in_memory(make_ends):
    ends = make_ends(guards_payload=True)
    send(ends.lower, *data(Stream.ACTIVATION, FIRST))
    ends.lower.retention.get(Stream.ACTIVATION, FIRST)[2][0, 0] += 1
    assert receive(ends.upper).reason == "its tensors fail their checksum"


def test_reader_can_not_write():
    """Loudly: a silent write would change what the sender would send again."""
    code = (
        "import os\n"
        "from runtime.core.plan import Stream, Window, WorkerPlan\n"
        "from runtime.state.retention import NeighboursRetention, Retention\n"
        "from runtime.block import TensorSpec\n"
        "import torch\n"
        "path = f'/proc/self/fd/{os.memfd_create(\"test\")}'\n"
        "window = Window(max_messages=2, max_bytes=32, message_bytes=16, max_retained=4)\n"
        "plan = WorkerPlan(num_steps=1, outgoing={Stream.TIE_UP: window})\n"
        "specs = {Stream.TIE_UP: (TensorSpec(shape=(4,), dtype='float32'),)}\n"
        "Retention(path, plan, specs).put(Stream.TIE_UP, 0, (torch.ones(4),))\n"
        "(found,) = NeighboursRetention(path, plan, specs).find(Stream.TIE_UP, 0)\n"
        "assert found.tolist() == [1.0] * 4\n"
        "found.add_(1)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, timeout=60, check=False
    )
    assert done.returncode == -signal.SIGSEGV, done.stderr.decode()
