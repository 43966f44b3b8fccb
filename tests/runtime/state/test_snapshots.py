"""A state is saved in memory of which one whole copy outlives any death."""

import contextlib
import itertools
import os
import signal
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from runtime.lifetime import die_with_parent
from runtime.state.snapshots import Snapshots
from runtime.state.status_page import OwnedMemory

from .states import STATE, assert_same, fresh

Life = Callable[[OwnedMemory, Callable[[], None]], None]
SIZES = (5, 3000, 1, 70_000)


def snapshots_in(memory: OwnedMemory) -> Snapshots:
    return Snapshots(live=memory.paths.live, copy=memory.paths.snapshot)


def test_every_dtype_and_shape_comes_back_bit_for_bit(memory):
    snapshots_in(memory).take(12, fresh())
    step, state = snapshots_in(memory).latest()
    assert step == 12
    assert_same(state, STATE)


def test_first_generation_finds_none(memory):
    assert snapshots_in(memory).latest() is None


def test_state_of_nothing_is_a_state(memory):
    snapshots_in(memory).take(3, {})
    assert snapshots_in(memory).latest() == (3, {})


def test_newest_one_is_found(memory):
    snapshots, step = snapshots_in(memory), torch.tensor(0)
    for number in (4, 8, 12):
        step.fill_(number)
        snapshots.take(number, {"step": step})
        assert snapshots.latest() == (number, {"step": number})
    step.fill_(99)  # the next step has begun
    assert snapshots_in(memory).latest() == (12, {"step": 12})


def test_snapshot_takes_one_copy_beside_what_is_computed_on(memory):
    snapshots, weight = snapshots_in(memory), torch.zeros(100_000)
    for step in range(4):
        snapshots.take(step, {"w": weight})
    files = (memory.paths.live, memory.paths.snapshot)
    assert sum(512 * os.stat(path).st_blocks for path in files) < 2.2 * weight.nbytes


# Deaths ----------------------------------------------------------------------------------------


def state_at(step: int) -> dict[str, Tensor]:
    """All of it differs from step to step, and a tensor comes with step 2."""
    sizes = SIZES if step >= 2 else SIZES[:-1]
    return {f"t{i}": torch.full((size,), float(step)) for i, size in enumerate(sizes)}


@contextlib.contextmanager
def announcing(strike: Callable[[], None]) -> Iterator[None]:
    """All that is written for a snapshot is announced to `strike`: before it, and in its midst."""
    write, copy, truncate = os.pwrite, Tensor.copy_, os.truncate

    def strike_and_write(fd, content, offset):
        strike()
        half = memoryview(content)[: len(content) // 2]
        write(fd, half, offset)
        strike()
        return write(fd, content, offset)

    def strike_and_copy(to, source):
        strike()
        return copy(to, source)

    def strike_and_truncate(path, size):
        strike()
        truncate(path, size)
        strike()

    os.pwrite, Tensor.copy_, os.truncate = strike_and_write, strike_and_copy, strike_and_truncate
    try:
        yield
    finally:
        os.pwrite, Tensor.copy_, os.truncate = write, copy, truncate


def live_through(memory: OwnedMemory, strike: Callable[[], None]) -> None:
    """A generation that computes in place, and saves its state before steps 1 to 3."""
    snapshots, held = snapshots_in(memory), {}
    for step in (1, 2, 3):
        for name, tensor in state_at(step).items():
            held.setdefault(name, torch.empty_like(tensor)).copy_(tensor)
        with announcing(strike):
            snapshots.take(step, held, halfway=strike)


def mend(memory: OwnedMemory, strike: Callable[[], None]) -> None:
    """The next generation's first deed: to make a copy whole that a death has cut short."""
    with announcing(strike):
        snapshots_in(memory)


def die_at(count: int, memory: OwnedMemory, live: Life) -> bool:
    """Live in a process that kills itself at the `count`-th strike; whether it did."""
    pid = os.fork()
    if pid == 0:
        die_with_parent()
        strikes = itertools.count()
        live(memory, lambda: next(strikes) == count and os.kill(os.getpid(), signal.SIGKILL))
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) in (0, -signal.SIGKILL)
    return os.waitstatus_to_exitcode(status) != 0


@pytest.fixture
def one_thread():
    """A forked process has no other threads, of which torch might wait for one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(
    "second",
    [None, *(pytest.param(second, marks=pytest.mark.slow) for second in (0, 3, 6, 9))],
    ids=lambda second: f"mending {second}",
)
def test_death_at_any_point_of_a_snapshot_leaves_a_whole_one(second):
    """A real SIGKILL at each write in turn, before it and in its midst; with `second` the next
    generation is killed too, while it mends what it has found."""
    steps_found, count = [], 0
    while True:
        memory = OwnedMemory("dying")
        died = die_at(count, memory, live_through)
        if second is not None:
            die_at(second, memory, mend)
        latest = snapshots_in(memory).latest()
        memory.close()
        if latest is not None:
            step, state = latest
            assert_same(state, state_at(step))
        steps_found.append(0 if latest is None else latest[0])
        if not died:
            break
        count += 1
    assert steps_found == sorted(steps_found), "a later death loses more"
    assert set(steps_found) == {0, 1, 2, 3}
    assert count > 40
