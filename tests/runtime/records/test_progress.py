"""What the user is told of a worker's records, and how its units are shown."""

from types import SimpleNamespace

import pytest

from runtime.records.progress import Progress, event_line, units_label
from runtime.records.schema import (
    Carried,
    Healed,
    Record,
    Report,
    Restarted,
    Seconds,
    StepRecord,
)

WORKER = {"t": 5.0, "block": 2, "pid": 7, "generation": 1}


def step(step: int, *, bad: int = 0) -> StepRecord:
    figures = {"loss": 1.5, "probe_top1": 0.5, "samples_per_s": 8.0}
    return StepRecord(step=step, bad_steps=bad, **figures, **WORKER)


def report(compute_s: float, *records: Record, generation: int = 1) -> Report:
    return Report(
        block=2,
        generation=generation,
        state="update",
        seconds=Seconds(compute_s=compute_s),
        queue_depth=0,
        rss_bytes=1,
        dropped_reports=0,
        refused=0,
        result_sha256="",
        records=records,
    )


@pytest.mark.parametrize(
    ("record", "line"),
    [
        (
            Restarted(
                cause="was killed by SIGKILL",
                detected_t=4.0,
                completed_before=41,
                from_step=40,
                **WORKER,
            ),
            "worker 2 was killed by SIGKILL, after 41 steps; a new one resumes from step 40",
        ),
        (Healed(healed_s=3.14159, **WORKER), "worker 2 is back where it was, 3.1 s later"),
        (
            Carried(notes=("the weights of layer1", "a fresh optimizer"), **WORKER),
            "worker 2 begins with the weights of layer1, a fresh optimizer",
        ),
    ],
)
@pytest.mark.parametrize("before", [None, step(40), step(40, bad=3)])
def test_event_is_said_whatever_the_step_before_it(record, line, before):
    assert event_line(record, before) == line


def test_step_is_no_news():
    assert event_line(step(0), None) == ""
    assert event_line(step(1), step(0)) == ""


def test_skipped_step_is_told_only_when_the_count_rises():
    records = [step(n, bad=bad) for n, bad in enumerate([0, 1, 1, 3, 3])]
    lines = [
        event_line(now, before) for before, now in zip([None, *records], records, strict=False)
    ]
    why = "or its ties, was left out: numbers were not finite"
    assert lines == [
        "",
        f"worker 2: step 1, {why} (1 such steps so far)",
        "",
        f"worker 2: step 3, {why} (3 such steps so far)",
        "",
    ]


def test_steps_skipped_before_the_first_record_are_no_news():
    """A resumed run counts from its checkpoint."""
    assert event_line(step(100, bad=7), None) == ""
    assert event_line(step(101, bad=8), step(100, bad=7)).startswith("worker 2: step 101")


def test_count_that_falls_back_to_a_snapshots_is_no_news():
    assert event_line(step(40, bad=1), step(43, bad=2)) == ""


def job(report_every_s: float = 0.5) -> SimpleNamespace:
    return SimpleNamespace(
        num_workers=3, unit_names=lambda k: ([f"u{k}"], []), report_every_s=report_every_s
    )


@pytest.mark.parametrize(("report_every_s", "silent_s"), [(0.5, 6.0), (10.0, 0.0)])
def test_worker_is_silent_when_it_has_missed_some_reports(report_every_s, silent_s):
    now_s = [100.0]
    progress = Progress(job(report_every_s), clock=lambda: now_s[0])
    progress.take(report(1.0))
    assert [status.silent_s for status in progress.statuses()] == [0.0]
    now_s[0] += 6.0
    assert [status.silent_s for status in progress.statuses()] == [silent_s]
    progress.take(report(2.0))
    assert [status.silent_s for status in progress.statuses()] == [0.0]


def test_progress_shows_what_was_spent_since_a_report():
    progress = Progress(job())
    assert progress.statuses() == []
    assert progress.take(report(2.0)) == []
    (status,) = progress.statuses()
    assert (status.units, status.steps_done, status.loss, status.samples_per_s) == (
        *("u2", 0, None),
        0.0,
    )
    healed = Healed(healed_s=1.0, **WORKER)
    assert progress.take(report(5.0, step(3), healed)) == [
        "worker 2 is back where it was, 1.0 s later"
    ]
    (status,) = progress.statuses()
    assert (status.steps_done, status.loss, status.spent.compute_s) == (4, 1.5, 3.0)
    progress.take(report(5.0))  # nothing was spent: what was shown stays
    assert progress.statuses()[0].spent.compute_s == 3.0
    progress.take(report(1.0, generation=2))  # which counts afresh
    assert progress.statuses()[0].spent.compute_s == 1.0


def test_units_are_shown_with_their_guest_in_brackets():
    assert units_label(["stem", "layer1"], []) == "stem layer1"
    assert units_label(["stem"], ["layer1", "layer2"]) == "stem (+ layer1 layer2)"
