"""Where a block computes: what a GPU needs for equal bits, and what is read of it and copied."""

import os

import torch
from torch import Tensor

from models.copies import Copies, CopiesAtOnce, CopiesBeside, HostsWay, Way
from models.side_stream import SideStream


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


def make_copies(device: torch.device, *, beside: bool) -> Copies:
    """The copies to and from a device, at once or beside what computes."""
    way: Way = HostsWay() if device.type == "cpu" else SideStream(device)
    return CopiesBeside(way) if beside else CopiesAtOnce(way)


def numbers(*scalars: Tensor) -> list[float]:
    """The values of tensors of one element on one device, which is waited for, once; in the widest
    of their types, which has them all."""
    found: list[float] = torch.cat([scalar.reshape(1) for scalar in scalars]).tolist()
    return found
