"""What is made is sent when it is retained, in order; parts of checkpoints are made behind it."""

import threading
import weakref
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from runtime.block import TensorSpec
from runtime.core.messages import Computed, Data, Phase, Send
from runtime.core.plan import Side, Stream
from runtime.worker.outbox import LARGE_BYTES, CopyThread, Outbox

TIMEOUT_S = 10
SPECS = {
    Stream.ACTIVATION: (TensorSpec(shape=(LARGE_BYTES,), dtype="uint8"),),
    Stream.TIE_UP: (TensorSpec(shape=(4,), dtype="uint8"),),
}
MADE = {s: tuple(spec.empty().zero_() for spec in specs) for s, specs in SPECS.items()}


class HeldRetention:
    """Notes what is put; takes a large message when the test lets it."""

    def __init__(self) -> None:
        self.put_so_far: dict[tuple[Stream, int], str] = {}
        self.gate = threading.Semaphore(0)

    def put(self, stream, step, payload) -> None:
        if stream is Stream.ACTIVATION:
            assert self.gate.acquire(timeout=TIMEOUT_S)
        self.put_so_far[stream, step] = "absent" if payload is None else "present"

    def get(self, stream, step):
        return MADE[stream]

    def checksum(self, stream, step) -> int:
        return 100 + step


class Case:
    def __init__(self) -> None:
        self.retention = HeldRetention()
        self._woken = threading.Semaphore(0)
        self.outbox = Outbox(self.retention, SPECS, self._woken.release)

    def forward(self, step: int) -> None:
        event = Computed(phase=Phase.FORWARD, step=step)
        made = {Stream.ACTIVATION: MADE[Stream.ACTIVATION]}
        self.outbox.retain(event, made)

    def send(self, step: int, *, absent: bool = False, to: int = 0):
        """The message and its tensors, or None if they must wait."""
        data = Data(stream=Stream.ACTIVATION, step=step, generation=0, to=to, absent=absent)
        return self.outbox.fill(Send(side=Side.ABOVE, message=data))

    def let(self, *, num_wakes: int = 1) -> None:
        self.retention.gate.release()
        for _ in range(num_wakes):
            assert self._woken.acquire(timeout=TIMEOUT_S)

    def sent(self) -> list[Data]:
        """What is ready now, as it is sent."""
        return [self.outbox.fill(waited)[0] for waited in self.outbox.take_ready()]


@pytest.fixture
def case():
    case = Case()
    yield case
    case.outbox.close()


def test_message_is_sent_with_its_tensors_once_they_are_retained(case):
    case.forward(0)
    assert case.send(0) is None
    assert case.sent() == []
    case.let()
    (message,) = case.sent()
    assert (message.step, message.checksum) == (0, 100)
    again, payload = case.send(0)
    assert again == message
    assert payload is MADE[Stream.ACTIVATION]


def test_absent_marker_does_not_overtake_what_is_still_copied(case):
    """The receiver would take it for a gap or, of a free tie, pass the message before it over."""
    case.forward(0)
    assert case.send(0) is None
    assert case.send(1, absent=True) is None
    case.let()
    assert [(message.step, message.absent) for message in case.sent()] == [(0, False), (1, True)]
    assert case.send(1, absent=True) is not None


def test_message_that_waits_goes_to_the_last_generation_to_ask(case):
    case.forward(0)
    for to in (0, 1):
        assert case.send(0, to=to) is None
    case.let()
    assert [message.to for message in case.sent()] == [1]


def test_ties_without_a_value_are_retained_as_absent(case):
    event = Computed(phase=Phase.UPDATE, step=0, absent=True)
    case.outbox.retain(event, {Stream.TIE_UP: None, Stream.TIE_DOWN: None})
    assert case.retention.put_so_far == {(Stream.TIE_UP, 0): "absent"}


# The thread that copies -----------------------------------------------------------------------


