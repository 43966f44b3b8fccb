"""The main job's blocks as stages of lock-step schedules: they learn what one process learns."""

from functools import cache

import pytest
import torch

from benchmarks.lock_step.processes import run_lock_step
from benchmarks.lock_step.real_work import by_microbatch, real_work
from benchmarks.lock_step.schedule import SCHEDULES, ScheduleCase
from benchmarks.lock_step.stage_pieces import Heads, LossBelow, build_stage, pieces
from launch.resolve import restore
from launch.source import make_source
from models.data import load_data
from models.objectives import NTXent
from models.optimizers import load_optimizer

FLAGS = ("--overlap", "0", "--tie", "none", "--batch-size", "8")


STEPS, MICROBATCHES = 3, 2


ALL_HEADS: tuple[Heads, ...] = ("blocks", "top")


@cache
def make_work(heads: Heads):
    return real_work(FLAGS, workers=2, steps=STEPS, heads=heads)


def test_each_microbatch_has_both_views_of_its_images():
    views = torch.tensor([0, 1, 2, 3, 10, 11, 12, 13])
    assert by_microbatch(views, 2).tolist() == [0, 1, 10, 11, 2, 3, 12, 13]
    assert by_microbatch(views, 1).tolist() == views.tolist()


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
    source = make_source(resolved.config, data, device="cpu")
    for step in range(STEPS):
        first, second = source(step)[0].chunk(2)
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
        ScheduleCase(schedule=name, microbatches=MICROBATCHES, work=make_work(heads))
        for name in SCHEDULES
    ]
    wanted = loss_in_one_process(heads)
    for case, timing in zip(cases, run_lock_step(cases), strict=True):
        assert timing.loss == pytest.approx(wanted, rel=1e-4), case.schedule
        assert timing.batches_per_s > 0
        assert min(timing.peak_rss_bytes) > 1e8
