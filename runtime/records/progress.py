"""What is told of a run's workers while they run, made of their reports.

Owns which facts those are, and in which words. Knows nothing of how reports travel, or of how a
view shows them.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from runtime.job import Job
from runtime.records.schema import Carried, Healed, Record, Report, Restarted, Seconds, StepRecord

SILENCE_S = 5.0  # without a report, until it is told


@dataclass(frozen=True, kw_only=True)
class WorkerStatus:
    """How a worker is: its latest report and for how long it has been silent if that is longer than
    usual, its latest step if one is
    known, and what it spent its time on since the report before. `units` names the block's home and
    guest in a few letters."""

    units: str
    report: Report
    last: StepRecord | None
    spent: Seconds
    silent_s: float = 0.0

    @property
    def steps_done(self) -> int:
        return 0 if self.last is None else self.last.step + 1

    @property
    def loss(self) -> float | None:
        return None if self.last is None else self.last.loss

    @property
    def probe_top1(self) -> float | None:
        return None if self.last is None else self.last.probe_top1

    @property
    def samples_per_s(self) -> float:
        return 0.0 if self.last is None else self.last.samples_per_s


class Progress:
    """What has been heard of all workers of a job so far; `last` is each one's latest step."""

    def __init__(self, job: Job, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._patience_s = max(SILENCE_S, 3 * job.report_every_s)
        self._heard_s: dict[int, float] = {}
        self.last: dict[int, StepRecord] = {}
        self._units = [units_label(*job.unit_names(k)) for k in range(job.num_workers)]
        self._reports: dict[int, Report] = {}
        self._spent: dict[int, Seconds] = {}

    def take(self, report: Report) -> list[str]:
        """Take the next report; return what the user should be told of it."""
        block, before = report.block, self._reports.get(report.block)
        is_same_generation = before is not None and before.generation == report.generation
        spent = report.seconds - before.seconds if before and is_same_generation else report.seconds
        if spent.total_s > 0:
            self._spent[block] = spent
        self._reports[block], self._heard_s[block] = report, self._clock()
        lines = []
        for record in report.records:
            lines.append(event_line(record, self.last.get(block)))
            if isinstance(record, StepRecord):
                self.last[block] = record
        return [line for line in lines if line]

    def statuses(self) -> list[WorkerStatus]:
        """Those of all that have reported, lowest first."""
        return [
            WorkerStatus(
                units=self._units[block],
                report=report,
                last=self.last.get(block),
                spent=self._spent.get(block, Seconds()),
                silent_s=self._silent_s(block),
            )
            for block, report in sorted(self._reports.items())
        ]

    def _silent_s(self, block: int) -> float:
        silent_s = self._clock() - self._heard_s[block]
        return silent_s if silent_s > self._patience_s else 0.0


def units_label(home: Sequence[str], guest: Sequence[str]) -> str:
    """A block's units as shown to people: its home, and its guest in brackets."""
    return " ".join(home) + (f" (+ {' '.join(guest)})" if guest else "")


def event_line(record: Record, before: StepRecord | None) -> str:
    """What the user should be told of a record; mostly nothing. `before` is the same worker's step
    record before this one."""
    who = f"worker {record.block}"
    match record:
        case Restarted():
            return (
                f"{who} {record.cause}, after {record.completed_before} steps; a new one"
                f" resumes from step {record.from_step}"
            )
        case Healed():
            return f"{who} is back where it was, {record.healed_s:.1f} s later"
        case Carried():
            return f"{who} begins with {', '.join(record.notes)}"
        case StepRecord() if record.bad_steps > _bad_before(record, before):
            return (
                f"{who}: step {record.step}, or its ties, was left out: numbers were not finite"
                f" ({record.bad_steps} such steps so far)"
            )
    return ""


def _bad_before(record: StepRecord, before: StepRecord | None) -> int:
    """The bad steps before this record; all of its own if no one knows."""
    if before is not None:
        return before.bad_steps
    return 0 if record.step == 0 else record.bad_steps
