"""The bound of slept blocks: the same job, simulated on a machine that takes no time."""

import pytest

from benchmarks.scale.slept_simulation import simulated_samples_per_s
from runtime.testing.slept import SleptConfig

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


def test_bound_without_stalls_is_the_slowest_blocks_rate():
    assert simulated_samples_per_s(config()) * 0.06 == pytest.approx(1.0)
    assert simulated_samples_per_s(config(slow_block=2)) * 0.12 == pytest.approx(1.0)


def test_bound_depends_on_lag_latency_and_stalls():
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
