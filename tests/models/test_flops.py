"""Counted FLOPs are those of the formulas."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from models.flops import FlopCount


def counted(run) -> int:
    with FlopCount() as count:
        run()
    return count.total


def test_matrix_product_is_two_flops_an_element_and_column():
    assert counted(lambda: torch.ones(3, 4) @ torch.ones(4, 5)) == 2 * 3 * 4 * 5


def test_bias_and_activations_are_not_counted():
    layers = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.BatchNorm1d(5))
    assert counted(lambda: layers(torch.ones(3, 4))) == 2 * 3 * 4 * 5


def test_backward_of_a_layer_is_twice_its_forward():
    layer, x = nn.Linear(4, 5), torch.ones(3, 4, requires_grad=True)
    y = layer(x)
    assert counted(lambda: y.sum().backward()) == 2 * counted(lambda: layer(x))


@pytest.mark.parametrize(
    ("layer", "flops"),
    [
        (nn.Conv2d(3, 6, 3, stride=2, padding=1), 2 * (2 * 6 * 4 * 4) * 3 * 9),
        (nn.Conv2d(3, 6, 3, groups=3), 2 * (2 * 6 * 6 * 6) * 9),
        (nn.ConvTranspose2d(3, 4, 2), 2 * (2 * 3 * 8 * 8) * 4 * 4),
    ],
    ids=["strided", "grouped", "transposed"],
)
def test_convolution_is_two_flops_an_output_and_weight_it_meets(layer, flops):
    """A transposed one: an input and weight. The same figures as torch's FlopCounterMode."""
    x = torch.ones(2, 3, 8, 8, requires_grad=True)
    assert counted(lambda: layer(x)) == flops
    if layer.groups == 1:  # torch counts the gradient of grouped weights as if they had no groups
        y = layer(x)
        assert counted(lambda: y.sum().backward()) == 2 * flops


def test_attention_is_its_projections_and_two_products():
    layer, x = nn.MultiheadAttention(8, 2, batch_first=True), torch.ones(3, 5, 8)
    projections, products = 4 * (2 * 3 * 5 * 8 * 8), 2 * (2 * 3 * 5 * 5 * 8)
    assert counted(lambda: layer(x, x, x)) == projections + products


def test_attention_of_the_kernel_for_cpus_is_two_products():
    """torch's registry does not know it, so half of a transformer counted for nothing."""
    query, other = torch.ones(3, 2, 5, 4), torch.ones(3, 2, 7, 4)
    products = 2 * (2 * 3 * 2 * 5 * 7 * 4)
    with torch.no_grad():
        assert counted(lambda: F.scaled_dot_product_attention(query, other, other)) == products
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    x, matrices = torch.ones(3, 5, 8), 4 * 8 * 8 + 2 * 8 * 16
    assert counted(lambda: layer(x)) == 2 * 3 * 5 * matrices + 2 * (2 * 3 * 2 * 5 * 5 * 4)


@pytest.mark.parametrize("ways", [1, 2])
def test_lstm_is_two_flops_a_weight_sample_and_time(ways):
    """It counted for nothing; two workers got two and three LSTMs, as equal shares."""
    layer = nn.LSTM(8, 6, batch_first=True, num_layers=2, bidirectional=ways == 2)
    weights = sum(p.numel() for p in layer.parameters() if p.ndim > 1)
    assert counted(lambda: layer(torch.ones(3, 5, 8))) == 2 * 3 * 5 * weights


def test_counts_of_one_counter_add_up_and_end_with_it():
    count = FlopCount()
    for _ in range(2):
        with count:
            torch.ones(2, 2) @ torch.ones(2, 2)
    torch.ones(9, 9) @ torch.ones(9, 9)
    assert count.total == 2 * 16
