"""A tensor as the bytes that travel, and in which pieces.

Owns the size of a piece. No stranger can make a socket take more than that before he is refused.
"""

from collections.abc import Iterator
from typing import TypeVar

import torch
from torch import Tensor

CHUNK_BYTES = 1 << 19

Bytes = TypeVar("Bytes", bytes, memoryview)


def tensor_bytes(tensor: Tensor) -> memoryview:
    """A contiguous CPU tensor's own memory, writable, without a copy."""
    view: memoryview = tensor.reshape(-1).view(torch.uint8).numpy().data
    return view


def chunks(data: Bytes) -> Iterator[Bytes]:
    """Bytes in frames of at most CHUNK_BYTES; nothing has none."""
    for first in range(0, len(data), CHUNK_BYTES):
        yield data[first : first + CHUNK_BYTES]
