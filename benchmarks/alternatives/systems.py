"""What a user could train the same network with on one machine, and how fast each is.

Owns the systems, their commands and what a record of a rate holds. Knows nothing of accuracy.
"""

import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.harness import ROOT, run_once
from benchmarks.lock_step.data_parallel import DataParallelCase
from benchmarks.lock_step.processes import run_lock_step
from benchmarks.lock_step.rank import RankCase
from benchmarks.lock_step.real_work import RealWork, real_work
from benchmarks.lock_step.schedule import ScheduleCase
from benchmarks.throughput.baselines import best_microbatches
from launch.config_file import parse
from launch.environment import Environment
from launch.planning.resolved import Resolved
from launch.resolve import dump, resolve
from models.data import LAYOUTS

NEAR = "one machine"
END_TO_END = ("--method", "e2e")
GIM = ("--overlap", "0", "--tie", "none")
LOCO = ("--tie", "elastic", "--lag", "1")
SCHEDULES = ("GPipe", "1F1B")
WORKERS = 2


@dataclass(frozen=True, kw_only=True)
class Task:
    """What all train, on cores: `flags` are the main job's, without a method, a cut, a length or
    a device."""

    flags: tuple[str, ...]
    batch_size: int

    @property
    def on_cpu(self) -> tuple[str, ...]:
        """The flags with the device."""
        return (*self.flags, "--device", "cpu")

    @property
    def settings(self) -> str:
        """The flags as records have them: without the path of the data."""
        return " ".join(_without_path(flag) for flag in self.flags)

    def resolved(self, *flags: str, length: Sequence[str]) -> Resolved:
        """The run of a method. Raises ConfigError."""
        config = parse([*self.on_cpu, *flags, *length], prog="alternatives")
        environment = Environment(world_size=None, local_world_size=None, cores=WORKERS, gpus=0)
        return resolve(config, environment=environment)


def _without_path(flag: str) -> str:
    layout, _, path = flag.partition(":")
    return layout if path and layout in LAYOUTS else flag


@dataclass(frozen=True, kw_only=True)
class Learner:
    """What a system's processes learn together: `flags` are the main job's, of a method and its
    cut; a batch is split into `microbatches`, or its images over `shards`."""

    name: str
    flags: tuple[str, ...] = END_TO_END
    microbatches: int = 1
    shards: int = 1


@dataclass(frozen=True, kw_only=True)
class Rate:
    """A system's samples a second, the most resident bytes of each process that computes, and what
    these learn."""

    samples_per_s: float
    peak_rss_bytes: tuple[int, ...]
    learner: Learner


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """`steps` of a run, and the control address of a benchmarks.wan.proxy, or ""."""

    steps: int
    wan: str = ""

    @property
    def length(self) -> tuple[str, ...]:
        return ("--steps", str(self.steps))


Measure = Callable[[Task, Conditions], Rate]


def one_process(task: Task, conditions: Conditions) -> Rate:
    """End to end with all cores."""
    threads = str(len(os.sched_getaffinity(0)))
    flags = [*task.on_cpu, *END_TO_END, "--threads", threads, *conditions.length]
    program = str(ROOT / "launch" / "sequential.py")
    return _run_ours([program, *flags], Learner(name="end to end"))


def data_parallel(task: Task, conditions: Conditions) -> Rate:
    """DistributedDataParallel with a core a rank and the loss of the whole batch."""
    run = task.resolved(*END_TO_END, length=conditions.length)
    case = DataParallelCase(num_ranks=WORKERS, steps=conditions.steps, resolved=dump(run))
    learner = Learner(name=f"end to end, {WORKERS} shards", shards=WORKERS)
    return _run_lock_step(case, task, conditions, learner)


