"""The main job's blocks as stages of lock-step schedules: they learn what one process learns."""

from functools import cache

import pytest
import torch
from torch import nn
from torch.distributed.pipelining._backward import stage_backward_input, stage_backward_weight

from benchmarks.lock_step.processes import run_lock_step
from benchmarks.lock_step.rank import SCHEDULES, LockStepCase
from benchmarks.lock_step.real_work import by_microbatch, real_work
from benchmarks.lock_step.stage_pieces import Heads, LossBelow, build_stage, cut_row, pieces
from launch.job import make_feed
from launch.planning.resolved import Resolved
from launch.resolve import restore
from models.data import load_data
from models.objectives import NTXent
from models.optimizers import load_optimizer

FLAGS = ("--overlap", "0", "--tie", "none", "--batch-size", "8")
STEPS, MICROBATCHES = 3, 2
ALL_HEADS: tuple[Heads, ...] = ("blocks", "top")


@cache
def make_work(heads: Heads):
    return real_work(FLAGS, workers=2, steps=STEPS, heads=heads)


@pytest.fixture(scope="module")
def resolved() -> Resolved:
    return restore(make_work("blocks").resolved)


# Stages -----------------------------------------------------------------------------------------


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


def test_each_microbatch_has_both_views_of_its_images():
    views = torch.tensor([0, 1, 2, 3, 10, 11, 12, 13])
    assert by_microbatch(views, 2).tolist() == [0, 1, 10, 11, 2, 3, 12, 13]
    assert by_microbatch(views, 1).tolist() == views.tolist()


# Gradients --------------------------------------------------------------------------------------


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


# Real processes ---------------------------------------------------------------------------------


def loss_in_one_process(heads: Heads) -> float:
    """The top's loss of the last batch: the same microbatches, one after the other."""
    resolved = restore(make_work(heads).resolved)
    config = resolved.config
    objective = NTXent(config.temperature)
    losses_below = []

    def loss(projections_ND):
        return objective(projections_ND, torch.empty(0))

    modules = build_stage(resolved, pieces(resolved, heads), loss, defers_heads=False)
    for module in modules:
        if isinstance(module, LossBelow):
            module.register_forward_hook(
                lambda module, inputs, _: losses_below.append(module.loss_of(inputs[0]))
            )
            module.forward = lambda x: x
    optimizer = load_optimizer(
        "adamw", list(modules.parameters()), lr=config.lr, weight_decay=config.weight_decay
    )
    data = load_data(config.data, seed=config.seed, split=config.split)
    feed = make_feed(resolved, data)
    for step in range(STEPS):
        first, second = feed(step)[0].chunk(2)
        tops = []
        optimizer.zero_grad()
        for views in zip(first.chunk(MICROBATCHES), second.chunk(MICROBATCHES), strict=True):
            top = loss(modules(torch.cat(views)))
            ((top + sum(losses_below)) / MICROBATCHES).backward()
            losses_below.clear()
            tops.append(top.item())
        optimizer.step()
    return sum(tops) / MICROBATCHES


@pytest.mark.parametrize("heads", ALL_HEADS)
def test_every_schedule_learns_what_one_process_learns(heads):
    cases = [
        LockStepCase(schedule=name, microbatches=MICROBATCHES, work=make_work(heads))
        for name in SCHEDULES
    ]
    wanted = loss_in_one_process(heads)
    for case, timing in zip(cases, run_lock_step(cases), strict=True):
        assert timing.loss == pytest.approx(wanted, rel=1e-4), case.schedule
        assert timing.batches_per_s > 0
        assert min(timing.peak_rss_bytes) > 1e8
