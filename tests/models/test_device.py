"""What a block sends lies on the host."""

import torch

from models.device import copy_to_host, on_host


def test_copy_is_contiguous_and_shares_nothing():
    tensor = torch.arange(6.0).reshape(2, 3).T
    copy = copy_to_host(tensor)
    assert torch.equal(copy, tensor)
    assert copy.is_contiguous()
    tensor[0, 0] = 9.0
    assert copy[0, 0] == 0.0


def test_copy_in_another_type_is_rounded():
    tensor = torch.tensor([[1.0, 2.0], [1 + 2**-9, 3.0]]).T
    copy = copy_to_host(tensor, torch.bfloat16)
    assert (copy.dtype, copy.is_contiguous()) == (torch.bfloat16, True)
    assert copy.tolist() == [[1.0, 1.0], [2.0, 3.0]]


def test_host_tensor_stays_what_it_is():
    tensor = torch.arange(3)
    assert on_host(tensor) is tensor
