"""Groups of torch.distributed: when one is made, joined, left, and what a broken one costs.

That tensors arrive by them is the conformance suite's; here groups and channels are fakes.
"""

import queue
import threading
from collections.abc import Callable, Iterator

import msgpack
import pytest

from runtime.core.messages import Hello
from runtime.core.plan import Side, Stream
from runtime.links.groups import RECEIVER, SENDER
from runtime.links.link import Damaged, End
from runtime.links.torch_distributed import Direction, GroupTensors

from .edge import SPECS, TIMEOUT_S, ack, data, hello, random_payload

SIZES = [spec.size_bytes for spec in SPECS[Stream.ACTIVATION]]
MESSAGE = data(Stream.ACTIVATION, 0).message


# One direction ----------------------------------------------------------------------------------


class FakeGroup(str):
    """A group by its name, that can be left."""

    is_left = False

    def leave(self) -> None:
        self.is_left = True


class Moves:
    """What a direction did, in order; moving "bad" fails."""

    def __init__(self) -> None:
        self.done: queue.SimpleQueue[tuple[str, ...]] = queue.SimpleQueue()
        self.num_opened = 0

    def open(self) -> FakeGroup:
        self.num_opened += 1
        return FakeGroup(f"group {self.num_opened}")

    def move(self, group: FakeGroup, job: str) -> None:
        if job == "bad":
            raise RuntimeError("connection reset")
        self.done.put((group, job))

    def fail(self, job: str, reason: str) -> None:
        self.done.put((job, reason))

    def next(self) -> tuple[str, ...]:
        return self.done.get(timeout=TIMEOUT_S)


@pytest.fixture
def moves() -> Moves:
    return Moves()


@pytest.fixture
def direct(moves) -> Iterator[Callable[..., Direction[str]]]:
    made = []

    def direct(open_group: Callable[[], str] = moves.open) -> Direction[str]:
        made.append(Direction("d", open_group, moves.move, moves.fail))
        return made[-1]

    yield direct
    for direction in made:
        direction.end()
        direction.join()
        assert not direction.is_alive


def test_direction_opens_one_group_and_moves_in_order(direct, moves):
    direction = direct()
    for job in "abc":
        direction.take(job)
    assert [moves.next() for _ in range(3)] == [("group 1", job) for job in "abc"]
    assert (direction.num_taken, direction.is_broken, moves.num_opened) == (3, False, 1)


def test_direction_is_broken_for_good_after_an_error(direct, moves):
    direction = direct()
    for job in ("a", "bad", "b"):
        direction.take(job)
    assert moves.next() == ("group 1", "a")
    assert moves.next() == ("bad", "connection reset")
    assert moves.next() == ("b", "connection reset")
    assert direction.is_broken
    assert moves.num_opened == 1


def test_group_that_can_not_be_opened_fails_what_it_was_for(direct, moves):
    def refuse() -> str:
        raise RuntimeError("nobody came")

    direct(refuse).take("a")
    assert moves.next() == ("a", "nobody came")


def test_group_is_left_when_its_direction_ends(direct, moves):
    """A transfer to a neighbour that is no more might never end by itself."""
    group = moves.open()
    direction = direct(lambda: group)
    direction.take("a")
    moves.next()
    assert not group.is_left
    direction.end()
    assert group.is_left


def test_group_that_opens_behind_the_end_is_left_at_once(direct, moves):
    group, may_open = moves.open(), threading.Event()

    def open_late() -> FakeGroup:
        assert may_open.wait(TIMEOUT_S)
        return group

    direction = direct(open_late)
    direction.take("a")
    direction.end()
    may_open.set()
    moves.next()
    assert group.is_left


# Both ends of an edge's tensors -----------------------------------------------------------------


class FakeChannel:
    """A channel that holds one message's later frames, and notes what is sent."""

    def __init__(self) -> None:
        self.later: list[bytes] = []
        self.sent: list[list[bytes]] = []
        self.is_connected = True

    def send(self, frames: list[bytes]) -> bool:
        self.sent.append(list(frames))
        return self.is_connected

    @property
    def has_more(self) -> bool:
        return bool(self.later)

    def receive_more(self) -> bytes:
        return self.later.pop(0)


class Path:
    """The tensors' path of one end; a group takes what is sent and never gives anything."""

    def __init__(self, side: Side) -> None:
        self.channel = FakeChannel()
        self.opened: queue.SimpleQueue[tuple[str, int]] = queue.SimpleQueue()
        end = End(side=side, run_id="run", specs=SPECS, guards_payload=False)
        self.tensors = GroupTensors(end, self.channel, self._open)

    def _open(self, name: str, rank: int) -> None:
        self.opened.put((name, rank))
        raise RuntimeError("no group here")

    def send(self, **named: object) -> list[object]:
        """Send an activation; returns what its header says of the group."""
        assert self.tensors.send([b"header", *self.tensors.frames(random_payload(**named))])
        header, place = self.channel.sent[-1]
        assert header == b"header"
        found: list[object] = msgpack.unpackb(place)
        return found

    def receive(self, *later: bytes) -> Damaged | None:
        self.channel.later = list(later)
        return self.tensors.receive(MESSAGE)


