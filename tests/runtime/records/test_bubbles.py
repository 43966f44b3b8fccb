"""The bubble as measured, and by the formulas of lock-step schedules."""

import pytest

from runtime.records.bubbles import (
    fill_steps,
    lock_step_bubble,
    measured_bubble,
    zero_bubble_bubble,
)
from runtime.records.schema import Seconds
from runtime.testing.slept import SleptConfig, SleptJob


def job(*, workers: int, window: int) -> SleptJob:
    config = SleptConfig(
        workers=workers,
        steps=9,
        step_s=0.1,
        forward_share=0.3,
        activation_bytes=4,
        tie_bytes=4,
        lag=1,
        window=window,
        link="shm",
    )
    return SleptJob(config)


def test_pipeline_is_filled_when_all_windows_may_be_full():
    assert fill_steps(job(workers=4, window=2)) == 7
    assert fill_steps(job(workers=1, window=2)) == 1


def test_measured_bubble_is_all_waiting_over_all_time():
    waiting = Seconds(
        compute_s=4.0, overhead_s=1.0, wait_input_s=1.0, wait_credit_s=2.0, wait_tie_s=2.0
    )
    busy = Seconds(compute_s=8.0, overhead_s=1.0, snapshot_s=1.0)
    assert measured_bubble([waiting, busy]) == 5 / 20
    assert measured_bubble([busy, busy]) == 0.0


def test_bubble_needs_every_workers_steady_state():
    assert measured_bubble([Seconds(compute_s=1.0), None]) is None


def test_bubbles_of_lock_step_schedules():
    assert lock_step_bubble(4, 4) == pytest.approx(3 / 7)
    assert zero_bubble_bubble(4, 4) == pytest.approx(1 / 5)
    assert lock_step_bubble(1, 4) == zero_bubble_bubble(1, 4) == 0
    for bubble in (lock_step_bubble, zero_bubble_bubble):
        assert bubble(8, 16) > bubble(8, 32) > 0
    # ZB-H1 idles a third as long beside the same work.
    idle = [b(6, 10) / (1 - b(6, 10)) for b in (zero_bubble_bubble, lock_step_bubble)]
    assert idle[0] == pytest.approx(idle[1] / 3)
