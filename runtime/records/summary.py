"""What a run comes to: the figures of summary.json, from what the workers handed in.

Owns the arithmetic of the summary. All figures are measured by workers and evaluation, but for the
bubbles of lock-step schedules, which are formulas (see runtime.records.bubbles).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

from runtime import digest
from runtime.job import Job
from runtime.records.bubbles import (
    fill_steps,
    lock_step_bubble,
    measured_bubble,
    zero_bubble_bubble,
)
from runtime.records.schema import (
    Accuracy,
    BlockSummary,
    Bubble,
    Healed,
    Record,
    Restart,
    Restarted,
    Spread,
    Summary,
    UnitAccuracy,
    WorkerResult,
    common_fields,
)

MICROBATCHES = 8  # of the lock-step schedules whose bubbles stand beside the measured one


def summarise(
    job: Job,
    results: Sequence[WorkerResult],
    *,
    weights_sha256: str,
    units: Sequence[UnitAccuracy],
    events: Sequence[Record],
    started_t: float,
    ended_t: float,
    one_process: bool,
    refused: int = 0,
) -> Summary:
    """Make the summary of a finished run; `results` holds one a block, lowest first.

    `refused` is how many strangers came to the coordinator's own socket. `one_process`: the blocks
    ran one after another, which is no pipeline and has no bubble.
    """
    lasts = [result.last for result in results]
    firsts = [result.first_step_t for result in results if result.first_step_t is not None]
    return Summary(
        samples_per_s=None if None in lasts else min(last.samples_per_s for last in lasts if last),
        wall_s=ended_t - started_t,
        time_to_first_step_s=min(firsts) - started_t if firsts else None,
        steps=job.num_steps,
        weights_sha256=weights_sha256,
        state_sha256=digest.combine(result.digests for result in results),
        final=Accuracy(**common_fields(Accuracy, units[-1])) if units else Accuracy(),
        units=tuple(units),
        blocks=tuple(_block(job, result) for result in results),
        batches=_batches(results),
        restarts=restarts_of(events),
        refused=refused + sum(result.counters.refused for result in results),
        bubble=None if one_process or job.num_workers == 1 else _bubble(job, results),
    )


def _bubble(job: Job, results: Sequence[WorkerResult]) -> Bubble:
    """The pipeline's bubble, if workers have cores of their own, and those of lock-step."""
    measured = measured_bubble([result.steady for result in results])
    return Bubble(
        measured=None if job.shares_cores else measured,
        shares_cores=job.shares_cores,
        fill_steps=fill_steps(job),
        microbatches=MICROBATCHES,
        gpipe_and_1f1b=lock_step_bubble(job.num_workers, MICROBATCHES),
        zb_h1=zero_bubble_bubble(job.num_workers, MICROBATCHES),
    )


def _batches(results: Sequence[WorkerResult]) -> dict[str, int]:
    counted = [result.counters for result in results]
    trained = sum(counters.trained for counters in counted)
    sent = sum(min(below.sent, above.trained) for below, above in pairwise(counted))
    return {
        "sent": sent,
        "trained": trained,
        "replayed": sum(counters.replayed for counters in counted),
        "duplicates_dropped": sum(counters.duplicates_dropped for counters in counted),
        "retrained": sum(counters.retrained for counters in counted),
        "bad": sum(counters.bad_steps for counters in counted),
    }


def spread(counts: Mapping[str, int]) -> Spread:
    """Median, 95th percentile and maximum of counted whole numbers."""
    ordered = sorted(int(value) for value, count in counts.items() for _ in range(count))
    median, p95 = (ordered[math.ceil(share * len(ordered)) - 1] for share in (0.5, 0.95))
    return Spread(num=len(ordered), median=median, p95=p95, max=ordered[-1], counts=dict(counts))


def restarts_of(events: Sequence[Record]) -> tuple[Restart, ...]:
    """The restarts of workers, oldest first, each with what it took until it was healed."""
    restarts: list[Restart] = []
    open_ones: dict[tuple[int, int], int] = {}  # by block and generation
    for event in events:
        generation = (event.block, event.generation)
        if isinstance(event, Restarted):
            open_ones[generation] = len(restarts)
            restarts.append(Restart(**common_fields(Restart, event)))
        # Its restart may be in a report that a coordinator took with it.
        elif isinstance(event, Healed) and (i := open_ones.pop(generation, None)) is not None:
            restarts[i] = replace(restarts[i], healed_s=event.healed_s)
    return tuple(restarts)


def _block(job: Job, result: WorkerResult) -> BlockSummary:
    units, guest_units = job.unit_names(result.block)
    last = result.last  # none if this attempt had no step to run
    return BlockSummary(
        **common_fields(BlockSummary, result.seconds),
        **common_fields(BlockSummary, result.counters),
        index=result.block,
        units=tuple(units),
        guest_units=tuple(guest_units),
        loss=None if last is None else last.loss,
        probe_top1=None if last is None else last.probe_top1,
        utilisation=result.seconds.share(result.seconds.compute_s),
        steady=result.steady,
        staleness={tie: spread(counts) for tie, counts in result.staleness.items()},
        restarts=result.generation,
        peak_rss_bytes=result.peak_rss_bytes,
    )
