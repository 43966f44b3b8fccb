"""A block with a worker's telemetry, for the sequential program; what it learns is the same."""

import time
from collections.abc import Callable
from typing import TypeVar

from launch.job import LocalLearningJob
from models.block import Payload, Ties
from runtime import digest
from runtime.core.state import State
from runtime.program import Start
from runtime.records.bubbles import fill_steps
from runtime.records.schema import Counters, Report, WorkerResult
from runtime.records.trace import Trace
from runtime.state.status_page import OwnedMemory
from runtime.worker.telemetry import Telemetry, figures_of

T = TypeVar("T")


class TimedBlock:
    """Wraps a block of a job; in one process a block waits for input while others compute."""

    def __init__(self, job: LocalLearningJob, block_index: int) -> None:
        self.block = job.build_block(block_index)
        self._block_index = block_index
        self._job = job
        self._memory = OwnedMemory(f"sequential-{block_index}")
        self._telemetry = Telemetry(
            block=block_index,
            start=Start(),
            page=self._memory.page,
            batch_size=job.batch_size,
            every_s=0.0,
            from_step=0,
            fill_steps=fill_steps(job),
            trace=Trace(None, block_index),
        )

    def close(self) -> None:
        """Give back what holds its figures; the block stays."""
        self._memory.close()

    def forward(self, step: int, incoming: Payload | None) -> Payload | None:
        return self._timed(State.FORWARD, step, lambda: self.block.forward(step, incoming))

    def update(self, step: int) -> Ties:
        return self._timed(State.UPDATE, step, lambda: self.block.update(step))

    def apply(self, step: int, from_below: Payload | None, from_above: Payload | None) -> None:
        self._timed(State.APPLY, step, lambda: self.block.apply(step, from_below, from_above))

    def _timed(self, state: State, step: int, run: Callable[[], T]) -> T:
        stopwatch, began_s = self._telemetry.stopwatch, time.monotonic()
        stopwatch.enter(state, step, began_s)
        result = run()
        ended_s = time.monotonic()
        stopwatch.computed_s += ended_s - began_s
        stopwatch.enter(State.WAIT_INPUT, step, ended_s)
        return result

    def step_done(self, step: int) -> Report:
        """Report a finished step, as a worker does."""
        self._telemetry.count_step(step)
        self._telemetry.step_done(step, figures_of(self.block))
        report = self._telemetry.due_report("sequential", 0, force=True)
        assert report is not None
        return report

    def result(self) -> WorkerResult:
        """What the summary needs of this block, as a worker hands it in."""
        trained, is_top = self._job.num_steps, self._block_index + 1 == self._job.num_workers
        sent, bad_steps = 0 if is_top else trained, self.block.num_bad_steps
        counters = Counters(sent=sent, trained=trained, bad_steps=bad_steps)
        digests = digest.block_records(self._block_index, self.block.state())
        return self._telemetry.result(counters, staleness={}, digests=digests)
