"""A block with a stopwatch, for the sequential program: times each step, changes nothing."""

import resource
import time
from collections.abc import Callable
from typing import Any, TypeVar

import psutil

from launch.job import LocalLearningJob
from models.block import Payload, Ties
from runtime import digest
from runtime.records.bubbles import fill_steps
from runtime.records.reports import WorkerStatus, units_label

T = TypeVar("T")


class TimedBlock:
    """Wraps block k of a job, adds up what its steps take, and makes its records and result."""

    def __init__(self, job: LocalLearningJob, k: int) -> None:
        self.block = job.build_block(k)
        self._job = job
        self._k = k
        self._record: dict[str, Any] = {}
        self._wall_s: list[float] = []
        self._fill_steps = fill_steps(job)
        self._first_step_t = 0.0
        self._process = psutil.Process()

    def forward(self, step: int, incoming: Payload | None) -> Payload | None:
        self._wall_s.append(0.0)
        return self._timed(lambda: self.block.forward(step, incoming))

    def update(self, step: int) -> Ties:
        return self._timed(lambda: self.block.update(step))

    def apply(self, step: int, from_below: Payload | None, from_above: Payload | None) -> None:
        self._timed(lambda: self.block.apply(step, from_below, from_above))

    def _timed(self, run: Callable[[], T]) -> T:
        began_s = time.perf_counter()
        result = run()
        self._wall_s[-1] += time.perf_counter() - began_s
        return result

    def step_done(self, step: int) -> dict[str, Any]:
        """The record of a finished step, as a worker's."""
        t = time.time()
        self._first_step_t = self._first_step_t or t
        elapsed_s = t - self._first_step_t
        self._record = {
            "t": t,
            "block": self._k,
            "pid": self._process.pid,
            "generation": 0,
            "step": step,
            "loss": self.block.loss,
            "probe_top1": self.block.probe_top1,
            "samples_per_s": self._job.batch_size * step / elapsed_s if elapsed_s else 0.0,
            "bad_steps": self.block.num_bad_steps,
        }
        return self._record

    def status(self) -> WorkerStatus:
        """The latest record, for the view; in one process a block waits while others compute."""
        record = self._record
        elapsed_s = record["t"] - self._first_step_t + self._wall_s[0]
        share = min(1.0, sum(self._wall_s) / elapsed_s)
        return WorkerStatus(
            block=self._k,
            units=units_label(*self._job.unit_names(self._k)),
            step=record["step"] + 1,
            num_steps=self._job.num_steps,
            loss=record["loss"],
            probe_top1=record["probe_top1"],
            samples_per_s=record["samples_per_s"],
            compute_share=share,
            wait_input_share=1 - share,
            wait_credit_share=0.0,
            wait_tie_share=0.0,
            queue_depth=0,
            rss_bytes=self._process.memory_info().rss,
            state="sequential",
        )

    def result(self) -> dict[str, Any]:
        """What the summary needs of this block, as a worker hands it in."""
        num_steps = len(self._wall_s)
        others = ("overhead_s", "wait_input_s", "wait_credit_s", "wait_tie_s", "snapshot_s")
        waits = dict.fromkeys(others, 0.0)
        steady_s = sum(self._wall_s[self._fill_steps :])
        return {
            "last": self._record,
            "first_step_t": self._first_step_t,
            "seconds": {"compute_s": sum(self._wall_s), **waits},
            "steady": {"compute_s": steady_s, **waits} if steady_s else None,
            "counters": {
                "sent": num_steps if self._k + 1 < self._job.num_workers else 0,
                "trained": num_steps,
                "retrained": 0,
                "bad_steps": self.block.num_bad_steps,
                "replayed": 0,
                "duplicates_dropped": 0,
            },
            "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            "digests": digest.block_records(self._k, self.block.state()),
        }
