"""Groups of two processes by torch.distributed: gloo moves host memory, NCCL that of GPUs.

Owns what a group is to a link: it moves the bytes of host memory, waits for no longer than it may,
and can be left. Knows nothing of messages. NCCL's half has not been run on GPUs; all of it but
NCCL's own calls, abort among them, passes the conformance suite of links over another group.
"""

import os
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from typing import Protocol

import torch
from torch import Tensor
from torch.distributed import PrefixStore, ProcessGroup, ProcessGroupGloo, Store, Work

SENDER, RECEIVER = 0, 1
TIMEOUT_S = 30.0  # for one tensor; a dead peer is mostly noticed at once, a stopped one after this
OPENING_TIMEOUT_S = 5.0
POLL_S = 5e-4
NCCL_SETTINGS = {
    "TORCH_NCCL_BLOCKING_WAIT": "1",  # no watchdog of torch's, and its time limits with it
    "TORCH_NCCL_ASYNC_ERROR_HANDLING": "0",  # a neighbour's death is not this process's
}

OpenStore = Callable[[], Store]


class Group(Protocol):
    """One end of a group. All methods but `leave` are called by one thread; they raise RuntimeError
    if the other end is gone, or does not answer in time. After that the group is of no more use."""

    def send(self, data: Tensor) -> None:
        """Send bytes of host memory; returns when that may be written to again."""

    def receive(self, into: Tensor) -> None:
        """Receive as many bytes as fit into host memory."""

    def leave(self) -> None:
        """From any thread: end what is being moved, if the group can be left meanwhile."""


OpenGroup = Callable[[str, int], Group]  # by a name and this end's rank


def gloo_opener(
    open_store: OpenStore, host: str, *, timeout_s: float = OPENING_TIMEOUT_S
) -> OpenGroup:
    """What opens groups over sockets bound to `host`; waits for the other end.

    Raises RuntimeError after `timeout_s`.
    """

    def open_group(name: str, rank: int) -> GlooGroup:
        options = ProcessGroupGloo._Options()  # type: ignore[attr-defined]
        options._devices = [ProcessGroupGloo.create_device(hostname=host)]
        options._timeout = timedelta(seconds=timeout_s)
        store = PrefixStore(f"loco/gloo/{name}", open_store())
        return GlooGroup(ProcessGroupGloo(store, rank, 2, options))  # type: ignore[arg-type]

    return open_group


def nccl_opener(
    open_store: OpenStore, host: str, *, timeout_s: float = OPENING_TIMEOUT_S
) -> OpenGroup:
    """What opens groups of this process's GPU, the first that it sees, and a neighbour's; waits for
    the other end. NCCL finds its own network interfaces, so `host` is not used.

    Raises RuntimeError after `timeout_s`.
    """
    del host
    os.environ.update(NCCL_SETTINGS)

    def open_group(name: str, rank: int) -> StagedGroup:
        from torch.distributed import ProcessGroupNCCL  # a build without it has no such name

        store = PrefixStore(f"loco/nccl/{name}", open_store())
        meet(store, rank, timeout_s)
        options = ProcessGroupNCCL.Options()
        options._timeout = timedelta(seconds=TIMEOUT_S)
        device = torch.device("cuda", 0)
        group: ProcessGroup = ProcessGroupNCCL(store, rank, 2, options)  # type: ignore[assignment]
        side_stream = torch.cuda.Stream(device)
        return StagedGroup(group, device, lambda: torch.cuda.stream(side_stream))

    return open_group


OPENERS: Mapping[str, Callable[[OpenStore, str], OpenGroup]] = {
    "gloo": gloo_opener,
    "nccl": nccl_opener,
}


def meet(store: Store, rank: int, timeout_s: float) -> None:
    """Wait until both ends are there: NCCL itself would wait for ever. Raises RuntimeError."""
    store.set(f"here/{rank}", "")
    store.wait([f"here/{1 - rank}"], timedelta(seconds=timeout_s))


class GlooGroup:
    """A Group; gloo can't be left while it moves something, but notices a peer's death at once."""

    def __init__(self, group: ProcessGroup) -> None:
        self._group = group

    def send(self, data: Tensor) -> None:
        self._group.send([data], RECEIVER, 0).wait(timedelta(seconds=TIMEOUT_S))

    def receive(self, into: Tensor) -> None:
        self._group.recv([into], SENDER, 0).wait(timedelta(seconds=TIMEOUT_S))

    def leave(self) -> None:
        """Its thread ends with what it moves."""


class StagedGroup:
    """A Group between memories of devices: what is sent is copied there from the host, and what is
    received back, for messages are retained, and their MACs checked, on the host.

    `on_stream` is the stream on which copies and transfers follow each other, beside the one that
    computes. What waits is polled, so that it can be left: a transfer whose peer has died may never
    end by itself, and holds a part of the GPU until it is aborted.
    """

    def __init__(
        self,
        group: ProcessGroup,
        device: torch.device,
        on_stream: Callable[[], AbstractContextManager[object]] = nullcontext,
        *,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        self._group = group
        self._device = device
        self._on_stream = on_stream
        self._timeout_s = timeout_s
        self._is_left = threading.Event()

    def send(self, data: Tensor) -> None:
        with self._on_stream():
            staged = torch.empty_like(data, device=self._device).copy_(data)
            self._finish(self._group.send([staged], RECEIVER, 0))

    def receive(self, into: Tensor) -> None:
        with self._on_stream():
            staged = torch.empty_like(into, device=self._device)
            self._finish(self._group.recv([staged], SENDER, 0))
            into.copy_(staged)

    def leave(self) -> None:
        self._is_left.set()

    def _finish(self, work: Work) -> None:
        """Wait for a transfer; abort the group if that is late or left. Raises RuntimeError."""
        deadline_s = time.monotonic() + self._timeout_s
        while not work.is_completed():
            if self._is_left.wait(POLL_S):
                self._give_up("it was left")
            if time.monotonic() > deadline_s:
                self._give_up(f"no answer in {self._timeout_s:.0f} s")
        work.wait()  # raises what has ended it, and orders what follows behind it

    def _give_up(self, reason: str) -> None:
        self._group.abort()
        raise RuntimeError(reason)
