"""Tensors over mapped memory, at aligned places.

Owns the alignment and how a tensor is laid over a mapping. Knows nothing of what the tensors are.
"""

import ctypes
import mmap
from typing import Any

import numpy as np
import torch
from torch import Tensor

from runtime.block import TensorSpec

ALIGNMENT_BYTES = 64  # torch's own: another one could change kernels, and so bits
SHARED = mmap.MAP_SHARED | mmap.MAP_POPULATE  # pages are made now, and not in the first steps


def aligned(size_bytes: int) -> int:
    """A size, rounded up so that another tensor can follow."""
    return -(-size_bytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES


def mapped_tensor(memory: mmap.mmap, offset: int, spec: TensorSpec) -> Tensor:
    """A tensor over mapped memory, which it holds. By its address: torch warns of buffers that are
    read-only."""
    if not spec.size_bytes:
        return spec.empty()
    base = np.frombuffer(memory, dtype=np.uint8)
    places: Any = (ctypes.c_char * spec.size_bytes).from_address(base.ctypes.data + offset)
    places.base = base  # holds the mapping
    return torch.frombuffer(places, dtype=spec.torch_dtype).view(spec.shape)
