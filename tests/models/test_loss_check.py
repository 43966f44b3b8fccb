"""A head and an objective are tried before any worker starts."""

import pytest
import torch
from torch import nn

from models.heads import HeadSpec
from models.loss_check import NUM_SAMPLES, try_head, try_objective
from models.numerics import FP32, Numerics
from models.plugins import UsersError

SPEC = HeadSpec(name="mine:head", in_shape=(5,), block_index=2)


class Returns(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


class Own:
    """A user's objective, which returns what a function makes of what it is given."""

    uses_labels = False
    head_features = None
    needs = ()

    def __init__(self, function, needs=()):
        self.function, self.needs = function, needs

    def __call__(self, projections, labels_B, **needed):
        assert set(labels_B.tolist()) == {-1}
        return self.function(projections, **needed)


def tried(objective: Own, projections=None) -> None:
    if projections is None:
        projections = torch.ones(NUM_SAMPLES, 4)
    shapes = {"input_shape": (1, 8, 8), "home_shape": (3, 4, 4)}
    try_objective("mine:own", objective, projections, batch_size=3, block_index=2, **shapes)


# Heads -----------------------------------------------------------------------------------------


def test_head_gives_a_tensor_or_a_tuple():
    assert try_head(SPEC, nn.Linear(5, 3), FP32).shape == (NUM_SAMPLES, 3)
    pair = try_head(SPEC, Returns(lambda x: (x, x[:, 0])), FP32)
    assert [tuple(part.shape) for part in pair] == [(NUM_SAMPLES, 5), (NUM_SAMPLES,)]


def test_head_may_work_in_place_and_runs_under_autocast():
    head = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(5, 3))
    assert try_head(SPEC, head, Numerics(precision="bf16")).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("function", "found"),
    [
        (lambda x: None, "returned a NoneType for an input of shape (4, 5)"),
        (lambda x: x.sum(), "returned a Tensor of shape ()"),
        (lambda x: (x, x[:2]), "returned a Tensor of shape (2, 5)"),
        (lambda x: [x], "returned a list"),
    ],
)
def test_head_that_returns_something_else_is_refused(function, found):
    with pytest.raises(ValueError, match="head 'mine:head' of block 2 ") as caught:
        try_head(SPEC, Returns(function), FP32)
    assert found in str(caught.value)


def test_head_that_raises_is_named():
    with pytest.raises(UsersError, match="head 'mine:head' of block 2 raised RuntimeError on an"):
        try_head(SPEC, nn.Linear(6, 3), FP32)


# Objectives ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "found"),
    [
        (lambda z: None, "returned a NoneType"),
        (
            lambda z: z.sum(1),
            r"returned a tensor of shape \(6,\), float32 for projections of shape \(6, 4\)",
        ),
        (lambda z: z.detach().sum(), "without a gradient"),
        (lambda z: float(z.detach().sum()), "returned a float"),
        (lambda z: z.sum() * 1j, r"returned a tensor of shape \(\), complex64"),
    ],
)
def test_loss_that_cannot_be_followed_is_refused(function, found):
    """It ended in a worker's backward(), after three restarts."""
    tried(Own(lambda z: z.sum()))
    with pytest.raises(
        ValueError, match=f"objective 'mine:own' .*{found}.* must return one real number"
    ):
        tried(Own(function))


def test_objective_that_raises_is_named():
    with pytest.raises(UsersError, match=r"'mine:own' raised RuntimeError on projections of shape"):
        tried(Own(lambda z: z @ z))


def test_objective_gets_all_that_it_needs():
    got = {}

    def loss(projections, **needed):
        got.update(needed)
        return projections[1].sum() + needed["home_output"].sum()

    parts = (torch.ones(NUM_SAMPLES, 4), torch.ones(NUM_SAMPLES))
    tried(Own(loss, ("block_input", "home_output", "block_index")), parts)
    assert got.pop("block_index") == 2
    assert {name: tuple(t.shape) for name, t in got.items()} == {
        "block_input": (6, 1, 8, 8),
        "home_output": (6, 3, 4, 4),
    }
    assert not got["block_input"].requires_grad
    assert got["home_output"].requires_grad


def test_objective_is_given_nothing_unasked():
    tried(Own(lambda z, **needed: z.sum() if not needed else None))
