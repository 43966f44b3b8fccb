"""What a worker tells of itself: where its time went, and one record a step.

Owns the measuring and the shape of reports. A report is lossy by design: nothing that training
needs travels here.
"""

import os
import resource
import time
from collections.abc import Mapping
from typing import Any

import psutil

from runtime.core.worker import State

Report = dict[str, Any]

COMPUTING = (State.FORWARD, State.UPDATE, State.APPLY)


class Stopwatch:
    """Seconds spent in each state of the core, by wall clock."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(State, 0.0)
        self.computed_s = 0.0  # by the compute thread itself, without the hand-over to it
        self._state = State.LINKING
        self._since_s = time.monotonic()

    def enter(self, state: State) -> None:
        """Book the time since the last call on the state that held until now."""
        now_s = time.monotonic()
        self.seconds[self._state] += now_s - self._since_s
        self._state, self._since_s = state, now_s

    def shares(self) -> dict[str, float]:
        """Seconds by the words that reports and summaries use."""
        self.enter(self._state)
        computing_s = sum(self.seconds[state] for state in COMPUTING)
        return {
            "compute_s": self.computed_s,
            "overhead_s": max(0.0, computing_s - self.computed_s),
            "wait_input_s": self.seconds[State.WAIT_INPUT],
            "wait_credit_s": self.seconds[State.WAIT_CREDIT],
            "wait_tie_s": self.seconds[State.WAIT_TIE],
        }


class Telemetry:
    """Collects one worker's step records and makes its reports, at most one per `every_s`."""

    def __init__(self, *, block: int, generation: int, batch_size: int, every_s: float) -> None:
        self.stopwatch = Stopwatch()
        self.dropped_reports = 0
        self._block = block
        self._generation = generation
        self._batch_size = batch_size
        self._every_s = every_s
        self._records: list[dict[str, Any]] = []
        self._first_step_t: float | None = None
        self._first_step = 0
        self._last: dict[str, Any] | None = None
        self._reported_s = 0.0
        self._process = psutil.Process()

    def step_done(self, step: int, *, loss: float, probe_top1: float) -> None:
        """Record a finished step."""
        t = time.time()
        if self._first_step_t is None:
            self._first_step_t, self._first_step = t, step
        record = {
            "t": t,
            "block": self._block,
            "pid": os.getpid(),
            "generation": self._generation,
            "step": step,
            "loss": loss,
            "probe_top1": probe_top1,
            "samples_per_s": self._rate(t, step),
        }
        self._last = record
        self._records.append(record)

    def _rate(self, t: float, step: int) -> float:
        """Samples a second since the first step, which itself is warm-up."""
        elapsed_s = t - (self._first_step_t or t)
        done = step - self._first_step
        return self._batch_size * done / elapsed_s if elapsed_s > 0 else 0.0

    def due_report(self, state: State, queue_depth: int, *, force: bool = False) -> Report | None:
        """The next report, if one is due; it takes the collected records with it."""
        now_s = time.monotonic()
        if not force and now_s - self._reported_s < self._every_s:
            return None
        self._reported_s = now_s
        records, self._records = self._records, []
        return {
            "kind": "report",
            "block": self._block,
            "records": records,
            "state": state.value,
            "seconds": self.stopwatch.shares(),
            "queue_depth": queue_depth,
            "rss_bytes": self._process.memory_info().rss,
            "dropped_reports": self.dropped_reports,
        }

    def closing(self, counters: Mapping[str, int]) -> Report:
        """What the summary needs of this worker."""
        return {
            "block": self._block,
            "seconds": self.stopwatch.shares(),
            "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            "first_step_t": self._first_step_t,
            "last": self._last,
            "counters": dict(counters),
        }
