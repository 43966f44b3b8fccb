"""What is read of a device."""

import math

import torch

from models.device import numbers


def test_numbers_are_those_of_their_own_types():
    values = [
        torch.tensor(0.1),
        torch.tensor([1 / 3], dtype=torch.float64),
        torch.tensor(1.5, dtype=torch.bfloat16),
        torch.tensor(math.inf),
    ]
    assert numbers(*values) == [float(value) for value in values]
    assert math.isnan(numbers(torch.tensor(math.nan))[0])
