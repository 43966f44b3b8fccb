"""The source's stopwatch: what is timed, not how long it takes."""

import torch

from launch.planning.source_time import measured_source


def test_a_few_steps_are_timed_with_the_runs_threads():
    before, seen = torch.get_num_threads(), []

    def source(step):
        seen.append((step, torch.get_num_threads()))
        return torch.zeros(2), torch.zeros(1)

    assert measured_source(source, threads=before + 1) > 0
    assert seen == [(step, before + 1) for step in range(4)]
    assert torch.get_num_threads() == before
