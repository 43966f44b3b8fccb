"""From a device to the host: what a block sends is handed over in the host's memory.

Owns that way only.
"""

import torch
from torch import Tensor


def copy_to_host(tensor: Tensor) -> Tensor:
    """A contiguous copy on the host; from a GPU in pinned memory, which the GPU writes to directly.
    Waits until it is there."""
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
    return host.copy_(tensor)


def on_host(tensor: Tensor) -> Tensor:
    """The tensor itself where it is on the host, else a copy there."""
    return copy_to_host(tensor) if tensor.is_cuda else tensor
