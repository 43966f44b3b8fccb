"""Heads: pooling, an MLP, and residual blocks before them."""

import pytest
import torch
from torch import nn

from models.heads import DEFAULT_HEAD_FEATURES, HeadSpec, build_head, load_head, run_head
from models.numerics import Numerics
from models.plugins import UsersError


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


MODULE = """
from torch import nn

def linear(in_shape, out_features, depth, block_index):
    layers = [nn.Linear(in_shape[0], in_shape[0]) for _ in range(depth + block_index)]
    return nn.Sequential(*layers, nn.Linear(in_shape[0], out_features or 7))

def nothing(**given):
    return None

def takes_less(in_shape):
    return nn.Linear(in_shape[0], 3)

def raises(**given):
    return 1 / 0
"""


@pytest.fixture
def own_heads(tmp_path, monkeypatch):
    (tmp_path / "own_heads.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)


def test_default_head_has_the_width_that_the_objective_wants():
    widths = [
        load_head(HeadSpec(in_shape=(4,), out_features=width))[-1].out_features
        for width in (None, 3)
    ]
    assert widths == [DEFAULT_HEAD_FEATURES, 3]


def test_default_head_has_the_widths_that_are_asked_for():
    *_, first, _, last = load_head(HeadSpec(in_shape=(4,), hidden=7, features=5))
    assert (first.out_features, last.in_features, last.out_features) == (7, 7, 5)


def test_head_with_norms_has_them_in_place_of_biases():
    head = load_head(HeadSpec(name="mlp-bn", in_shape=(4,), hidden=7, features=5))
    kinds = [type(layer).__name__ for layer in head]
    assert kinds == ["Pool", "Linear", "BatchNorm1d", "ReLU", "Linear", "BatchNorm1d"]
    assert [layer.bias for layer in head if isinstance(layer, nn.Linear)] == [None, None]
    projections = head(torch.rand(8, 4))
    assert torch.allclose(projections.mean(0), torch.zeros(5), atol=1e-5)


@pytest.mark.usefixtures("own_heads")
def test_users_head_is_told_where_it_stands():
    spec = HeadSpec(name="own_heads:linear", in_shape=(4,), out_features=2, depth=1, block_index=2)
    assert [layer.out_features for layer in load_head(spec)] == [4, 4, 4, 2]


@pytest.mark.usefixtures("own_heads")
@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("mpl", ValueError, "no head named 'mpl'.*did you mean 'mlp'"),
        ("own_heads:nothing", ValueError, "block 0 was built as a NoneType; build an nn.Module"),
        ("own_heads:takes_less", ValueError, "in_shape=..., out_features=..., depth=..., "),
        ("own_heads:raises", UsersError, "'own_heads:raises' raised ZeroDivisionError"),
    ],
)
def test_head_that_is_none_is_refused(name, error, message):
    with pytest.raises(error, match=message):
        load_head(HeadSpec(name=name, in_shape=(4,)))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_head_takes_what_units_of_any_type_give(dtype, precision):
    """Autocast leaves doubles as they are, and under bf16 the head's first layer raised."""
    x_ND = torch.ones(4, 8, dtype=dtype)
    y_ND = run_head(nn.Linear(8, 3), x_ND, Numerics(precision=precision))
    assert (y_ND.shape, y_ND.dtype) == ((4, 3), torch.float32)
