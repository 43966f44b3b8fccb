"""Real blocks in the throughput benchmark: the main job's own network, each system on two cores.

Owns the cases, the commands and what a record holds. The lock-step schedules train the blocks of
Greedy InfoMax end to end, each block with the head and loss that it has there, so that a batch is
the same work for all (benchmarks.real_work); LoCo's blocks do more, their guests.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.baselines import best_microbatches, run_schedules
from benchmarks.harness import ROOT, run_once
from benchmarks.real_work import RealWork
from benchmarks.throughput_cases import UNDISTURBED

GIM = ("--overlap", "0", "--tie", "none")
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

    @property
    def work(self) -> RealWork:
        """The same, as lock-step schedules get it."""
        return RealWork(
            num_ranks=self.workers, steps=self.steps, heads="blocks", flags=(*SIZE, *GIM)
        )


def real_commands(case: RealCase, run_dir: Path) -> dict[str, list[str]]:
    """The main job with overlap and without, and the same blocks in one process."""
    flags = [*SIZE, "--workers", str(case.workers), "--steps", str(case.steps)]
    timed = ["--time-alone-s", "6"]
    loco = ["--lag", str(case.lag), "--window", str(case.window), *timed]
    launch = ROOT / "launch"
    systems = {
        f"LoCo, {case.workers} workers": ("pipeline.py", loco),
        _gim(case): ("pipeline.py", [*GIM, *timed]),
        "GIM, one process, all cores": ("sequential.py", [*GIM, "--threads", "2"]),
    }
    return {
        name: [
            sys.executable,
            str(launch / script),
            *flags,
            *own,
            "--run-dir",
            str(run_dir / name),
        ]
        for name, (script, own) in systems.items()
    }


def _gim(case: RealCase) -> str:
    return f"GIM, {case.workers} workers"


def run_real(case: RealCase, run: int, run_dir: Path) -> Iterator[dict[str, Any]]:
    """Each system in turn, one record each."""
    for name, command in real_commands(case, run_dir).items():
        summary = run_once(command, Path(command[-1]))
        yield case.facts | {
            "run": run,
            "system": name,
            "samples_per_s": summary["samples_per_s"],
            "ceiling_samples_per_s": summary["ceiling_samples_per_s"],
            "summary": summary,
        }


def best_for_real(case: RealCase) -> tuple[dict[str, int], dict[str, Any]]:
    """Return each schedule's number of microbatches, and the record of what was tried."""
    best, tried = best_microbatches(lambda steps: replace(case.work, steps=steps))
    return best, case.facts | {"probes": tried}


def run_real_baselines(
    case: RealCase,
    run: int,
    microbatches: Mapping[str, int],
    ours: Sequence[Mapping[str, Any]],
) -> Iterator[dict[str, Any]]:
    """Each schedule, one record each; of the ceiling that GIM's blocks have among `ours`."""
    (gim,) = (record for record in ours if record["system"] == _gim(case))
    facts = case.facts | {"run": run, "ceiling_samples_per_s": gim["ceiling_samples_per_s"]}
    for record in run_schedules(case.work, microbatches, batch_size=BATCH_SIZE):
        yield facts | record
