"""Where a block computes: what a GPU needs for equal bits, and how its results come to the host.

Owns those ways only; the CPU needs nothing.
"""

import os

import torch
from torch import Tensor


def make_cuda_deterministic() -> None:
    """Have cuBLAS and cuDNN choose deterministic kernels; call before the GPU is first used."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    torch.use_deterministic_algorithms(True)


def processor() -> str:
    """What this machine's processors can do, as far as the bits of a result depend on it: vector
    and matrix instructions that kernels are chosen by, and the first GPU's kind."""
    kinds = [torch.backends.cpu.get_cpu_capability()]
    kinds += ["bf16"] if torch.cpu._is_avx512_bf16_supported() else []
    kinds += ["AMX"] if torch.cpu._is_amx_tile_supported() else []
    kinds += [torch.cuda.get_device_name(0)] if torch.cuda.device_count() else []
    return ", ".join(kinds)


def copy_to_host(tensor: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """A contiguous copy on the host, in another type if `dtype` says so; from a GPU, which converts
    it first, in pinned memory, which the GPU writes to directly. Waits until it is there."""
    dtype = tensor.dtype if dtype is None else dtype
    host = torch.empty(tensor.shape, dtype=dtype, pin_memory=tensor.is_cuda)
    return host.copy_(tensor.to(dtype) if tensor.is_cuda else tensor)


def on_host(tensor: Tensor) -> Tensor:
    """The tensor itself if it is on the host, else a copy there."""
    return copy_to_host(tensor) if tensor.is_cuda else tensor
