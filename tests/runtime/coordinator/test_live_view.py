"""What is shown while a run goes on: a table on a terminal, elsewhere a line now and then."""

import io
from collections.abc import Callable
from dataclasses import replace

from rich.console import Console

from runtime.coordinator.live_view import LiveView
from runtime.records.progress import WorkerStatus
from runtime.records.schema import Report, Seconds, StepRecord


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
        refused=0,
        result_sha256="",
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


def test_line_already_printed_is_not_repeated_at_the_end():
    console = plain_console()
    with LiveView(10, console=console, clock=clock([0])) as view:
        view.update([])
        view.update([status(0, 1)])
    assert len(printed(console)) == 1


def test_plain_line_of_many_workers_shows_the_ends():
    console = plain_console()
    with LiveView(330, console=console, clock=clock([0])) as view:
        lowest, highest = status(0, 3), status(8, 0, has_stepped=False)
        view.update([lowest, *(status(k, 2) for k in range(1, 8)), highest])
    assert printed(console) == [
        "step 0/330 0% left –  loss 4.00 … –  probe (train) .50 … –  0 samples/s"
    ]


def test_silent_workers_are_named_and_the_time_left_stands_still():
    """It grew and grew when a host had died, and nobody was named."""
    console = plain_console()
    times = [0.0, 10.0, 20.0, 30.0, 40.0]
    with LiveView(330, console=console, clock=clock(times)) as view:
        for step in (30, 60):
            view.update([status(block, step) for block in range(4)])
        gone = [replace(status(block, 60), silent_s=12.4) for block in (2, 3)]
        for _ in range(2):
            view.update([status(0, 60), status(1, 60), *gone])
    lines = printed(console)
    assert "left 1:30" in lines[1]
    assert "left 1:30" in lines[3]
    assert "silent" not in lines[1]
    assert lines[3].endswith("  silent: worker 2 3, 12 s")


def test_time_left_in_hours():
    console = plain_console()
    with LiveView(1000, console=console, clock=clock([0, 60])) as view:
        view.update([status(0, 0)])
        view.update([status(0, 10)])
    assert "left 1:39:00" in printed(console)[-1]


def test_live_table_has_a_line_a_worker_and_names_the_probe():
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


def test_dumb_terminal_gets_plain_lines():
    console = Console(file=io.StringIO(), force_terminal=True, _environ={"TERM": "dumb"})
    with LiveView(330, console=console, clock=clock([0])) as view:
        view.update([status(0, 3)])
    assert len(printed(console)) == 1
