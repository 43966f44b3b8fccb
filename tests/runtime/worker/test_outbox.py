"""What is made is sent when it is kept, in order."""

import threading

import pytest

from runtime.block import TensorSpec
from runtime.core.messages import Computed, Phase
from runtime.core.plan import Free, Side, Stream, Window, WorkerPlan
from runtime.links.message import DataMessage
from runtime.worker.keeping import LARGE_BYTES
from runtime.worker.outbox import Outbox

TIMEOUT_S = 10
SPECS = {
    Stream.ACTIVATION: (TensorSpec(shape=(LARGE_BYTES,), dtype="uint8"),),
    Stream.TIE_UP: (TensorSpec(shape=(4,), dtype="uint8"),),
}
MADE = {s: tuple(spec.empty().zero_() for spec in specs) for s, specs in SPECS.items()}
FREE = Free(max_staleness=8, keeps_newest=True)


class HeldRetention:
    """Notes what is kept; keeps a large message when the test lets it."""

    def __init__(self) -> None:
        self.kept: dict[tuple[Stream, int], str] = {}
        self.gate = threading.Semaphore(0)

    def put(self, stream, step, payload) -> None:
        if stream is Stream.ACTIVATION:
            assert self.gate.acquire(timeout=TIMEOUT_S)
        self.kept[stream, step] = "absent" if payload is None else "present"

    def get(self, stream, step):
        return MADE[stream]

    def checksum(self, stream, step) -> int:
        return 100 + step


class Case:
    def __init__(self, free: Free | None = FREE) -> None:
        window = Window(max_messages=2, max_bytes=1 << 20, message_bytes=4)
        plan = WorkerPlan(num_steps=9, outgoing=dict.fromkeys(SPECS, window), free=free)
        self.retention = HeldRetention()
        self._woken = threading.Semaphore(0)
        self.outbox = Outbox(plan, self.retention, SPECS, self._woken.release)

    def forward(self, step: int) -> object:
        event = Computed(phase=Phase.FORWARD, step=step)
        made = {Stream.ACTIVATION: MADE[Stream.ACTIVATION]}
        return self.outbox.keep(event, made)

    def send(self, step: int, *, absent: bool = False, to: int = 0) -> DataMessage | None:
        message = DataMessage(
            stream=Stream.ACTIVATION, step=step, generation=0, to=to, absent=absent, checksum=0
        )
        return self.outbox.fill(Side.ABOVE, message)

    def let(self, *, num_wakes: int = 1) -> None:
        self.retention.gate.release()
        for _ in range(num_wakes):
            assert self._woken.acquire(timeout=TIMEOUT_S)

    def sent(self) -> list[DataMessage]:
        """What is ready now, as it is sent."""
        return [self.outbox.fill(*waited) for waited in self.outbox.take_ready()]


@pytest.fixture
def case():
    case = Case()
    yield case
    case.outbox.close()


def test_a_message_is_sent_with_what_is_kept_of_it_when_that_is_there(case):
    case.forward(0)
    assert case.send(0) is None
    assert case.sent() == []
    case.let()
    (message,) = case.sent()
    assert (message.step, message.checksum) == (0, 100)
    assert message.payload is MADE[Stream.ACTIVATION]
    assert case.send(0) == message


def test_a_mark_does_not_overtake_what_is_still_copied(case):
    """The receiver would take it for a gap or, of a free tie, pass the message before it over."""
    case.forward(0)
    assert case.send(0) is None
    assert case.send(1, absent=True) is None
    case.let()
    assert [(message.step, message.absent) for message in case.sent()] == [(0, False), (1, True)]
    assert case.send(1, absent=True) is not None


def test_what_waits_goes_to_the_life_that_asked_last(case):
    case.forward(0)
    for to in (0, 1):
        assert case.send(0, to=to) is None
    case.let()
    assert [message.to for message in case.sent()] == [1]


def test_ties_without_a_value_are_kept_as_absent(case):
    event = Computed(phase=Phase.UPDATE, step=0, absent=True)
    case.outbox.keep(event, {Stream.TIE_UP: None, Stream.TIE_DOWN: None})
    assert case.retention.kept == {(Stream.TIE_UP, 0): "absent"}
