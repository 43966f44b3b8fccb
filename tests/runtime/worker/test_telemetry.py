"""Telemetry: one record a step, each restart and each recovery once, reports in their time."""

import os
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

from runtime.core.state import State
from runtime.program import Start
from runtime.records.schema import (
    Counters,
    Event,
    Report,
    Restarted,
    Seconds,
    StepRecord,
    WorkerResult,
)
from runtime.records.trace import Trace
from runtime.state.status_page import Field, OwnedMemory
from runtime.worker import telemetry
from runtime.worker.telemetry import Telemetry, figures_of

BLOCK = SimpleNamespace(loss=2.5, probe_top1=0.25, num_bad_steps=0)
EVERY_S = 5.0
FILL_STEPS = 2
NEXT_GENERATION = {"generation": 1, "cause": "was killed by SIGKILL", "detected_t": 1008.0}


class Worker:
    """One worker through its generations, on real memory and a clock that the test sets."""

    def __init__(self, memory: OwnedMemory, monkeypatch: pytest.MonkeyPatch) -> None:
        self.page = memory.page
        self.now_s = 1000.0
        clock = SimpleNamespace(time=lambda: self.now_s, monotonic=lambda: self.now_s)
        monkeypatch.setattr(telemetry, "time", clock)
        self.begin()

    def begin(self, *, from_step: int = 0, carried: tuple[str, ...] = (), **start: Any) -> None:
        self.telemetry = Telemetry(
            block=3,
            start=Start(**start),
            page=self.page,
            batch_size=8,
            every_s=EVERY_S,
            from_step=from_step,
            fill_steps=FILL_STEPS,
            trace=Trace(None, 0),
            carried=carried,
        )

    def train(self, *steps: int, every_s: float = 1.0, block: Any = BLOCK) -> None:
        for step in steps:
            self.now_s += every_s
            self.telemetry.count_step(step)
            self.telemetry.step_done(step, figures_of(block))

    def report(self, *, force: bool = True) -> Report:
        report = self.telemetry.due_report("update", 2, force=force)
        assert report is not None
        return report

    def events(self) -> list[Event]:
        return [record for record in self.report().records if isinstance(record, Event)]

    def result(self) -> WorkerResult:
        return self.telemetry.result(Counters(sent=2), staleness={}, digests={})

    def words(self, *words: Field) -> list[int]:
        return [self.page[word] for word in words]


@pytest.fixture
def worker(memory, monkeypatch) -> Worker:
    return Worker(memory, monkeypatch)


# Steps ------------------------------------------------------------------------------------------


def test_step_makes_one_record(worker):
    worker.train(0, block=SimpleNamespace(loss=2.5, probe_top1=0.25, num_bad_steps=1))
    record = StepRecord(
        t=1001.0,
        block=3,
        pid=os.getpid(),
        generation=0,
        step=0,
        loss=2.5,
        probe_top1=0.25,
        samples_per_s=0.0,
        bad_steps=1,
    )
    assert worker.report().records == (record,)


def test_page_counts_steps_and_remembers_the_first(worker):
    worker.begin(from_step=40)
    worker.train(40, 41, 42)
    words = (Field.STEPS_DONE, Field.COMPLETED, Field.RETRAINED, Field.FIRST_STEP)
    assert worker.words(*words) == [3, 43, 0, 40]
    assert worker.page[Field.FIRST_STEP_T_NS] == 1001 * 10**9


def test_steps_ended_by_a_generation_before_count_as_retrained(worker):
    worker.train(0, 1, 2, 3, 4)
    worker.begin(from_step=2, **NEXT_GENERATION)
    worker.train(2, 3)
    assert worker.words(Field.RETRAINED, Field.COMPLETED) == [2, 5]
    worker.begin(from_step=3, **(NEXT_GENERATION | {"generation": 2}))
    worker.train(3, 4, 5)
    assert worker.words(Field.RETRAINED, Field.COMPLETED, Field.STEPS_DONE) == [4, 6, 10]
    assert worker.words(Field.FIRST_STEP, Field.FIRST_STEP_T_NS) == [0, 1001 * 10**9]


def test_rate_leaves_the_warm_up_out(worker):
    worker.train(10, every_s=100.0)
    worker.train(11, 12, every_s=0.5)
    rates = [record.samples_per_s for record in worker.report().records]
    assert rates == [0.0, pytest.approx(16.0), pytest.approx(16.0)]


