"""Each learner learns what its systems' processes learn."""

import pytest
import torch

from benchmarks.alternatives import learners
from benchmarks.alternatives.learners import (
    Curve,
    learn_blocks,
    learn_microbatches,
    learn_shards,
)
from benchmarks.alternatives.systems import END_TO_END, GIM, LOCO
from benchmarks.lock_step.data_parallel import DataParallelCase
from benchmarks.lock_step.processes import run_lock_step
from benchmarks.lock_step.real_work import real_work
from benchmarks.lock_step.schedule import ScheduleCase
from launch.resolve import dump
from launch.run_data import load_run_data

STEPS = 3
BF16 = ("--precision", "bf16", "--channels-last")


def whole(task, *flags):
    return task.resolved(*END_TO_END, *flags, length=["--steps", str(STEPS)])


@pytest.fixture
def losses(monkeypatch):
    """The losses that learners take, in turn."""
    found, loss_of = [], learners.loss_of

    def noted(run, projections):
        loss = loss_of(run, projections)
        found.append(loss.item())
        return loss

    monkeypatch.setattr(learners, "loss_of", noted)
    return found


def learned(learn) -> dict[str, torch.Tensor]:
    """The weights after the last step."""
    last = {}

    def after_step(step, weights):
        if step == STEPS - 1:
            last.update({name: value.clone() for name, value in weights().items()})

    learn(after_step)
    return last


def test_one_microbatch_learns_the_bits_of_one_block(task):
    run = whole(task)
    data = load_run_data(run.config)
    by_block = learned(lambda after: learn_blocks(run, data, after))
    by_loop = learned(lambda after: learn_microbatches(run, data, after, microbatches=1))
    assert by_block.keys() == by_loop.keys()
    assert all(torch.equal(by_block[name], by_loop[name]) for name in by_block)


@pytest.mark.parametrize("how", [(), BF16])
def test_schedules_processes_learn_what_their_learner_does(task, losses, how):
    """In either precision and layout."""
    run = whole(task, *how)
    learn_microbatches(run, load_run_data(run.config), lambda *_: None, microbatches=2)
    work = real_work([*task.flags, *how], workers=2, steps=STEPS, heads="top")
    cases = [ScheduleCase(schedule=s, microbatches=2, work=work) for s in ("GPipe", "1F1B")]
    for timing in run_lock_step(cases):
        assert timing.loss == pytest.approx(sum(losses[-2:]) / 2, rel=1e-5)


@pytest.mark.parametrize("how", [(), BF16])
def test_data_parallel_processes_learn_what_their_learner_does(task, losses, how):
    run = whole(task, *how)
    learn_shards(run, lambda *_: None, num_ranks=2)
    case = DataParallelCase(num_ranks=2, steps=STEPS, resolved=dump(run))
    (timing,) = run_lock_step([case])
    assert len(losses) == STEPS
    assert timing.loss == pytest.approx(losses[-1], rel=1e-5)
    assert timing.batches_per_s > 0


def test_shards_differ_from_the_whole_batch_by_their_images_alone(task, losses):
    """The loss is of as many images."""
    run = whole(task)
    learn_shards(run, lambda *_: None, num_ranks=2)
    of_two = losses[0]
    losses.clear()
    learn_microbatches(run, load_run_data(run.config), lambda *_: None, microbatches=1)
    of_one = losses[0]
    losses.clear()
    learn_microbatches(run, load_run_data(run.config), lambda *_: None, microbatches=4)
    assert of_two == pytest.approx(of_one, rel=0.1)
    assert losses[0] < of_two - 0.5  # log of fewer negatives


@pytest.mark.parametrize("method", [GIM, LOCO])
def test_curve_has_points_at_every_so_many_steps_and_the_last(task, method):
    run = task.resolved("--workers", "2", *method, length=["--steps", "5"])
    data = load_run_data(run.config)
    curve = Curve(run, data, every=2, test_images=50)
    learn_blocks(run, data, curve.after_step)
    assert [step for step, _ in curve.points] == [2, 4, 5]
    assert all(0 <= top1 <= 1 for _, top1 in curve.points)
