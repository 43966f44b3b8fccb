"""The arithmetic of a run's summary."""

from dataclasses import replace
from typing import Any

import pytest

from runtime.records.schema import (
    Carried,
    Counters,
    Healed,
    Restarted,
    Seconds,
    Spread,
    StepRecord,
    Summary,
    WorkerResult,
)
from runtime.records.summary import restarts_of, spread, summarise
from runtime.testing.slept import SleptConfig, SleptJob

STEP = StepRecord(
    t=0.0,
    block=0,
    pid=1,
    generation=0,
    step=8,
    loss=1.5,
    probe_top1=0.5,
    samples_per_s=1.0,
    bad_steps=0,
)
SECONDS = Seconds(compute_s=4.0, wait_input_s=1.0)


def result(block: int, **changes: Any) -> WorkerResult:
    facts: dict[str, Any] = {
        "block": block,
        "generation": 0,
        "seconds": SECONDS,
        "steady": SECONDS,
        "peak_rss_bytes": 1,
        "first_step_t": None,
        "last": None,
        "counters": Counters(),
        "staleness": {},
        "digests": {},
    }
    return WorkerResult(**(facts | changes))


def summary_of(*results: WorkerResult, shares_cores: bool = False, **options: bool) -> Summary:
    config = SleptConfig(
        workers=2,
        steps=9,
        step_s=0.1,
        forward_share=0.3,
        activation_bytes=4,
        tie_bytes=4,
        lag=1,
        window=2,
        link="shm",
    )
    job = SleptJob(config)
    job.shares_cores = shares_cores
    return summarise(
        job,
        results or [result(0), result(1)],
        weights_sha256="",
        units=[],
        events=[],
        started_t=0.0,
        ended_t=1.0,
        **{"one_process": False, **options},
    )


def test_measured_bubble_stands_beside_those_of_lock_step():
    bubble = summary_of().bubble
    assert (bubble.measured, bubble.fill_steps, bubble.microbatches) == (0.2, 3, 8)
    assert bubble.gpipe_and_1f1b == pytest.approx(1 / 9)
    assert bubble.zb_h1 == pytest.approx(1 / 25)


def test_workers_that_share_cores_have_no_bubble():
    """A user read that lock-step would be faster: predicted from cores that workers shared."""
    bubble = summary_of(shares_cores=True).bubble
    assert (bubble.measured, bubble.shares_cores) == (None, True)


def test_one_process_has_no_bubble():
    assert summary_of(one_process=True).bubble is None


def test_rate_is_the_slowest_workers():
    lasts = [replace(STEP, samples_per_s=rate) for rate in (200.0, 150.0)]
    results = [result(k, last=last, first_step_t=2.0 - k) for k, last in enumerate(lasts)]
    summary = summary_of(*results)
    assert (summary.samples_per_s, summary.time_to_first_step_s) == (150.0, 1.0)
    assert summary_of(results[0], result(1)).samples_per_s is None


def test_block_has_its_workers_seconds_and_counters():
    counters = [Counters(sent=9, trained=8), Counters(trained=5, fenced=2)]
    summary = summary_of(*(result(k, counters=found) for k, found in enumerate(counters)))
    _, upper = summary.blocks
    assert (upper.compute_s, upper.utilisation, upper.fenced) == (4.0, 0.8, 2)
    batches = {"sent": 5, "trained": 13, "duplicates_dropped": 0}
    assert batches.items() <= summary.batches.items()


def restart(block: int, generation: int) -> Restarted:
    facts = {"cause": "was killed", "detected_t": 5.0, "from_step": 3, "completed_before": 4}
    return Restarted(t=6.0, pid=1, block=block, generation=generation, **facts)


def healed(block: int, generation: int, after_s: float) -> Healed:
    return Healed(t=7.0, pid=1, block=block, generation=generation, healed_s=after_s)


def test_restarts_are_told_with_what_they_took():
    """Also over the attempts of a launcher."""
    carried = Carried(t=5.0, pid=1, block=0, generation=0, notes=())
    events = [
        *(carried, restart(1, 1), healed(1, 1, 0.5), restart(2, 1), restart(2, 2)),
        *(healed(2, 2, 0.7), restart(1, 1), healed(1, 1, 0.9), healed(3, 1, 0.1)),
    ]
    found = [(r.block, r.generation, r.healed_s) for r in restarts_of(events)]
    assert found == [(1, 1, 0.5), (2, 1, None), (2, 2, 0.7), (1, 1, 0.9)]
    assert restarts_of(events)[0].cause == "was killed"


def test_counted_staleness_is_spread_by_its_middle_and_its_end():
    counts = {"10": 1, "-1": 2, "0": 10, "2": 7}
    assert spread(counts) == Spread(num=20, median=0, p95=2, max=10, counts=counts)
    assert spread({"3": 1}) == Spread(num=1, median=3, p95=3, max=3, counts={"3": 1})
