"""Records as plain data and back, and what is said of data that are none."""

from dataclasses import asdict, replace

import msgpack
import pytest

from runtime.records.schema import (
    Accuracy,
    BlockSummary,
    Carried,
    Counters,
    Healed,
    Report,
    Restart,
    Restarted,
    Seconds,
    Spread,
    StepRecord,
    UnitAccuracy,
    WorkerResult,
    common_fields,
    from_dict,
    read_record,
)

WORKER = {"t": 5.0, "block": 2, "pid": 7, "generation": 1}
STEP = StepRecord(step=3, loss=1.5, probe_top1=0.5, samples_per_s=8.0, bad_steps=0, **WORKER)
RESTARTED = Restarted(cause="was killed", detected_t=4.0, from_step=2, completed_before=3, **WORKER)
EVENTS = (RESTARTED, Healed(healed_s=0.5, **WORKER), Carried(notes=("a", "b"), **WORKER))
REPORT = Report(
    block=2,
    generation=1,
    state="update",
    seconds=Seconds(compute_s=1.0),
    queue_depth=1,
    rss_bytes=9,
    dropped_reports=0,
    refused=0,
    result_sha256="",
    records=(STEP, *EVENTS),
)
RESULT = WorkerResult(
    block=2,
    generation=1,
    seconds=Seconds(wait_tie_s=2.0),
    steady=Seconds(snapshot_s=1.0),
    peak_rss_bytes=9,
    first_step_t=None,
    last=STEP,
    counters=Counters(sent=4),
    staleness={"tie_up": {"-1": 2}},
    digests={"block0002/w": "float32 [1] ab"},
)


@pytest.mark.parametrize("record", [REPORT, RESULT, replace(RESULT, steady=None, last=None)])
def test_reports_and_results_come_back_from_the_wire(record):
    said = msgpack.unpackb(msgpack.packb(asdict(record)))
    assert from_dict(type(record), said) == record


@pytest.mark.parametrize("record", [STEP, *EVENTS])
def test_line_of_metrics_is_the_record_with_its_keys(record):
    assert read_record(asdict(record)) == record


def test_event_has_its_name_among_its_keys():
    assert [asdict(event)["event"] for event in EVENTS] == ["restart", "healed", "carried"]
    keys = {"event", "t", "block", "pid", "generation", "healed_s"}
    assert asdict(EVENTS[1]).keys() == keys


def test_keys_unknown_or_missing_are_named():
    values = asdict(Counters())
    with pytest.raises(ValueError, match="Counters with unknown keys: colour, size"):
        from_dict(Counters, values | {"size": 1, "colour": 2})
    del values["sent"]
    with pytest.raises(ValueError, match="Counters with missing keys: sent"):
        from_dict(Counters, values)
    within = asdict(RESULT)
    del within["last"]["loss"]
    with pytest.raises(ValueError, match="StepRecord with missing keys: loss"):
        from_dict(WorkerResult, within)
    with pytest.raises(ValueError, match="unknown keys: event"):
        read_record({"event": "eclipse", **WORKER})


def test_seconds_add_up_and_are_shared_out():
    all_s = Seconds(
        compute_s=5.0, overhead_s=1.0, wait_input_s=2.0, wait_credit_s=3.0, wait_tie_s=4.0
    )
    assert (all_s.total_s, all_s.waited_s) == (15.0, 9.0)
    assert all_s.share(3.0) == 0.2
    assert Seconds().share(0.0) is None
    assert all_s - Seconds(wait_tie_s=1.0) == replace(all_s, wait_tie_s=3.0)


def test_record_shares_the_fields_that_both_have():
    assert Restart(**common_fields(Restart, RESTARTED)).cause == "was killed"
    unit = UnitAccuracy(name="stem", linear_top1=0.5)
    assert Accuracy(**common_fields(Accuracy, unit)) == Accuracy(linear_top1=0.5)


def test_nested_records_in_dicts_and_tuples_are_read_back():
    """A block's summary could be written and not be read: its ties' staleness is a dict."""
    spread = Spread(num=3, median=1, p95=2, max=2, counts={"1": 2, "2": 1})
    counts = (
        "bad_steps",
        "fenced",
        "damaged",
        "refused",
        "dropped_reports",
        "stale_ties",
        "restarts",
    )
    block = BlockSummary(
        index=0,
        units=("stem",),
        guest_units=(),
        loss=1.5,
        probe_top1=None,
        utilisation=0.5,
        steady=Seconds(compute_s=1.0),
        staleness={"tie_down": spread},
        peak_rss_bytes=1,
        **dict.fromkeys(counts, 0),
    )
    assert from_dict(BlockSummary, asdict(block)) == block
