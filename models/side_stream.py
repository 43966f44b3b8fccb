"""How copies are made to and from a GPU: on a stream beside the one that computes.

Owns CUDA's half of models.copies. A copy from the GPU waits there for what was computed when it was
begun, and not for what comes after; one to it waits for nothing. It has not been run on a GPU:
models.copies' thread calls it, and what that thread must do is tested on the host.
"""

import logging
import threading
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

READ_ONLY = 0x08  # cudaHostRegisterReadOnly
REGISTER_TIMEOUT_S = 60.0
log = logging.getLogger(__name__)


class SideStream:
    """A models.copies.Way. Memory on the GPU that is copied into belongs to this stream, so that it
    need not be waited for; who computes on it calls `used_by_compute` first."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)

    def empty_on_host(self, like: Tensor, dtype: torch.dtype) -> Tensor:
        """Pinned: the GPU writes to it by itself, and torch keeps such memory to use it again."""
        return torch.empty(like.shape, dtype=dtype, pin_memory=True)

    def empty_on_device(self, like: Tensor) -> Tensor:
        with torch.cuda.stream(self._stream):
            return torch.empty(like.shape, dtype=like.dtype, device=self._device)

    def will_read(self, memory: Tensor) -> None:
        """Register it, so that the GPU copies from there by itself. Without that, as in a driver
        that can't, the driver copies it elsewhere first."""
        if not register(memory, torch.cuda.cudart()):
            log.warning("CUDA can't register a neighbour's memory: copies to the GPU take longer")

    def is_quick(self, source: Tensor) -> bool:
        del source
        return False  # to wait for it would be to wait for all that is computed

    def ready(self, source: Tensor) -> Callable[[], None]:
        if not source.is_cuda:
            return lambda: None
        computed = torch.cuda.Event()
        computed.record(torch.cuda.current_stream(self._device))
        return lambda: self._stream.wait_event(computed)

    def copy(self, source: Tensor, into: Tensor, ready: Callable[[], None]) -> None:
        with torch.cuda.stream(self._stream):
            ready()
            into.copy_(source, non_blocking=True)
        self._stream.synchronize()  # of this thread alone: others compute meanwhile


class CudaRuntime(Protocol):
    """What is used of torch.cuda.cudart()."""

    def cudaHostRegister(self, pointer: int, size_bytes: int, flags: int) -> int: ...  # noqa: N802


def register(memory: Tensor, cuda: CudaRuntime) -> bool:
    """Have memory that this process maps to read only pinned where it lies; whether that went well.

    By a thread of its own: CUDA keeps what has failed for the thread that asked, and torch would
    take it for a failure of its next kernel.
    """
    found: list[int] = []

    def ask() -> None:
        found.append(int(cuda.cudaHostRegister(memory.data_ptr(), memory.nbytes, READ_ONLY)))

    if not memory.nbytes:
        return True
    thread = threading.Thread(target=ask, name="register", daemon=True)
    thread.start()
    thread.join(REGISTER_TIMEOUT_S)
    return found == [0]


def used_by_compute(tensor: Tensor) -> Tensor:
    """A tensor of a side stream's memory, which is not to be used again before what is computed
    from now on has read it."""
    if tensor.is_cuda:
        tensor.record_stream(torch.cuda.current_stream(tensor.device))
    return tensor
