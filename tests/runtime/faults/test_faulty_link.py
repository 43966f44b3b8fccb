"""What each fault of an edge does to the messages, once, and to no others."""

from collections import deque
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch

from runtime.core.messages import Ack, Data, Hello, Message
from runtime.core.plan import Stream
from runtime.faults import faulty_link
from runtime.faults.faulty_link import OVERTAKEN_S, FaultyLink
from runtime.faults.plan import parse
from runtime.links.codec import BadMessage, decode, encode
from runtime.links.guards import Checksums
from runtime.links.link import Arrival, Damaged, Frame
from runtime.links.tensor_bytes import tensor_bytes

GUARD = Checksums(0, covers_tensors=True)


class FakeLink:
    """Takes what is sent, and gives what the test lays into `arriving`."""

    pollables = (17,)
    limit_bytes = 5000

    def __init__(self) -> None:
        self.sent: list[list[Frame]] = []
        self.arriving: deque[Arrival | Damaged] = deque()
        self.dialled: list[str | None] = []

    def frames(self, message, payload=()) -> list[Frame]:
        return [encode(message, GUARD), *map(tensor_bytes, payload)]

    def send(self, message, payload=()) -> bool:
        return self.send_frames(self.frames(message, payload))

    def send_frames(self, frames: list[Frame]) -> bool:
        self.sent.append(frames)
        return True

    def receive(self) -> Arrival | Damaged | None:
        return self.arriving.popleft() if self.arriving else None

    def redial(self, address: str | None = None) -> None:
        self.dialled.append(address)

    def close(self) -> None:
        self.dialled.append("closed")


class Case:
    """The end of worker 1 on the edge to worker 2 (or another one), with a clock."""

    def __init__(self, faults: str, fired: set[str], sends: tuple[int, int], zombies: str) -> None:
        self.inner = FakeLink()
        self.now_s = 100.0
        self._fired = fired
        self.link = FaultyLink(
            self.inner, parse(faults), parse(zombies), sends=sends, claim=self._claim
        )

    def _claim(self, name: str) -> bool:
        is_new = name not in self._fired
        self._fired.add(name)
        return is_new

    def send(self, *sent: Arrival) -> None:
        for message, payload in sent:
            assert self.link.send(message, payload)

    @property
    def sent(self) -> list[Message]:
        """What has left, as far as headers go."""
        return [decode(bytes(frames[0]), GUARD) for frames in self.inner.sent]

    @property
    def steps(self) -> list[int]:
        return [message.step for message in self.sent if isinstance(message, Data)]


@pytest.fixture
def make(monkeypatch) -> Callable[..., Case]:
    fired: set[str] = set()
    cases: list[Case] = []

    def make(faults: str, *, sends: tuple[int, int] = (1, 2), zombies: str = "") -> Case:
        cases.append(Case(faults, fired, sends, zombies))
        return cases[-1]

    clock = SimpleNamespace(monotonic=lambda: cases[-1].now_s)
    monkeypatch.setattr(faulty_link, "time", clock)
    return make


def data(step: int, stream: Stream = Stream.ACTIVATION, *, absent: bool = False) -> Arrival:
    payload = () if absent else (torch.full((4,), float(step)), torch.arange(3))
    return Arrival(Data(stream=stream, step=step, generation=1, to=0, absent=absent), payload)


ACK = Arrival(Ack(stream=Stream.TIE_DOWN, generation=1, to=0, expected=5, released=4, durable=3))
HELLO = Arrival(Hello(generation=1, to=0, asks=False, wants={}))


def bits_that_differ(a: list[Frame], b: list[Frame]) -> list[tuple[int, int]]:
    """For each bit that differs, the frame and the byte in it."""
    assert [len(frame) for frame in a] == [len(frame) for frame in b]
    return [
        (index, position)
        for index, (left, right) in enumerate(zip(map(bytes, a), map(bytes, b), strict=True))
        for position, (x, y) in enumerate(zip(left, right, strict=True))
        for _ in range((x ^ y).bit_count())
    ]