def test_rate_is_over_all_generations_and_what_they_cost(worker):
    """Four steps are done 10 s after the first one, and one of them was done twice."""
    worker.train(0, 1, 2)
    worker.now_s += 5.0
    worker.begin(from_step=2, **NEXT_GENERATION)
    worker.report()
    worker.train(2, 3, 4)
    records = worker.report().records
    rates = [record.samples_per_s for record in records if isinstance(record, StepRecord)]
    assert rates == [pytest.approx(8 * 2 / 8), pytest.approx(8 * 3 / 9), pytest.approx(8 * 4 / 10)]


def test_clock_that_is_set_back_makes_no_rate(worker):
    worker.train(0)
    worker.train(1, every_s=-50.0)
    assert [record.samples_per_s for record in worker.report().records] == [0.0, 0.0]


# Lives ------------------------------------------------------------------------------------------


def test_first_generation_is_no_event(worker):
    worker.train(0, 1)
    worker.telemetry.healed()
    assert worker.events() == []


def test_later_generation_says_why_and_from_which_step_it_begins(worker):
    worker.train(0, 1, 2)
    worker.now_s = 1010.0
    worker.begin(from_step=2, **NEXT_GENERATION)
    restart = Restarted(
        t=1010.0,
        block=3,
        pid=os.getpid(),
        generation=1,
        cause="was killed by SIGKILL",
        detected_t=1008.0,
        from_step=2,
        completed_before=3,
    )
    assert worker.events() == [restart]
    assert worker.events() == []


def test_worker_is_healed_once_when_it_is_beyond_all_before(worker):
    worker.train(0, 1, 2)
    worker.now_s = 1010.0
    worker.begin(from_step=1, **NEXT_GENERATION)
    worker.report()
    worker.train(1, 2)
    assert worker.events() == []
    worker.train(3)
    (healed,) = worker.events()
    assert (healed.event, healed.generation, healed.healed_s) == ("healed", 1, 5.0)
    worker.train(4)
    worker.telemetry.healed()
    assert worker.events() == []


def test_generation_without_a_step_to_run_is_healed_at_the_end(worker):
    worker.train(0, 1, 2)
    worker.begin(from_step=3, **NEXT_GENERATION)
    worker.telemetry.healed()
    assert [event.event for event in worker.events()] == ["restart", "healed"]


def test_step_that_heals_comes_before_the_event(worker):
    worker.train(0)
    worker.begin(from_step=1, **NEXT_GENERATION)
    worker.train(1)
    kinds = [getattr(record, "event", "step") for record in worker.report().records]
    assert kinds == ["restart", "step", "healed"]


def test_carried_state_is_told_once(worker):
    worker.begin(from_step=40, carried=("the weights of layer1", "a fresh optimizer"))
    (carried,) = worker.events()
    assert (carried.event, carried.block) == ("carried", 3)
    assert carried.notes == ("the weights of layer1", "a fresh optimizer")
    assert worker.events() == []


# Reports ----------------------------------------------------------------------------------------


def test_report_comes_when_it_is_due_and_takes_the_records(worker):
    due = partial(worker.telemetry.due_report, "forward", 0)
    worker.train(0)
    assert [record.step for record in due().records] == [0]
    worker.train(1, 2, 3, 4)
    assert due() is None
    worker.train(5)
    assert [record.step for record in due().records] == [1, 2, 3, 4, 5]
    assert due() is None
    worker.now_s += EVERY_S
    assert due().records == ()


def test_forced_report_does_not_wait_and_puts_off_the_next(worker):
    worker.report()
    worker.now_s += EVERY_S - 1
    worker.train(0, every_s=0.0)
    assert len(worker.report(force=True).records) == 1
    worker.now_s += EVERY_S - 1
    assert worker.telemetry.due_report("forward", 0) is None


def test_report_says_how_the_worker_is(worker):
    worker.telemetry.dropped_reports = 4
    report = worker.report()
    assert report.rss_bytes > 0
    assert (report.block, report.state, report.generation) == (3, "update", 0)
    assert (report.queue_depth, report.dropped_reports, report.result_sha256) == (2, 4, "")


