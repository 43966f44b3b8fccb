"""What crosses a tie, by hand: how vectors are laid out, and what a partner's does."""

import pytest
import torch
from torch import nn

from models.ties import add_gradients, flat_gradients, flat_weights, overflows, pull


@pytest.fixture
def parameters() -> list[nn.Parameter]:
    matrix = nn.Parameter(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    return [matrix, nn.Parameter(torch.tensor([5.0]))]


def test_weights_lie_one_after_another_in_order(parameters):
    flat = flat_weights(parameters)
    assert flat.tolist() == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert not flat.requires_grad
    assert flat.is_contiguous()
    parameters[0].data.zero_()
    assert flat[0] == 1.0, "it is a copy"


def test_tie_is_none_without_shared_parameters():
    assert flat_weights([]) is None
    assert flat_gradients([]) is None


def test_gradient_that_is_missing_is_sent_as_zero(parameters):
    parameters[1].grad = torch.tensor([7.0])
    flat = flat_gradients(parameters)
    assert flat.tolist() == [0.0, 0.0, 0.0, 0.0, 7.0]
    parameters[1].grad.zero_()
    assert flat[-1] == 7.0, "it is a copy"


def test_partners_gradients_are_added_to_the_own(parameters):
    parameters[0].grad = torch.ones(2, 2)
    flat = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])
    add_gradients(parameters, flat)
    assert parameters[0].grad.tolist() == [[2.0, 3.0], [4.0, 5.0]]
    assert parameters[1].grad.tolist() == [5.0]
    parameters[1].grad.zero_()
    assert flat.tolist() == [1.0, 2.0, 3.0, 4.0, 5.0], "the message is read-only"


def test_pull_goes_alpha_of_the_way_to_the_partner(parameters):
    pull(parameters, torch.tensor([1.0, 4.0, 3.0, 0.0, 13.0]), 0.25)
    assert parameters[0].tolist() == [[1.0, 2.5], [3.0, 3.0]]
    assert parameters[1].tolist() == [7.0]
    assert parameters[0].grad_fn is None


@pytest.mark.parametrize("size", [4, 6])
def test_vector_of_another_size_is_no_partners(parameters, size):
    with pytest.raises(RuntimeError, match="split"):
        pull(parameters, torch.zeros(size), 0.5)
    with pytest.raises(RuntimeError, match="split"):
        add_gradients(parameters, torch.zeros(size))


def test_weights_that_lie_otherwise_in_memory_cross_in_the_order_of_their_indices():
    """A network whose weights were channels_last trained under no tie: to make one vector of them
    ended the run, sequentially too."""
    last = nn.Parameter(torch.arange(8.0).view(1, 2, 2, 2).to(memory_format=torch.channels_last))
    turned = nn.Parameter(torch.tensor([[8.0, 10.0], [9.0, 11.0]]).t())
    parameters = [last, turned]
    assert not any(parameter.is_contiguous() for parameter in parameters)
    flat = flat_weights(parameters)
    assert flat.tolist() == list(range(12))
    assert flat_gradients(parameters).tolist() == [0.0] * 12
    assert not overflows(flat.half(), parameters)

    memory, stride = last.data_ptr(), last.stride()
    pull(parameters, flat + 4, 0.5)
    assert flat_weights(parameters).tolist() == list(range(2, 14))
    assert (last.data_ptr(), last.stride()) == (memory, stride), "in place"
    add_gradients(parameters, flat)
    add_gradients(parameters, flat)
    assert flat_gradients(parameters).tolist() == list(range(0, 24, 2))
