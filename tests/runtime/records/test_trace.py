"""The timeline of a run."""

import json

from runtime.core.plan import Stream
from runtime.core.state import State
from runtime.records.trace import FLUSH_AT, Trace, join


def events(path) -> list[dict]:
    return json.loads(path.read_text())["traceEvents"]


def test_timeline_has_slices_arrows_counters_and_instants(tmp_path):
    for k in range(2):
        trace = Trace(tmp_path / "parts" / f"worker-{k}.jsonl", k, name="stem")
        trace.state(State.WAIT_INPUT, 3, 1.0, 1.5)
        trace.state(State.FORWARD, 3, 1.5, 1.5 + k + 1)
        trace.state(State.DONE, 3, 2.0, 3.0)  # is no slice
        trace.sent(Stream.ACTIVATION, 3, 2.0, 2.001)
        trace.counters(queue_depth=2)
        trace.instant("restart", cause="was killed")
        trace.flush()
    join(sorted((tmp_path / "parts").iterdir()), tmp_path / "trace.json")
    found = events(tmp_path / "trace.json")
    slices = [(e["pid"], e["name"], e["dur"], e["args"]["step"]) for e in found if e["ph"] == "X"]
    assert slices == [
        (0, "wait-input", 500_000.0, 3),
        (0, "forward", 1_000_000.0, 3),
        (0, "send activation", 1_000.0, 3),
        (1, "wait-input", 500_000.0, 3),
        (1, "forward", 2_000_000.0, 3),
        (1, "send activation", 1_000.0, 3),
    ]
    arrows = [(e["ph"], e["pid"], e["id"]) for e in found if e["name"] == "batch"]
    assert arrows == [("s", 0, 3), ("t", 1, 3)]
    assert [e["args"] for e in found if e["ph"] == "C"] == [{"queue_depth": 2}] * 2
    assert [e["args"] for e in found if e["ph"] == "i"] == [{"cause": "was killed"}] * 2
    assert min(e["ts"] for e in found) == 0


def test_arrow_ends_inside_the_slice_it_binds_to(tmp_path):
    trace = Trace(tmp_path / "worker-1.jsonl", 1)
    trace.state(State.FORWARD, 0, 10.0, 11.0)
    trace.flush()
    join([tmp_path / "worker-1.jsonl"], tmp_path / "trace.json")
    by = {e["name"]: e for e in events(tmp_path / "trace.json")}
    begins = by["forward"]["ts"]
    assert begins < by["batch"]["ts"] < begins + by["forward"]["dur"]


def test_generations_append_and_a_line_cut_off_is_left_out(tmp_path):
    part = tmp_path / "worker-0.jsonl"
    for _ in range(2):
        trace = Trace(part, 0)
        trace.instant("healed")
        trace.flush()
        with part.open("a") as file:
            file.write('{"ph": "X", "na')
    join([part], tmp_path / "trace.json")
    assert [e["name"] for e in events(tmp_path / "trace.json")].count("healed") == 2


def test_events_of_a_long_run_do_not_stay_in_memory(tmp_path):
    part = tmp_path / "worker-0.jsonl"
    trace = Trace(part, 0)
    for _ in range(FLUSH_AT):
        trace.counters(queue_depth=0)
    assert len(part.read_text().splitlines()) >= FLUSH_AT


def test_events_are_not_stored_without_a_path(tmp_path):
    trace = Trace(None, 0)
    trace.instant("restart")
    trace.flush()
    assert list(tmp_path.iterdir()) == []


def test_trace_that_can_not_be_written_ends_alone(tmp_path, caplog):
    """A full disk ended the worker, and each generation after it."""
    (tmp_path / "trace").write_text("in the way")
    trace = Trace(tmp_path / "trace" / "worker-0.jsonl", 0)
    for _ in range(2):
        trace.instant("healed")
        trace.flush()
    assert [record.getMessage() for record in caplog.records] == [
        f"the timeline ends here: {tmp_path}/trace/worker-0.jsonl: File exists"
    ]