class Pipeline:
    """The main job with a core a worker, cut once by times that are measured."""

    def __init__(self, name: str, *method: str) -> None:
        self._name = name
        self._method = (*method, "--workers", str(WORKERS))
        self._cuts = ""

    def __call__(self, task: Task, conditions: Conditions) -> Rate:
        if not self._cuts:
            profiled = ("--cuts", "profiled", "--threads", "1")
            run = task.resolved(*self._method, *profiled, length=conditions.length)
            self._cuts = ",".join(map(str, run.config.cuts))
        learner = Learner(
            name=f"{self._name}, cuts {self._cuts}", flags=(*self._method, "--cuts", self._cuts)
        )
        flags = [*task.on_cpu, *learner.flags, "--threads", "1", *conditions.length]
        program = [str(ROOT / "launch" / "pipeline.py")]
        if conditions.wan:
            program = ["-m", "benchmarks.wan.pipeline_far", conditions.wan]
            flags += ["--link", "zmq-tcp"]
        return _run_ours([*program, *flags], learner)


class LockStep:
    """torch's schedules, cut by times that are measured, each with the number of microbatches that
    serves it best; both are found once for each link."""

    def __init__(self) -> None:
        self._work: RealWork | None = None
        self._best: dict[bool, Mapping[str, int]] = {}

    def schedule(self, name: str) -> Measure:
        def measure(task: Task, conditions: Conditions) -> Rate:
            if self._work is None:
                flags = [*task.flags, "--cuts", "profiled"]
                self._work = real_work(flags, workers=WORKERS, steps=1, heads="top")
            work, is_far = self._work, bool(conditions.wan)
            if is_far not in self._best:
                self._best[is_far], _ = best_microbatches(
                    lambda steps: replace(work, steps=steps),
                    wan=conditions.wan,
                    schedules=SCHEDULES,
                )
            m = self._best[is_far][name]
            case = ScheduleCase(
                schedule=name, microbatches=m, work=replace(work, steps=conditions.steps)
            )
            learner = Learner(name=f"end to end, {m} microbatches", microbatches=m)
            return _run_lock_step(case, task, conditions, learner)

        return measure


def _run_ours(arguments: Sequence[str], learner: Learner) -> Rate:
    with tempfile.TemporaryDirectory() as directory:
        run_dir = Path(directory, "run")
        command = [sys.executable, *arguments, "--quick-end", "--run-dir", str(run_dir)]
        summary = run_once(command, run_dir)
    return Rate(
        samples_per_s=summary["samples_per_s"],
        peak_rss_bytes=tuple(block["peak_rss_bytes"] for block in summary["blocks"]),
        learner=learner,
    )


def _run_lock_step(case: RankCase, task: Task, conditions: Conditions, learner: Learner) -> Rate:
    (timing,) = run_lock_step([case], wan=conditions.wan)
    return Rate(
        samples_per_s=timing.batches_per_s * task.batch_size,
        peak_rss_bytes=timing.peak_rss_bytes,
        learner=learner,
    )


ALONE = "end to end, one process"  # with all cores


def systems() -> dict[str, Measure]:
    """How each is measured, by its name; only the first has no link."""
    lock_step = LockStep()
    return {
        ALONE: one_process,
        "end to end, DDP": data_parallel,
        **{f"end to end, {name}": lock_step.schedule(name) for name in SCHEDULES},
        "Greedy InfoMax": Pipeline("Greedy InfoMax", *GIM),
        "LoCo": Pipeline("LoCo", *LOCO),
    }


def measure_rates(
    measures: Mapping[str, Measure], task: Task, conditions: Conditions
) -> Iterator[dict[str, Any]]:
    """Each system in turn, one record each."""
    for name, measure in measures.items():
        if conditions.wan and name == ALONE:
            continue
        rate = measure(task, conditions)
        yield {
            "system": name,
            "settings": task.settings,
            "batch_size": task.batch_size,
            "steps": conditions.steps,
            "samples_per_s": rate.samples_per_s,
            "peak_rss_bytes": list(rate.peak_rss_bytes),
            "learner": asdict(rate.learner),
        }
