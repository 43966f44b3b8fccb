"""The multilayer perceptron."""

import pytest
import torch

from models.mlp import mlp
from models.network import build_plain


def test_mlp_takes_images_or_features():
    plain = build_plain(mlp(12, width=5, depth=3), seed=0)
    x = torch.rand(4, 3, 2, 2)
    assert plain(x).shape == (4, 5)
    assert torch.equal(plain(x), plain(x.flatten(1)))
    assert [name.split(".")[0] for name in plain.state_dict()][::2] == ["fc0", "fc1", "fc2"]


def test_no_unit_spoils_its_input():
    network = mlp(6, width=5, depth=2)
    for i, x in enumerate([torch.randn(2, 6), torch.randn(2, 5)]):
        before = x.clone()
        network.build_unit(i, seed=0)(x)
        assert torch.equal(x, before)


@pytest.mark.parametrize("sizes", [{"width": 0}, {"depth": 0}])
def test_sizes_of_nothing_are_refused(sizes):
    with pytest.raises(ValueError, match="at least 1"):
        mlp(4, **sizes)
