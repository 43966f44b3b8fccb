"""A state of every dtype and of odd shapes, and how two are compared."""

import torch
from torch import Tensor

from runtime.state.safetensors_file import DTYPES


def random_bits(shape: tuple[int, ...], dtype: torch.dtype, seed: int = 0) -> Tensor:
    """Any bits at all, NaNs of every kind among them; booleans are 0 or 1."""
    generator = torch.Generator().manual_seed(seed)
    high = 2 if dtype is torch.bool else 256
    size = torch.Size(shape).numel() * dtype.itemsize
    return torch.randint(0, high, (size,), generator=generator).byte().view(dtype).view(shape)


def bits(tensor: Tensor) -> list[int]:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).tolist()


STATE = {
    f"{dtype} {shape}": random_bits(shape, dtype)
    for dtype in DTYPES
    for shape in ((3, 5), (), (0,), (2, 0, 3), (7,))
}


def fresh() -> dict[str, Tensor]:
    """That state, of tensors of one's own."""
    return {name: tensor.clone() for name, tensor in STATE.items()}


def assert_same(got: dict[str, Tensor], sent: dict[str, Tensor]) -> None:
    assert got.keys() == sent.keys()
    for name, tensor in sent.items():
        assert (got[name].dtype, got[name].shape) == (tensor.dtype, tensor.shape), name
        assert bits(got[name]) == bits(tensor), name
