"""What the user is told of a worker's records, and how its units are shown."""

from typing import Any

import pytest

from runtime.records.reports import event_line, units_label


def step(step: int, *, bad: int = 0) -> dict[str, Any]:
    return {"block": 2, "step": step, "loss": 1.5, "bad_steps": bad}


def event(kind: str, **facts: Any) -> dict[str, Any]:
    return {"event": kind, "block": 2, "generation": 1, **facts}


@pytest.mark.parametrize(
    ("record", "line"),
    [
        (
            event("restart", cause="was killed by SIGKILL", completed_before=41, from_step=40),
            "worker 2 was killed by SIGKILL, after 41 steps; a new one goes on from step 40",
        ),
        (event("healed", healed_s=3.14159), "worker 2 is back where it was, 3.1 s later"),
        (
            event("carried", notes=["the weights of layer1", "a fresh optimizer"]),
            "worker 2 begins with the weights of layer1, a fresh optimizer",
        ),
    ],
)
@pytest.mark.parametrize("before", [None, step(40), step(40, bad=3)])
def test_an_event_is_said_whatever_the_step_before_it(record, line, before):
    assert event_line(record, before) == line


def test_a_step_is_no_news():
    assert event_line(step(0), None) == ""
    assert event_line(step(1), step(0)) == ""


def test_an_event_that_is_not_known_is_no_news():
    assert event_line(event("eclipse"), step(0)) == ""


def test_a_skipped_step_is_said_when_the_count_rises_and_only_then():
    records = [step(n, bad=bad) for n, bad in enumerate([0, 1, 1, 3, 3])]
    lines = [
        event_line(now, before) for before, now in zip([None, *records], records, strict=False)
    ]
    why = "was skipped, for its numbers were not finite"
    assert lines == [
        "",
        f"worker 2: step 1 {why} (1 such steps so far)",
        "",
        f"worker 2: step 3 {why} (3 such steps so far)",
        "",
    ]


def test_what_was_skipped_before_the_first_record_is_no_news():
    """A run that is gone on with counts from its checkpoint."""
    assert event_line(step(100, bad=7), None) == ""
    assert event_line(step(101, bad=8), step(100, bad=7)).startswith("worker 2: step 101")


def test_a_count_that_falls_back_to_a_snapshots_is_no_news():
    assert event_line(step(40, bad=1), step(43, bad=2)) == ""


def test_units_are_shown_with_their_guest_in_brackets():
    assert units_label(["stem", "layer1"], []) == "stem layer1"
    assert units_label(["stem"], ["layer1", "layer2"]) == "stem (+ layer1 layer2)"
