"""Optimizers and learning rates by name."""

import pytest
import torch
from torch import nn
from torch.nn import Parameter

from models.optimizers import (
    learning_rate,
    load_optimizer,
    norms_and_biases,
    set_learning_rate,
)

MODULE = """
import torch

def plain(groups, lr):
    return torch.optim.SGD(groups, lr=lr)

def layer_wise(groups, lr):
    matrices, vectors, *_ = groups
    vectors["lr"] = lr / 10
    return torch.optim.SGD(groups, lr=lr)

def decaying(groups, lr):
    return torch.optim.SGD(groups, lr=lr, weight_decay=0.05)

def decaying_by_itself(groups, lr):
    params = [p for group in groups for p in group["params"]]
    return torch.optim.SGD(params, lr=lr, weight_decay=0.05)

def decaying_by_group(groups, lr):
    for group in groups:
        group["weight_decay"] = 0.05
    return torch.optim.SGD(groups, lr=lr, weight_decay=0.05)

def without_rate(groups, lr):
    for group in groups:
        group["lr"] = None
    return torch.optim.SGD(groups, lr=lr)

def usual(groups, lr):
    return torch.optim.AdamW(groups, lr=lr)

def nothing(groups, lr):
    return None
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A user's optimizers."""
    (tmp_path / "own_optimizers.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)


def parameters():
    return [Parameter(torch.ones(2, 2)), Parameter(torch.ones(2)), Parameter(torch.ones(()))]


@pytest.mark.parametrize("name", ["sgd", "adamw", "own_optimizers:plain"])
def test_vectors_never_decay(name, own):
    params = parameters()
    optimizer = load_optimizer(name, params, lr=0.1, weight_decay=0.5)
    for param in params:
        param.grad = torch.zeros_like(param)
    optimizer.step()
    assert torch.allclose(params[0], torch.tensor(0.95))
    assert all(torch.equal(param, torch.ones_like(param)) for param in params[1:])


def test_norms_and_biases_do_not_decay_whatever_their_shape():
    """A LayerNorm over (C, H, W) has no vectors."""
    module = nn.Sequential(nn.Conv2d(1, 2, 1), nn.LayerNorm((2, 3, 3)))
    module[0].register_parameter("bias", Parameter(torch.ones(2, 1, 1)))
    spared = norms_and_biases([module])
    optimizer = load_optimizer(
        "lars", list(module.parameters()), lr=1.0, weight_decay=0.5, spared=spared
    )
    adapted, left = optimizer.param_groups
    assert adapted["params"] == [module[0].weight]
    assert (adapted["weight_decay"], adapted["adapts"]) == (0.5, True)
    assert set(left["params"]) == {module[0].bias, module[1].weight, module[1].bias}
    assert (left["weight_decay"], left["adapts"]) == (0.0, False)


def test_block_of_one_kind_has_one_group():
    assert len(load_optimizer("sgd", parameters()[1:], lr=1, weight_decay=0).param_groups) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lr": 0.0}, "above 0"),
        ({"lr": float("nan")}, "above 0"),
        ({"weight_decay": -0.1}, "0 or above"),
        ({"params": []}, "nothing to optimise"),
        ({"name": "adam"}, "did you mean 'adamw'"),
        ({"name": "own_optimizers:nothing"}, "made a NoneType"),
        ({"name": "own_optimizers:without_rate"}, "has a group with lr=None; give it a number"),
    ],
)
def test_impossible_settings_are_refused(changes, message, own):
    given = {"name": "sgd", "params": parameters(), "lr": 0.1, "weight_decay": 0.0} | changes
    with pytest.raises(ValueError, match=message):
        load_optimizer(given.pop("name"), given.pop("params"), **given)


def test_cosine_warms_up_and_falls_to_zero():
    def rate(step):
        return learning_rate(step, 110, base=2.0, warmup_steps=10, schedule="cosine")

    assert [rate(0), rate(4), rate(9), rate(10)] == [0.2, 1.0, 2.0, 2.0]
    assert rate(60) == pytest.approx(1.0)
    assert rate(110) == pytest.approx(0.0)
    assert all(rate(step) > rate(step + 1) for step in range(10, 110))


def test_extended_run_has_the_rates_of_the_steps_before():
    """Each step's rate is a function of the step, so that one loop can follow the extended run."""

    def rates(num_steps: int, **earlier: object) -> list[float]:
        settings = {"base": 2.0, "warmup_steps": 2, "schedule": "cosine"} | earlier
        return [learning_rate(step, num_steps, **settings) for step in range(40)]

    found = rates(40, earlier_lengths=((10, 10), (25, 30)))
    assert found[:10] == rates(10)[:10]
    assert found[10:25] == rates(30)[10:25]
    assert found[25:] == rates(40)[25:]


def test_constant_schedule_stays():
    rates = [
        learning_rate(step, 10, base=0.5, warmup_steps=0, schedule="constant") for step in range(10)
    ]
    assert rates == [0.5] * 10


def test_unknown_schedule_is_refused_from_the_first_step():
    with pytest.raises(ValueError, match="choose 'constant' or 'cosine'"):
        learning_rate(0, 10, base=1.0, warmup_steps=5, schedule="linear")


def test_group_that_a_users_optimizer_made_has_the_rate_as_it_is():
    """One that puts all parameters into a group of its own ended each worker with a KeyError."""
    ours = load_optimizer("sgd", [Parameter(torch.ones(1))], lr=1.0, weight_decay=0.0)
    theirs = torch.optim.SGD([p for group in ours.param_groups for p in group["params"]], lr=1.0)
    set_learning_rate(theirs, 0.25)
    assert [group["lr"] for group in theirs.param_groups] == [0.25]


def test_rates_of_a_users_groups_keep_their_ratio(own):
    """The first step's rate took their place."""
    optimizer = load_optimizer(
        "own_optimizers:layer_wise", parameters(), lr=0.1, weight_decay=0.0, lr_scale=2.0
    )
    set_learning_rate(optimizer, 0.05)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.1, 0.01])


def test_decay_that_the_groups_override_is_refused(own):
    """torch lets a group's go before the optimizer's, so it trained with another, in silence."""
    with pytest.raises(ValueError, match=r"weight_decay=0.05, .* 0.0001; give --weight-decay 0.05"):
        load_optimizer("own_optimizers:decaying", parameters(), lr=0.1, weight_decay=1e-4)
    load_optimizer("own_optimizers:decaying", parameters(), lr=0.1, weight_decay=0.05)
    for name in ("usual", "decaying_by_itself", "decaying_by_group"):
        load_optimizer(f"own_optimizers:{name}", parameters(), lr=0.1, weight_decay=1e-4)
