"""What a GPU needs so that equal configs end in equal bits; the CPU needs nothing."""

import os

import torch


def make_cuda_deterministic() -> None:
    """Have cuBLAS and cuDNN choose deterministic kernels; call before the GPU is first used."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    torch.use_deterministic_algorithms(True)
