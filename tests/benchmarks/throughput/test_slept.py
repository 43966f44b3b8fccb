"""The slept cases of the throughput benchmark, and their ceilings."""

import pytest

from benchmarks.throughput.runs import Options, slept_config
from benchmarks.throughput.slept import (
    UNDISTURBED,
    Wan,
    ceiling,
    one_process_samples_per_s,
    slept_cases,
)

CONFIG = slept_config(Options(steps=40), 4, 1.0)


def test_cases_differ_in_the_condition_only():
    plain, stalled, slow = slept_cases(CONFIG, jitters=["rare:0.02x10"], imbalance=True)
    assert plain.condition == UNDISTURBED
    assert plain.config == CONFIG
    assert stalled.config.jitter == "rare:0.02x10"
    assert stalled.calm == plain.calm != slow.calm
    assert slow.config.slow_block == 2
    assert slow.condition == "block 2 2x slower"


def test_each_run_draws_its_own_stalls():
    _, stalled = slept_cases(CONFIG, jitters=["exponential:0.2"], imbalance=False)
    first, again, second = (stalled.seeded(run).make_duration_s() for run in (0, 0, 1))
    assert first(1, 5) == again(1, 5) != second(1, 5)


def test_ceilings_of_each_condition():
    plain, stalled, slow = slept_cases(CONFIG, jitters=["exponential:0.2"], imbalance=True)
    assert ceiling(plain.config) == ("slowest block", pytest.approx(1 / 0.06))
    assert ceiling(slow.config) == ("slowest block", pytest.approx(1 / 0.12))
    name, bound = ceiling(stalled.config)
    assert name == "simulated, lag 1, window 2"
    assert 0.7 < bound * 0.06 < 0.9


def test_wide_area_link_is_bound_by_compute_or_its_upward_line():
    wide, narrow = Wan(rtt_ms=50, mbit=1000), Wan(rtt_ms=50, mbit=100)
    assert ceiling(CONFIG, wide) == ceiling(CONFIG)
    assert ceiling(CONFIG, narrow) == ("bandwidth", pytest.approx(12.5 / 2))  # 2 MB a step
    far = slept_cases(CONFIG, jitters=[], imbalance=False, wan=narrow)[-1]
    assert far.condition == "round trip 50 ms, 100 Mbit/s"
    assert far.config.link == "zmq-tcp"


def test_one_process_computes_the_sum_of_all_blocks():
    _, slow = slept_cases(CONFIG, jitters=[], imbalance=True)
    assert one_process_samples_per_s(CONFIG) == pytest.approx(1 / 0.24)
    assert one_process_samples_per_s(slow.config) == pytest.approx(1 / 0.30)
