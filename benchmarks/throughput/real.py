"""Real blocks in the throughput benchmark: the main job's own network, each system on two cores.

Owns the cases, the commands and what a record holds. The lock-step schedules train the same network
end to end, cut anew as serves each best: once with the head and loss of each of Greedy InfoMax's
blocks, which is the same work a batch as theirs, and once with the top's alone, which is less, and
what one would run who has no need of local losses. LoCo's blocks do more, their guests.
"""

import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.harness import ROOT, run_once
from benchmarks.lock_step.real_work import RealWork, real_work
from benchmarks.lock_step.stage_pieces import Heads
from benchmarks.throughput.baselines import best_microbatches, run_schedules
from benchmarks.throughput.block_times import ceiling_samples_per_s
from benchmarks.throughput.slept import UNDISTURBED

GIM = ("--overlap", "0", "--tie", "none")
SYSTEMS: dict[Heads, str] = {"blocks": "", "top": ", one head"}  # what is added to their names
BATCH_SIZE = 64
SIZE = ("--batch-size", str(BATCH_SIZE))


@dataclass(frozen=True, kw_only=True)
class RealCase:
    """The default network on so many workers."""

    workers: int
    steps: int
    lag: int
    window: int

    @property
    def facts(self) -> dict[str, Any]:
        """What tells its records from those of other cases."""
        return {
            "blocks": "real",
            "workers": self.workers,
            "condition": UNDISTURBED,
            "steps": self.steps,
            "ceiling": "slowest block, timed alone",
        }

    def work(self, heads: Heads) -> RealWork:
        """The same, as lock-step schedules get it."""
        return real_work([*SIZE, *GIM], workers=self.workers, steps=self.steps, heads=heads)


def real_systems(case: RealCase) -> dict[str, tuple[str, list[str]]]:
    """Program and flags of the main job with overlap and without, and of one process."""
    flags = [*SIZE, "--workers", str(case.workers), "--steps", str(case.steps)]
    loco = ["--lag", str(case.lag), "--window", str(case.window), "--threads", "1"]
    all_cores = ["--threads", str(len(os.sched_getaffinity(0)))]
    return {
        f"LoCo, {case.workers} workers": ("pipeline.py", [*flags, *loco]),
        _gim(case): ("pipeline.py", [*flags, *GIM, "--threads", "1"]),
        "GIM, one process, all cores": ("sequential.py", [*flags, *GIM, *all_cores]),
    }


def _gim(case: RealCase) -> str:
    return f"GIM, {case.workers} workers"


def run_real(case: RealCase, run: int, run_dir: Path) -> Iterator[dict[str, Any]]:
    """Each system in turn, one record each, and right behind it the ceiling of its blocks."""
    for name, (script, flags) in real_systems(case).items():
        where = run_dir / name
        command = [sys.executable, str(ROOT / "launch" / script), *flags, "--run-dir", str(where)]
        summary = run_once(command, where)
        is_pipeline = script == "pipeline.py"
        yield case.facts | {
            "run": run,
            "system": name,
            "samples_per_s": summary["samples_per_s"],
            "ceiling_samples_per_s": ceiling_samples_per_s(flags)
            if is_pipeline
            else _computing_rate(summary),
            "summary": summary,
        }


def _computing_rate(summary: Mapping[str, Any]) -> float:
    """Samples/s of one process that does nothing but its blocks' steps."""
    steps_s = math.fsum(block["compute_s"] for block in summary["blocks"])
    return BATCH_SIZE * int(summary["steps"]) / steps_s


Chosen = dict[Heads, dict[str, int]]
"""Each schedule's number of microbatches."""


def best_for_real(case: RealCase) -> tuple[Chosen, dict[str, Any]]:
    """Return each schedule's number of microbatches, and the record of what was tried."""
    chosen: Chosen = {}
    probes = {}
    for heads in SYSTEMS:
        work = case.work(heads)
        chosen[heads], probes[heads] = best_microbatches(partial(_with_steps, work))
    return chosen, case.facts | {"probes": probes}


def _with_steps(work: RealWork, steps: int) -> RealWork:
    return replace(work, steps=steps)


def run_real_baselines(
    case: RealCase, run: int, chosen: Chosen, ours: Sequence[Mapping[str, Any]]
) -> Iterator[dict[str, Any]]:
    """Each schedule, one record each; of the ceiling that GIM's blocks have among `ours`."""
    (gim,) = (record for record in ours if record["system"] == _gim(case))
    facts = case.facts | {"run": run, "ceiling_samples_per_s": gim["ceiling_samples_per_s"]}
    for heads, microbatches in chosen.items():
        for named, timing in run_schedules(case.work(heads), microbatches):
            yield (
                facts
                | named
                | {
                    "system": named["system"] + SYSTEMS[heads],
                    "samples_per_s": timing.batches_per_s * BATCH_SIZE,
                    "loss": timing.loss,
                }
            )