class ListingRetention:
    """Takes a message when the test lets it."""

    def __init__(self) -> None:
        self.put_so_far: list[tuple[Stream, int]] = []
        self.gate = threading.Semaphore(0)
        self.error: Exception | None = None

    def put(self, stream, step, payload) -> None:
        if stream is Stream.ACTIVATION:
            assert self.gate.acquire(timeout=TIMEOUT_S)
        if self.error is not None:
            raise self.error
        self.put_so_far.append((stream, step))


class ThreadCase:
    def __init__(self) -> None:
        self.retention = ListingRetention()
        self.woken = threading.Semaphore(0)
        self.thread = CopyThread(self.retention, SPECS, self.woken.release)

    def copy(self, stream: Stream, step: int) -> None:
        self.thread.copy(stream, step, (torch.zeros(1, dtype=torch.uint8),))

    def let(self, count: int = 1) -> None:
        for _ in range(count):
            self.retention.gate.release()
            assert self.woken.acquire(timeout=TIMEOUT_S)


@pytest.fixture
def thread_case():
    thread_case = ThreadCase()
    yield thread_case
    thread_case.thread.close()


def test_small_message_is_retained_at_once(thread_case):
    thread_case.copy(Stream.TIE_UP, 0)
    assert not thread_case.thread.is_pending(Stream.TIE_UP, 0)
    assert thread_case.retention.put_so_far == [(Stream.TIE_UP, 0)]
    assert thread_case.thread.take_copied() == []


def test_message_is_retained_when_it_has_left_the_blocks_device(thread_case):
    """Small, but a GPU is still to write it: read at once, it would be what lay there before."""
    has_left, order = threading.Event(), thread_case.retention.put_so_far

    def wait() -> None:
        assert has_left.wait(TIMEOUT_S)
        order.append("it has left")

    leaving = SimpleNamespace(done=has_left.is_set, wait=wait)
    thread_case.thread.copy(Stream.TIE_UP, 0, (), leaving)
    assert thread_case.thread.is_pending(Stream.TIE_UP, 0)
    has_left.set()
    assert thread_case.woken.acquire(timeout=TIMEOUT_S)
    assert thread_case.thread.take_copied() == [(Stream.TIE_UP, 0)]
    assert order == ["it has left", (Stream.TIE_UP, 0)]


def test_message_that_failed_to_leave_is_raised(thread_case):
    def fail() -> None:
        raise RuntimeError("the GPU is gone")

    with pytest.raises(RuntimeError, match="the GPU is gone"):
        thread_case.thread.copy(Stream.TIE_UP, 0, (), SimpleNamespace(done=lambda: True, wait=fail))


def test_large_message_is_pending_until_it_is_copied_in_order(thread_case):
    for step in range(2):
        thread_case.copy(Stream.ACTIVATION, step)
    assert thread_case.thread.take_copied() == []
    assert thread_case.thread.is_pending(Stream.ACTIVATION, 0)
    thread_case.let()
    assert thread_case.thread.take_copied() == [(Stream.ACTIVATION, 0)]
    assert not thread_case.thread.is_pending(Stream.ACTIVATION, 0)
    assert thread_case.thread.is_pending(Stream.ACTIVATION, 1)
    thread_case.let()
    assert thread_case.thread.take_copied() == [(Stream.ACTIVATION, 1)]


def test_part_waits_for_what_was_made_before_it(thread_case):
    thread_case.copy(Stream.ACTIVATION, 0)
    found = []
    thread_case.thread.save(1, lambda: found.append(list(thread_case.retention.put_so_far)))
    assert thread_case.thread.take_saved() == []
    thread_case.let()
    assert thread_case.woken.acquire(timeout=TIMEOUT_S)
    assert found == [[(Stream.ACTIVATION, 0)]]
    assert thread_case.thread.take_saved() == [1]
    assert thread_case.thread.take_saved() == []


