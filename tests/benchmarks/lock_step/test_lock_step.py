"""The lock-step baselines: that they do the same work as our blocks, and leave nothing behind."""

import math
import time

import psutil
import pytest
import torch
from torch.distributed.pipelining._backward import stage_backward_input, stage_backward_weight

from benchmarks.lock_step.processes import LockStepFailed, run_lock_step
from benchmarks.lock_step.rank import SCHEDULES, LockStepCase
from benchmarks.lock_step.slept_stage import SleptStage
from benchmarks.lock_step.slept_work import SleptWork
from runtime.testing.slept import SleptConfig

CONFIG = SleptConfig(
    workers=2,
    steps=3,
    step_s=0.004,
    forward_share=1 / 3,
    activation_bytes=4096,
    tie_bytes=0,
    lag=1,
    window=2,
    link="zmq-ipc",
    slow_block=1,
    jitter="exponential:0.2",
)


class Asked:
    """A sleeper that sleeps for no time and says what it was asked."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.seconds.append(seconds)


def make_stage(*, is_first: bool = False) -> tuple[SleptStage, list[float]]:
    asked = Asked()
    stage = SleptStage(
        lambda batch: [3.0, 6.0][batch],
        forward_share=1 / 3,
        input_numel=1 if is_first else 5,
        output_numel=7,
        is_first=is_first,
        sleeper=asked,
    )
    return stage, asked.seconds


# One stage --------------------------------------------------------------------------------------


def test_full_backward_sleeps_for_both_gradients():
    stage, asked = make_stage()
    x = torch.zeros(1, 5, requires_grad=True)
    output = stage(x)
    assert asked == pytest.approx([1.0])
    output.backward(torch.ones(1, 7))
    assert asked == pytest.approx([1.0, 1.0, 1.0])
    assert output.shape == (1, 7)
    assert x.grad.shape == (1, 5)


def test_zero_bubble_schedules_run_the_two_gradients_apart():
    stage, asked = make_stage()
    stage.batch = 1
    x = torch.zeros(1, 5, requires_grad=True)
    output = stage(x)
    gradient = torch.ones(1, 7)
    _, groups = stage_backward_input((output,), [gradient], [x], stage.parameters())
    assert asked == pytest.approx([2.0, 2.0])
    stage_backward_weight(stage.parameters(), groups)
    assert asked == pytest.approx([2.0, 2.0, 2.0])


def test_first_stage_has_no_input_gradient_and_works_as_long():
    stage, asked = make_stage(is_first=True)
    stage(torch.zeros(1, 1)).backward(torch.ones(1, 7))
    assert asked == pytest.approx([1.0, 2.0])


def test_gradients_passed_down_are_not_copied():
    stage, _ = make_stage()
    x = torch.zeros(1, 5, requires_grad=True)
    stage(x).backward(torch.ones(1, 7))
    assert x.grad.data_ptr() == stage.gradient.data_ptr()


# Real processes ---------------------------------------------------------------------------------


def test_every_schedule_does_the_blocks_work_and_leaves_nothing():
    """Stages cut from one block may lie on two ranks: the sum over ranks is what must agree."""
    cases = [
        LockStepCase(schedule=name, microbatches=m, work=SleptWork(config=CONFIG))
        for name in SCHEDULES
        for m in (2, 4)
    ]
    duration_s = CONFIG.make_duration_s()
    block_s = [math.fsum(duration_s(k, step) for step in range(3)) for k in range(2)]
    for case, timing in zip(cases, run_lock_step(cases), strict=True):
        assert sum(timing.slept_s) == pytest.approx(sum(block_s)), case
        if not SCHEDULES[case.schedule].splits_backward:
            assert timing.slept_s == pytest.approx(block_s), case
        assert 0 < timing.batches_per_s < 1 / CONFIG.block_s(1) * 2
    servers = psutil.Process().children()
    assert not [rank for server in servers for rank in server.children()]


def test_rank_that_fails_is_named_and_the_others_do_not_stay():
    wrong = LockStepCase(schedule="1F1B", microbatches=1, work=SleptWork(config=CONFIG))
    began_s = time.monotonic()
    with pytest.raises(LockStepFailed, match=r"1F1B with 1 microbatches, rank \d:"):
        run_lock_step([wrong])
    assert time.monotonic() - began_s < 20
