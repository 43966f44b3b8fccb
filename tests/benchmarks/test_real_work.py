"""The main job's blocks as stages of lock-step schedules: the same work, and right gradients."""

import pytest
import torch
from torch.distributed.pipelining._backward import stage_backward_input, stage_backward_weight

from benchmarks.lock_step import run_lock_step
from benchmarks.lock_step_rank import SCHEDULES, LockStepCase
from benchmarks.real_work import RealWork, by_microbatch, make_stage, stage_units
from launch.assembly import LocalLearningJob
from launch.config import parse
from launch.environment import Environment
from launch.resolve import resolve

ENVIRONMENT = Environment(world_size=None, local_world_size=None, cores=1, gpus=0)
GIM = ["--overlap", "0", "--tie", "none", "--workers", "2", "--batch-size", "8"]


def make_job(*flags: str) -> LocalLearningJob:
    return LocalLearningJob(resolve(parse([*GIM, *flags], prog="test"), environment=ENVIRONMENT))


@pytest.fixture(scope="module")
def job() -> LocalLearningJob:
    return make_job()


def loss_of(projections_ND: torch.Tensor) -> torch.Tensor:
    return (projections_ND**2).mean()


# Stages -----------------------------------------------------------------------------------------


def test_blocks_are_halved_where_that_is_most_even(job):
    homes = [block.home for block in job.resolved.partition.blocks]
    assert stage_units(job, 2) == homes
    halves = stage_units(job, 4)
    assert [len(half) > 0 for half in halves] == [True] * 4
    assert [unit for half in halves for unit in half] == [unit for home in homes for unit in home]
    flops = [load.flops for load in job.resolved.setting.loads]
    lower, upper = (sum(flops[unit] for unit in half) for half in halves[:2])
    moved = flops[halves[0][-1]]
    assert max(lower, upper) <= max(lower - moved, upper + moved)


def test_a_block_of_one_unit_has_no_halves():
    with pytest.raises(ValueError, match="unit 0 is a block's only one"):
        stage_units(make_job("--cuts", "0,1"), 4)


def test_heads_stand_where_blocks_end(job):
    def heads(which):
        stages = [make_stage(job, units, which, loss_of) for units in stage_units(job, 4)]
        return [stage.head is not None for stage in stages]

    assert heads("blocks") == [False, True, False, True]
    assert heads("top") == [False, False, False, True]


def test_each_microbatch_has_both_views_of_its_images():
    views = torch.tensor([0, 1, 2, 3, 10, 11, 12, 13])
    assert by_microbatch(views, 2).tolist() == [0, 1, 10, 11, 2, 3, 12, 13]
    assert by_microbatch(views, 1).tolist() == views.tolist()


# Gradients --------------------------------------------------------------------------------------


def gradients(stage, x):
    found = [x.grad, *(p.grad for p in stage.parameters())]
    assert all(gradient is not None for gradient in found)
    return [gradient.clone() for gradient in found]


def wanted_gradients(stage, x, above):
    """Of the block's own loss, and of what comes from above."""
    y = stage.units(x)
    ((y * above).sum() + loss_of(stage.head(y))).backward()
    return gradients(stage, x)


@pytest.mark.parametrize("is_split", [False, True], ids=["backward", "zero-bubble"])
def test_a_stage_gets_the_gradients_of_its_own_loss_and_of_those_above(job, is_split):
    units = stage_units(job, 4)[1]
    stage = make_stage(job, units, "blocks", loss_of).double()  # so that an order of sums is none
    shape = job.resolved.traces[units[0] - 1].output_shape
    x = torch.rand(8, *shape, dtype=torch.float64, requires_grad=True)
    above = torch.rand_like(stage.units(x))
    wanted = wanted_gradients(stage, x, above)
    x.grad = None
    stage.zero_grad()
    y = stage(x)
    if is_split:
        _, groups = stage_backward_input([y], [above], [x], stage.parameters())
        stage_backward_weight(stage.parameters(), groups)
    else:
        y.backward(above)
    for found, due in zip(gradients(stage, x), wanted, strict=True):
        torch.testing.assert_close(found, due)


# Real processes ---------------------------------------------------------------------------------


def test_every_schedule_trains_the_blocks():
    flags = ("--batch-size", "8", "--overlap", "0", "--tie", "none")
    work = RealWork(num_ranks=2, steps=2, heads="blocks", flags=flags)
    cases = [LockStepCase(schedule=name, microbatches=2, work=work) for name in SCHEDULES]
    for timing in run_lock_step(cases):
        assert timing.batches_per_s > 0
        assert min(timing.peak_rss_bytes) > 1e8
