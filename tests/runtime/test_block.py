"""What crosses an edge: the specs of its tensors, and what is refused before it is sent."""

import pytest
import torch

from runtime.block import TensorSpec, message_bytes

SPEC = TensorSpec(shape=(2, 3), dtype="float16")


def test_spec_knows_its_dtype_and_size():
    assert SPEC.torch_dtype is torch.float16
    assert SPEC.size_bytes == 12
    scalar, empty = (TensorSpec(shape=shape, dtype="int64") for shape in ((), (0, 4)))
    assert (scalar.size_bytes, empty.size_bytes) == (8, 0)
    assert message_bytes((SPEC, scalar, empty)) == 20


def test_empty_tensor_is_aligned_and_of_its_spec():
    tensor = SPEC.empty()
    assert (tensor.shape, tensor.dtype) == ((2, 3), torch.float16)
    assert tensor.data_ptr() % 64 == 0
    SPEC.check(tensor)


@pytest.mark.parametrize(
    ("tensor", "found"),
    [
        (torch.zeros(3, 2, dtype=torch.float16), r"shape \(3, 2\), float16"),
        (torch.zeros(2, 3), r"shape \(2, 3\), float32"),
        (torch.zeros(3, 2, dtype=torch.float16).T, r"shape \(2, 3\), float16"),  # not contiguous
    ],
)
def test_tensor_of_another_spec_is_refused(tensor, found):
    agreed = r"\(2, 3\), float16, contiguous on the CPU was agreed"
    with pytest.raises(ValueError, match=f"{found}, on cpu was to be sent but {agreed}"):
        SPEC.check(tensor)
