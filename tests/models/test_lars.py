"""LARS by hand."""

import pytest
import torch
from torch.nn import Parameter

from models.lars import LARS
from models.optimizers import load_optimizer, set_learning_rate, step_optimizer


def stepped(weight, gradient, *, decay=0.0, lr=1.0, steps=1):
    parameter = Parameter(weight.clone())
    optimizer = load_optimizer("lars", [parameter], lr=lr, weight_decay=decay)
    for _ in range(steps):
        parameter.grad = gradient.clone()
        set_learning_rate(optimizer, lr)
        step_optimizer(optimizer)
    return parameter.detach()


def test_matrix_moves_by_a_share_of_its_own_length():
    weight, gradient = torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0, 100.0]])
    moved = stepped(weight, gradient, lr=2.0)
    torch.testing.assert_close(moved, torch.tensor([[3.0, 4.0 - 2 * 0.001 * 5]]))


def test_decay_is_part_of_the_gradient_that_is_measured():
    weight, gradient = torch.tensor([[3.0, 4.0]]), torch.tensor([[1.0, 0.0]])
    whole = gradient + 0.5 * weight
    expected = weight - 0.001 * 5 / whole.norm() * whole
    torch.testing.assert_close(stepped(weight, gradient, decay=0.5), expected)


def test_vector_is_neither_scaled_nor_decayed():
    weight, gradient = torch.tensor([3.0, 4.0]), torch.tensor([1.0, 0.0])
    torch.testing.assert_close(stepped(weight, gradient, decay=0.5), weight - gradient)


@pytest.mark.parametrize(
    ("weight", "gradient", "expected"),
    [
        ([16.0, 1.375], [0.0, 1.0], [16.0, -22.75]),  # 1.375 - 1.5 * 16.059, and with 16: -22.625
        ([0.0, 32.0], [16.0, 1.375], [-47.75, 27.875]),  # -48 * 16 / 16.059, and with 16: -48
    ],
)
def test_norms_of_bf16_are_not_rounded_to_it(weight, gradient, expected):
    """That of 16 and 1.375 is 16.059, which in bf16 is 16."""
    given = (torch.tensor([vector], dtype=torch.bfloat16) for vector in (weight, gradient))
    assert stepped(*given, lr=1500.0).tolist() == [expected]


def test_momentum_holds_the_scaled_gradient():
    """So that a rate which changes does not change what was learned before (as SimCLR's)."""
    weight, gradient = torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0, 1.0]])
    first = stepped(weight, gradient)
    rate = 0.001 * first.norm()
    expected = first - torch.tensor([[0.0, 1.0]]) * (0.9 * 0.005 + rate)
    torch.testing.assert_close(stepped(weight, gradient, steps=2), expected)


@pytest.mark.parametrize(("weight", "gradient"), [(0.0, 1.0), (1.0, 0.0)])
def test_zero_norm_leaves_the_rate_as_it_is(weight, gradient):
    moved = stepped(torch.full((1, 1), weight), torch.full((1, 1), gradient))
    assert moved.item() == weight - gradient


def test_parameter_without_a_gradient_stays():
    weights = [Parameter(torch.ones(1, 1)), Parameter(torch.ones(1, 1))]
    optimizer = LARS([{"params": weights}], lr=1.0)
    weights[0].grad = torch.ones(1, 1)
    optimizer.step()
    assert weights[0].item() != 1
    assert weights[1].item() == 1
