"""What is shown while a run goes on and when it has ended."""

import io
from collections.abc import Callable
from typing import Any

import pytest
from rich.console import Console

from runtime.coordinator.live_view import LiveView
from runtime.records.reports import WorkerStatus
from runtime.records.tables import render_closing


def status(block: int, step: int, **changes: Any) -> WorkerStatus:
    facts: dict[str, Any] = {
        "block": block,
        "units": f"layer{block}.0 [layer{block + 1}.0]",
        "step": step,
        "num_steps": 330,
        "loss": 4.0 - block / 4,
        "probe_top1": 0.5 + block / 10,
        "samples_per_s": 512.0 + block,
        "compute_share": 0.91,
        "wait_input_share": 0.02,
        "wait_credit_share": 0.03,
        "wait_tie_share": 0.04,
        "queue_depth": 2,
        "rss_bytes": 412_000_000,
        "state": "waiting for credit",
    }
    return WorkerStatus(**(facts | changes))


def plain_console() -> Console:
    return Console(file=io.StringIO(), force_terminal=False, width=100)


def printed(console: Console) -> list[str]:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def clock(times: list[float]) -> Callable[[], float]:
    return iter(times).__next__


def test_plain_lines_are_few_and_end_with_the_last_state():
    console = plain_console()
    with LiveView(330, console=console, clock=clock([0, 1, 4.9, 5, 6])) as view:
        for step in (30, 60, 90, 120, 330):
            view.update([status(block, step + block % 2) for block in range(4)])
    assert printed(console) == [
        "step 30/330 9% left –  loss 4.00 3.75 3.50 3.25  probe (train) .50 .60 .70 .80"
        "  512 samples/s",
        "step 120/330 36% left 0:12  loss 4.00 3.75 3.50 3.25  probe (train) .50 .60 .70 .80"
        "  512 samples/s",
        "step 330/330 100% left 0:00  loss 4.00 3.75 3.50 3.25  probe (train) .50 .60 .70 .80"
        "  512 samples/s",
    ]
    assert all(len(line) <= 100 for line in printed(console))


def test_a_line_already_printed_is_not_repeated_at_the_end():
    console = plain_console()
    with LiveView(10, console=console, clock=clock([0])) as view:
        view.update([])
        view.update([status(0, 1)])
    assert len(printed(console)) == 1


def test_a_plain_line_of_many_workers_shows_the_ends():
    console = plain_console()
    with LiveView(330, console=console, clock=clock([0])) as view:
        lowest, highest = status(0, 3), status(8, 2, loss=None, probe_top1=None)
        view.update([lowest, *(status(k, 2) for k in range(1, 8)), highest])
    assert printed(console) == [
        "step 2/330 1% left –  loss 4.00 … –  probe (train) .50 … –  512 samples/s"
    ]


def test_time_left_in_hours():
    console = plain_console()
    with LiveView(1000, console=console, clock=clock([0, 60])) as view:
        view.update([status(0, 0)])
        view.update([status(0, 10)])
    assert "left 1:39:00" in printed(console)[-1]


def test_the_live_table_has_a_line_a_worker_and_says_what_the_probe_reads():
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, color_system=None, width=100, _environ={})
    with LiveView(330, console=console, clock=clock([0, 10])) as view:
        view.update([status(block, 0) for block in range(4)])
        file.truncate(0)
        view.update([status(block, 110 + block, units="[bold]x[/]") for block in range(4)])
        frame = file.getvalue().split("\x1b[2K")[-1].splitlines()
    assert all(len(line) <= 100 for line in frame)
    assert "(train)" in frame[1]
    workers = [line.split() for line in frame[2:6]]
    assert [line[:6] for line in workers] == [
        ["0", "[bold]x[/]", "110", "4.000", ".50", "512"],
        ["1", "[bold]x[/]", "111", "3.750", ".60", "513"],
        ["2", "[bold]x[/]", "112", "3.500", ".70", "514"],
        ["3", "[bold]x[/]", "113", "3.250", ".80", "515"],
    ]
    assert workers[0][6:13] == ["91%", "2%", "3%", "4%", "2", "412", "MB"]
    assert frame[6].startswith("step 110/330")
    assert frame[6].endswith("33%  left 0:20  512 samples/s")


def test_a_dumb_terminal_gets_plain_lines():
    console = Console(file=io.StringIO(), force_terminal=True, _environ={"TERM": "dumb"})
    with LiveView(330, console=console, clock=clock([0])) as view:
        view.update([status(0, 3)])
    assert len(printed(console)) == 1