ACTIVATION = {"stream": Stream.ACTIVATION, "seed": 0}


@pytest.fixture
def path() -> Iterator[Callable[[Side], Path]]:
    made = []

    def path(side: Side) -> Path:
        made.append(Path(side))
        return made[-1]

    yield path
    for each in made:
        each.tensors.close()


def place(name: object = "g", index: int = 0, sizes: list[int] = SIZES) -> bytes:
    return msgpack.packb([name, index, sizes])


@pytest.fixture
def unbroken(path, monkeypatch) -> Path:
    """A sender whose direction never moves anything, and so never breaks."""
    monkeypatch.setattr(Direction, "_work", lambda self: None)
    return path(Side.ABOVE)


def test_header_names_the_group_and_the_message_in_it(unbroken):
    name, index, sizes = unbroken.send(**ACTIVATION)
    assert (name[:4], index, sizes) == ("run-", 0, SIZES)
    assert unbroken.send(**ACTIVATION) == [name, 1, SIZES]
    assert unbroken.tensors.send([b"a header alone"])
    assert unbroken.channel.sent[-1] == [b"a header alone"]


@pytest.mark.parametrize(
    ("heard", "is_left"),
    [
        (hello(generation=1), True),
        (ack(Stream.ACTIVATION, resend=True), True),
        (hello(generation=0), False),
        (ack(Stream.ACTIVATION), False),
    ],
)
def test_group_is_left_for_a_new_generation_or_a_resend(unbroken, heard, is_left):
    unbroken.tensors.note(hello(generation=0))
    name, *_ = unbroken.send(**ACTIVATION)
    unbroken.tensors.note(heard)
    next_name, index, _ = unbroken.send(**ACTIVATION)
    assert (next_name != name, index) == (is_left, 0 if is_left else 1)


def test_message_that_was_not_sent_takes_no_place_in_the_group(unbroken):
    unbroken.channel.is_connected = False
    assert not unbroken.tensors.send([b"header", b"tensor"])
    unbroken.channel.is_connected = True
    assert unbroken.send(**ACTIVATION)[1] == 0


def test_sender_makes_another_group_if_one_is_broken(path):
    sender = path(Side.ABOVE)
    name, *_ = sender.send(**ACTIVATION)
    assert sender.opened.get(timeout=TIMEOUT_S) == (name, SENDER)
    sender.tensors._sends.end()
    sender.tensors._sends.join()
    assert sender.tensors._sends.is_broken
    next_name, index, _ = sender.send(**ACTIVATION)
    assert next_name != name
    assert index == 0


@pytest.mark.parametrize(
    ("later", "reason"),
    [
        ((), "it names no group"),
        ((b"\xc1",), "it names no group"),
        ((place(name=7),), "it names no group"),
        ((place(), b"more"), "it has too many frames"),
        ((place(sizes=[1, 2]),), "frames of [1, 2] bytes for"),
        ((place(index=3),), "message 3 of its group, but 0 is due"),
    ],
)
def test_header_that_does_not_fit_its_group_is_damaged(path, later, reason):
    damaged = path(Side.BELOW).receive(*later)
    assert damaged.stream is Stream.ACTIVATION
    assert reason in damaged.reason


def test_receiver_joins_the_group_and_tells_what_comes_of_it(path):
    receiver = path(Side.BELOW)
    assert receiver.receive(place("g")) is None
    assert receiver.opened.get(timeout=TIMEOUT_S) == ("g", RECEIVER)
    receiver.tensors._receives.end()
    receiver.tensors._receives.join()
    late = receiver.tensors.take_late()
    assert late == Damaged(stream=Stream.ACTIVATION, reason="no group here")
    assert receiver.tensors.take_late() is None


def test_group_is_not_joined_again_behind_damage(path):
    """Its tensors may still come by it, in which nothing tells one message from another."""
    receiver = path(Side.BELOW)
    receiver.receive(place("g"))
    receiver.tensors.note(Damaged(stream=None, reason="x"))
    again = receiver.receive(place("g"))
    assert again == Damaged(stream=Stream.ACTIVATION, reason="its group is broken")
    assert receiver.receive(place("h")) is None


def test_messages_alone_change_no_group(path):
    receiver = path(Side.BELOW)
    receiver.tensors.note(Damaged(stream=None, reason="x"))  # it is in none yet
    receiver.tensors.note(Hello(generation=2, to=None, asks=True, wants={}))
    assert receiver.receive(place("g")) is None
