"""Heads: pooling, an MLP, and residual blocks before them."""

import pytest
import torch

from models.heads import build_head, trace_head


@pytest.mark.parametrize("in_shape", [(6, 4, 4), (6,), (4, 6)])
@pytest.mark.parametrize("depth", [0, 1, 2])
@pytest.mark.parametrize("training", [True, False])
def test_activation_of_any_shape_becomes_a_projection(in_shape, depth, training):
    head = build_head(in_shape=in_shape, hidden=8, out_features=5, depth=depth).train(training)
    x = torch.rand(3, *in_shape)
    before = x.clone()
    assert head(x).shape == (3, 5)
    assert torch.equal(x, before)


@pytest.mark.parametrize("in_shape", [(6, 4, 4), (6,), (4, 6)])
def test_depth_adds_parameters(in_shape):
    sizes = [
        sum(p.numel() for p in build_head(in_shape=in_shape, depth=depth).parameters())
        for depth in range(3)
    ]
    assert sizes[2] - sizes[1] == sizes[1] - sizes[0] > 0


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"in_shape": (2, 3, 4, 5)}, r"\(L, D\) sequence or \(C, H, W\)"),
        ({"in_shape": (2,), "depth": -1}, "depth at least 0"),
        ({"in_shape": (2,), "out_features": 0}, "at least 1"),
    ],
)
def test_impossible_sizes_are_refused(sizes, message):
    with pytest.raises(ValueError, match=message):
        build_head(**sizes)


def test_sequence_is_pooled_before_the_residual_layers():
    """A transformer's units were refused: a head stood on (F,) or (C, H, W) only."""
    head = build_head(in_shape=(9, 6), hidden=8, out_features=5, depth=1)
    x_NLD = torch.rand(3, 9, 6)
    assert torch.equal(head(x_NLD), head[1:](x_NLD.mean(dim=1)))
    trace = trace_head(in_shape=(9, 6), depth=1, out_features=5)
    assert trace.flops == 2 * (2 * 6 * 6 + 6 * 256 + 256 * 5)  # the length has no part in it
    assert trace.kept_bytes == 4 * (4 * 6 + 6 + 256 + 5)
