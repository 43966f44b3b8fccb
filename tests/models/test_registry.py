"""Networks by name."""

import pytest
import torch

from models.network import build_plain, trace_units
from models.registry import NAMES, load_network

MODULE = """
from torch import nn
from models.mlp import mlp

def sequential():
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 3))

def network():
    return mlp(4, depth=2)

def neither():
    return 1
"""


@pytest.fixture(autouse=True)
def own_module(tmp_path, monkeypatch):
    (tmp_path / "own_networks.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.parametrize("name", [*NAMES, "resnet18-cifar-w8", "resnet50-w4", "resnet-small-w3"])
@pytest.mark.parametrize("num_channels", [1, 3])
def test_every_name_takes_the_images_given(name, num_channels):
    shape = (num_channels, 32, 32)
    network = load_network(name, shape, seed=0)
    assert network.name == name
    assert trace_units(network, shape)[-1].output_shape[0] == network.num_features


def test_users_sequential_is_keyed_on_the_seed():
    def weight(seed):
        network = load_network("own_networks:sequential", (1, 2, 2), seed=seed)
        assert [unit.name for unit in network.units] == ["0", "1"]
        return build_plain(network, seed=seed).state_dict()["1.weight"]

    assert torch.equal(weight(0), weight(0))
    assert not torch.equal(weight(0), weight(1))


def test_users_sequential_is_the_same_by_whatever_path(tmp_path, monkeypatch):
    """A folder that was moved was another experiment."""
    (tmp_path / "net.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    names = ("net.py:sequential", "./net.py:sequential", f"{tmp_path}/net.py:sequential")
    states = [
        build_plain(load_network(name, (1, 2, 2), seed=0), seed=0).state_dict() for name in names
    ]
    assert all(torch.equal(states[0]["1.weight"], state["1.weight"]) for state in states)


def test_users_network_is_taken_as_it_is():
    assert len(load_network("own_networks:network", (1, 2, 2), seed=0).units) == 2


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet-smal", "did you mean 'resnet-small'"),
        ("vgg", "choose one of resnet-small, resnet18"),
        ("mlp-w8", "no model named 'mlp-w8'"),
        ("resnet18-w0", "no model named 'resnet18-w0'"),
        ("own_networks:neither", "built a int"),
        ("own_networks:netwrok", "did you mean 'network'"),
    ],
)
def test_wrong_name_is_refused(name, message):
    with pytest.raises(ValueError, match=message):
        load_network(name, (1, 2, 2), seed=0)