EVERY_KIND = (
    "drop:{0}@3,duplicate:{0}@3,delay:{0}@3,reorder:{0}@3,corrupt:{0}@3,corrupt-header:{0}@3,"
    "truncate:{0}@3,oversize:{0}@3,partition:{0}@3"
)


# Nothing but what is asked for ------------------------------------------------------------------


@pytest.mark.parametrize("edge", ["2-1", "0-1", "2-3"])
def test_faults_leave_other_directions_and_edges_alone(make, edge):
    case = make(EVERY_KIND.format(edge))
    messages = [HELLO, data(2), data(3), ACK, data(3, Stream.TIE_UP), data(4)]
    case.send(*messages)
    assert case.inner.sent == [case.inner.frames(*message) for message in messages]


def test_faults_leave_other_steps_and_messages_alone(make):
    case = make(EVERY_KIND.format("1-2"))
    messages = [HELLO, data(2), ACK, data(4)]
    case.send(*messages)
    assert case.inner.sent == [case.inner.frames(*message) for message in messages]
    case.inner.arriving.extend([data(3, Stream.TIE_DOWN), Damaged(stream=None, reason="x")])
    assert isinstance(case.link.receive(), Arrival)
    assert isinstance(case.link.receive(), Damaged)
    assert case.link.receive() is None


@pytest.mark.parametrize("kind", ["drop", "duplicate", "corrupt", "truncate", "oversize"])
def test_fault_strikes_once_across_generations(make, kind):
    make(f"{kind}:1-2@3").send(data(3))
    for case in (make(f"{kind}:1-2@3"), make(f"{kind}:1-2@3")):
        case.send(data(3), data(3))
        assert case.inner.sent == [case.inner.frames(*data(3))] * 2


def test_calls_without_a_message_go_to_the_link_itself(make):
    case = make("drop:1-2@3")
    assert case.link.pollables == (17,)
    assert case.link.frames(*data(3)) == case.inner.frames(*data(3))
    assert case.link.send_frames([b"x"])
    assert case.inner.sent == [[b"x"]]
    case.link.redial("ipc://new")
    case.link.redial()
    case.link.close()
    assert case.inner.dialled == ["ipc://new", None, "closed"]


# Lost, doubled, damaged -------------------------------------------------------------------------


def test_drop_loses_the_message(make):
    case = make("drop:1-2@3")
    case.send(data(2), data(3), data(3, Stream.TIE_UP), data(4), data(3))
    assert case.steps == [2, 3, 4, 3]
    assert [m.stream for m in case.sent][1] is Stream.TIE_UP  # the first one of the step was lost


def test_duplicate_sends_the_message_twice(make):
    case = make("duplicate:1-2@3")
    case.send(data(2), data(3), data(4))
    assert case.steps == [2, 3, 3, 4]
    assert case.inner.sent[1] == case.inner.sent[2]


def test_corrupt_flips_a_bit_and_leaves_the_senders_tensor(make):
    case = make("corrupt:1-2@3")
    message = data(3)
    case.send(message)
    assert bits_that_differ(case.inner.sent[0], case.inner.frames(*data(3))) == [(2, 12)]
    assert torch.equal(message.payload[1], torch.arange(3))


@pytest.mark.parametrize("faults", ["corrupt-header:1-2@3", "corrupt:1-2@3"])
def test_flipped_header_is_no_message(make, faults):
    """Of an absent message there is only the header to damage."""
    case = make(faults)
    message = data(3, absent=faults.startswith("corrupt:"))
    case.send(message)
    ((frame, _),) = bits_that_differ(case.inner.sent[0], case.inner.frames(*message))
    assert frame == 0
    with pytest.raises(BadMessage):
        decode(bytes(case.inner.sent[0][0]), GUARD)


def test_truncate_cuts_the_last_frame(make):
    case = make("truncate:1-2@3")
    case.send(data(3))
    assert [len(frame) for frame in case.inner.sent[0][1:]] == [16, 12]
    assert [len(frame) for frame in case.inner.frames(*data(3))[1:]] == [16, 24]


