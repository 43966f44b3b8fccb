"""What is shown while a run goes on and when it has ended."""

import io
from collections.abc import Callable
from dataclasses import replace

import pytest
from rich.console import Console

from runtime.coordinator.live_view import LiveView
from runtime.records.progress import WorkerStatus
from runtime.records.schema import (
    Accuracy,
    BlockSummary,
    Bubble,
    Report,
    Seconds,
    Spread,
    StepRecord,
    Summary,
    UnitAccuracy,
)
from runtime.records.tables import render_closing


def status(
    block: int, steps_done: int, *, units: str = "", has_stepped: bool = True
) -> WorkerStatus:
    spent = Seconds(compute_s=9.1, wait_input_s=0.2, wait_credit_s=0.3, wait_tie_s=0.4)
    report = Report(
        block=block,
        generation=0,
        state="waiting for credit",
        seconds=spent,
        queue_depth=2,
        rss_bytes=412_000_000,
        dropped_reports=0,
        finished=False,
        records=(),
    )
    last = StepRecord(
        t=0.0,
        block=block,
        pid=1,
        generation=0,
        step=steps_done - 1,
        loss=4.0 - block / 4,
        probe_top1=0.5 + block / 10,
        samples_per_s=512.0 + block,
        bad_steps=0,
    )
    units = units or f"layer{block}.0 [layer{block + 1}.0]"
    return WorkerStatus(units=units, report=report, last=last if has_stepped else None, spent=spent)


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
        lowest, highest = status(0, 3), status(8, 0, has_stepped=False)
        view.update([lowest, *(status(k, 2) for k in range(1, 8)), highest])
    assert printed(console) == [
        "step 0/330 0% left –  loss 4.00 … –  probe (train) .50 … –  0 samples/s"
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


def block_of(index: int, units: tuple[str, ...], guest_units: tuple[str, ...]) -> BlockSummary:
    counts = ("bad_steps", "fenced", "damaged", "dropped_reports", "stale_ties")
    steady = Seconds(
        compute_s=10.0, overhead_s=1.0, wait_input_s=2.0, wait_credit_s=3.0, wait_tie_s=4.0
    )
    return BlockSummary(
        index=index,
        units=units,
        guest_units=guest_units,
        loss=4.25,
        probe_top1=0.5,
        utilisation=0.62,
        steady=steady,
        staleness={},
        restarts=0,
        peak_rss_bytes=400_000_000,
        **dict.fromkeys(counts, 0),
    )


@pytest.fixture
def summary() -> Summary:
    return Summary(
        samples_per_s=500.0,
        wall_s=61.24,
        time_to_first_step_s=4.1,
        steps=330,
        weights_sha256="ab",
        state_sha256="cd",
        final=Accuracy(linear_top1=0.975, knn_top1=0.981),
        units=(
            UnitAccuracy(name="stem", linear_top1=0.9, knn_top1=0.91),
            UnitAccuracy(name="layer1.0", linear_top1=0.94, knn_top1=0.95),
            UnitAccuracy(name="layer2.0", linear_top1=0.975, knn_top1=0.981),
        ),
        blocks=(
            block_of(0, ("stem",), ("layer1.0",)),
            block_of(1, ("layer1.0", "layer2.0"), ()),
        ),
        batches={"sent": 330, "trained": 660, "duplicates_dropped": 3},
        restarts=(),
        bubble=Bubble(
            measured=0.45,
            shares_cores=False,
            fill_steps=3,
            microbatches=8,
            gpipe_and_1f1b=1 / 9,
            zb_h1=0.04,
        ),
    )


def closing(summary: Summary) -> list[str]:
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
    assert "block 1 50.0% 5.0% 10.0% 15.0% 20.0% 0.0%" in lines
    assert "samples/s 500.0" in lines
    assert "bubble: share of time that workers waited, behind the first 3 steps 45.0%" in lines
    assert "bubble of GPipe and 1F1B, 8 micro-batches, if stages were equal 11.1%" in lines
    assert "bubble of ZB-H1, 8 micro-batches, if stages were equal 4.0%" in lines
    assert "test top-1: linear 0.975, kNN 0.981" in lines
    assert "330 steps in 61.2 s, the first after 4.1 s" in lines
    assert "batches: 330 sent, 660 trained, 3 duplicates dropped" in lines


def test_how_old_the_ties_were_is_shown_where_no_lag_is_fixed(summary):
    assert not any("staleness" in line for line in closing(summary))
    found = Spread(num=330, median=-1, p95=2, max=8, counts={})
    lower, upper = summary.blocks
    upper = replace(upper, staleness={"tie_up": found, "tie_down": found})
    lines = closing(replace(summary, blocks=(lower, upper)))
    assert "block 1, from below 330 -1 2 8" in lines
    assert "block 1, from above 330 -1 2 8" in lines
    assert not any(line.startswith("block 0, from") for line in lines)


def test_what_was_not_measured_shows_as_a_dash(summary):
    unknown = {"loss": None, "probe_top1": None, "steady": None}
    unmeasured = replace(
        summary,
        samples_per_s=None,
        time_to_first_step_s=None,
        final=Accuracy(),
        units=tuple(UnitAccuracy(name=unit.name) for unit in summary.units),
        blocks=tuple(replace(block, **unknown) for block in summary.blocks),
        bubble=replace(summary.bubble, measured=None),
    )
    lines = closing(unmeasured)
    assert "layer1.0 – –" in lines
    assert "0 stem (+ layer1.0) – – – –" in lines
    assert "block 0 – – – – – –" in lines
    assert "samples/s –" in lines
    assert "bubble: share of time that workers waited, behind the first 3 steps –" in lines


def test_a_bubble_is_shown_only_if_workers_share_no_cores(summary):
    bubble = replace(summary.bubble, measured=None, shares_cores=True)
    lines = [line for line in closing(replace(summary, bubble=bubble)) if "bubble" in line]
    assert lines == ["bubble: not measured, for workers shared cores –"]


def test_one_process_has_no_bubble_to_show(summary):
    assert not [line for line in closing(replace(summary, bubble=None)) if "bubble" in line]
