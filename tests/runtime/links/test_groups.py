"""Groups of two: how one is staged on a device, waited for and left.

That tensors arrive by them is the conformance suite's; here torch's groups are fakes.
"""

import tempfile
import threading
from collections.abc import Callable
from contextlib import contextmanager
from datetime import timedelta

import pytest
import torch
from torch.distributed import FileStore

from runtime.links.groups import RECEIVER, SENDER, StagedGroup, meet

CPU = torch.device("cpu")
SENT = torch.arange(5, dtype=torch.uint8)


class Work:
    """A transfer that has ended if `is_done`; one that has failed raises when it is waited for."""

    def __init__(self, *, is_done: bool = True, failure: str = "") -> None:
        self._is_done = is_done
        self._failure = failure

    def is_completed(self) -> bool:
        return self._is_done

    def wait(self) -> None:
        if self._failure:
            raise RuntimeError(self._failure)


class FakeGroup:
    """Notes what it is asked for. What it receives is SENT."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self.asked: list[tuple[str, int, torch.Tensor]] = []
        self.is_aborted = False

    def send(self, tensors: list[torch.Tensor], to: int, tag: int) -> Work:
        self.asked.append(("send", to, *tensors))
        return self.work

    def recv(self, tensors: list[torch.Tensor], source: int, tag: int) -> Work:
        tensors[0].copy_(SENT)
        self.asked.append(("recv", source, *tensors))
        return self.work

    def abort(self) -> None:
        self.is_aborted = True


def test_what_is_sent_is_a_copy_on_the_device():
    torchs = FakeGroup(Work())
    StagedGroup(torchs, CPU).send(SENT)
    ((what, to, staged),) = torchs.asked
    assert (what, to) == ("send", RECEIVER)
    assert torch.equal(staged, SENT)
    assert staged.data_ptr() != SENT.data_ptr()


def test_what_is_received_is_copied_to_the_host():
    torchs, into = FakeGroup(Work()), torch.zeros(5, dtype=torch.uint8)
    StagedGroup(torchs, CPU).receive(into)
    ((what, source, staged),) = torchs.asked
    assert (what, source) == ("recv", SENDER)
    assert torch.equal(into, SENT)
    assert staged.data_ptr() != into.data_ptr()


def test_copies_and_transfer_are_on_one_stream():
    entered: list[str] = []

    @contextmanager
    def stream():
        entered.append("on")
        yield
        entered.append("off")

    torchs = FakeGroup(Work())
    torchs.work.wait = lambda: entered.append("waited for")
    StagedGroup(torchs, CPU, stream).receive(torch.zeros(5, dtype=torch.uint8))
    assert entered == ["on", "waited for", "off"]


def test_what_has_ended_a_transfer_is_raised():
    group = StagedGroup(FakeGroup(Work(failure="remote process exited")), CPU)
    with pytest.raises(RuntimeError, match="remote process exited"):
        group.send(SENT)


def test_group_that_does_not_answer_is_aborted():
    torchs = FakeGroup(Work(is_done=False))
    with pytest.raises(RuntimeError, match="no answer in 0 s"):
        StagedGroup(torchs, CPU, timeout_s=0.0).send(SENT)
    assert torchs.is_aborted


def test_group_that_is_left_is_aborted_by_its_own_thread():
    """The peer is dead and the transfer would never end; torch's groups are one thread's."""
    torchs = FakeGroup(Work(is_done=False))
    group = StagedGroup(torchs, CPU)
    threading.Thread(target=group.leave).start()
    with pytest.raises(RuntimeError, match="it was left"):
        group.send(SENT)
    assert torchs.is_aborted


@pytest.fixture
def open_store() -> Callable[[], FileStore]:
    path = f"{tempfile.mkdtemp()}/store"
    return lambda: FileStore(path, -1)


def test_both_ends_meet_before_a_group_is_made(open_store):
    other = threading.Thread(target=meet, args=(open_store(), RECEIVER, 20.0))
    other.start()
    meet(open_store(), SENDER, 20.0)
    other.join()


def test_end_that_no_one_comes_to_gives_up(open_store):
    store = open_store()
    store.set_timeout(timedelta(seconds=60))
    with pytest.raises(RuntimeError):
        meet(store, SENDER, 0.01)
