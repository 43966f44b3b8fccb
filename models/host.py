"""From a GPU to the host: what a block sends is handed over in the host's memory.

Owns that way only.
"""

import torch
from torch import Tensor


def on_host(tensor: Tensor) -> Tensor:
    """The tensor itself where it is on the CPU; from a GPU a contiguous copy in pinned memory,
    which the GPU writes to directly. Waits until it is there."""
    if not tensor.is_cuda:
        return tensor
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return host.copy_(tensor)
