"""Networks are lists of units that can be built apart and joined."""

import pytest
import torch
from torch import nn

from models.mlp import mlp
from models.network import Network, Unit, build_plain, from_sequential, trace_units, write_input
from models.resnet import small_resnet


def test_unit_is_the_same_whichever_units_are_built_before_it():
    network = small_resnet(width=4)
    alone = network.build_unit(3, seed=7).state_dict()
    plain = build_plain(network, seed=7).state_dict()
    for name, tensor in alone.items():
        assert torch.equal(plain[f"layer3.0.{name}"], tensor)


def test_seed_decides_the_weights():
    network = mlp(4, width=4)
    first = network.build_unit(0, seed=0).state_dict()["1.weight"]
    assert not torch.equal(first, network.build_unit(0, seed=1).state_dict()["1.weight"])


def test_plain_network_runs_the_units_in_order():
    network = small_resnet(width=4)
    plain = build_plain(network, seed=0).eval()
    x = torch.rand(2, 1, 16, 16)
    y = x
    for i in range(len(network.units)):
        y = network.build_unit(i, seed=0).eval()(y)
    assert torch.equal(plain(x), y)


def test_classifier_pools_and_is_named_fc():
    plain = build_plain(small_resnet(width=4), seed=0, num_classes=10).eval()
    assert plain(torch.rand(2, 1, 16, 16)).shape == (2, 10)
    assert list(plain.state_dict())[-2:] == ["fc.weight", "fc.bias"]
    assert build_plain(mlp(5, width=3), seed=0, num_classes=2)(torch.rand(4, 5)).shape == (4, 2)


def test_classifier_needs_to_know_its_features():
    network = from_sequential("mine", lambda: nn.Sequential(nn.Linear(2, 2)), seed=0)
    with pytest.raises(ValueError, match="num_features"):
        build_plain(network, seed=0, num_classes=10)


def test_unit_may_itself_be_named_fc():
    """A classifier that was stored as `self.fc = None` once unregistered such a unit."""

    class Named(nn.Sequential):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(2, 3)

    plain = build_plain(from_sequential("mine", Named, seed=0), seed=0)
    assert list(plain.state_dict()) == ["fc.weight", "fc.bias"]
    assert plain(torch.rand(4, 2)).shape == (4, 3)


def test_sequential_becomes_its_children():
    def build():
        return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(72, 4))

    network = from_sequential("mine", build, seed=0)
    assert [unit.name for unit in network.units] == ["0", "1", "2", "3"]
    plain = build_plain(network, seed=5)
    assert list(plain.state_dict()) == list(build().state_dict())
    first, second = network.build_unit(0, seed=0), network.build_unit(0, seed=9)
    assert torch.equal(first.weight, second.weight)
    assert first.weight is not second.weight


@pytest.mark.parametrize("built", [nn.Linear(2, 2), "text"])
def test_sequential_alone_can_be_cut(built):
    with pytest.raises(ValueError, match=r"nn\.Sequential is needed"):
        from_sequential("mine", lambda: built, seed=0)


def test_network_without_units_or_with_one_twice_is_refused():
    unit = Unit(name="a", prefix="a.", build=nn.Identity)
    with pytest.raises(ValueError, match="no units"):
        Network(name="empty", units=())
    with pytest.raises(ValueError, match="twice"):
        Network(name="double", units=(unit, unit))
    with pytest.raises(ValueError, match="units of one prefix"):
        Network(name="mixed", units=(unit, Unit(name="b", prefix="a.", build=nn.Identity)))


@pytest.mark.parametrize(
    "firsts", [(0, 99), (2, 0), (1,), ("b",), (-1, 2), 2, (0, 0), (0, 1.5), (0, "b")]
)
def test_stages_and_cuts_that_make_no_sense_are_refused(firsts):
    """They led to a cut that nobody asked for, to homes without units, or to a TypeError."""
    units = tuple(Unit(name=name, prefix=f"{name}.", build=nn.Identity) for name in "abcd")
    assert Network(name="x", units=units, stages=(0, 2), cuts=((0, 2), (0, 1, 3))).cuts
    for given in ({"stages": firsts}, {"cuts": (firsts,)}, {"cuts": (0, 2)}):
        with pytest.raises(ValueError, match=r"network 'x' of 4 units has (stages|cuts) .*; give"):
            Network(name="x", units=units, **given)


def test_unit_that_is_a_module_is_refused():
    with pytest.raises(ValueError, match=r"has units Linear; give models\.network\.Unit"):
        Network(name="x", units=(nn.Linear(2, 2),))


def test_traces_are_per_image():
    network = mlp(6, width=4, depth=2)
    traces = trace_units(network, (1, 2, 3))
    assert [trace.num_trainable for trace in traces] == [6 * 4 + 4, 4 * 4 + 4]
    assert [trace.output_shape for trace in traces] == [(4,), (4,)]


def test_traces_of_a_convolution_have_its_positions():
    network = small_resnet(width=4)
    stem, *_ = trace_units(network, (1, 16, 16))
    assert stem.output_shape == (4, 16, 16)


def test_units_that_work_in_place_are_known():
    """Also behind units that only pass on what they are given, and as they run in training."""
    network = from_sequential(
        "mixed",
        lambda: nn.Sequential(
            nn.Linear(3, 3),
            nn.ReLU(inplace=True),
            nn.Linear(3, 3),
            nn.Identity(),
            nn.Flatten(),
            nn.Dropout(0.5, inplace=True),
            nn.Linear(3, 3),
            nn.ReLU(),
        ),
        seed=0,
    )
    traces = trace_units(network, (3,))
    found = [i for i in range(8) if write_input(traces[i:])]
    assert found == [1, 3, 4, 5]


def test_first_unit_that_works_in_place_is_known():
    """The images are an input too: of what they were a loss may ask."""
    network = from_sequential(
        "first", lambda: nn.Sequential(nn.Flatten(), nn.ReLU(inplace=True)), seed=0
    )
    traces = trace_units(network, (1, 2, 2))
    assert [trace.writes_input for trace in traces] == [False, True]
    assert write_input(traces)
