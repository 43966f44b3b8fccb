"""How a network is cut into stages and heads, and that a stage gets the gradients that are due."""

import pytest
import torch
from torch import nn
from torch.distributed.pipelining._backward import stage_backward_input, stage_backward_weight

from benchmarks.lock_step.real_work import real_work
from benchmarks.lock_step.stage_pieces import LossBelow, cut_row, pieces
from launch.planning.resolved import Resolved
from launch.resolve import restore

FLAGS = ("--overlap", "0", "--tie", "none", "--batch-size", "8")


@pytest.fixture(scope="module")
def resolved() -> Resolved:
    return restore(real_work(FLAGS, workers=2, steps=3, heads="blocks").resolved)


def test_heads_stand_where_blocks_end(resolved):
    row = [(piece.unit, piece.head) for piece in pieces(resolved, "blocks")]
    assert resolved.partition.cuts == (0, 3)
    units = [(unit, None) for unit in range(5)]
    assert row == [*units[:3], (2, 0), *units[3:], (4, 1)]
    assert [(piece.unit, piece.head) for piece in pieces(resolved, "top")] == [*units, (4, 1)]


@pytest.mark.parametrize(
    ("flops", "ranks", "sizes"),
    [
        ((1, 1, 1, 3), (0, 1), [3, 1]),
        ((4, 1, 1, 4, 1, 1), (0, 1), [3, 3]),
        ((4, 3, 2, 1), (0, 1, 0, 1), [1, 1, 1, 1]),
        ((2, 2, 9, 1, 4), (0, 1, 0, 1), [1, 1, 1, 2]),  # 11 and 7
        ((2, 2, 9, 1, 4), (0, 1, 1, 0), [2, 1, 1, 1]),  # 8 and 10
    ],
)
def test_busiest_rank_has_least_to_do(flops, ranks, sizes):
    assert [len(stage) for stage in cut_row(flops, ranks)] == sizes


def test_stages_beyond_the_pieces_are_refused():
    with pytest.raises(ValueError, match="3 units and heads can't be 4 stages"):
        cut_row((1, 2, 3), (0, 1, 0, 1))


def make_loss_below(is_deferred: bool) -> nn.Sequential:
    head = nn.Linear(3, 2)
    nn.init.constant_(head.weight, 0.5)
    nn.init.zeros_(head.bias)
    first = nn.Linear(3, 3)
    nn.init.eye_(first.weight)
    nn.init.zeros_(first.bias)
    below = LossBelow(head, lambda y: (y**2).sum() / 2, is_deferred=is_deferred)
    return nn.Sequential(first, below)


@pytest.mark.parametrize("way", ["whole", "deferred", "split"])
def test_stage_gets_gradients_of_its_loss_and_of_those_above(way):
    stage = make_loss_below(way == "deferred")
    x = torch.tensor([[1.0, 2.0, 3.0]], requires_grad=True)
    above = torch.tensor([[0.0, 10.0, 0.0]])
    y = stage(x)
    assert y.tolist() == x.tolist()
    if way == "split":
        _, groups = stage_backward_input([y], [above], [x], stage.parameters())
        stage_backward_weight(stage.parameters(), groups)
    else:
        y.backward(above)
    # The head gives 3 twice: its loss has a gradient of 3 by its output, and of 3 by each input.
    assert x.grad.tolist() == [[3.0, 13.0, 3.0]]
    first, below = stage
    assert first.weight.grad.tolist() == [[3.0, 6.0, 9.0], [13.0, 26.0, 39.0], [3.0, 6.0, 9.0]]
    assert below.head.weight.grad.tolist() == [[3.0, 6.0, 9.0], [3.0, 6.0, 9.0]]


def test_deferred_head_runs_in_the_backward_only():
    stage = make_loss_below(is_deferred=True)
    calls = []
    stage[1].head.register_forward_hook(lambda *_: calls.append(1))
    y = stage(torch.ones(1, 3))
    assert not calls
    y.sum().backward()
    assert calls == [1]