def test_oversize_sends_a_frame_that_is_too_large(make):
    case = make("oversize:1-2@3")
    case.send(data(3))
    *whole, more = case.inner.sent[0]
    assert whole == case.inner.frames(*data(3))
    assert len(more) > case.inner.limit_bytes


# Late -------------------------------------------------------------------------------------------


def test_delay_preserves_the_order_of_all_that_follows(make):
    case = make("delay:1-2@3+0.5")
    case.send(data(2), data(3), ACK, data(4))
    assert case.steps == [2]
    case.now_s += 0.4
    case.send(data(5))
    assert case.link.receive() is None
    assert case.steps == [2]
    case.now_s += 0.1
    assert case.link.receive() is None
    assert case.steps == [2, 3, 4, 5]
    assert isinstance(case.sent[2], Ack)
    case.send(data(6))
    assert case.steps == [2, 3, 4, 5, 6]


def test_delay_holds_up_nothing_that_arrives(make):
    case = make("delay:1-2@3")
    case.send(data(3))
    case.inner.arriving.append(ACK)
    assert case.link.receive() == ACK


def test_reorder_lets_the_next_message_overtake(make):
    case = make("reorder:1-2@3")
    case.send(data(2), data(3), ACK)
    assert case.steps == [2]
    assert isinstance(case.sent[-1], Ack)  # a message about something else overtakes too
    case.send(data(4), data(5))
    assert case.steps == [2, 4, 3, 5]


def test_reorder_does_not_wait_for_ever(make):
    """A sender may be waiting for what the late message would have brought it."""
    case = make("reorder:1-2@3")
    case.send(data(3))
    case.now_s += OVERTAKEN_S - 0.01
    case.link.receive()
    assert case.steps == []
    case.now_s += 0.01
    case.link.receive()
    assert case.steps == [3]
    case.send(data(4), data(5))
    assert case.steps == [3, 4, 5]


# Connections ------------------------------------------------------------------------------------


def test_partition_lets_nothing_pass_either_way_until_it_ends(make):
    case = make("partition:1-2@3+2")
    case.send(data(2))
    assert case.inner.sent == [case.inner.frames(*data(2))]
    case.send(data(3), ACK, data(4), HELLO)
    case.inner.arriving.extend([ACK, Damaged(stream=None, reason="x"), HELLO])
    case.now_s += 1.9
    assert case.link.receive() is None
    assert not case.inner.arriving
    case.send(data(5))
    assert case.steps == [2]
    case.now_s += 0.2
    case.inner.arriving.append(ACK)
    assert case.link.receive() == ACK
    case.send(data(3))
    assert case.steps == [2, 3]


@pytest.mark.parametrize("edge", ["1-2", "2-1"])
@pytest.mark.parametrize("sends", [True, False])
def test_dialling_end_cuts_the_connection(make, edge, sends):
    for me, dials in (((2, 1), True), ((1, 2), False)):
        case = make(f"cut:{edge}@{3 if dials else 4}", sends=me)
        step = 3 if dials else 4
        if sends:
            case.send(data(step), data(step), data(step + 1))
            assert case.steps == [step, step, step + 1]
        else:
            case.inner.arriving.extend([data(step), ACK, data(step)])
            assert [case.link.receive() for _ in range(4)][-1] is None
        assert case.inner.dialled == ([None] if dials else [])


# A dead generation ------------------------------------------------------------------------------


def test_zombie_speaks_once_to_each_neighbour_and_lies(make):
    for sends in ((1, 2), (1, 0)):
        case = make("", sends=sends, zombies="zombie:1@3")
        case.send(HELLO, ACK)
        assert len(case.sent) == 2
        case.send(data(7), data(8))
        hello, wrong, true, after = case.sent[2:]
        assert isinstance(hello, Hello)
        assert (hello.generation, hello.to, hello.asks) == (0, 0, True)
        assert (wrong.step, wrong.generation) == (7, 0)
        assert (true.step, true.generation, after.step) == (7, 1, 8)
        assert bytes(case.inner.sent[3][1]) == bytes(tensor_bytes(torch.full((4,), 8.0)))

    again = make("", zombies="zombie:1@3")
    again.send(data(9))
    assert again.steps == [9]
