"""The seam of asynchronous copies: one suite that every kind passes, and what a thread adds."""

import threading
import weakref
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch

from models.copies import QUICK_BYTES, CopiesBeside, HostsWay
from models.device import make_copies

TIMEOUT_S = 20
LARGE = QUICK_BYTES // 4  # numbers in float32
# A machine with a GPU runs the suite on that as well.
KINDS = [
    (device, beside)
    for device in ("cpu", *(["cuda"] if torch.cuda.is_available() else []))
    for beside in (False, True)
]


@pytest.fixture(params=KINDS, ids=[f"{device}-{beside}" for device, beside in KINDS])
def copies(request):
    device, beside = request.param
    found = make_copies(torch.device(device), beside=beside)
    found.device = device
    return found


def given(copies, size: int, value: float) -> torch.Tensor:
    return torch.full((size,), value, device=copies.device)


@pytest.mark.parametrize("size", [0, 3, LARGE, 4 * LARGE])
def test_copy_is_what_was_computed_when_it_was_begun(copies, size):
    source = given(copies, size, 1.0)
    source += 1.0
    into = copies.empty_on_host(source, source.dtype)
    copy = copies.copy_async(source, into)
    copy.wait()
    assert copy.done()
    source += 1.0
    assert (into == 2.0).all()


def test_copy_to_the_device_can_be_computed_on(copies):
    source = torch.arange(2.0 * LARGE)
    into = copies.empty_on_device(source)
    copies.copy_async(source, into).wait()
    assert into.device.type == copies.device
    assert torch.equal((into + 1).cpu(), source + 1)


def test_copy_is_contiguous_whatever_its_source_is(copies):
    source = given(copies, 2 * LARGE, 0.0).reshape(2, LARGE)
    source[1] = 5.0
    into = copies.empty_on_host(source.T, source.dtype)
    copies.copy_async(source.T, into).wait()
    assert into.is_contiguous()
    assert torch.equal(into, source.T.cpu())


def test_copy_that_is_done_has_none_before_it(copies):
    """Large and small ones in turn: a small one must not overtake."""
    pairs = [(given(copies, size, i), size) for i, size in enumerate((4 * LARGE, 1) * 20)]
    intos = [copies.empty_on_host(source, source.dtype) for source, _ in pairs]
    begun = [
        copies.copy_async(source, into) for (source, _), into in zip(pairs, intos, strict=True)
    ]
    begun[-1].wait()
    assert all(copy.done() for copy in begun)
    assert all((into == i).all() for i, into in enumerate(intos))


def test_threads_may_begin_copies_at_once(copies):
    def work(value: float) -> None:
        for size in (1, LARGE) * 10:
            source = given(copies, size, value)
            into = copies.empty_on_host(source, source.dtype)
            copies.copy_async(source, into).wait()
            good.append(bool((into == value).all()))

    good: list[bool] = []
    threads = [threading.Thread(target=work, args=(float(i),)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert good == [True] * 80


# By a thread ------------------------------------------------------------------------------------


class HeldWay(HostsWay):
    """A copy that is handed over is made when the test lets it be."""

    def __init__(self) -> None:
        self.gate = threading.Semaphore(0)

    def copy(self, source: torch.Tensor, into: torch.Tensor, ready: Callable[[], None]) -> None:
        assert self.gate.acquire(timeout=TIMEOUT_S)
        super().copy(source, into, ready)


def begin(copies: CopiesBeside, size: int):
    source = torch.ones(size)
    into = torch.zeros(size)
    return copies.copy_async(source, into), into, weakref.ref(source)


def test_who_begins_a_copy_is_not_held_up():
    way = HeldWay()
    copy, into, _ = begin(CopiesBeside(way), LARGE)
    assert not copy.done()
    assert not into.any()
    way.gate.release()
    copy.wait()
    assert into.all()


def test_small_copy_waits_for_a_large_one_before_it():
    way = HeldWay()
    copies = CopiesBeside(way)
    large, _, _ = begin(copies, LARGE)
    small, into, _ = begin(copies, 1)
    assert not small.done()
    way.gate.release(2)
    small.wait()
    assert large.done()
    assert into.all()


def test_source_is_let_go_when_its_copy_is_made():
    """Who waits for a message must not hold a step's output beside it."""
    way = HeldWay()
    copy, _, source = begin(CopiesBeside(way), LARGE)
    assert source() is not None
    way.gate.release()
    copy.wait()
    assert source() is None


def test_suspension_is_no_part_of_the_wait_for_a_copy():
    """After Ctrl-Z for five minutes, in the midst of a copy, its worker failed."""
    way = HeldWay()
    copy, _, _ = begin(CopiesBeside(way), LARGE)
    looks = iter([False, True])
    copy._is_done = SimpleNamespace(wait=lambda timeout_s: next(looks), set=lambda: None)
    copy.wait()
    way.gate.release()


def test_copy_that_fails_raises_where_it_is_waited_for():
    copies = make_copies(torch.device("cpu"), beside=True)
    failing = copies.copy_async(torch.ones(LARGE), torch.zeros(3))
    good, into, _ = begin(copies, LARGE)
    good.wait()
    assert into.all()
    assert failing.done()
    with pytest.raises(RuntimeError, match="size"):
        failing.wait()
