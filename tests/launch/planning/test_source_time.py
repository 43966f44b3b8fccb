"""The source's stopwatch: what is timed, not how long it takes."""

import pytest
import torch

from launch.planning import source_time
from launch.planning.source_time import measured_block_0, measured_source

from ..runs import light


def test_a_few_steps_are_timed_with_the_runs_threads():
    before, seen = torch.get_num_threads(), []

    def source(step):
        seen.append((step, torch.get_num_threads()))
        return torch.zeros(2), torch.zeros(1)

    assert measured_source(source, threads=before + 1) > 0
    assert seen == [(step, before + 1) for step in range(4)]
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(("flops_timed", "images"), [(1.0, 8), (0.25, 2), (0.001, 2)])
def test_large_block_is_timed_by_a_smaller_batch(monkeypatch, flops_timed, images):
    """A batch of 4096 large images would take minutes, and more memory than there is."""
    run, seen = light(workers=2, batch_size=8), []
    block = run.partition.blocks[0]
    flops = source_time.counted_costs(run).of(block).step
    monkeypatch.setattr(source_time, "TIMED_FLOPS", flops_timed * flops)
    monkeypatch.setattr(source_time, "measured_source", lambda source, threads: source)

    def step(workload, of, *, device, threads):
        seen.append((workload.config.batch_size, of, device, threads))
        return 1.5

    monkeypatch.setattr(source_time, "measured_step", step)
    found = measured_block_0(run, block, lambda config: 0.5, device="cpu", threads=3)
    assert seen == [(images, block, "cpu", 3)]
    assert found == (0.5 * 8 / images, 1.5 * 8 / images)
