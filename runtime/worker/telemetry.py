"""What a worker tells of itself: what its time went into, one record a step, and its restarts.

Owns the measuring. A report is lossy by design: nothing that training needs travels here.
"""

import contextlib
import os
import resource
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import psutil

from runtime.block import BlockStep
from runtime.core.state import COMPUTING, State
from runtime.program import Start
from runtime.records.schema import (
    Carried,
    Counters,
    Healed,
    Record,
    Report,
    Restarted,
    Seconds,
    StepRecord,
    WorkerResult,
)
from runtime.records.trace import Trace
from runtime.state.status_page import Field, Page


class Figures(NamedTuple):
    """What a block says of itself after a step."""

    loss: float
    probe_top1: float
    num_bad_steps: int


def figures_of(block: BlockStep) -> Figures:
    """A block's figures as they are now; it may soon be at the next step."""
    return Figures(block.loss, block.probe_top1, block.num_bad_steps)


class Stopwatch:
    """Seconds spent in each state of the core, by wall clock. Whoever tells the core an event
    calls `enter`, under the same lock; what the compute thread took it adds itself; anyone may
    read."""

    def __init__(self, trace: Trace) -> None:
        self.seconds = dict.fromkeys(State, 0.0)
        self.computed_s = 0.0  # by the compute thread itself, without the hand-over to it
        self.snapshot_s = 0.0
        self._copied_s = dict.fromkeys(
            State, 0.0
        )  # snapshots' seconds, by the state they were booked under
        self._trace = trace
        self._state, self._step = State.LINKING, 0
        self._entered_s = self._since_s = time.monotonic()

    def enter(self, state: State, step: int, now_s: float | None = None) -> None:
        """Book the time since the last call on the state that held until now, or until `now_s`
        (of time.monotonic), if the core hears of it later."""
        now_s = max(self._since_s, time.monotonic() if now_s is None else now_s)
        self.seconds[self._state] += now_s - self._since_s
        self._since_s = now_s
        if state is not self._state:
            self._trace.state(self._state, self._step, self._entered_s, now_s)
            self._state, self._entered_s = state, now_s
        self._step = step

    def took_snapshot(self, step: int, began_s: float, ended_s: float) -> None:
        """Book the copy of a state; it falls in what has held since all before it was booked."""
        self.snapshot_s += ended_s - began_s
        self._copied_s[self._state] += ended_s - began_s
        self._trace.snapshot(step, began_s, ended_s)

    def booked(self) -> Seconds:
        """What was booked so far, what is under way included; compute may be a phase ahead, for
        the compute thread adds it before the core has heard of it."""
        seconds = dict(self.seconds)
        seconds[self._state] += time.monotonic() - self._since_s
        seconds = {state: max(0.0, s - self._copied_s[state]) for state, s in seconds.items()}
        computing_s = sum(seconds[state] for state in COMPUTING)
        return Seconds(
            compute_s=self.computed_s,
            overhead_s=max(0.0, computing_s - self.computed_s),
            wait_input_s=seconds[State.WAIT_INPUT],
            wait_credit_s=seconds[State.WAIT_CREDIT],
            wait_tie_s=seconds[State.WAIT_TIE],
            snapshot_s=self.snapshot_s,
        )


