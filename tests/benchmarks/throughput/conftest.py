"""Lock-step runs that take no time, for tests of what is chosen and made of them."""

import pytest

from benchmarks.lock_step.processes import LockStepTiming
from benchmarks.throughput import baselines

from .best import BEST


@pytest.fixture
def ran(monkeypatch):
    """The cases that were run: each schedule makes 10 batches a second with its best number of
    microbatches, and 1 with others."""
    cases = []

    def run_lock_step(given, *, wan=""):
        del wan
        cases.extend(given)
        for case in given:
            rate = 10.0 if BEST[case.schedule] == case.microbatches else 1.0
            yield LockStepTiming(
                batches_per_s=rate, loss=0.5, slept_s=(1.0, 2.0), peak_rss_bytes=(7, 8)
            )

    monkeypatch.setattr(baselines, "run_lock_step", run_lock_step)
    return cases
