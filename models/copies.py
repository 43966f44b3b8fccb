"""The seam behind which everything is asynchronous: copies between a host and a block's device.

Owns when a copy is made and how one waits for it: `copy_async` begins it, and what it returns says
when it is `done`. Which memory a device needs, and in which order it works, is told by a Way: the
host's is here, a GPU's in models.side_stream.
"""

import queue
import threading
from collections import deque
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

QUICK_BYTES = 1 << 18  # on the host; below, handing a copy over takes longer than making it
LOOK_S, NUM_LOOKS = 5.0, 60  # longer than any copy takes


class Copy(Protocol):
    """A copy that is being made."""

    def done(self) -> bool:
        """Whether it is there, or has failed."""

    def wait(self) -> None:
        """Wait until it is there. Raises what it failed of."""


class Copies(Protocol):
    """Copies made in the order in which they are begun: one that is done has none before it.

    A copy has what was computed when it was begun. Until it is done its source must not be
    written to, and what it is made into be neither read nor written.
    """

    def copy_async(self, source: Tensor, into: Tensor) -> Copy:
        """Begin to copy, to a tensor of the same shape; any thread may call it. The types may
        differ on the host alone."""

    def empty_on_host(self, like: Tensor, dtype: torch.dtype) -> Tensor:
        """A contiguous tensor on the host, as a device copies to it fastest."""

    def empty_on_device(self, like: Tensor) -> Tensor:
        """A contiguous tensor on the device, to copy into and then to compute on."""

    def will_read(self, memory: Tensor) -> None:
        """Copies will often be made from this memory of the host, which stays until the process
        ends."""


class Made:
    """A Copy that is there."""

    def done(self) -> bool:
        return True

    def wait(self) -> None:
        """It is there."""


MADE = Made()


class Way(Protocol):
    """How copies are made to and from one kind of device."""

    def empty_on_host(self, like: Tensor, dtype: torch.dtype) -> Tensor: ...
    def empty_on_device(self, like: Tensor) -> Tensor: ...
    def will_read(self, memory: Tensor) -> None: ...

    def is_quick(self, source: Tensor) -> bool:
        """Whether a copy is best made at once: it is small, and its source is computed."""

    def ready(self, source: Tensor) -> Callable[[], None]:
        """On the thread that asks for a copy: what is to be called before it is made, so that it
        has what is computed until now."""

    def copy(self, source: Tensor, into: Tensor, ready: Callable[[], None]) -> None:
        """On the thread that copies; returns when the copy is there."""


class HostsWay:
    """Of a block that computes on the host: what is asked for is computed already."""

    def empty_on_host(self, like: Tensor, dtype: torch.dtype) -> Tensor:
        return torch.empty(like.shape, dtype=dtype)

    def empty_on_device(self, like: Tensor) -> Tensor:
        return torch.empty(like.shape, dtype=like.dtype)

    def will_read(self, memory: Tensor) -> None:
        """Nothing need be done."""

    def is_quick(self, source: Tensor) -> bool:
        return source.nbytes < QUICK_BYTES

    def ready(self, source: Tensor) -> Callable[[], None]:
        del source
        return lambda: None

    def copy(self, source: Tensor, into: Tensor, ready: Callable[[], None]) -> None:
        ready()
        into.copy_(source)


class CopiesAtOnce:
    """Copies that are there when they are begun: of the sequential program, which nothing else
    could go on beside."""

    def __init__(self, way: Way) -> None:
        self._way = way
        self.empty_on_host = way.empty_on_host
        self.empty_on_device = way.empty_on_device
        self.will_read = way.will_read

    def copy_async(self, source: Tensor, into: Tensor) -> Copy:
        self._way.copy(source, into, self._way.ready(source))
        return MADE


class CopiesBeside:
    """Copies by a thread of their own, while others compute."""

    def __init__(self, way: Way) -> None:
        self._way = way
        self.empty_on_host = way.empty_on_host
        self.empty_on_device = way.empty_on_device
        self.will_read = way.will_read
        self._lock = threading.Lock()
        self._under_way: deque[_CopyBeside] = deque()
        self._begun: queue.SimpleQueue[_CopyBeside] = queue.SimpleQueue()
        threading.Thread(target=self._work, name="copies", daemon=True).start()

    def copy_async(self, source: Tensor, into: Tensor) -> Copy:
        with self._lock:
            if not self._under_way and self._way.is_quick(source):
                self._way.copy(source, into, self._way.ready(source))
                return MADE
            copy = _CopyBeside(source, into, self._way.ready(source))
            self._under_way.append(copy)
            self._begun.put(copy)
        return copy

    def _work(self) -> None:
        while True:
            copy = self._begun.get()
            copy.make(self._way)
            with self._lock:
                self._under_way.popleft()
            del copy  # it holds tensors, and the next may be long in coming


class _CopyBeside:
    def __init__(self, source: Tensor, into: Tensor, ready: Callable[[], None]) -> None:
        self._given: tuple[Tensor, Tensor, Callable[[], None]] | None = (source, into, ready)
        self._failure: BaseException | None = None
        self._is_done = threading.Event()

    def make(self, way: Way) -> None:
        assert self._given is not None
        try:
            way.copy(*self._given)
        except BaseException as error:
            self._failure = error
        self._given = None  # whoever waits for the copy need not hold its source
        self._is_done.set()

    def done(self) -> bool:
        return self._is_done.is_set()

    def wait(self) -> None:
        for _ in range(NUM_LOOKS):  # by looks: a clock runs on while the job is suspended
            if self._is_done.wait(LOOK_S):
                break
        else:
            raise TimeoutError(f"a copy took over {NUM_LOOKS * LOOK_S:.0f} s")
        if self._failure is not None:
            raise self._failure
