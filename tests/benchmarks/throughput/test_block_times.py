"""Times of real blocks: on which inputs, and which ceiling follows."""

import pytest

from benchmarks.throughput import block_times
from benchmarks.throughput.block_times import BlockTime, NotedBlock, ceiling_samples_per_s

MLP = ("--model", "mlp", "--decoder-depth", "0", "--batch-size", "8")
FLAGS = (*MLP, "--workers", "3", "--threads", "1", "--steps", "4")


class Counted:
    """A block of which every call is noted."""

    def __init__(self):
        self.calls = []

    def forward(self, step, incoming):
        self.calls.append(("forward", step, incoming))

    def update(self, step):
        self.calls.append(("update", step))

    def apply(self, step, from_below, from_above):
        self.calls.append(("apply", step, from_below, from_above))


def test_step_is_repeated_on_the_latest_inputs():
    block = Counted()
    noted = NotedBlock(block)
    noted.forward(0, "activation")
    noted.apply(0, "below", "above")
    block.calls.clear()
    noted.time_step(9, at_least_s=0.0)
    step = [("forward", 9, "activation"), ("update", 9), ("apply", 9, "below", "above")]
    assert block.calls == step


def test_real_block_is_timed_with_ties_from_both_sides():
    job = block_times._job(FLAGS)
    block = block_times.warm_block(job, 1)
    assert block._incoming is not None
    assert None not in block._ties
    assert block.time_step(3, at_least_s=0.0).wall_s > 0


@pytest.mark.parametrize(
    ("times", "rate"),
    [
        ([BlockTime(0.1, 0.1), BlockTime(0.2, 0.1)], 8 / 0.2),
        ([BlockTime(0.1, 0.1)] * 8, 8 / 0.4),
    ],
)
def test_slowest_block_binds_or_all_cores_do(monkeypatch, times, rate):
    monkeypatch.setattr(block_times, "block_times", lambda flags: times)
    monkeypatch.setattr("launch.job.usable_cores", lambda: 2)
    assert ceiling_samples_per_s(FLAGS) == pytest.approx(rate)
