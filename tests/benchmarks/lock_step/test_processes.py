"""The lock-step baselines in real processes: they do our blocks' work, and leave nothing behind.

This is also the test of benchmarks/lock_step/rank.py, schedule.py and slept_work.py.
"""

import math
import time

import psutil
import pytest

from benchmarks.lock_step.processes import LockStepFailed, run_lock_step
from benchmarks.lock_step.schedule import SCHEDULES, ScheduleCase
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


def test_every_schedule_does_the_blocks_work_and_leaves_nothing():
    """Stages cut from one block may lie on two ranks: the sum over ranks is what must agree."""
    cases = [
        ScheduleCase(schedule=name, microbatches=m, work=SleptWork(config=CONFIG))
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
    wrong = ScheduleCase(schedule="1F1B", microbatches=1, work=SleptWork(config=CONFIG))
    began_s = time.monotonic()
    with pytest.raises(LockStepFailed, match=r"1F1B with 1 microbatches, rank \d:"):
        run_lock_step([wrong])
    assert time.monotonic() - began_s < 20
