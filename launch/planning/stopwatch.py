"""What timing on this machine takes: a run's threads, a device that is done, a few repeats.

Knows nothing of what is timed. What is found differs from run to run.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

REPEATS = 3  # after one to warm up; the median counts


@contextmanager
def with_threads(threads: int) -> Iterator[None]:
    """Let torch use so many threads meanwhile."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def wait_for(x: Tensor) -> None:
    """Wait until a tensor's device has done what it was asked for; a CPU has when it returns."""
    if x.is_cuda:
        torch.cuda.synchronize()