def test_message_behind_a_part_overwrites_nothing_it_needs(thread_case):
    """However small: it has a place of an earlier one, which a part of a checkpoint may hold."""
    may_save = threading.Event()
    thread_case.thread.save(1, lambda: may_save.wait(TIMEOUT_S))
    thread_case.copy(Stream.TIE_UP, 1)
    assert thread_case.thread.is_pending(Stream.TIE_UP, 1)
    assert thread_case.retention.put_so_far == []
    may_save.set()
    for _ in range(2):
        assert thread_case.woken.acquire(timeout=TIMEOUT_S)
    assert thread_case.retention.put_so_far == [(Stream.TIE_UP, 1)]
    thread_case.copy(Stream.TIE_UP, 2)
    assert thread_case.retention.put_so_far == [(Stream.TIE_UP, 1), (Stream.TIE_UP, 2)]


def test_small_message_does_not_overtake_one_that_waits(thread_case):
    may_save, may_copy = threading.Event(), threading.Event()
    put = thread_case.retention.put

    def put_slowly(stream, step, payload):
        assert may_copy.wait(TIMEOUT_S)
        put(stream, step, payload)

    thread_case.retention.put = put_slowly
    thread_case.thread.save(1, lambda: may_save.wait(TIMEOUT_S))
    thread_case.copy(Stream.TIE_UP, 1)
    may_save.set()
    assert thread_case.woken.acquire(timeout=TIMEOUT_S)  # saved; the copy is under way
    thread_case.copy(Stream.TIE_UP, 2)
    assert thread_case.thread.is_pending(Stream.TIE_UP, 2)
    may_copy.set()
    for _ in range(2):
        assert thread_case.woken.acquire(timeout=TIMEOUT_S)
    assert thread_case.retention.put_so_far == [(Stream.TIE_UP, 1), (Stream.TIE_UP, 2)]


def test_state_that_can_not_be_saved_ends_the_worker(thread_case):
    def fail():
        raise OSError("no room")

    thread_case.thread.save(1, fail)
    assert thread_case.woken.acquire(timeout=TIMEOUT_S)
    assert thread_case.thread.take_saved() == []
    with pytest.raises(OSError, match="no room"):
        thread_case.thread.take_copied()


def test_message_that_can_not_be_retained_ends_the_worker(thread_case):
    thread_case.retention.error = ValueError("made again with different contents")
    thread_case.copy(Stream.ACTIVATION, 0)
    saves = []
    thread_case.thread.save(1, lambda: saves.append(1))
    thread_case.let()
    assert thread_case.woken.acquire(timeout=TIMEOUT_S)
    assert saves == [], "it would rely on what is not retained"
    with pytest.raises(ValueError, match="different contents"):
        thread_case.thread.take_copied()


def test_copied_message_does_not_stay_in_memory(thread_case):
    """The thread held the last job until it had something else to do."""
    message = torch.zeros(1)
    gone = weakref.ref(message)
    thread_case.thread.save(1, partial(lambda message: None, message))
    del message
    assert thread_case.woken.acquire(timeout=TIMEOUT_S)
    assert gone() is None


def test_finish_waits_for_all_that_was_given(thread_case):
    found = []
    looks = threading.Semaphore(0)

    class Condition(threading.Condition):
        def wait_for(self, predicate, timeout=None):
            looks.release()
            return super().wait_for(predicate, timeout)

    def finish() -> None:
        thread_case.thread.finish()
        found.append(list(thread_case.retention.put_so_far))

    thread_case.thread.finish()  # of nothing
    for step in range(2):
        thread_case.copy(Stream.ACTIVATION, step)
    thread_case.thread._ended_one = Condition()
    waiting = threading.Thread(target=finish)
    waiting.start()
    assert looks.acquire(timeout=TIMEOUT_S)  # it is in `finish`, and nothing is retained yet
    thread_case.let(2)
    waiting.join(TIMEOUT_S)
    assert found == [[(Stream.ACTIVATION, 0), (Stream.ACTIVATION, 1)]]


def test_finish_raises_what_could_not_be_retained(thread_case):
    thread_case.retention.error = ValueError("made again with different contents")
    thread_case.copy(Stream.ACTIVATION, 0)
    thread_case.copy(Stream.ACTIVATION, 1)
    thread_case.retention.gate.release()
    with pytest.raises(ValueError, match="different contents"):
        thread_case.thread.finish()
