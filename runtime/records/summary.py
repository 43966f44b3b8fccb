"""What a run comes to: the figures of summary.json, from what the workers handed in.

Owns the arithmetic of the summary. All figures are measured by workers and evaluation, but for the
bubbles of lock-step schedules, which are formulas (see runtime.records.bubbles).
"""

from collections.abc import Mapping, Sequence
from typing import Any

from runtime import digest
from runtime.job import Job
from runtime.records.bubbles import (
    fill_steps,
    lock_step_bubble,
    measured_bubble,
    zero_bubble_bubble,
)

COUNTERS = ("bad_steps", "fenced", "damaged", "dropped_reports")
MICROBATCHES = 8  # of the lock-step schedules whose bubbles stand beside the measured one


def summarise(
    job: Job,
    results: Sequence[Mapping[str, Any]],
    *,
    weights_sha256: str,
    units: Sequence[Mapping[str, Any]],
    events: Sequence[Mapping[str, Any]],
    started_t: float,
    ended_t: float,
    one_process: bool,
) -> dict[str, Any]:
    """Make the summary of a finished run; `results` holds one report a block, lowest first.

    `one_process`: the blocks ran one after another, which is no pipeline and has no bubble.
    """
    rates = [_last(result, "samples_per_s") for result in results]
    firsts = [result["first_step_t"] for result in results if result["first_step_t"] is not None]
    return {
        "samples_per_s": None if None in rates else min(rates),
        "wall_s": ended_t - started_t,
        "time_to_first_step_s": min(firsts) - started_t if firsts else None,
        "steps": job.num_steps,
        "weights_sha256": weights_sha256,
        "state_sha256": digest.combine(result["digests"] for result in results),
        "final": {key: units[-1][key] if units else None for key in ("linear_top1", "knn_top1")},
        "units": list(units),
        "blocks": [_block(job, k, result) | _lost(results, k) for k, result in enumerate(results)],
        "batches": _batches(job, results),
        "restarts": restarts_of(events),
        "bubble": None if one_process or job.num_workers == 1 else _bubble(job, results),
    }


def _bubble(job: Job, results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The pipeline's bubble, if workers have cores of their own: else each also waits for a core,
    which no worker can tell from computing. Beside it what lock-step schedules would idle."""
    measured = measured_bubble([result["steady"] for result in results])
    return {
        "measured": None if job.shares_cores else measured,
        "shares_cores": job.shares_cores,
        "fill_steps": fill_steps(job),
        "microbatches": MICROBATCHES,
        "gpipe_and_1f1b": lock_step_bubble(job.num_workers, MICROBATCHES),
        "zb_h1": zero_bubble_bubble(job.num_workers, MICROBATCHES),
    }


def _batches(job: Job, results: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    def total(counter: str) -> int:
        return sum(result["counters"][counter] for result in results)

    trained = [result["counters"]["trained"] for result in results]
    # What was dropped was sent as a mark only, and so nothing above trained on it.
    sent = [result["counters"]["sent"] for result in results[:-1]]
    return {
        "sent": sum(map(min, sent, trained[1:])),
        "trained": total("trained"),
        "lost": job.num_steps * job.num_workers - total("trained"),
        "replayed": total("replayed"),
        "duplicates_dropped": total("duplicates_dropped"),
        "retrained": total("retrained"),
        "bad": total("bad_steps"),
        "replayed_steps": sum(result["counters"].get("replayed_steps", 0) for result in results),
    }


def _lost(results: Sequence[Mapping[str, Any]], k: int) -> dict[str, int]:
    """The batches that block k passed over, and those of them that its lower edge dropped."""
    lost = [result["counters"].get("lost", 0) for result in results]
    return {"lost": lost[k], "dropped_below": lost[k] - (lost[k - 1] if k else 0)}


def _staleness(result: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """By tie, how many steps old the messages were that the block used; empty where that is a
    fixed lag. `counts` is by staleness; a negative one is of a neighbour that was ahead."""
    return {tie: spread(counts) for tie, counts in result.get("staleness", {}).items()}


def spread(counts: Mapping[str, int]) -> dict[str, Any]:
    """Median, 95th percentile and maximum of counted whole numbers."""
    ordered = sorted((int(value), count) for value, count in counts.items())
    total = sum(count for _, count in ordered)

    def quantile(share: float) -> int:
        seen = 0
        for value, count in ordered:
            seen += count
            if seen >= share * total:
                return value
        raise AssertionError("nothing was counted")

    return {
        "num": total,
        "median": quantile(0.5),
        "p95": quantile(0.95),
        "max": ordered[-1][0],
        "counts": dict(counts),
    }


def restarts_of(events: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The restarts of workers, oldest first, each with what it took until it was healed.

    `healed_s` is None where it died again before that.
    """
    restarts: list[dict[str, Any]] = []
    for event in events:
        life = {key: event[key] for key in ("block", "generation")}
        if event["event"] == "restart":
            facts = ("cause", "detected_t", "from_step", "completed_before")
            restarts.append(life | {key: event[key] for key in facts} | {"healed_s": None})
        elif event["event"] == "healed":
            own = [r for r in restarts if r.items() >= life.items() and r["healed_s"] is None]
            if own:  # its restart may be in a report that a coordinator took with it
                own[-1]["healed_s"] = event["healed_s"]
    return restarts


def _last(result: Mapping[str, Any], key: str) -> Any:
    """A figure of a block's last step; None where this attempt had no step to run."""
    return (result["last"] or {}).get(key)


def _block(job: Job, k: int, result: Mapping[str, Any]) -> dict[str, Any]:
    units, guest_units = job.unit_names(k)
    seconds = result["seconds"]
    total_s = sum(seconds.values())
    return {
        "index": k,
        "units": list(units),
        "guest_units": list(guest_units),
        "loss": _last(result, "loss"),
        "probe_top1": _last(result, "probe_top1"),
        **seconds,
        "utilisation": seconds["compute_s"] / total_s if total_s else None,
        "steady": result["steady"],
        **{key: result["counters"].get(key, 0) for key in COUNTERS},
        "replayed_steps": result["counters"].get("replayed_steps", 0),
        "staleness": _staleness(result),
        "stale_ties": result["counters"].get("stale_ties", 0),
        "restarts": result.get("restarts", 0),
        "peak_rss_bytes": result["peak_rss_bytes"],
    }
