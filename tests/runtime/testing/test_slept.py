"""Slept blocks: how long each sleeps, and the simulation of the same job."""

import tomllib

import pytest

from runtime.testing.slept import SleptBlock, SleptConfig, SleptJob
from runtime.testing.slept_simulation import simulated_samples_per_s

CONFIG = {
    "workers": 3,
    "steps": 40,
    "step_s": 0.06,
    "forward_share": 1 / 3,
    "activation_bytes": 4,
    "tie_bytes": 4,
    "lag": 1,
    "window": 2,
    "link": "zmq-ipc",
}


def config(**changes) -> SleptConfig:
    return SleptConfig(**(CONFIG | changes))


def test_a_slow_block_and_its_stalls():
    slow = config(slow_block=1, jitter="rare:1x10")
    assert [slow.block_s(k) for k in range(3)] == [0.06, 0.12, 0.06]
    duration_s = slow.make_duration_s()
    assert duration_s(1, 0) == pytest.approx(0.12 * 11)


def test_a_slow_block_must_exist():
    with pytest.raises(ValueError, match="slow block 3 does not exist; give one of 0 to 2"):
        config(slow_block=3)


def test_jitter_is_checked_before_anything_starts():
    with pytest.raises(ValueError, match="jitter 'often'"):
        config(jitter="often")


def test_both_parts_of_a_step_are_stretched_by_a_stall():
    block = SleptBlock(config(step_s=1e-6, jitter="rare:1x2"), 0)
    slept = []
    block._sleeper.sleep = slept.append
    block.forward(0, None)
    block.update(0)
    assert slept == pytest.approx([1e-6, 2e-6])


def test_a_run_directorys_toml_leaves_out_what_is_not_there():
    assert "slow_block" not in tomllib.loads(SleptJob(config()).config_toml)
    assert tomllib.loads(SleptJob(config(slow_block=0)).config_toml)["slow_block"] == 0


def test_the_bound_without_stalls_is_the_slowest_blocks_rate():
    assert simulated_samples_per_s(config()) * 0.06 == pytest.approx(1.0)
    assert simulated_samples_per_s(config(slow_block=2)) * 0.12 == pytest.approx(1.0)


def test_the_bound_feels_lag_latency_and_stalls():
    full = simulated_samples_per_s(config())
    assert simulated_samples_per_s(config(lag=0)) == pytest.approx(0.75 * full, rel=0.02)
    assert simulated_samples_per_s(config(), latency_s=0.06) < 0.9 * full
    bounds = [
        simulated_samples_per_s(config(jitter="exponential:0.2", lag=lag, window=lag + 1))
        for lag in (1, 8)
    ]
    assert bounds[0] < bounds[1] < full / 1.15


def test_one_worker_is_bound_by_its_own_draws():
    alone = config(workers=1, jitter="exponential:0.2")
    duration_s = alone.make_duration_s()
    steps_s = [duration_s(0, step) for step in range(1, 40)]
    assert simulated_samples_per_s(alone) == pytest.approx(39 / sum(steps_s))