@pytest.fixture
def summary() -> dict[str, Any]:
    block = {
        "loss": 4.25,
        "probe_top1": 0.5,
        "restarts": 0,
        "peak_rss_bytes": 4e8,
        "steady": {
            "compute_s": 10.0,
            "overhead_s": 1.0,
            "wait_input_s": 2.0,
            "wait_credit_s": 3.0,
            "wait_tie_s": 4.0,
            "snapshot_s": 0.0,
        },
    }
    return {
        "samples_per_s": 500.0,
        "wall_s": 61.24,
        "time_to_first_step_s": 4.1,
        "steps": 330,
        "weights_sha256": "ab",
        "state_sha256": "cd",
        "final": {"linear_top1": 0.975, "knn_top1": 0.981},
        "units": [
            {"name": "stem", "linear_top1": 0.9, "knn_top1": 0.91},
            {"name": "layer1.0", "linear_top1": 0.94, "knn_top1": 0.95},
            {"name": "layer2.0", "linear_top1": 0.975, "knn_top1": 0.981},
        ],
        "blocks": [
            block | {"index": 0, "units": ["stem"], "guest_units": ["layer1.0"]},
            block | {"index": 1, "units": ["layer1.0", "layer2.0"], "guest_units": []},
        ],
        "batches": {"sent": 330, "trained": 660, "lost": 0, "duplicates_dropped": 3},
        "restarts": [],
        "bubble": {
            "measured": 0.45,
            "shares_cores": False,
            "fill_steps": 3,
            "microbatches": 8,
            "gpipe_and_1f1b": 1 / 9,
            "zb_h1": 0.04,
        },
    }


def closing(summary: dict[str, Any]) -> list[str]:
    """The closing tables' lines, each run of spaces as one."""
    console = plain_console()
    render_closing(summary, console)
    lines = printed(console)
    assert all(len(line) <= 100 for line in lines)
    return [" ".join(line.split()) for line in lines]


def test_closing_tables(summary):
    lines = closing(summary)
    assert "0 stem (+ layer1.0) 4.250 0.500 0.900 0.910" in lines
    assert "1 layer1.0 layer2.0 4.250 0.500 0.975 0.981" in lines
    assert "stem 0.900 0.910" in lines
    assert "worker 1 50.0% 5.0% 10.0% 15.0% 20.0% 0.0%" in lines
    assert "samples/s 500.0" in lines
    assert "bubble: share of time that workers waited, behind the first 3 steps 45.0%" in lines
    assert "bubble of GPipe and 1F1B, 8 micro-batches, if stages were equal 11.1%" in lines
    assert "bubble of ZB-H1, 8 micro-batches, if stages were equal 4.0%" in lines
    assert "test top-1: linear 0.975, kNN 0.981" in lines
    assert "330 steps in 61.2 s, the first after 4.1 s" in lines
    assert "batches: 330 sent, 660 trained, 0 lost, 3 duplicates dropped" in lines


def test_how_old_the_ties_were_is_shown_where_no_lag_is_fixed(summary):
    assert not any("staleness" in line for line in closing(summary))
    found = {"num": 330, "median": -1, "p95": 2, "max": 8, "counts": {}}
    for block in summary["blocks"]:
        block.update(staleness={}, lost=0, replayed_steps=0)
    summary["blocks"][1].update(staleness={"tie_up": found, "tie_down": found}, lost=7)
    lines = closing(summary)
    assert "block 1, from below 330 -1 2 8 7 0" in lines
    assert "block 1, from above 330 -1 2 8" in lines
    assert not any(line.startswith("block 0, from") for line in lines)


def test_what_was_not_measured_shows_as_a_dash(summary):
    for block in summary["blocks"]:
        block.update({k: None for k in block if k not in ("index", "units", "guest_units")})
    for unit in summary["units"]:
        unit.update(linear_top1=None, knn_top1=None)
    summary["final"] = {"linear_top1": None, "knn_top1": None}
    summary["bubble"]["measured"] = None
    summary.update(samples_per_s=None, wall_s=None, time_to_first_step_s=None)
    lines = closing(summary)
    assert "layer1.0 – –" in lines
    assert "worker 0 – – – – – –" in lines
    assert "samples/s –" in lines
    assert "bubble: share of time that workers waited, behind the first 3 steps –" in lines


def test_a_bubble_is_shown_only_if_workers_have_cores_of_their_own(summary):
    summary["bubble"].update(measured=None, shares_cores=True)
    lines = [line for line in closing(summary) if "bubble" in line]
    assert lines == ["bubble: not measured, for workers shared cores –"]


def test_one_process_has_no_bubble_to_show(summary):
    summary["bubble"] = None
    assert not [line for line in closing(summary) if "bubble" in line]