class Telemetry:
    """Collects one worker's step records and makes its reports, at most one per `every_s`."""

    def __init__(
        self,
        *,
        block: int,
        start: Start,
        page: Page,
        batch_size: int,
        every_s: float,
        from_step: int,
        fill_steps: int,
        trace: Trace,
        carried: Sequence[str] = (),
    ) -> None:
        """`from_step` is where this generation begins; the page tells what earlier ones did. After
        `fill_steps` steps its steady state begins (see runtime.records.bubbles). `carried` is what
        was made of another cut's checkpoint."""
        self.trace = trace
        self.stopwatch = Stopwatch(trace)
        self.dropped_reports = 0
        self._block = block
        self._generation = start.generation
        self._detected_t = start.detected_t
        self._page = page
        self._completed_before = page[Field.COMPLETED]
        self._steady_from = from_step + fill_steps
        self._steady_began: Seconds | None = None
        self._steady: Seconds | None = None
        self._is_healed = start.generation == 0
        self._batch_size = batch_size
        self._every_s = every_s
        self._records: list[Record] = []
        self._last: StepRecord | None = None
        self._reported_s = 0.0
        self._process = psutil.Process()
        self._rss_bytes = 0
        if carried:
            self._note(Carried, notes=tuple(carried))
        if not self._is_healed:
            self._note(
                Restarted,
                cause=start.cause,
                detected_t=start.detected_t,
                from_step=from_step,
                completed_before=self._completed_before,
            )

    def count_step(self, step: int) -> None:
        """Count a finished step, at once: this generation may end before it is recorded. The
        stopwatch has been told of it before."""
        page = self._page
        page[Field.STEPS_DONE] += 1
        page[Field.RETRAINED] += step < page[Field.COMPLETED]
        page[Field.COMPLETED] = max(page[Field.COMPLETED], step + 1)
        if step + 1 >= self._steady_from:
            booked = self.stopwatch.booked()
            if self._steady_began is None:
                self._steady_began = booked
            else:
                self._steady = booked - self._steady_began

    def step_done(self, step: int, figures: Figures) -> None:
        """Record a finished step."""
        t = time.time()
        page = self._page
        if not page[Field.FIRST_STEP_T_NS]:
            page[Field.FIRST_STEP], page[Field.FIRST_STEP_T_NS] = step, int(t * 1e9)
        self._last = StepRecord(
            t=t,
            block=self._block,
            pid=os.getpid(),
            generation=self._generation,
            step=step,
            loss=figures.loss,
            probe_top1=figures.probe_top1,
            samples_per_s=self._rate(t, step),
            bad_steps=figures.num_bad_steps,
        )
        self._records.append(self._last)
        if step >= self._completed_before:
            self.healed()

    def healed(self) -> None:
        """Note, once in a later generation, that it has come beyond all generations before it."""
        if not self._is_healed:
            self._is_healed = True
            self._note(Healed, healed_s=time.time() - self._detected_t)

    def _note(self, kind: type[Restarted | Healed | Carried], **fields: Any) -> None:
        origin: dict[str, Any] = {
            "block": self._block,
            "pid": os.getpid(),
            "generation": self._generation,
        }
        event = kind(t=time.time(), **origin, **fields)
        self.trace.instant(event.event, **fields)
        self._records.append(event)

    @property
    def _first_step_t(self) -> float | None:
        """When any generation of this worker in this attempt ended its first step."""
        t_ns = self._page[Field.FIRST_STEP_T_NS]
        return t_ns / 1e9 if t_ns else None

    def _rate(self, t: float, step: int) -> float:
        """Samples a second since the first step, which itself is warm-up; deaths included."""
        elapsed_s = t - (self._first_step_t or t)
        done = step - self._page[Field.FIRST_STEP]
        return self._batch_size * done / elapsed_s if elapsed_s > 0 else 0.0

    def due_report(
        self,
        state: str,
        queue_depth: int,
        *,
        refused: int = 0,
        result_sha256: str = "",
        force: bool = False,
    ) -> Report | None:
        """The next report, if one is due; it takes the collected records with it."""
        now_s = time.monotonic()
        if not force and now_s - self._reported_s < self._every_s:
            return None
        self._reported_s = now_s
        self.trace.flush()
        records, self._records = self._records, []
        return Report(
            block=self._block,
            generation=self._generation,
            state=state,
            seconds=self.stopwatch.booked(),
            queue_depth=queue_depth,
            rss_bytes=self._memory_bytes(),
            dropped_reports=self.dropped_reports,
            refused=refused,
            result_sha256=result_sha256,
            records=tuple(records),
        )

    def _memory_bytes(self) -> int:
        """As it is now, or was when it could last be read: at times no file can be opened."""
        with contextlib.suppress(OSError):
            self._rss_bytes = self._process.memory_info().rss
        return self._rss_bytes

    def result(
        self,
        counters: Counters,
        *,
        staleness: dict[str, dict[str, int]],
        digests: dict[str, str],
    ) -> WorkerResult:
        """What the summary needs of this worker."""
        return WorkerResult(
            block=self._block,
            generation=self._generation,
            seconds=self.stopwatch.booked(),
            steady=self._steady,
            peak_rss_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            first_step_t=self._first_step_t,
            last=self._last,
            counters=counters,
            staleness=staleness,
            digests=digests,
        )
