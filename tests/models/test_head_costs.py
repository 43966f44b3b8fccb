"""What heads cost for one sample."""

from functools import partial

import pytest

from models.head_costs import count_head_cost
from models.heads import OURS, HeadSpec, load_head
from models.network import Network, Unit
from models.plugins import UsersError
from models.unit_costs import count_unit_costs

MODULE = """
from torch import nn

def linear(in_shape, **given):
    return nn.Linear(in_shape[0], 3)

def double(in_shape, **given):
    head = nn.Linear(in_shape[0], 3).double()
    head.bias.requires_grad_(False)
    return head

def two(in_shape, **given):
    class Two(nn.Linear):
        def forward(self, x):
            return super().forward(x), x.sum(1)
    return Two(in_shape[0], 3)

def fails(in_shape, **given):
    return nn.Linear(in_shape[0] + 1, 3)
"""


@pytest.fixture(autouse=True)
def own_heads(tmp_path, monkeypatch):
    (tmp_path / "own_costly_heads.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("in_shape", [(6, 4, 4), (6,)])
@pytest.mark.parametrize("depth", [0, 1, 2])
def test_cost_of_ours_is_known_without_running_it(in_shape, depth, name):
    """The same figures as those of a run, to the byte; but for BatchNorm's of a batch."""
    spec = HeadSpec(name=name, in_shape=in_shape, depth=depth, out_features=5)
    build = partial(load_head, spec)
    head = Network(name="head", units=(Unit(name="head", prefix="", build=lambda: build().eval()),))
    (run,) = count_unit_costs(head, in_shape)
    told = count_head_cost(spec)
    assert told.flops == run.flops
    assert told.kept_bytes == run.kept_bytes
    assert told.weight_bytes == run.weight_bytes
    assert told.num_trainable == sum(p.numel() for p in build().parameters())


def test_length_of_a_sequence_costs_nothing():
    cost = count_head_cost(HeadSpec(in_shape=(9, 6), depth=1, out_features=5))
    assert cost.flops == 2 * (2 * 6 * 6 + 6 * 256 + 256 * 5)
    assert cost.kept_bytes == 4 * (4 * 6 + 6 + 256 + 5)


@pytest.mark.parametrize("name", ["linear", "two"])
def test_users_head_is_run_to_count(name):
    cost = count_head_cost(HeadSpec(name=f"own_costly_heads:{name}", in_shape=(4,)))
    assert cost.flops == 2 * 4 * 3
    assert cost.num_trainable == 15
    assert cost.weight_bytes == 60
    assert cost.kept_bytes >= 4 * 3


def test_trained_parameters_take_what_their_type_takes():
    """Each was taken for four bytes: snapshots of float64 heads were told half their size."""
    cost = count_head_cost(HeadSpec(name="own_costly_heads:double", in_shape=(4,)))
    assert cost.num_trainable == 12
    assert cost.trainable_bytes == 8 * 12
    assert count_head_cost(HeadSpec(in_shape=(4,), out_features=5)).trainable_bytes == 4 * (
        4 * 256 + 256 + 256 * 5 + 5
    )


def test_users_head_that_raises_is_named():
    with pytest.raises(UsersError, match="fails' of block 1 raised RuntimeError on an input of"):
        count_head_cost(HeadSpec(name="own_costly_heads:fails", in_shape=(4,), block_index=1))
