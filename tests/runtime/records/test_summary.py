"""The arithmetic of a run's summary."""

from typing import Any

import pytest

from runtime.records.summary import restarts_of, spread, summarise
from runtime.testing.slept import SleptConfig, SleptJob


def result(seconds: dict[str, float] | None) -> dict[str, Any]:
    names = ("sent", "trained", "replayed", "duplicates_dropped", "retrained", "bad_steps")
    return {
        "last": None,
        "first_step_t": None,
        "digests": {},
        "counters": dict.fromkeys(names, 0),
        "seconds": seconds or {},
        "steady": seconds,
        "peak_rss_bytes": 1,
    }


def summary_of(*, shares_cores: bool = False, **options: bool) -> dict[str, Any]:
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
    facts = {"wait_input_s": 1.0, "wait_credit_s": 0.0, "wait_tie_s": 0.0, "compute_s": 4.0}
    return summarise(
        job,
        [result(facts)] * 2,
        weights_sha256="",
        units=[],
        events=[],
        started_t=0.0,
        ended_t=1.0,
        **{"one_process": False, **options},
    )


def test_the_measured_bubble_stands_beside_those_of_lock_step():
    bubble = summary_of()["bubble"]
    assert (bubble["measured"], bubble["fill_steps"], bubble["microbatches"]) == (0.2, 3, 8)
    assert bubble["gpipe_and_1f1b"] == pytest.approx(1 / 9)
    assert bubble["zb_h1"] == pytest.approx(1 / 25)


def test_workers_that_share_cores_have_no_bubble():
    """A user read that lock-step would be faster: predicted from cores that workers shared."""
    bubble = summary_of(shares_cores=True)["bubble"]
    assert (bubble["measured"], bubble["shares_cores"]) == (None, True)


def test_one_process_has_no_bubble():
    assert summary_of(one_process=True)["bubble"] is None


def restart(block: int, generation: int) -> dict[str, object]:
    facts = {"cause": "was killed", "detected_t": 5.0, "from_step": 3, "completed_before": 4}
    return {"event": "restart", "block": block, "generation": generation, **facts}


def healed(block: int, generation: int, after_s: float) -> dict[str, object]:
    return {"event": "healed", "block": block, "generation": generation, "healed_s": after_s}


def test_restarts_are_told_with_what_they_took_also_over_attempts_of_a_launcher():
    carried = {"event": "carried", "block": 0, "generation": 0, "notes": []}
    events = [
        *(carried, restart(1, 1), healed(1, 1, 0.5), restart(2, 1), restart(2, 2)),
        *(healed(2, 2, 0.7), restart(1, 1), healed(1, 1, 0.9), healed(3, 1, 0.1)),
    ]
    found = [(r["block"], r["generation"], r["healed_s"]) for r in restarts_of(events)]
    assert found == [(1, 1, 0.5), (2, 1, None), (2, 2, 0.7), (1, 1, 0.9)]
    assert restarts_of(events)[0]["cause"] == "was killed"


def test_counted_staleness_is_spread_by_its_middle_and_its_end():
    counts = {"10": 1, "-1": 2, "0": 10, "2": 7}
    found = {"num": 20, "median": 0, "p95": 2, "max": 10, "counts": counts}
    assert spread(counts) == found
    assert spread({"3": 1}) == {"num": 1, "median": 3, "p95": 3, "max": 3, "counts": {"3": 1}}