def test_seconds_are_booked_on_the_state_that_held(worker):
    watch = worker.telemetry.stopwatch
    for state, lasts_s in {
        State.WAIT_INPUT: 1.0,
        State.FORWARD: 2.0,
        State.UPDATE: 4.0,
        State.WAIT_TIE: 8.0,
        State.APPLY: 16.0,
        State.WAIT_CREDIT: 64.0,
    }.items():
        watch.enter(state, 0)
        worker.now_s += lasts_s
    watch.computed_s = 20.0
    seconds = Seconds(
        compute_s=20.0, overhead_s=2.0, wait_input_s=1.0, wait_credit_s=64.0, wait_tie_s=8.0
    )
    assert worker.report().seconds == seconds
    worker.now_s += 1.0
    assert worker.report().seconds == replace(seconds, wait_credit_s=65.0)


def test_event_that_is_heard_late_is_booked_when_it_was(worker):
    watch = worker.telemetry.stopwatch
    watch.enter(State.FORWARD, 0)
    worker.now_s += 5.0
    watch.enter(State.UPDATE, 0, worker.now_s - 2.0)
    worker.now_s += 1.0
    watch.enter(State.WAIT_TIE, 0)
    watch.enter(State.APPLY, 0, worker.now_s - 4.0)  # no time is booked twice
    worker.now_s += 7.0
    watch.enter(State.WAIT_CREDIT, 1)
    assert [watch.seconds[s] for s in (State.FORWARD, State.UPDATE, State.APPLY)] == [3, 3, 7]


@pytest.mark.parametrize(
    ("state", "share"), [(State.FORWARD, "overhead_s"), (State.WAIT_INPUT, "wait_input_s")]
)
def test_copy_of_a_state_is_taken_off_what_it_fell_in(worker, state, share):
    watch = worker.telemetry.stopwatch
    watch.enter(state, 0)
    worker.now_s += 10.0
    watch.took_snapshot(0, worker.now_s - 4.0, worker.now_s)
    seconds = watch.booked()
    assert (seconds.snapshot_s, getattr(seconds, share)) == (4.0, 6.0)
    assert seconds.total_s == 10.0


def test_copy_behind_an_event_heard_late_is_booked_once(worker):
    watch = worker.telemetry.stopwatch
    watch.enter(State.APPLY, 0)
    worker.now_s += 10.0  # 3 s of an apply, 4 of a copy, 3 of waiting
    watch.computed_s = 3.0
    watch.enter(State.WAIT_INPUT, 1, worker.now_s - 7.0)
    watch.took_snapshot(1, worker.now_s - 7.0, worker.now_s - 3.0)
    assert watch.booked() == Seconds(compute_s=3.0, snapshot_s=4.0, wait_input_s=3.0)


def test_steady_state_is_from_a_fill_to_the_last_step(worker):
    """What the first steps, another generation's, and the way out took, is no part of it."""
    watch = worker.telemetry.stopwatch
    worker.train(0, 1, 2)
    worker.begin(from_step=2, **NEXT_GENERATION)
    watch = worker.telemetry.stopwatch
    for step, waits_s in ((2, 8.0), (3, 4.0), (4, 2.0), (5, 1.0)):
        assert worker.result().steady is None or step == 5
        watch.enter(State.WAIT_TIE, step)
        worker.now_s += waits_s
        watch.enter(State.APPLY, step)
        worker.now_s += 0.5
        watch.computed_s += 0.25
        watch.enter(State.WAIT_CREDIT, step + 1)
        worker.telemetry.count_step(step)
    worker.now_s += 64.0
    assert worker.result().steady == Seconds(compute_s=0.5, overhead_s=0.5, wait_tie_s=3.0)


def test_result_holds_what_the_summary_needs(worker):
    worker.train(0, 1)
    worker.report()
    result = worker.result()
    assert (result.block, result.counters, result.first_step_t) == (3, Counters(sent=2), 1001)
    assert result.last.step == 1
    assert result.peak_rss_bytes > 0


def test_result_of_a_generation_without_steps_has_the_first_time(worker):
    assert worker.result().first_step_t is None
    worker.train(0)
    worker.begin(from_step=1, **NEXT_GENERATION)
    assert (worker.result().last, worker.result().first_step_t) == (None, 1001.0)
