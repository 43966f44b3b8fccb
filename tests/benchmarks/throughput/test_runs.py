"""Which runs the throughput benchmark takes on, and which it refuses."""

import pytest

from benchmarks.throughput.runs import Options


def test_real_blocks_have_no_stalls():
    with pytest.raises(ValueError, match="give --blocks sleep"):
        Options(blocks="real", jitter=("exponential:0.2",))


def test_real_baselines_on_more_workers_are_refused():
    assert Options(blocks="real", baselines=True, workers=(2,)).baselines
    with pytest.raises(ValueError, match=r"baselines on 2,4 workers; .* give --workers 2"):
        Options(blocks="real", baselines=True, workers=(2, 4))
