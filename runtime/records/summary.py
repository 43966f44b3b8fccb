"""What a run comes to: the figures of summary.json, from what the workers handed in.

Owns the arithmetic of the summary. Measured figures come from workers and evaluation; what is
predicted from block times says so by its name's place under `benefit`.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from runtime import digest
from runtime.job import Job

PREDICTIONS = ("ceiling", "one_process", "lock_step", "ceiling_core_each", "lock_step_core_each")
COUNTERS = ("bad_steps", "fenced", "damaged", "dropped_reports")
MICROBATCHES = 8  # of the lock-step schedule that predictions are compared with


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

    `one_process`: the blocks ran one after another, so that is their ceiling too.
    """
    predicted = throughput_from_block_times(
        [result.get("measured") for result in results],
        batch_size=job.batch_size,
        cores=job.cores,
    )
    if one_process:
        predicted["ceiling_samples_per_s"] = predicted["one_process_samples_per_s"]
    rates = [_last(result, "samples_per_s") for result in results]
    samples_per_s = None if None in rates else min(rates)
    firsts = [result["first_step_t"] for result in results if result["first_step_t"] is not None]
    return {
        "samples_per_s": samples_per_s,
        "ceiling_samples_per_s": predicted["ceiling_samples_per_s"],
        "wall_s": ended_t - started_t,
        "time_to_first_step_s": min(firsts) - started_t if firsts else None,
        "steps": job.num_steps,
        "weights_sha256": weights_sha256,
        "state_sha256": digest.combine(result["digests"] for result in results),
        "final": {key: units[-1][key] if units else None for key in ("linear_top1", "knn_top1")},
        "units": list(units),
        "blocks": [_block(job, k, result) for k, result in enumerate(results)],
        "batches": _batches(results),
        "restarts": restarts_of(events),
        "benefit": {
            "samples_per_s": samples_per_s,
            "cores": job.cores,
            "microbatches": MICROBATCHES,
            **predicted,
        },
    }


def _batches(results: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    def total(counter: str) -> int:
        return sum(result["counters"][counter] for result in results)

    trained = [result["counters"]["trained"] for result in results]
    sent = [result["counters"]["sent"] for result in results[:-1]]
    return {
        "sent": sum(map(min, sent, trained[1:])),
        "trained": total("trained"),
        "replayed": total("replayed"),
        "duplicates_dropped": total("duplicates_dropped"),
        "retrained": total("retrained"),
        "bad": total("bad_steps"),
    }


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
    measured = result.get("measured") or {}
    return {
        "index": k,
        "units": list(units),
        "guest_units": list(guest_units),
        "loss": _last(result, "loss"),
        "probe_top1": _last(result, "probe_top1"),
        **seconds,
        "utilisation": seconds["compute_s"] / total_s if total_s else None,
        "alone_step_s": measured.get("step_s"),
        "alone_cpu_s": measured.get("cpu_s"),
        **{key: result["counters"].get(key, 0) for key in COUNTERS},
        "staleness": _staleness(result),
        "stale_ties": result["counters"].get("stale_ties", 0),
        "restarts": result.get("restarts", 0),
        "peak_rss_bytes": result["peak_rss_bytes"],
    }


def throughput_from_block_times(
    measured: Sequence[Mapping[str, float] | None], *, batch_size: int, cores: int
) -> dict[str, Any]:
    """Samples/s that block times allow; each block was timed alone, in wall and CPU seconds.

    ceiling: the slowest block, or all CPU time over the cores, whichever binds. one_process:
    blocks after one another. lock_step: GPipe's schedule (arXiv 1811.06965) with MICROBATCHES
    micro-batches, its bubble of (P - 1) slots a batch included and transfers free. core_each:
    the same where every worker has its cores to itself. None where a block was not timed.
    """
    times = [m for m in measured if m is not None]
    if len(times) < len(measured):
        return dict.fromkeys(f"{name}_samples_per_s" for name in PREDICTIONS)
    slowest_s = max(m["step_s"] for m in times)
    cpu_bound_s = sum(m["cpu_s"] for m in times) / cores
    bubble = (MICROBATCHES + len(times) - 1) / MICROBATCHES
    step_s = {
        "ceiling": max(slowest_s, cpu_bound_s),
        "one_process": math.fsum(m["step_s"] for m in times),
        "lock_step": max(bubble * slowest_s, cpu_bound_s),
        "ceiling_core_each": slowest_s,
        "lock_step_core_each": bubble * slowest_s,
    }
    return {f"{name}_samples_per_s": batch_size / value for name, value in step_s.items()}
