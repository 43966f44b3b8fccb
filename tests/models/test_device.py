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


def test_host_tensor_stays_what_it_is():
    tensor = torch.arange(3)
    assert on_host(tensor) is tensor
