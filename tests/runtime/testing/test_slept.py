"""Slept blocks: how long each sleeps, and what their job is."""

import tomllib

import pytest

from runtime.testing.slept import SleptBlock, SleptConfig, SleptJob

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


def test_slow_block_takes_its_factor_and_its_stalls():
    slow = config(slow_block=1, jitter="rare:1x10")
    assert [slow.block_s(k) for k in range(3)] == [0.06, 0.12, 0.06]
    duration_s = slow.make_duration_s()
    assert duration_s(1, 0) == pytest.approx(0.12 * 11)


def test_slow_block_must_exist():
    with pytest.raises(ValueError, match="slow block 3 does not exist; give one of 0 to 2"):
        config(slow_block=3)


def test_jitter_is_checked_before_anything_starts():
    with pytest.raises(ValueError, match="jitter 'often'"):
        config(jitter="often")


def test_stall_stretches_both_parts_of_a_step():
    block = SleptBlock(config(step_s=1e-6, jitter="rare:1x2"), 0)
    slept = []
    block._sleeper.sleep = slept.append
    block.forward(0, None)
    block.update(0)
    assert slept == pytest.approx([1e-6, 2e-6])


def test_toml_of_a_run_directory_leaves_out_what_is_not_there():
    assert "slow_block" not in tomllib.loads(SleptJob(config()).config_toml)
    assert tomllib.loads(SleptJob(config(slow_block=0)).config_toml)["slow_block"] == 0
