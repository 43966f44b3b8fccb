"""The lock-step schedules as baselines: each with the number of microbatches that serves it best.

Owns that choice, and how a record names a schedule. Knows nothing of ceilings or conditions.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from benchmarks.lock_step.processes import LockStepTiming, run_lock_step
from benchmarks.lock_step.schedule import SCHEDULES, ScheduleCase, Work

PROBE_STEPS = 8  # batches by which a schedule's number of microbatches is chosen
MICROBATCHES_A_RANK = (1, 2, 4)


def best_microbatches(
    make_work: Callable[[int], Work],
    *,
    wan: str = "",
    schedules: Sequence[str] = tuple(SCHEDULES),
) -> tuple[dict[str, int], dict[str, dict[int, float]]]:
    """Return each schedule's fastest number of microbatches, from a few batches of a work of so
    many steps, and the batches a second of all that were tried."""
    work = make_work(PROBE_STEPS)
    probes = [
        ScheduleCase(schedule=name, microbatches=factor * work.num_ranks, work=work)
        for name in schedules
        for factor in MICROBATCHES_A_RANK
    ]
    tried: dict[str, dict[int, float]] = {name: {} for name in schedules}
    for probe, timing in zip(probes, run_lock_step(probes, wan=wan), strict=True):
        tried[probe.schedule][probe.microbatches] = timing.batches_per_s
    return {name: max(rates, key=rates.__getitem__) for name, rates in tried.items()}, tried


def run_schedules(
    work: Work, microbatches: Mapping[str, int], *, wan: str = ""
) -> Iterator[tuple[dict[str, Any], LockStepTiming]]:
    """Run each schedule with its own number of microbatches: how a record names it, and its
    timing."""
    cases = [
        ScheduleCase(schedule=schedule, microbatches=m, work=work)
        for schedule, m in microbatches.items()
    ]
    for case, timing in zip(cases, run_lock_step(cases, wan=wan), strict=True):
        yield {"system": case.schedule, "microbatches": case.microbatches}, timing
