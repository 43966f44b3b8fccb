"""Large messages are copied on a thread of their own, small ones at once."""

import threading
import weakref
from functools import partial

import pytest
import torch

from runtime.block import TensorSpec
from runtime.core.plan import Stream
from runtime.worker.keeping import LARGE_BYTES, Keeping

TIMEOUT_S = 10
SPECS = {
    Stream.ACTIVATION: (TensorSpec(shape=(LARGE_BYTES,), dtype="uint8"),),
    Stream.TIE_UP: (TensorSpec(shape=(4,), dtype="uint8"),),
}


class HeldRetention:
    """Keeps a message when the test lets it."""

    def __init__(self) -> None:
        self.kept: list[tuple[Stream, int]] = []
        self.gate = threading.Semaphore(0)
        self.error: Exception | None = None

    def put(self, stream, step, payload) -> None:
        if stream is Stream.ACTIVATION:
            assert self.gate.acquire(timeout=TIMEOUT_S)
        if self.error is not None:
            raise self.error
        self.kept.append((stream, step))


class Case:
    def __init__(self) -> None:
        self.retention = HeldRetention()
        self.woken = threading.Semaphore(0)
        self.keeping = Keeping(self.retention, SPECS, self.woken.release)

    def keep(self, stream: Stream, step: int) -> None:
        self.keeping.keep(stream, step, (torch.zeros(1, dtype=torch.uint8),))

    def let(self, count: int = 1) -> None:
        for _ in range(count):
            self.retention.gate.release()
            assert self.woken.acquire(timeout=TIMEOUT_S)


@pytest.fixture
def case():
    case = Case()
    yield case
    case.keeping.close()


def test_a_small_message_lies_there_at_once(case):
    case.keep(Stream.TIE_UP, 0)
    assert not case.keeping.is_pending(Stream.TIE_UP, 0)
    assert case.retention.kept == [(Stream.TIE_UP, 0)]
    assert case.keeping.take_kept() == []


def test_a_large_one_is_pending_until_its_copy_is_made_and_order_stays(case):
    for step in range(2):
        case.keep(Stream.ACTIVATION, step)
    assert case.keeping.take_kept() == []
    assert case.keeping.is_pending(Stream.ACTIVATION, 0)
    case.let()
    assert case.keeping.take_kept() == [(Stream.ACTIVATION, 0)]
    assert not case.keeping.is_pending(Stream.ACTIVATION, 0)
    assert case.keeping.is_pending(Stream.ACTIVATION, 1)
    case.let()
    assert case.keeping.take_kept() == [(Stream.ACTIVATION, 1)]


def test_a_snapshot_waits_for_what_was_made_before_it(case):
    case.keep(Stream.ACTIVATION, 0)
    found = []
    case.keeping.save(1, lambda: found.append(list(case.retention.kept)))
    assert case.keeping.take_saved() == []
    case.let()
    assert case.woken.acquire(timeout=TIMEOUT_S)
    assert found == [[(Stream.ACTIVATION, 0)]]
    assert case.keeping.take_saved() == [1]
    assert case.keeping.take_saved() == []


def test_what_follows_a_snapshot_does_not_overwrite_what_it_needs(case):
    """However small: it has a place of an earlier one, which a part of a checkpoint may hold."""
    may_save = threading.Event()
    case.keeping.save(1, lambda: may_save.wait(TIMEOUT_S))
    case.keep(Stream.TIE_UP, 1)
    assert case.keeping.is_pending(Stream.TIE_UP, 1)
    assert case.retention.kept == []
    may_save.set()
    for _ in range(2):
        assert case.woken.acquire(timeout=TIMEOUT_S)
    assert case.retention.kept == [(Stream.TIE_UP, 1)]
    case.keep(Stream.TIE_UP, 2)
    assert case.retention.kept == [(Stream.TIE_UP, 1), (Stream.TIE_UP, 2)]


def test_a_small_message_does_not_overtake_one_that_waits(case):
    may_save, may_copy = threading.Event(), threading.Event()
    put = case.retention.put

    def put_slowly(stream, step, payload):
        assert may_copy.wait(TIMEOUT_S)
        put(stream, step, payload)

    case.retention.put = put_slowly
    case.keeping.save(1, lambda: may_save.wait(TIMEOUT_S))
    case.keep(Stream.TIE_UP, 1)
    may_save.set()
    assert case.woken.acquire(timeout=TIMEOUT_S)  # saved; the copy is under way
    case.keep(Stream.TIE_UP, 2)
    assert case.keeping.is_pending(Stream.TIE_UP, 2)
    may_copy.set()
    for _ in range(2):
        assert case.woken.acquire(timeout=TIMEOUT_S)
    assert case.retention.kept == [(Stream.TIE_UP, 1), (Stream.TIE_UP, 2)]


def test_a_state_that_can_not_be_saved_ends_the_worker(case):
    def fail():
        raise OSError("no room")

    case.keeping.save(1, fail)
    assert case.woken.acquire(timeout=TIMEOUT_S)
    assert case.keeping.take_saved() == []
    with pytest.raises(OSError, match="no room"):
        case.keeping.take_kept()


def test_what_can_not_be_kept_ends_the_worker(case):
    case.retention.error = ValueError("made again with different contents")
    case.keep(Stream.ACTIVATION, 0)
    saves = []
    case.keeping.save(1, lambda: saves.append(1))
    case.let()
    assert case.woken.acquire(timeout=TIMEOUT_S)
    assert saves == [], "it would rely on what is not kept"
    with pytest.raises(ValueError, match="different contents"):
        case.keeping.take_kept()


def test_nothing_of_what_was_saved_stays_in_memory(case):
    """The thread held the last state until it had something else to do."""
    image = torch.zeros(1)
    gone = weakref.ref(image)
    case.keeping.save(1, partial(lambda image: None, image))
    del image
    assert case.woken.acquire(timeout=TIMEOUT_S)
    assert gone() is None
